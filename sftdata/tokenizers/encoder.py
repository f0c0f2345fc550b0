"""Encoding batches into flat arrays, with the byte borders of every token.

The fast path encodes whole texts into one buffer (fastokens, where it gives the ids of `tokenizers`) and computes the borders
from the bytes that each token stands for. It is proven row by row: the tokens' bytes, put one after the other, must be the
text's bytes. A row that is not proven is encoded again by `tokenizers` with its own character offsets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from sftdata import storage
from sftdata.tokenizers.control import ControlTokens, escaped_json
from sftdata.tokenizers.engine import EnginesDiffer, open_fast_engine, quoted
from sftdata.tokenizers.files import load, read, read_text
from sftdata.tokenizers.token_bytes import TokenBytes, read_token_bytes

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

Row = tuple[Sequence[int], Sequence[tuple[int, int]]]
"""The ids of a row and the character offsets of each."""


class Encoded(NamedTuple):
    """A batch of token rows as flat arrays."""

    ids: Int32
    row_offsets: Int64
    """(n + 1,) row i's tokens are ids[row_offsets[i]:row_offsets[i + 1]]."""
    starts: Int64
    ends: Int64
    """Byte borders of every token, counted from the beginning of the batch's concatenated UTF-8 texts; both never fall.

    A token without bytes of its own (a lone space that the tokenizer put there) is lent the byte after it: it belongs to what
    follows. Tokens that share a character share its bytes.
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


NUM_ASKED = 16
"""Texts of a batch of which it is asked whether their tokens spell them."""


def concatenate(texts: Sequence[str]) -> Batch:
    """Return the texts as one UTF-8 array with the borders of rows and characters."""
    encoded = [text.encode("utf-8") for text in texts]
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    # a byte that begins a character is no continuation byte 0b10xxxxxx, which is below -64 as a signed number
    char_bytes = np.append(np.flatnonzero(data.view(np.int8) >= -64), len(data))
    return Batch(texts, data, _offsets(map(len, encoded), len(texts)), char_bytes, _offsets(map(len, texts), len(texts)))


def _offsets(lengths: Iterable[int], count: int) -> Int64:
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter(lengths, dtype=np.int64, count=count), out=offsets[1:])
    return offsets


class Encoder:
    """A tokenizer that encodes batches; what it gives for one never depends on those before."""

    def __init__(self, folder: Path, *, engine: str = "auto") -> None:
        """Open the tokenizer of a folder. `engine`: `auto`, or `tokenizers` for that one alone. Raises TokenizerError."""
        self.folder = folder
        text = read_text(folder / "tokenizer.json")
        self.tokenizer = load(text, str(folder / "tokenizer.json"))
        self.files = read(folder)
        value = self.files.tokenizer
        self.control = ControlTokens(value)
        self.vocab_size: int = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self.is_control = np.zeros(max([self.vocab_size, *self.control.texts]) + 1, dtype=bool)
        """(at least vocab_size,) True at the ids of control tokens."""
        self.is_control[list(self.control.texts)] = True
        self._token_bytes: TokenBytes | None = read_token_bytes(value, self.tokenizer)
        self._fast = open_fast_engine(text, self.tokenizer) if engine != "tokenizers" else None
        self._escaped: dict[int, Any] = {}

    @property
    def engine(self) -> str:
        """The engine that encodes: `fastokens` or `tokenizers`."""
        return self._fast.name if self._fast is not None else "tokenizers"

    def spell(self, ids: Int32) -> tuple[bytes, Int64] | None:
        """Return the bytes of the tokens of a row, and where each token's end; None where tokens stand for no fixed bytes."""
        return None if self._token_bytes is None else self._token_bytes.spell(ids)

    def encode(self, batch: Batch, first_text: int = 0) -> Encoded:
        """Encode a batch of texts; added tokens in them become their ids, nothing is put before or after.

        `first_text`: the `text_number` of the first, from which follows which of them are checked. Raises EnginesDiffer.
        """
        if self._token_bytes is None or (self._fast is None and not self._spells_texts(batch)):
            encodings = self.tokenizer.encode_batch(list(batch.texts), add_special_tokens=False)
            return _placed(batch, range(len(batch.texts)), [(encoding.ids, encoding.offsets) for encoding in encodings])
        ids, row_offsets = self._ids(batch.texts, first_text)
        starts, ends, proven = self._token_bytes.borders(ids, row_offsets, batch.data, batch.row_bytes)
        fast = Encoded(ids, row_offsets, starts, _lent(starts, ends, row_offsets, batch.row_bytes))
        unproven = np.flatnonzero(~proven).tolist()
        if not unproven:
            return fast
        again = self._with_offsets(batch, unproven)
        for row, (row_ids, _) in again.items():
            if list(row_ids) != ids[row_offsets[row] : row_offsets[row + 1]].tolist():
                raise EnginesDiffer(quoted(batch.texts[row]))
        return splice(batch, fast, again)

    def _spells_texts(self, batch: Batch) -> bool:
        """Return whether the tokens of most texts are the bytes of the text, asked of the first ones of the batch.

        Where they are not (a normaliser changes texts, letters are unknown), nearly every text would be encoded twice.
        """
        assert self._token_bytes is not None
        some = concatenate(batch.texts[:NUM_ASKED])
        ids, row_offsets = self._ids(some.texts, 0)
        _, _, proven = self._token_bytes.borders(ids, row_offsets, some.data, some.row_bytes)
        return bool(2 * np.count_nonzero(proven) >= len(proven))

    def _ids(self, texts: Sequence[str], first_text: int) -> tuple[Int32, Int64]:
        if self._fast is not None:
            return self._fast.encode(texts, first_text)
        rows = [row.ids for row in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        row_offsets = _offsets(map(len, rows), len(rows))
        return np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(row_offsets[-1])), row_offsets

    def _with_offsets(self, batch: Batch, rows: Sequence[int]) -> dict[int, Row]:
        """Encode some rows with the offsets of `tokenizers`."""
        encodings = self.tokenizer.encode_batch([batch.texts[row] for row in rows], add_special_tokens=False)
        return {row: (encoding.ids, encoding.offsets) for row, encoding in zip(rows, encodings, strict=True)}

    def encode_escaped(self, text: str, controls: Sequence[tuple[int, int]], base: int) -> Row:
        """Encode a text in which only the given character spans are control tokens; all else is ordinary text.

        `base`: the first of `len(self.control.ids)` neighbouring private-use characters that are not in the text.
        """
        if base not in self._escaped:
            value = orjson.loads(read_text(self.folder / "tokenizer.json"))
            self._escaped[base] = load(escaped_json(value, self.control, base), f"{self.folder} with escaped control tokens")
        pieces: list[str] = []
        lengths: list[int] = []
        position = 0
        for start, end in controls:
            pieces += (text[position:start], chr(base + self.control.number[text[start:end]]))
            lengths += [1] * (start - position)
            lengths.append(end - start)
            position = end
        pieces.append(text[position:])
        lengths += [1] * (len(text) - position)
        encoding = self._escaped[base].encode("".join(pieces), add_special_tokens=False)
        place = _offsets(lengths, len(lengths)).tolist()
        return encoding.ids, [(place[start], place[end]) for start, end in encoding.offsets]


def open_encoder(folder: Path, *, engine: str = "auto") -> Encoder:
    """Open the encoder of a tokenizer folder; the tasks of one process share it. Raises TokenizerError."""
    return _encoder(folder, storage.file_digest(folder / "tokenizer.json"), engine)


@lru_cache(maxsize=2)
def _encoder(folder: Path, digest: str, engine: str) -> Encoder:
    return Encoder(folder, engine=engine)


def _lent(starts: Int64, ends: Int64, row_offsets: Int64, row_bytes: Int64) -> Int64:
    """Return the ends of tokens, those without bytes of their own lent the next byte of their row."""
    empty = np.flatnonzero(ends == starts)
    if len(empty) == 0:
        return ends
    row = np.searchsorted(row_offsets, empty, side="right") - 1
    ends[empty] = np.minimum(starts[empty] + 1, row_bytes[row + 1])
    return ends


def splice(batch: Batch, encoded: Encoded, replaced: dict[int, Row]) -> Encoded:
    """Return a batch with some rows replaced."""
    placed = {row: _placed(batch, [row], [encoding]) for row, encoding in replaced.items()}
    rows = []
    for row in range(len(batch.texts)):
        tokens = slice(encoded.row_offsets[row], encoded.row_offsets[row + 1])
        kept = (encoded.ids[tokens], encoded.starts[tokens], encoded.ends[tokens])
        rows.append((placed[row].ids, placed[row].starts, placed[row].ends) if row in placed else kept)
    ids, starts, ends = (np.concatenate(columns) for columns in zip(*rows, strict=True))
    return Encoded(ids, _offsets((len(row[0]) for row in rows), len(rows)), starts, ends)


def _placed(batch: Batch, rows: Sequence[int], encodings: Sequence[Row]) -> Encoded:
    """Return some rows' ids and byte borders from their character offsets.

    A normaliser may reorder characters (combining marks); the tokens concerned are then widened until the borders never fall,
    so that a token counts as inside a span only where it is. Over all rows at once: borders of a later row are never smaller.
    """
    counts = [len(ids) for ids, _ in encodings]
    row_offsets = _offsets(counts, len(counts))
    total = int(row_offsets[-1])
    ids = np.fromiter(chain.from_iterable(ids for ids, _ in encodings), dtype=np.int32, count=total)
    flat = chain.from_iterable(chain.from_iterable(offsets for _, offsets in encodings))
    borders = np.fromiter(flat, dtype=np.int64, count=2 * total).reshape(-1, 2)
    row = np.repeat(np.asarray(rows, dtype=np.int64), counts)
    borders += batch.row_chars[row][:, None]
    starts = np.minimum.accumulate(batch.char_bytes[borders[::-1, 0]])[::-1]
    ends = np.maximum.accumulate(batch.char_bytes[borders[:, 1]])
    empty = ends <= starts
    ends[empty] = np.minimum(starts[empty] + 1, batch.row_bytes[row[empty] + 1])
    return Encoded(ids, row_offsets, starts, ends)
