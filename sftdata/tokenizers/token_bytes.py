"""The bytes that each token of a vocabulary stands for, and token borders computed from them.

Two families are known: byte-level BPE (GPT-2's byte alphabet) and SentencePiece-like vocabularies (`▁` for a space, `<0x0A>` for a
byte). Any other tokenizer has no table, and its borders come from `tokenizers`' own offsets.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

SPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """A table from token id to bytes."""

    def __init__(self, pieces: list[bytes], prepended: str) -> None:
        lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self._lengths = lengths
        self._first = np.cumsum(lengths) - lengths
        self._bytes = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        self._begins_with_space = np.array([piece[:1] == b" " for piece in pieces], dtype=bool)
        self._prepended = prepended
        """Where the tokenizer puts a space that is not in the text: `none`, `first` (of the row) or `every` (after a control)."""

    def borders(
        self,
        ids: npt.NDArray[np.int32],
        row_offsets: Int64,
        data: npt.NDArray[np.uint8],
        row_bytes: Int64,
        is_control: npt.NDArray[np.bool_],
    ) -> tuple[Int64, Int64, npt.NDArray[np.bool_]]:
        """Return (starts, ends, proven): byte borders of every token in `data`, and which rows they are proven for.

        A row is proven when its tokens' bytes, put one after the other, are exactly the row's bytes.
        """
        skipped = self._virtual_spaces(ids, row_offsets, is_control)
        lengths = self._lengths[ids] - skipped
        total = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum(lengths, out=total[1:])
        row_first = total[row_offsets[:-1]]
        proven = (total[row_offsets[1:]] - row_first) == np.diff(row_bytes)
        proven &= self._rows_equal(ids, lengths, skipped, row_offsets, data, row_bytes, proven)
        shift = np.repeat(row_bytes[:-1] - row_first, np.diff(row_offsets))
        return total[:-1] + shift, total[1:] + shift, proven

    def _virtual_spaces(
        self, ids: npt.NDArray[np.int32], row_offsets: Int64, is_control: npt.NDArray[np.bool_]
    ) -> Int64:
        """Return 1 for every token whose leading space the tokenizer put there itself."""
        if self._prepended == "none" or len(ids) == 0:
            return np.zeros(len(ids), dtype=np.int64)
        begins = np.zeros(len(ids), dtype=bool)
        first = row_offsets[:-1]
        begins[first[first < row_offsets[1:]]] = True
        control = is_control[ids]
        if self._prepended == "every":
            begins[1:] |= control[:-1]
        return (begins & ~control & self._begins_with_space[ids]).astype(np.int64)

    def _rows_equal(
        self,
        ids: npt.NDArray[np.int32],
        lengths: Int64,
        skipped: Int64,
        row_offsets: Int64,
        data: npt.NDArray[np.uint8],
        row_bytes: Int64,
        candidate: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.bool_]:
        """Compare the tokens' bytes with the text's bytes, row by row where the lengths agree."""
        if not candidate.all():
            token_rows = np.repeat(candidate, np.diff(row_offsets))
            ids, lengths, skipped = ids[token_rows], lengths[token_rows], skipped[token_rows]
            data = data[np.repeat(candidate, np.diff(row_bytes))]
        begin = np.cumsum(lengths) - lengths
        index = np.arange(len(data)) + np.repeat(self._first[ids] + skipped - begin, lengths)
        different = np.flatnonzero(self._bytes[index] != data)
        equal = candidate.copy()
        if len(different):
            kept_rows = np.flatnonzero(candidate)
            ends = np.cumsum(np.diff(row_bytes)[candidate])
            equal[kept_rows[np.searchsorted(ends, different, side="right")]] = False
        return equal


def read_token_bytes(value: dict[str, Any], tokenizer: Any) -> TokenBytes | None:
    """Return the table for a tokenizer, or None where its tokens do not stand for fixed bytes.

    value: the JSON of `tokenizer.json`. tokenizer: the same, loaded, to probe where it puts spaces.
    """
    decode = _family(value)
    if decode is None:
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = {int(token["id"]): token["content"] for token in value.get("added_tokens", [])}
    pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        pieces[number] = added[number].encode() if number in added else decode(token)
    return TokenBytes(pieces, _probe_prepended(tokenizer, value))


def _family(value: dict[str, Any]) -> Any:
    parts = _types(value.get("decoder")) | _types(value.get("pre_tokenizer"))
    if "ByteLevel" in parts:
        return _decode_byte_level
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


def _decode_byte_level(token: str) -> bytes:
    try:
        return bytes(_ALPHABET[character] for character in token)
    except KeyError:
        return token.encode("utf-8")  # no token of the alphabet; it can never be produced, or the proof will refuse it


def _decode_sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    if byte:
        return bytes([int(byte[1], 16)])
    return token.replace(SPACE, " ").encode("utf-8")


def _probe_prepended(tokenizer: Any, value: dict[str, Any]) -> str:
    """Find out by encoding where the tokenizer puts a space of its own before the text."""

    def begins_with_space(text: str, skip: int) -> bool:
        tokens = tokenizer.encode(text, add_special_tokens=False).tokens
        return len(tokens) > skip and bool(tokens[skip].startswith(SPACE))

    if not begins_with_space("x", 0):
        return "none"
    control = next((token["content"] for token in value.get("added_tokens", [])), None)
    return "every" if control is None or begins_with_space(f"{control}x", 1) else "first"
