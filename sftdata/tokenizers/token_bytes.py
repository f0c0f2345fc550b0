"""The bytes that each token of a vocabulary stands for, and token borders computed from them.

Two families are known: byte-level BPE (GPT-2's byte alphabet) and SentencePiece-like vocabularies (`▁` for a space, `<0x0A>`
for a byte). Any other tokenizer has no table, and its borders come from `tokenizers`' own offsets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata.tokenizers.sentencepiece_model import SPACE

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """A table from token id to bytes."""

    def __init__(self, pieces: list[bytes], added: Sequence[int], prepended: str) -> None:
        """Make the table. `pieces`: the bytes of every token. `added`: the ids of the added tokens.

        `prepended`: where the tokenizer puts a space that is not in the text: `none`, `first` (of the row) or `every` (after an
        added token as well).
        """
        self._is_added = np.zeros(len(pieces), dtype=bool)
        self._is_added[list(added)] = True
        self._may_hold_virtual_space = np.array([piece[:1] == b" " for piece in pieces], dtype=bool) & ~self._is_added
        self._prepended = prepended
        spaced = np.flatnonzero(self._may_hold_virtual_space)
        self._without_space = np.zeros(len(pieces), dtype=np.int32)
        """Token → the entry of the table that holds its bytes without the leading space."""
        self._without_space[spaced] = len(pieces) + np.arange(len(spaced))
        self._table = pa.array([*pieces, *(pieces[number][1:] for number in spaced)], pa.large_binary())

    def borders(
        self, ids: Int32, row_offsets: Int64, data: npt.NDArray[np.uint8], row_bytes: Int64
    ) -> tuple[Int64, Int64, npt.NDArray[np.bool_]]:
        """Return (starts, ends, proven): byte borders of every token in `data`, and which rows they are proven for.

        A row is proven when its tokens' bytes, put one after the other, are exactly the row's bytes. The borders of the other
        rows mean nothing.
        """
        spelled, total = self._spelled(ids, row_offsets)
        same_length = np.diff(total[row_offsets]) == np.diff(row_bytes)
        if same_length.all():
            return total[:-1], total[1:].copy(), _equal_rows(spelled, data, row_bytes)
        shift = np.repeat(row_bytes[:-1] - total[row_offsets[:-1]], np.diff(row_offsets))
        kept_spelled = spelled[np.repeat(same_length, np.diff(total[row_offsets]))]
        kept_data = data[np.repeat(same_length, np.diff(row_bytes))]
        kept_bytes = np.append(0, np.cumsum(np.diff(row_bytes)[same_length]))
        proven = same_length.copy()
        proven[same_length] = _equal_rows(kept_spelled, kept_data, kept_bytes)
        return total[:-1] + shift, total[1:] + shift, proven

    def spell(self, ids: Int32) -> tuple[bytes, Int64]:
        """Return the bytes that the tokens of a row stand for, and where each token's end, (n,)."""
        spelled, total = self._spelled(ids, np.array([0, len(ids)]))
        return spelled.tobytes(), total[1:]

    def _spelled(self, ids: Int32, row_offsets: Int64) -> tuple[npt.NDArray[np.uint8], Int64]:
        """Return the bytes of all tokens, one after the other, and (n + 1,) where each begins.

        Arrow's `take` copies them in half the time that NumPy needs to index single bytes.
        """
        entries = ids
        virtual = self._virtual_spaces(ids, row_offsets)
        if len(virtual):
            entries = ids.copy()
            entries[virtual] = self._without_space[ids[virtual]]
        _, offsets, data = self._table.take(pa.array(entries)).buffers()
        total = np.frombuffer(offsets, dtype=np.int64, count=len(ids) + 1)
        return np.frombuffer(data, dtype=np.uint8, count=int(total[-1])), total

    def _virtual_spaces(self, ids: Int32, row_offsets: Int64) -> npt.NDArray[np.intp]:
        """Return the tokens whose leading space the tokenizer put there itself."""
        if self._prepended == "none" or len(ids) == 0:
            return np.zeros(0, dtype=np.intp)
        begins = row_offsets[:-1][row_offsets[:-1] < row_offsets[1:]]
        if self._prepended == "every":
            after_added = np.flatnonzero(self._is_added.take(ids)) + 1
            begins = np.concatenate([begins, after_added[after_added < len(ids)]])  # twice in it is once taken off
        return begins[self._may_hold_virtual_space[ids[begins]]]


def _equal_rows(
    spelled: npt.NDArray[np.uint8], data: npt.NDArray[np.uint8], row_bytes: Int64
) -> npt.NDArray[np.bool_]:
    """Compare the tokens' bytes with the text's bytes, as many, row by row."""
    equal = np.ones(len(row_bytes) - 1, dtype=bool)
    different = np.flatnonzero(spelled != data)
    equal[np.searchsorted(row_bytes, different, side="right") - 1] = False
    return equal


def read_token_bytes(value: dict[str, Any], tokenizer: Any) -> TokenBytes | None:
    """Return the table for a tokenizer, or None where its tokens do not stand for fixed bytes.

    value: the JSON of `tokenizer.json`. tokenizer: the same, loaded, to probe where it puts spaces.
    """
    decode = _family(value)
    if decode is None:
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = {int(token["id"]): token["content"] for token in value.get("added_tokens") or []}
    pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        pieces[number] = added[number].encode() if number in added else decode(token)
    return TokenBytes(pieces, list(added), _probe_prepended(tokenizer, pieces, next(iter(added.values()), None)))


def is_byte_level(value: dict[str, Any]) -> bool:
    """Return whether a `tokenizer.json` spells its tokens in GPT-2's byte alphabet."""
    return "ByteLevel" in _types(value.get("decoder")) | _types(value.get("pre_tokenizer"))


def _family(value: dict[str, Any]) -> Any:
    if is_byte_level(value):
        return read_bytes
    parts = _types(value.get("decoder")) | _types(value.get("pre_tokenizer"))
    if value["model"].get("byte_fallback") or "Metaspace" in parts:
        return _decode_sentencepiece
    return None


def _types(part: Any) -> set[str]:
    """Return the type names in a component of tokenizer.json, sequences looked into."""
    if not isinstance(part, dict):
        return set()
    inner = [*part.get("decoders", []), *part.get("pretokenizers", []), *part.get("normalizers", [])]
    return {str(part.get("type"))}.union(*(_types(item) for item in inner))


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable character for every byte, the other way round (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + index): byte for index, byte in enumerate(others)}}


_ALPHABET = _byte_alphabet()
_SPELLED = {byte: character for character, byte in _ALPHABET.items()}
_NO_BYTE = 0xFFFF
_TO_LATIN_1 = {byte: _NO_BYTE for byte in range(256)} | {ord(character): byte for character, byte in _ALPHABET.items()}
"""Character of the alphabet → the Latin-1 character of its byte; other characters below 256 → one that Latin-1 lacks."""


def spell_bytes(text: str) -> str:
    """Return a text as a byte-level vocabulary spells it."""
    return "".join(_SPELLED[byte] for byte in text.encode("utf-8"))


def read_bytes(token: str) -> bytes:
    """Return the bytes that a token of a byte-level vocabulary stands for."""
    try:
        return token.translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode("utf-8")  # no token of the alphabet; it can never be produced, or the proof will refuse it


def _decode_sentencepiece(token: str) -> bytes:
    if token.startswith("<0x") and (byte := _BYTE_TOKEN.fullmatch(token)):
        return bytes([int(byte[1], 16)])
    return token.replace(SPACE, " ").encode("utf-8")


def _probe_prepended(tokenizer: Any, pieces: Sequence[bytes], added: str | None) -> str:
    """Find out by encoding where the tokenizer puts a space of its own before the text. added: any added token."""

    def begins_with_space(text: str, skipped: int) -> bool:
        ids = tokenizer.encode(text, add_special_tokens=False).ids[skipped:]
        return bool(ids) and pieces[ids[0]].startswith(b" ")

    if not begins_with_space("x", 0):
        return "none"
    return "every" if added is None or begins_with_space(f"{added}x", 1) else "first"
