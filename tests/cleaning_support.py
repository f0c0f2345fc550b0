"""What tests of cleaners share."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from sftdata.records import Drop, Edit, Mark
from sftdata.schemas import SPANS

Answer = str | None | Drop | Edit | Mark


def spans_of(*texts: tuple[str, str], rows: list[int] | None = None) -> pa.Table:
    """Return the spans of (role, text) pairs, each of a record of its own unless `rows` says which."""
    numbers = rows or list(range(len(texts)))
    table = [
        {"row": row, "field": f"f{turn}", "turn": turn, "role": role, "text": text}
        for turn, (row, (role, text)) in enumerate(zip(numbers, texts, strict=True))
    ]
    return pa.Table.from_pylist(table, schema=SPANS)


def answer_to(step: Any, text: str, role: str = "text", **options: Any) -> Answer:
    """Return what a batched cleaner answers to one text."""
    [answer] = step(spans_of((role, text)), **options)
    found: Answer = answer
    return found
