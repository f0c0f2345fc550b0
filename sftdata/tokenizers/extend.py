"""Adding pieces to a vocabulary, so that text of a new language or trade takes fewer tokens.

The rule is that of Colossal-LLaMA's `init_tokenizer.py`: pieces without doubles, the shortest first, those that are known left
out, the others appended with a score above all old ones. BPE makes a piece of two others only, so that a piece whose parts are
missing is dead; here it is found by encoding, and its parts can be added.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from sftdata.errors import DataError, TokenizerError
from sftdata.tokenizers import sentencepiece_model
from sftdata.tokenizers.files import NewToken, TokenizerFiles, load
from sftdata.tokenizers.sentencepiece_model import SPACE
from sftdata.tokenizers.token_bytes import is_byte_level, read_bytes, spell_bytes

NEIGHBOURS = (("", ""), ("x", ""), ("", "x"), ("中", "中"), (" ", " "), ("1", "1"), ("\n", "\n"))
"""Texts between which a piece is looked for: where none of them shows it, no text does."""

BATCH = 1000
"""Texts that are measured at a time."""


@dataclass(frozen=True)
class Extension:
    """An extended tokenizer, and what became of the pieces."""

    files: TokenizerFiles
    """`new_tokens` names every new token with the old ones that its piece was made of."""
    num_given: int
    num_doubles: int
    """Pieces that were given before."""
    num_known: int
    """Pieces that the vocabulary has."""
    num_added: int
    parts: list[str]
    """Pieces that were added although nobody asked: characters that the vocabulary lacks, and parts of dead pieces."""
    dead: list[str]
    """Added pieces that no text is encoded to."""


def read_pieces(path: Path) -> list[str]:
    """Read pieces from JSON Lines of `{"piece": "..."}` or from a SentencePiece `.model`. Raises DataError with the line."""
    if path.suffix == sentencepiece_model.SUFFIX:
        model = sentencepiece_model.read_model(path)
        return [text.replace(SPACE, " ") for text, _, kind in model.pieces if kind == sentencepiece_model.NORMAL]
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return [_piece(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _piece(line: bytes, place: str) -> str:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{place} is no JSON: {error}; write a piece as {{\"piece\": \"...\"}}") from error
    piece = record.get("piece") if isinstance(record, dict) else None
    if not isinstance(piece, str) or not piece:
        raise DataError(f'{place} holds no piece; write it as {{"piece": "..."}}')
    return piece


def extend(files: TokenizerFiles, pieces: Sequence[str], *, add_parts: bool = False) -> Extension:
    """Add pieces to a tokenizer; the old ids stay, and the new ones follow them.

    pieces: as text; to SentencePiece's kind a space is `▁`. add_parts: also add the parts without which pieces would be dead.
    Raises TokenizerError for a kind of tokenizer that cannot be extended.
    """
    kind = files.tokenizer["model"].get("type")
    if kind not in ("BPE", "Unigram"):
        raise TokenizerError(f"a {kind} tokenizer cannot be extended; BPE and Unigram can")
    byte_level = is_byte_level(files.tokenizer)
    old = load(json.dumps(files.tokenizer), "tokenizer.json")
    known = old.get_vocab(with_added_tokens=True)
    unique = dict.fromkeys(spell_bytes(piece) if byte_level else piece.replace(" ", SPACE) for piece in pieces)
    new = [piece for piece in sorted(unique, key=len) if piece not in known]
    parts = [] if byte_level or kind == "Unigram" else _missing_characters(new, known)

    def with_parts(parts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        extended = _appended(files.tokenizer, sorted([*parts, *new], key=len), old)
        return extended, _dead(extended, new, byte_level)

    extended, dead = with_parts(parts)
    if add_parts and dead:
        chains = _chains(extended, dead, {*known, *new, *parts})
        _, incurable = with_parts([*parts, *_joined(chains, dead)])
        parts += _joined(chains, [piece for piece in dead if piece not in incurable])
        extended, dead = with_parts(parts)
    return Extension(
        files=replace(files, tokenizer=extended, new_tokens=[*files.new_tokens, *_new_tokens(files, extended, old)]),
        num_given=len(pieces),
        num_doubles=len(pieces) - len(unique),
        num_known=len(unique) - len(new),
        num_added=len(new),
        parts=[_text(piece, byte_level) for piece in parts],
        dead=[_text(piece, byte_level) for piece in dead],
    )


def report(before: TokenizerFiles, extension: Extension, texts: Sequence[str]) -> dict[str, Any]:
    """Return what became of the pieces, and what texts take before and after."""
    after = extension.files
    found = {"given": extension.num_given, "doubles": extension.num_doubles, "known": extension.num_known}
    return {
        **found,
        "added": extension.num_added,
        "parts": extension.parts,
        "dead": extension.dead,
        "before": measure(load(json.dumps(before.tokenizer), "tokenizer.json"), texts),
        "after": measure(load(json.dumps(after.tokenizer), "the extended tokenizer"), texts),
    }


def dead_pieces(extension: Extension) -> list[str]:
    """Return a line that names dead pieces, where there are some."""
    if not extension.dead:
        return []
    shown = ", ".join(map(repr, extension.dead[:3])) + (" and others" if len(extension.dead) > 3 else "")
    return [f"{len(extension.dead):,} of {extension.num_added:,} added pieces are dead, no text is encoded to them: {shown}"]


def _text(piece: str, byte_level: bool) -> str:
    return read_bytes(piece).decode("utf-8", errors="replace") if byte_level else piece


def _new_tokens(files: TokenizerFiles, extended: dict[str, Any], old: Any) -> list[NewToken]:
    """Return the added tokens in the order of their ids; a piece made of tokens that were new before is made of theirs."""
    known = old.get_vocab(with_added_tokens=True)
    before = {token.id: token.made_of for token in files.new_tokens}
    vocabulary = extended["model"]["vocab"]
    ids = vocabulary if isinstance(vocabulary, dict) else {piece: number for number, (piece, _) in enumerate(vocabulary)}
    added = sorted((number, piece) for piece, number in ids.items() if piece not in known)
    made_of = [[token.id for token in old.model.tokenize(piece)] for _, piece in added]
    flat = [[first for number in numbers for first in before.get(number, [number])] for numbers in made_of]
    return [NewToken(number, piece, numbers) for (number, piece), numbers in zip(added, flat, strict=True)]


def _missing_characters(pieces: Iterable[str], known: Mapping[str, int]) -> list[str]:
    """Return the characters of longer pieces that are no pieces: BPE begins with those, and never joins their bytes."""
    pieces = list(pieces)
    characters = dict.fromkeys(character for piece in pieces if len(piece) > 1 for character in piece)
    return [character for character in characters if character not in known and character not in pieces]


def _chains(value: dict[str, Any], pieces: Iterable[str], known: Collection[str]) -> dict[str, list[str]]:
    """Return for each piece the unknown parts that lead to it from what it is encoded to now, token by token."""
    model = load(json.dumps(value), "the extended tokenizer").model
    tokens = {piece: [token.value for token in model.tokenize(piece)] for piece in pieces}
    parts = {piece: ["".join(row[:length]) for length in range(2, len(row))] for piece, row in tokens.items()}
    return {piece: [part for part in row if part not in known] for piece, row in parts.items()}


def _joined(chains: Mapping[str, Sequence[str]], pieces: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(part for piece in pieces for part in chains[piece]))


def _appended(value: dict[str, Any], pieces: Sequence[str], old: Any) -> dict[str, Any]:
    """Return a `tokenizer.json` with pieces after all old ids.

    Added tokens become entries of the model as well, under their ids: else they would be counted on from its new size.
    """
    model = dict(value["model"])
    entries = {token["content"]: token["id"] for token in value.get("added_tokens") or []}
    if model["type"] == "BPE":
        vocabulary = {**model["vocab"], **entries}
        first = max(vocabulary.values()) + 1
        model["vocab"] = {**vocabulary, **{piece: first + number for number, piece in enumerate(pieces)}}
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        model["merges"] = [*_new_merges(pieces, model["vocab"]), *pairs]
    else:
        model["vocab"] = _unigram_vocabulary(model["vocab"], entries, pieces, old)
    return {**value, "model": model}


def _new_merges(pieces: Sequence[str], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return every way to make a piece of two others, the shortest pieces first; they go before all old merges."""
    return [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]


def _unigram_vocabulary(
    vocabulary: Sequence[Sequence[Any]], entries: Mapping[str, int], pieces: Sequence[str], old: Any
) -> list[Sequence[Any]]:
    """Return the entries with scores: a new piece has the mean score of its old ones, which is more than their sum."""
    scores = [score for _, score in vocabulary]
    known = {piece for piece, _ in vocabulary}
    outside = sorted((number, text) for text, number in entries.items() if text not in known)
    if [number for number, _ in outside] != list(range(len(vocabulary), len(vocabulary) + len(outside))):
        raise TokenizerError("cannot be extended: the ids of its added tokens do not follow those of the model")
    never = min(scores) - 1000
    added = [[text, never] for _, text in outside]
    means = []
    for piece in pieces:
        parts = [scores[token.id] for token in old.model.tokenize(piece)]
        means.append([piece, sum(parts) / len(parts)])
    return [*vocabulary, *added, *means]


def _dead(value: dict[str, Any], pieces: Sequence[str], byte_level: bool) -> list[str]:
    """Return the pieces that no text around them brings forth."""
    tokenizer = load(json.dumps(value), "the extended tokenizer")
    left = list(pieces)
    for before, after in NEIGHBOURS:
        texts = [f"{before}{_text(piece, byte_level) if byte_level else piece.replace(SPACE, ' ')}{after}" for piece in left]
        rows = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        left = [piece for piece, row in zip(left, rows, strict=True) if tokenizer.token_to_id(piece) not in row.ids]
    return left


def measure(tokenizer: Any, texts: Iterable[str]) -> dict[str, float]:
    """Return how many tokens texts take: `texts`, `characters`, `tokens`, `characters_per_token`, `tokens_per_text`."""
    num_texts = num_characters = num_tokens = 0
    texts = iter(texts)
    while batch := list(islice(texts, BATCH)):
        num_texts += len(batch)
        num_characters += sum(map(len, batch))
        num_tokens += sum(len(row.ids) for row in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
    return {
        "texts": num_texts,
        "characters": num_characters,
        "tokens": num_tokens,
        "characters_per_token": round(num_characters / max(num_tokens, 1), 3),
        "tokens_per_text": round(num_tokens / max(num_texts, 1), 3),
    }
