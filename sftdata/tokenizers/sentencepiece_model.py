"""SentencePiece `.model` files: read without their library, and written as a `tokenizer.json` that gives the same ids.

The file is a protocol buffer (google/sentencepiece, `sentencepiece_model.proto`); the few fields that decide about ids are read
here. A conversion is believed only as far as `self_check.py` finds the ids of the library itself on lines of the data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftdata.errors import TokenizerError

SUFFIX = ".model"
NAMES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
"""What the file is called in published folders: by LLaMA and its kin, by T5, by XLM-R."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
SPACE = "▁"


@dataclass(frozen=True)
class SentencePiece:
    """What a `.model` says."""

    pieces: tuple[tuple[str, float, int], ...]
    """(text, score, type) of every id."""
    model_type: int
    charsmap: bytes
    """The compiled table of the normaliser; empty where it changes nothing."""
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    special: dict[str, str]
    """`unk_token`, `bos_token`, `eos_token`, `pad_token` → text, where the model has one."""


def read_model(path: Path) -> SentencePiece:
    """Read a `.model` file. Raises TokenizerError for what is none, and for word and character models."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"tokenizer {path}: cannot be read: {error}") from error
    return parse_model(data, str(path))


def parse_model(data: bytes, place: str) -> SentencePiece:
    """Parse the bytes of a `.model`. place: what an error shall name."""
    try:
        model = _model(list(_fields(data)))
    except (ValueError, IndexError, KeyError, struct.error, TypeError, AttributeError) as error:
        raise TokenizerError(f"tokenizer {place}: is no SentencePiece model, or a damaged one") from error
    if model.model_type not in (UNIGRAM, BPE):
        raise TokenizerError(f"tokenizer {place}: is a word or character model; only bpe and unigram are known")
    return model


def _model(fields: list[tuple[int, Any]]) -> SentencePiece:
    pieces = []
    for number, value in fields:
        if number == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode("utf-8"), _float(piece.get(2, b"\0\0\0\0")), piece.get(3, NORMAL)))
    trainer, normaliser = (dict(_fields(b"".join(value for key, value in fields if key == number))) for number in (2, 3))
    if not pieces:
        raise ValueError("no pieces")
    ids = {"unk_token": trainer.get(40, 0), "bos_token": trainer.get(41, 1), "eos_token": trainer.get(42, 2)}
    ids["pad_token"] = trainer.get(43, -1)
    special = {
        name: pieces[number][0]
        for name, number in ids.items()
        if 0 <= number < len(pieces) and pieces[number][2] in (UNKNOWN, CONTROL)
    }
    return SentencePiece(
        pieces=tuple(pieces),
        model_type=trainer.get(3, UNIGRAM),
        charsmap=normaliser.get(2, b""),
        add_dummy_prefix=bool(normaliser.get(3, True)),
        remove_extra_whitespaces=bool(normaliser.get(4, True)),
        special=special,
    )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a protocol buffer message; numbers as int, all else as bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield key >> 3, value - (1 << 64) if value >> 63 else value
            continue
        if kind == 2:
            size, position = _varint(data, position)
        else:
            size = {1: 8, 5: 4}[kind]
        if position + size > len(data):
            raise ValueError("cut off")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7


def _float(data: bytes) -> float:
    number: float = struct.unpack("<f", data)[0]
    return number


def to_tokenizer_json(model: SentencePiece) -> dict[str, Any]:
    """Return the `tokenizer.json` of a model: the same ids for text without control tokens.

    Between added tokens every stretch of text is a text of its own, with its own dummy prefix, as LLaMA's first tokenizers had
    it (`legacy`).
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

    vocabulary = [(text, score) for text, score, _ in model.pieces]
    unknown = next((number for number, (_, _, kind) in enumerate(model.pieces) if kind == UNKNOWN), None)
    by_bytes = any(kind == BYTE for _, _, kind in model.pieces)
    if model.model_type == BPE:
        ids = {text: number for number, (text, _) in enumerate(vocabulary)}
        unknown_text = None if unknown is None else vocabulary[unknown][0]
        tokenizer = Tokenizer(models.BPE(ids, merges(model), unk_token=unknown_text, fuse_unk=True, byte_fallback=by_bytes))
    else:
        never = min(score for _, score in vocabulary) - 1000  # text that spells a byte token, as <0x41>, is not that token
        scores = [(text, never if kind in (UNUSED, BYTE) else score) for text, score, kind in model.pieces]
        tokenizer = Tokenizer(models.Unigram(scores, unk_id=unknown, byte_fallback=by_bytes))
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if model.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if model.add_dummy_prefix else [])
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text, _, kind in model.pieces if kind in (UNKNOWN, CONTROL)]
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text, _, kind in model.pieces if kind == USER_DEFINED])
    value: dict[str, Any] = json.loads(tokenizer.to_str())
    return value


def merges(model: SentencePiece) -> list[tuple[str, str]]:
    """Return the merges of a BPE model, the best score first: every way to make a piece of two others.

    Conversions that forget the scores give other ids where a later piece has a better score, as for runs of spaces in LLaMA-2.
    """
    kinds = (NORMAL, USER_DEFINED, UNUSED)
    number = {text: place for place, (text, _, kind) in enumerate(model.pieces) if kind in kinds}
    ranked = []
    for text, place in number.items():
        for cut in range(1, len(text)):
            first, second = text[:cut], text[cut:]
            if first in number and second in number:
                ranked.append((-model.pieces[place][1], place, number[first], number[second], first, second))
    return [(first, second) for *_, first, second in sorted(ranked)]


def open_library(path: Path) -> Any:
    """Return sentencepiece's own processor of a `.model`, the reference of the self-check. Raises TokenizerError."""
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise TokenizerError(f"tokenizer {path}: sentencepiece cannot read it: {' '.join(str(error).split())}") from error
