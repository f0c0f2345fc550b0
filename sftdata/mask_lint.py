"""Mask lint: what should be known of the labels before they are trained, counted by source while rows are tokenized.

A mask can be proven and still not be what was meant: a source in which nothing is trained, answers that never learn to stop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sftdata.masking import TokenRuns
from sftdata.tokenizers.encoder import Encoded

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

COUNTED = (
    "rows", "tokens", "trained_tokens", "untrained_rows", "trained_turns", "unstopped_turns", "double_bos_rows",
)  # fmt: skip
"""What is counted while rows are tokenized; `cut_answers` is known only when they are gathered."""


@dataclass
class MaskLint:
    """Counts over the rows of one part."""

    stops: Collection[int]
    """Ids of the tokens that end a turn; none where the recipe does not train them (`train_on_eos: false`)."""
    bos: int | None
    whole_rows: bool
    """The whole row is trained (`train_on_inputs`), so that only its last turn has to stop."""
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTED, 0)))
    lengths: Counter[int] = field(default_factory=Counter)
    """Lower edge of a length bin → rows."""

    def add(self, encoded: Encoded, trained: TokenRuns, turn_ends: Int32, num_turns: Int64, kept: Bool) -> None:
        """Count the kept rows of a batch.

        trained: ascending by row and token. turn_ends: (turns,) tokens of the row up to each turn's end. num_turns, kept: (n,).
        """
        lengths = np.diff(encoded.row_offsets)
        num_trained = np.bincount(trained.row, weights=np.maximum(trained.length, 0), minlength=len(lengths))
        has_stop, row = last_token_stops(encoded, trained, turn_ends, num_turns, self.stops)
        if self.whole_rows:
            last = np.append(row[1:] != row[:-1], True)[: len(row)]
            has_stop, row = has_stop[last], row[last]
        counted = kept[row]
        self.counts["rows"] += int(np.count_nonzero(kept))
        self.counts["tokens"] += int(lengths[kept].sum())
        self.counts["trained_tokens"] += int(num_trained[kept].sum())
        self.counts["untrained_rows"] += int(np.count_nonzero(num_trained[kept] == 0))
        self.counts["trained_turns"] += int(np.count_nonzero(counted))
        self.counts["unstopped_turns"] += int(np.count_nonzero(counted & ~has_stop)) if len(self.stops) else 0
        self.counts["double_bos_rows"] += int(np.count_nonzero(_begins_twice(encoded, self.bos) & kept))
        edges, counts = np.unique(bin_edge(lengths[kept]), return_counts=True)
        self.lengths.update(dict(zip(edges.tolist(), counts.tolist(), strict=True)))

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the counts and the lengths as the task's summary holds them."""
        return {"mask_lint": dict(self.counts), "lengths": {str(edge): self.lengths[edge] for edge in sorted(self.lengths)}}


def last_token_stops(
    encoded: Encoded, trained: TokenRuns, turn_ends: Int32, num_turns: Int64, stops: Collection[int]
) -> tuple[Bool, Int64]:
    """Return, for every turn in which a token is trained, whether the last trained one is a stop token, and the turn's row."""
    filled = trained.length > 0
    begins = encoded.row_offsets[trained.row[filled]] + trained.first[filled]
    ends = begins + trained.length[filled]
    row = np.repeat(np.arange(len(num_turns)), num_turns)
    turn_last = encoded.row_offsets[row] + turn_ends
    turn_first = np.append(0, turn_last)[:-1]
    first_of_row = np.append(True, row[1:] != row[:-1])[: len(row)]
    turn_first[first_of_row] = encoded.row_offsets[row[first_of_row]]
    run = np.searchsorted(begins, turn_last, side="left") - 1
    reach = np.minimum(np.append(ends, 0)[run], turn_last)  # run -1, before all runs, reads the 0
    some = reach > turn_first
    return np.isin(encoded.ids[reach[some] - 1], list(stops)), row[some]


def _begins_twice(encoded: Encoded, bos: int | None) -> Bool:
    """Return the rows that begin with two BOS tokens, (n,)."""
    first, lengths = encoded.row_offsets[:-1], np.diff(encoded.row_offsets)
    twice = np.zeros(len(lengths), dtype=bool)
    long_enough = np.flatnonzero(lengths > 1)
    begin = first[long_enough]
    twice[long_enough] = (encoded.ids[begin] == bos) & (encoded.ids[begin + 1] == bos)
    return twice


def bin_edge(lengths: Int64) -> Int64:
    """Return the lower edge of the bin of each length: those up to 7 alone, then four bins from a power of two to the next."""
    shift = np.maximum(np.frexp(lengths)[1] - 3, 0).astype(np.int64)
    edge: Int64 = (lengths >> shift) << shift
    return edge


def next_edge(edge: int) -> int:
    """Return the upper edge of the length bin that begins at `edge`, itself not in it."""
    return edge + (1 << max(edge.bit_length() - 3, 0))


def findings(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the labels of a build, one sentence a source and fault; nothing where all is well."""
    for name, source in manifest["sources"].items():
        lint = source["mask_lint"]
        faults = (
            ("untrained_rows", "rows", "samples have no trained token"),
            ("unstopped_turns", "trained_turns", "trained turns do not end in a stop token"),
            ("double_bos_rows", "rows", "samples begin with two BOS tokens"),
            ("cut_answers", "trained_turns", "trained turns do not stand whole in one row"),
        )
        for fault, whole, meaning in faults:
            if lint[fault]:
                yield f"{name}: {lint[fault]:,} of {lint[whole]:,} {meaning}"
