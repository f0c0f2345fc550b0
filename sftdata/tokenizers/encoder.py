"""Encoding batches into flat arrays, with the byte borders of every token.

The fast path encodes whole texts into one buffer (fastokens, where it gives the ids of `tokenizers`) and computes the borders from
the bytes that each token stands for. It is proven row by row: the tokens' bytes, put one after the other, must be the text's
bytes. A row that is not proven is encoded again by `tokenizers` with its own character offsets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.tokenizers.token_bytes import TokenBytes, read_token_bytes

Int64 = npt.NDArray[np.int64]

SAMPLE_EVERY = 997
"""One text in so many is encoded by both engines; a difference sends the whole batch to `tokenizers`."""

NASTY = (
    "", " ", "  two  spaces ", "\n", "\n\n\t x", "a\u0301\u00e9", "你好，世界！", "👩‍👩‍👧 ok", "\u2028\u0085x", "0123456789" * 3,
    "don't 'S  end", "\u00a0nbsp\u3000wide", "哈" * 200, "\x00\x07", "İıſ", "ﬁ½①", "\ufffd", "def f(x):\n    return x",
    "한국어 조합 \u1112\u1161\u11ab", "नमस्ते दुनिया", "مرحبا بالعالم", "𝒳𝒴 𐍈", "a" * 300, "<|", "</", "[INST", "<0x41>",
)  # fmt: skip
"""Texts on which engines are known to differ: spaces, combining marks, long runs, rare scripts, beginnings of control tokens."""


class Encoded(NamedTuple):
    """A batch of token rows as flat arrays."""

    ids: npt.NDArray[np.int32]
    row_offsets: Int64
    """(n + 1,) row i's tokens are ids[row_offsets[i]:row_offsets[i + 1]]."""
    starts: Int64
    ends: Int64
    """Byte borders of every token, counted from the beginning of the batch's concatenated UTF-8 texts.

    A token without bytes of its own (a lone space that the tokenizer put there) is lent the byte after it: it belongs to what
    follows.
    """


class Batch(NamedTuple):
    """The texts of a batch as one byte array."""

    texts: Sequence[str]
    data: npt.NDArray[np.uint8]
    row_bytes: Int64
    """(n + 1,) byte offset of each text."""
    char_bytes: Int64
    """Byte offset of every character of the batch, then the total."""
    row_chars: Int64
    """(n + 1,) character offset of each text."""


def concatenate(texts: Sequence[str]) -> Batch:
    """Return the texts as one UTF-8 array with the borders of rows and characters."""
    encoded = [text.encode("utf-8") for text in texts]
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    row_bytes = _offsets([len(piece) for piece in encoded])
    row_chars = _offsets([len(text) for text in texts])
    starts = np.flatnonzero((data & 0xC0) != 0x80)
    return Batch(texts, data, row_bytes, np.append(starts, len(data)), row_chars)


def _offsets(lengths: Sequence[int]) -> Int64:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


class Encoder:
    """A tokenizer that encodes batches; made once a task from a tokenizer folder."""

    def __init__(self, folder: Path, *, engine: str = "auto") -> None:
        from tokenizers import Tokenizer

        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        value: dict[str, Any] = json.loads(text)
        self.tokenizer = Tokenizer.from_str(text)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.control = {token["content"]: int(token["id"]) for token in value.get("added_tokens", [])}
        """Text → id of every added token, special or not: what content must not forge."""
        self.vocab_size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self.is_control = np.zeros(max([self.vocab_size, *self.control.values()]) + 1, dtype=bool)
        self.is_control[list(self.control.values())] = True
        self.plain = _without_added_tokens(value)
        longest_first = sorted(self.control, key=len, reverse=True)
        self.control_pattern = re.compile("|".join(map(re.escape, longest_first)) if longest_first else r"(?!)")
        self._token_bytes: TokenBytes | None = read_token_bytes(value, self.tokenizer)
        self._fast = _fast_engine(text, self.tokenizer) if engine != "tokenizers" else None

    @property
    def engine(self) -> str:
        """The engine that encodes: `fastokens` or `tokenizers`."""
        return "fastokens" if self._fast is not None else "tokenizers"

    def encode(self, batch: Batch) -> Encoded:
        """Encode a batch of texts; added tokens in them become control ids, nothing is put before or after."""
        ids, row_offsets = self._ids(batch.texts)
        if self._token_bytes is None:
            return self._with_offsets(batch, range(len(batch.texts)), None)
        starts, ends, proven = self._token_bytes.borders(ids, row_offsets, batch.data, batch.row_bytes, self.is_control)
        fast = Encoded(ids, row_offsets, starts, _lent(starts, ends, row_offsets, batch.row_bytes))
        unproven = np.flatnonzero(~proven)
        return fast if len(unproven) == 0 else self._with_offsets(batch, unproven.tolist(), fast)

    def _ids(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], Int64]:
        if self._fast is not None:
            raw_ids, raw_offsets = self._fast.encode_batch_flat(list(texts), add_special_tokens=False)
            ids = np.frombuffer(raw_ids, dtype=np.uint32).astype(np.int32)
            offsets = np.frombuffer(raw_offsets, dtype=np.uint64).astype(np.int64)
            if self._sample_agrees(texts, ids, offsets):
                return ids, offsets
            self._fast = None
        rows = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        pieces = [row.ids for row in rows]
        return np.array([token for piece in pieces for token in piece], dtype=np.int32), _offsets([len(p) for p in pieces])

    def _sample_agrees(self, texts: Sequence[str], ids: npt.NDArray[np.int32], offsets: Int64) -> bool:
        sample = range(0, len(texts), SAMPLE_EVERY)
        rows = self.tokenizer.encode_batch_fast([texts[index] for index in sample], add_special_tokens=False)
        return all(
            ids[offsets[index] : offsets[index + 1]].tolist() == row.ids for index, row in zip(sample, rows, strict=True)
        )

    def _with_offsets(self, batch: Batch, rows: Sequence[int], fast: Encoded | None) -> Encoded:
        """Encode some rows again with the offsets of `tokenizers`, and put them in their places among the others."""
        encodings = self.tokenizer.encode_batch([batch.texts[row] for row in rows], add_special_tokens=False)
        replaced = {
            row: (encoding.ids, encoding.offsets) for row, encoding in zip(rows, encodings, strict=True)
        }
        return splice(batch, fast, replaced)

    def encode_pieces(self, text: str, controls: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode one text in which only the given character spans are control tokens; all else is ordinary text.

        Returns ids and character offsets.
        """
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        position = 0
        for start, end in [*controls, (len(text), len(text))]:
            if position < start:
                piece = self.plain.encode(text[position:start], add_special_tokens=False)
                ids.extend(piece.ids)
                offsets.extend((position + first, position + last) for first, last in piece.offsets)
            if start < end:
                ids.append(self.control[text[start:end]])
                offsets.append((start, end))
            position = end
        return ids, offsets


def _lent(starts: Int64, ends: Int64, row_offsets: Int64, row_bytes: Int64) -> Int64:
    """Return the ends of tokens, those without bytes of their own lent the next byte of their row."""
    empty = np.flatnonzero(ends == starts)
    if len(empty) == 0:
        return ends
    row = np.searchsorted(row_offsets, empty, side="right") - 1
    ends = ends.copy()
    ends[empty] = np.minimum(starts[empty] + 1, row_bytes[row + 1])
    return ends


Row = tuple[Sequence[int], Sequence[tuple[int, int]]]


def splice(batch: Batch, encoded: Encoded | None, replaced: dict[int, Row]) -> Encoded:
    """Return a batch with some rows replaced by (ids, character offsets); without `encoded`, all rows must be given."""
    ids: list[npt.NDArray[np.int32]] = []
    starts: list[Int64] = []
    ends: list[Int64] = []
    for row in range(len(batch.texts)):
        if row in replaced:
            new_ids, offsets = replaced[row]
            borders = np.array(offsets, dtype=np.int64).reshape(-1, 2) + batch.row_chars[row]
            ids.append(np.array(new_ids, dtype=np.int32))
            starts.append(batch.char_bytes[borders[:, 0]])
            ends.append(batch.char_bytes[borders[:, 1]])
        else:
            assert encoded is not None
            tokens = slice(encoded.row_offsets[row], encoded.row_offsets[row + 1])
            ids.append(encoded.ids[tokens])
            starts.append(encoded.starts[tokens])
            ends.append(encoded.ends[tokens])
    flat = np.concatenate([np.zeros(0, dtype=np.int32), *ids])
    empty = np.zeros(0, dtype=np.int64)
    return Encoded(flat, _offsets([len(p) for p in ids]), np.concatenate([empty, *starts]), np.concatenate([empty, *ends]))


def _without_added_tokens(value: dict[str, Any]) -> Any:
    """Return the tokenizer without its added tokens: to it, every text is ordinary text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps({**value, "added_tokens": [], "post_processor": None}))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _fast_engine(text: str, reference: Any) -> Any:
    """Return the fastokens engine where it loads this tokenizer and gives the same ids on the nasty texts, else None."""
    try:
        import fastokens
    except ImportError:
        return None
    try:
        engine = fastokens.Tokenizer.from_json_str(text)
        raw_ids, raw_offsets = engine.encode_batch_flat(list(NASTY), add_special_tokens=False)
    except Exception:  # the engine says that it cannot do this tokenizer, in many ways; `tokenizers` can
        return None
    ids = np.frombuffer(raw_ids, dtype=np.uint32)
    offsets = np.frombuffer(raw_offsets, dtype=np.uint64).astype(np.int64)
    for index, row in enumerate(reference.encode_batch_fast(list(NASTY), add_special_tokens=False)):
        if ids[offsets[index] : offsets[index + 1]].tolist() != row.ids:
            return None
    return engine
