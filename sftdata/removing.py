"""Leaving out records by name, as somebody may ask for theirs: `sftdata build --without ids.txt`.

The records are left out before any step sees their text, so that nothing of them reaches the results; the parts that hold none
of them are not prepared again. Who asks for the same list again gets the same build.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sftdata.errors import DataError
from sftdata.scanning import Part

STEP, REASON = "without", "removed"
"""Step and reason in the ledger."""

PartName = tuple[str, str, int]


def read_ids(path: str | Path) -> list[str]:
    """Return the lines of a file with one `id` or `source id` a line, each once; blank lines are skipped.

    Raises DataError for a file that cannot be read as UTF-8, or names nothing.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}; it is a text file of ids, one a line") from error
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not lines:
        raise DataError(f"{path}: names no record; write one id a line, as `sftdata why` shows them")
    return lines


class Removals:
    """The records to leave out, found in the parts of a build. ids: `id`, of any source, or `source id`."""

    def __init__(self, ids: Iterable[str], parts: Sequence[Part]) -> None:
        self.ids = sorted(set(ids))
        self._line_of: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._keys: dict[PartName, set[str]] = defaultdict(set)
        files: dict[tuple[str, str], list[Part]] = defaultdict(list)
        for part in parts:
            files[part.source.name, part.file.name].append(part)
        sources = list(dict.fromkeys(part.source.name for part in parts))
        for line in self.ids:
            for source, row_id in _readings(line, sources):
                name, _, key = row_id.rpartition("#")
                if (source, name) in files:
                    self._line_of[source, row_id].append(line)
                    self._keys[source, name, _piece_of(key, files[source, name])].add(key)

    def keys(self, part: Part) -> list[str]:
        """Return what follows `#` in the ids of the records to leave out of a part, sorted."""
        return sorted(self._keys.get((part.source.name, part.file.name, _first_record(part)), ()))

    def check(self, removed: Iterable[tuple[str, str]]) -> None:
        """Raise DataError for an id that named no record. removed: (source, id) of all that were left out."""
        found = {line for key in removed for line in self._line_of[key]}
        missing = [line for line in self.ids if line not in found]
        if missing:
            more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            raise DataError(
                f"--without: no record has the id {missing[0]!r}{more}; an id is the file's name, # and the record's number, "
                "as `sftdata why` shows it, and the source's name may stand before it"
            )


def _readings(line: str, sources: Sequence[str]) -> list[tuple[str, str]]:
    """Return what a line may mean as (source, id): an id of any source, or a source's name and an id."""
    source, _, row_id = line.partition(" ")
    return [*((name, line) for name in sources), *([(source, row_id)] if source in sources else [])]


def _first_record(part: Part) -> int:
    return part.file.piece.first_record if part.file.piece else 0


def _piece_of(key: str, parts: Sequence[Part]) -> int:
    """Return the first record of the piece of a file in which a record lies; of any piece for a key that no record has."""
    table, _, number = key.rpartition("/")
    before = [
        (first, _first_record(part))
        for part in parts
        if number.isdecimal() and (first := _first_number(part, table)) is not None and first <= int(number)
    ]
    return max(before)[1] if before else _first_record(parts[0])


def _first_number(part: Part, table: str) -> int | None:
    """Return the number from which on a part's records count: those of a table, or, for "", all; None where it has none."""
    if not table or part.file.piece is None or part.file.piece.state is None:
        return _first_record(part)
    number: int | None = part.file.piece.state["numbers"].get(table)
    return number


def removed_rows(part: Part, summary: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Return (source, id) of the records that a finished Prepare task left out."""
    return ((part.source.name, row_id) for row_id in summary.get("removed", ()))
