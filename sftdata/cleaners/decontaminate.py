"""Drop samples that hold a piece of a benchmark, so that a score on it says something."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata.cleaners._spans import ANSWER_ROLES, EVIDENCE_CHARS, Answer, check_roles
from sftdata.errors import RecipeError
from sftdata.record_json import parse
from sftdata.records import Drop
from sftdata.registry import cleaner
from sftdata.shingling import Units, find_grams, find_units

SHORTEST = 8, 12
"""Words, and characters of a script without spaces, from which on a benchmark's text that is shorter than an n-gram is
looked for as a whole. Shorter ones are said everywhere: GPT-3's analysis of overlaps (Brown et al. 2020, C) had n from 8 on."""

BATCH_CHARS = 1 << 18


class _Index(NamedTuple):
    """The n-grams of all benchmarks: for each size, hashes (n,) ascending, and of each the number of its benchmark, (n,)."""

    names: list[str]
    grams: dict[tuple[int, bool], tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]]
    """By (units, whether one of them is a character of a script without spaces)."""


def _files(
    *,
    benchmarks: list[str],
    words: int = 13,
    characters: int = 20,
    fields: list[str] | None = None,
    roles: list[str] | None = None,
) -> tuple[str, ...]:
    """Return the benchmark files, after checking that they and the options are right."""
    check_roles("decontaminate", roles)
    if words < SHORTEST[0] or characters < SHORTEST[1]:
        least = f"words is at least {SHORTEST[0]} and characters at least {SHORTEST[1]}"
        raise RecipeError(f"decontaminate: {least}; less is in any text")
    if not benchmarks:
        raise RecipeError("decontaminate: name at least one file of a benchmark")
    _load(_stamps(benchmarks), words, characters, tuple(fields or ()))
    return tuple(benchmarks)


@cleaner(batched=True, libraries=("numpy",), assets=_files, path_options=("benchmarks",))
def decontaminate(
    spans: pa.Table,
    *,
    benchmarks: list[str],
    words: int = 13,
    characters: int = 20,
    fields: list[str] | None = None,
    roles: list[str] | None = None,
) -> list[Answer]:
    """Drop samples in whose prompt or answer stands a piece of a benchmark: so many words or characters in a row.

    `benchmarks` are files: JSON Lines or a JSON array of records, whose texts are all looked for, or those in `fields`; or
    plain text, an item a line. Case, width and punctuation do not count. A text of a benchmark that is shorter is looked for
    as a whole, if it has 8 words or 12 characters. Reasons: `benchmark_prompt` and `benchmark_answer`, by the side of the
    sample; the rule is the name of the benchmark's file, the evidence what was found. `roles` are the roles that are looked at,
    by default all.

    13 words are those of GPT-3 (Brown et al. 2020, appendix C); for Chinese, 20 characters are about as many.
    Raises RecipeError for files that cannot be read or hold no text.
    """
    index = _load(_stamps(benchmarks), words, characters, tuple(fields or ()))
    texts, span_roles = spans["text"].to_pylist(), spans["role"].to_pylist()
    answers: list[Answer] = list(texts)
    chosen = [number for number, role in enumerate(span_roles) if roles is None or role in roles]
    for batch in _batches(chosen, texts):
        for number, name, evidence in _found([texts[place] for place in batch], index):
            is_answer = span_roles[batch[number]] in ANSWER_ROLES
            answers[batch[number]] = Drop("benchmark_answer" if is_answer else "benchmark_prompt", name, evidence)
    return answers


def _batches(chosen: list[int], texts: list[str]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for place in chosen:
        batch.append(place)
        size += len(texts[place])
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _found(texts: list[str], index: _Index) -> Iterator[tuple[int, str, str]]:
    """Yield (text, benchmark, what was found) of every text that holds an n-gram of the index, each text once."""
    units = find_units(texts)
    first_hits: dict[int, tuple[int, int, int]] = {}  # text → (first unit, units, benchmark)
    for (size, _), (known, benchmark) in index.grams.items():
        hashes, first = find_grams(units, size)
        if not len(hashes) or not len(known):
            continue
        place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        hits = np.flatnonzero(known[place] == hashes)
        owners = np.searchsorted(units.offsets, first[hits], side="right") - 1
        for text, unit, number in zip(owners.tolist(), first[hits].tolist(), benchmark[place[hits]].tolist(), strict=True):
            if text not in first_hits or (unit, -size) < (first_hits[text][0], -first_hits[text][1]):
                first_hits[text] = unit, size, number
    for text, (unit, size, number) in sorted(first_hits.items()):
        before = int(units.text_offsets[text])
        start, end = int(units.start[unit]) - before, int(units.end[unit + size - 1]) - before
        yield text, index.names[number], texts[text][start:end][:EVIDENCE_CHARS]


Stamps = tuple[tuple[str, int, int], ...]
"""Files with time of change and size."""


def _stamps(paths: list[str]) -> Stamps:
    stamps = []
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError as error:
            raise RecipeError(f"decontaminate: {path}: cannot be read: {error.strerror}") from error
        stamps.append((path, status.st_mtime_ns, status.st_size))
    return tuple(stamps)


@lru_cache(maxsize=4)
def _load(stamps: Stamps, words: int, characters: int, fields: tuple[str, ...]) -> _Index:
    """Return the index of the files' texts. Raises RecipeError."""
    names = [Path(path).name for path, _, _ in stamps]
    pieces: dict[tuple[int, bool], list[tuple[npt.NDArray[np.uint64], int]]] = defaultdict(list)
    for number, (path, _, _) in enumerate(stamps):
        texts = list(_texts(Path(path), fields))
        found = 0
        for batch in _batches(list(range(len(texts))), texts):
            for key, hashes in _grams(find_units([texts[place] for place in batch]), words, characters):
                pieces[key].append((hashes, number))
                found += len(hashes)
        if not found:
            where = f" in {', '.join(fields)}" if fields else ""
            raise RecipeError(f"decontaminate: {path}: holds no text of {SHORTEST[0]} words or {SHORTEST[1]} characters{where}")
    grams = {}
    for key, found_pieces in pieces.items():
        hashes = np.concatenate([piece for piece, _ in found_pieces])
        owner = np.concatenate([np.full(len(piece), number, dtype=np.int32) for piece, number in found_pieces])
        known, place = np.unique(hashes, return_index=True)  # the first benchmark that has it
        grams[key] = known, owner[place]
    return _Index(names, grams)


def _grams(units: Units, words: int, characters: int) -> Iterator[tuple[tuple[int, bool], npt.NDArray[np.uint64]]]:
    """Yield the n-grams of texts: windows of words, windows of `characters` units with a character among them, short texts."""
    spaceless = np.concatenate([[0], np.cumsum(units.spaceless)])
    for size, is_spaceless in ((words, False), (characters, True)):
        hashes, first = find_grams(units, size)
        holds = spaceless[first + size] > spaceless[first]
        yield (size, is_spaceless), hashes[holds == is_spaceless]
    num_units = np.diff(units.offsets)
    holds = spaceless[units.offsets[1:]] > spaceless[units.offsets[:-1]]
    shortest, longest = np.where(holds, SHORTEST[1], SHORTEST[0]), np.where(holds, characters, words)
    for size in np.unique(num_units[(num_units >= shortest) & (num_units < longest)]).tolist():
        for is_spaceless in (False, True):
            whole = (num_units == size) & (holds == is_spaceless) & (num_units >= shortest) & (num_units < longest)
            hashes, first = find_grams(units, size)
            yield (size, is_spaceless), hashes[np.isin(first, units.offsets[:-1][whole])]


def _texts(path: Path, fields: tuple[str, ...]) -> Iterator[str]:
    """Yield the texts of a benchmark file."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"decontaminate: {path}: cannot be read: {error}") from error
    if path.suffix == ".txt":
        yield from content.splitlines()
        return
    is_array = content.lstrip()[:1] == "["
    for number, text in enumerate([content] if is_array else content.splitlines(), 1):
        if text.strip():
            try:
                value = parse(text)
            except ValueError as error:
                raise RecipeError(f"decontaminate: {path}:{number} is not JSON: {error}") from error
            for record in value if is_array else [value]:
                chosen = {name: record.get(name) for name in fields} if fields and isinstance(record, Mapping) else record
                yield from _strings(chosen)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
