"""What rows are made of: tokens by source and bucket, and how full the rows are, from the lineage's integers alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.shards import Shards
from sftdata.views.tables import LINEAGE_TABLE, stream_rows

Int64 = npt.NDArray[np.int64]
COLUMNS = ["split", "row", "source", "length"]


class Composition(NamedTuple):
    """A build's rows, counted."""

    tokens: Counter[tuple[str, str]]
    """(split, source) → tokens."""
    segments: Counter[tuple[str, str]]
    """(split, source) → samples, or pieces of them."""
    bucket_tokens: dict[str, Int64]
    """Source → tokens in each bucket of the training split, (buckets,)."""
    row_tokens: dict[str, Counter[int]]
    """Split → how many rows have how many tokens."""


def read_composition(shards: Shards) -> Composition:
    """Count what the rows of a build are made of. Reads a batch of the lineage at a time. Raises DamagedError."""
    bucket_ends = np.cumsum(shards.manifest["splits"]["train"]["bucket_rows"])
    found = Composition(Counter(), Counter(), defaultdict(lambda: np.zeros(len(bucket_ends), dtype=np.int64)), {})
    rows = _RowTokens(found.row_tokens)
    for batch in stream_rows(shards, LINEAGE_TABLE, COLUMNS):
        split, row, source, length = (batch.column(name) for name in COLUMNS)
        row, length = row.to_numpy(), length.to_numpy().astype(np.int64)
        for split_name, in_split in _groups(split):
            rows.add(split_name, row[in_split], length[in_split])
            bucket = np.searchsorted(bucket_ends, row, side="right") if split_name == "train" else None
            for name, mine in _groups(source):
                chosen = mine & in_split
                found.tokens[split_name, name] += int(length[chosen].sum())
                found.segments[split_name, name] += int(np.count_nonzero(chosen))
                if bucket is not None:
                    tokens = np.bincount(bucket[chosen], weights=length[chosen], minlength=len(bucket_ends))
                    found.bucket_tokens[name] += tokens.astype(np.int64)
    rows.close()
    return found


def _groups(column: Any) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Return every value of a column of texts with the places where it stands, (n,)."""
    encoded = column.dictionary_encode()
    codes = encoded.indices.to_numpy()
    return [(value, codes == code) for code, value in enumerate(encoded.dictionary.to_pylist())]


class _RowTokens:
    """Adds the segments of rows up; a row may go on in the next batch."""

    def __init__(self, counts: dict[str, Counter[int]]) -> None:
        self._counts = counts
        self._open: tuple[str, int, int] | None = None

    def add(self, split: str, row: Int64, length: Int64) -> None:
        """Add segments of a split, by row."""
        if not len(row):
            return
        first = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
        sums = np.add.reduceat(length, first)
        if self._open is not None and self._open[:2] == (split, int(row[0])):
            sums[0] += self._open[2]
        else:
            self.close()
        self._open = (split, int(row[-1]), int(sums[-1]))
        values, counts = np.unique(sums[:-1], return_counts=True)
        self._counts.setdefault(split, Counter()).update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def close(self) -> None:
        """Count the row that was left open."""
        if self._open is not None:
            self._counts[self._open[0]][self._open[2]] += 1
            self._open = None


def fill_curve(row_tokens: Counter[int], sequence_len: int, num_points: int = 200) -> tuple[list[float], list[float]]:
    """Return (share of rows, fill) of rows ordered from the fullest to the emptiest, both from 0 to 1."""
    tokens = np.array(sorted(row_tokens, reverse=True), dtype=np.int64)
    ends = np.cumsum([row_tokens[count] for count in tokens.tolist()])
    if not len(ends):
        return [], []
    wanted = np.linspace(0, ends[-1] - 1, num_points).round()
    fill = tokens[np.searchsorted(ends, wanted, side="right")] / sequence_len
    return np.linspace(0, 1, num_points).tolist(), fill.tolist()
