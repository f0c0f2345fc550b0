"""Fields from inside a record, by paths such as `conversations[0].value`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sftdata.errors import RecipeError
from sftdata.records import Bad, Record

_STEP = re.compile(r"""(?:^|\.)(?P<name>[^.\[\]"']+)|\[(?P<index>-?\d+)\]|\[(?P<quoted>"[^"]*"|'[^']*')\]""")

_MISSING = object()


def picked(rows: Iterator[Record | Bad], fields: dict[str, str] | None) -> Iterator[Record | Bad]:
    """Return the rows with the fields that the paths name, instead of all; a field whose path leads nowhere is left out.

    A path is names joined by dots, `[0]` and `[-1]` for elements of lists, and `["a.b"]` for a name with dots. Raises
    RecipeError for a path that cannot be read.
    """
    if fields is None:
        return rows
    paths = {name: read_path(text) for name, text in fields.items()}
    return (row if isinstance(row, Bad) else row._replace(fields=_fields(row.fields, paths)) for row in rows)


def read_path(text: str) -> list[str | int]:
    """Return the steps of a path. Raises RecipeError."""
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None or (position == 0 and match["name"] is not None and text.startswith(".")):
            break
        if match["index"] is not None:
            steps.append(int(match["index"]))
        else:
            steps.append(match["name"] if match["name"] is not None else match["quoted"][1:-1])
        position = match.end()
    if position < len(text) or not steps:
        raise RecipeError(f"fields: the path {text!r} cannot be read; write it like conversations[0].value")
    return steps


def _fields(record: dict[str, Any], paths: dict[str, list[str | int]]) -> dict[str, Any]:
    found = ((name, _follow(record, path)) for name, path in paths.items())
    return {name: value for name, value in found if value is not _MISSING}


def _follow(value: Any, path: list[str | int]) -> Any:
    for step in path:
        if isinstance(step, str) and isinstance(value, dict):
            value = value.get(step, _MISSING)
        elif isinstance(step, int) and isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return _MISSING
    return value
