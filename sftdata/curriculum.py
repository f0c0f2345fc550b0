"""The values of a field of the records, by which a curriculum orders them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata.entries import DOCUMENTS_FILE, TOKENIZED_FILE
from sftdata.errors import DataError
from sftdata.record_json import parse
from sftdata.tables import read_batches

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def read_values(
    name: str, part: npt.NDArray[np.int32], item: npt.NDArray[np.int32], tokenized: Sequence[Path], documents: Sequence[Path]
) -> npt.NDArray[np.float64]:
    """Return the number in field `name` of the record that each tokenized row was made from, (n,).

    part, item: (n,) ascending; the row is number `item` of `tokenized[part]`, and the records of that part lie in
    `documents[part]`. A number may be written as text, as in CSV. Raises DataError for a record without a finite number.
    """
    values = np.empty(len(part), dtype=np.float64)
    for number in np.unique(part).tolist():
        mine = np.flatnonzero(part == number)
        rows = np.concatenate([batch.column("row").to_numpy() for batch in read_batches(tokenized[number] / TOKENIZED_FILE)])
        wanted = rows[item[mine]]
        first = 0
        for batch in read_batches(documents[number] / DOCUMENTS_FILE):
            span = slice(*np.searchsorted(wanted, (first, first + len(batch))))
            local = pa.array(wanted[span] - first)
            for place, record in zip(mine[span].tolist(), batch.column("record").take(local).to_pylist(), strict=True):
                value = parse(record).get(name)
                values[place] = _number(value)
                if not math.isfinite(values[place]):
                    _refuse(name, value, batch.slice(int(wanted[np.searchsorted(mine, place)]) - first, 1))
            first += len(batch)
    return values


def _number(value: Any) -> float:
    """Return a value as a number, NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    if isinstance(value, str) and not _NUMBER.fullmatch(value):  # float() takes more: "1_000", " 12 "
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _refuse(name: str, value: Any, row: pa.RecordBatch) -> NoReturn:
    [found] = row.select(["source", "id"]).to_pylist()
    raise DataError(
        f"{found['source']} {found['id']}: field {name!r} is {value!r}, not a number to order by (mix.order_by); "
        "give every record one, or order by length"
    )
