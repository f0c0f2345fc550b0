"""The user's own words: those that no sample may hold, and those that are replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from sftdata.cleaners._spans import Answer, check_roles
from sftdata.errors import RecipeError
from sftdata.records import Drop, Edit, Mark
from sftdata.registry import cleaner

Action = Literal["drop", "mask_loss", "flag"]


class _Terms(NamedTuple):
    """What is looked for."""

    automaton: Any
    terms: list[str]
    replacements: list[str | None]
    """Of each term; None for one that is blocked."""
    ignore_case: bool


def _files(
    *, block_file: str | None = None, replace_file: str | None = None, roles: list[str] | None = None, **options: Any
) -> tuple[str, ...]:
    """Return the files that the step reads, after checking that they and the options are right."""
    check_roles("terms", roles)
    found = _collect(tuple(options.get("block", ())), tuple(options.get("replace", {}).items()), block_file, replace_file)
    if not found:
        raise RecipeError("terms: give terms to block or to replace")
    return tuple(path for path in (block_file, replace_file) if path is not None)


@cleaner(batched=True, libraries=("ahocorasick-rs",), assets=_files, path_options=("block_file", "replace_file"))
def terms(
    spans: pa.Table,
    *,
    block: list[str] = [],  # noqa: B006
    replace: dict[str, str] = {},  # noqa: B006
    block_file: str | None = None,
    replace_file: str | None = None,
    action: Action = "drop",
    ignore_case: bool = True,
    roles: list[str] | None = None,
) -> list[Answer]:
    """Drop samples that hold one of your terms, or do not train that text (`mask_loss`), or note it (`flag`); replace others.

    `block` are terms, `replace` maps terms to what takes their place; the files hold one term a line, with a tab before what
    replaces it. A term that begins or ends in a Latin letter or digit matches whole words only; Chinese terms match anywhere.
    Of overlapping terms the leftmost, then the longest counts. `roles` are the roles that are looked at, by default all.

    Raises RecipeError for files that cannot be read, empty terms and unknown roles.
    """
    check_roles("terms", roles)
    found = _load(
        tuple(block), tuple(replace.items()), _stamp(block_file), _stamp(replace_file), ignore_case
    )
    answers: list[Answer] = []
    for text, role in zip(spans["text"].to_pylist(), spans["role"].to_pylist(), strict=True):
        answers.append(_judge(text, found, action) if roles is None or role in roles else text)
    return answers


def _judge(text: str, found: _Terms, action: Action) -> Answer:
    hits = _hits(text, found)
    if not hits:
        return text
    for number, start, end in hits:
        if found.replacements[number] is None:
            told = ("blocked_term", found.terms[number], text[start:end])
            return Drop(*told) if action == "drop" else Mark(action, 0.0, *told)
    pieces: list[str] = []
    place = 0
    for number, start, end in hits:
        pieces += [text[place:start], found.replacements[number] or ""]
        place = end
    pieces.append(text[place:])
    rules = ", ".join(dict.fromkeys(found.terms[number] for number, _, _ in hits))
    return Edit("".join(pieces), "replaced_term", rules, text[hits[0][1] : hits[0][2]])


def _hits(text: str, found: _Terms) -> list[tuple[int, int, int]]:
    """Return (number of the term, start, end) of what is found, from left to right, without overlaps."""
    view = lower(text) if found.ignore_case else text
    candidates = [hit for hit in found.automaton.find_matches_as_indexes(view, overlapping=True) if _is_whole(text, hit)]
    hits: list[tuple[int, int, int]] = []
    end = 0
    for hit in sorted(candidates, key=lambda hit: (hit[1], -hit[2], found.replacements[hit[0]] is not None)):
        if hit[1] >= end:
            hits.append(hit)
            end = hit[2]
    return hits


def lower(text: str) -> str:
    """Return a text in lower case, every character in its place: one that would become two stays."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(low if len(low := char.lower()) == 1 else char for char in text)


def _is_whole(text: str, hit: tuple[int, int, int]) -> bool:
    _, start, end = hit
    return not (
        (_is_latin(text[start]) and start > 0 and _is_latin(text[start - 1]))
        or (_is_latin(text[end - 1]) and end < len(text) and _is_latin(text[end]))
    )


def _is_latin(char: str) -> bool:
    return char.isalnum() and char < "\u0250"


def _stamp(path: str | None) -> tuple[str, int, int] | None:
    """Return a file with what changes when it does, so that a changed one is read again."""
    if path is None:
        return None
    try:
        status = Path(path).stat()
    except OSError as error:
        raise RecipeError(f"terms: {path}: cannot be read: {error.strerror}") from error
    return path, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _load(
    block: tuple[str, ...],
    replace: tuple[tuple[str, str], ...],
    block_file: tuple[str, int, int] | None,
    replace_file: tuple[str, int, int] | None,
    ignore_case: bool,
) -> _Terms:
    from ahocorasick_rs import AhoCorasick

    found = _collect(block, replace, block_file and block_file[0], replace_file and replace_file[0])
    names = list(found)
    patterns = [lower(name) if ignore_case else name for name in names]
    return _Terms(AhoCorasick(patterns), names, [found[name] for name in names], ignore_case)


def _collect(
    block: Sequence[str], replace: Sequence[tuple[str, str]], block_file: str | None, replace_file: str | None
) -> Mapping[str, str | None]:
    """Return every term with its replacement, None where it is blocked. Raises RecipeError for an empty one."""
    found: dict[str, str | None] = {}
    for line, name, place in _lines(replace_file):
        term, tab, text = line.partition("\t")
        if not tab:
            raise RecipeError(f"terms: {place} {name!r}: write a term, a tab, and what replaces it")
        found[term] = text
    found.update(replace)
    found.update({line: None for line, _, _ in _lines(block_file)})
    found.update(dict.fromkeys(block))
    if "" in found:
        raise RecipeError("terms: an empty term is in every text; leave it out")
    return found


def _lines(path: str | None) -> list[tuple[str, str, str]]:
    """Return the lines of a file that are not blank: the line, its beginning, and where it stands."""
    if path is None:
        return []
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"terms: {path}: cannot be read: {error}") from error
    return [(line, line[:40], f"{path}:{number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
