"""Exact deduplication: which rows are surplus copies. Digests in, decisions out.

Digests are computed where the text is (Prepare); decisions are made once over all rows (Resolve).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Duplicates(NamedTuple):
    """The decision over n rows."""

    surplus: npt.NDArray[np.bool_]
    """(n,) True for a row that is dropped."""
    survivor: npt.NDArray[np.int64]
    """(n,) the first row of the group that the row belongs to; the row itself where it has no equal."""


def exact(digests: npt.NDArray[np.uint64], exempt: npt.NDArray[np.bool_], *, max_copies: int) -> Duplicates:
    """Find rows whose digest was seen `max_copies` times before, in row order.

    digests: (n, 2) uint64, xxh3-128 of the rows' content. exempt: (n,) rows that are kept however often they occur.
    """
    num_rows = len(digests)
    order = np.lexsort((np.arange(num_rows), digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    starts = np.ones(num_rows, dtype=bool)
    starts[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    first = np.maximum.accumulate(np.where(starts, np.arange(num_rows), 0))
    surplus = np.zeros(num_rows, dtype=bool)
    surplus[order] = np.arange(num_rows) - first >= max_copies
    survivor = np.empty(num_rows, dtype=np.int64)
    survivor[order] = order[first] if num_rows else order
    return Duplicates(surplus & ~exempt, survivor)
