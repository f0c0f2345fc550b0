"""Time the packing strategies beside other packers, on the same lengths in one run, and print the table as Markdown.

    python benchmarks/packing.py --num-samples 1000000 --num-samples-copied 50000 --sequence-len 4096

Lengths are log-normal (median 200 tokens), cut at `sequence_len`. Plans are compared with best-fit decreasing in plain
Python at `--num-samples`. TRL's `pack_dataset`, when installed, plans and copies tokens, so it is compared at
`--num-samples-copied` with our plan followed by a copy of the same tokens. Times are CPU seconds of this process, the best of
`--repeats` (plain Python: one run).
"""

from __future__ import annotations

import argparse
import bisect
import importlib.metadata
import importlib.util
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sftdata.packing import STRATEGIES, lower_bound, pack

Int64 = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int32]
Result = TypeVar("Result")


class Timing(NamedTuple):
    """One line of the table: what ran, its CPU seconds, and how many rows it made."""

    packer: str
    seconds: float
    num_rows: int


def main() -> None:
    """Print versions, then one table of planning alone and, where TRL is installed, one of planning and copying."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-samples", type=int, default=1_000_000, help="samples for the planners (default: %(default)s)")
    parser.add_argument("--num-samples-copied", type=int, default=50_000, help="samples for TRL (default: %(default)s)")
    parser.add_argument("--sequence-len", type=int, default=4096, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the best counts (default: %(default)s)")
    arguments = parser.parse_args()
    packages = ("sftdata", "numpy", "datasets", "trl")
    print(f"Python {platform.python_version()}, {platform.machine()}; " + ", ".join(map(version, packages)))
    lengths = draw_lengths(arguments.num_samples, arguments.sequence_len)
    print_table("plan", lengths, arguments.sequence_len, list(time_plans(lengths, arguments.sequence_len, arguments.repeats)))
    if importlib.util.find_spec("trl") is None:
        print("\nTRL is not installed: its packer was not run.")
        return
    lengths = draw_lengths(arguments.num_samples_copied, arguments.sequence_len)
    timings = list(time_copies(lengths, arguments.sequence_len, arguments.repeats))
    print_table("plan and copy tokens", lengths, arguments.sequence_len, timings)


def version(package: str) -> str:
    """Return "name version", or say that the package is not installed."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} not installed"


def draw_lengths(num_samples: int, sequence_len: int) -> Int64:
    """Draw the tokens of each sample, (num_samples,), always the same."""
    drawn = np.random.default_rng(20240820).lognormal(np.log(200), 0.9, num_samples).astype(np.int64)
    return np.clip(drawn, 1, sequence_len)


def time_plans(lengths: Int64, sequence_len: int, repeats: int) -> Iterator[Timing]:
    """Time our strategies, then best-fit decreasing in plain Python."""
    ends = np.array([len(lengths)])
    for strategy in STRATEGIES:
        seconds, plan = best_of(repeats, partial(pack, lengths, ends, strategy=strategy, sequence_len=sequence_len))
        yield Timing(f"sftdata {strategy}", seconds, int(plan.bucket_rows.sum()))
    as_list = lengths.tolist()
    seconds, rows = best_of(1, partial(plain_best_fit_decreasing, as_list, sequence_len))
    yield Timing("plain Python best-fit decreasing", seconds, len(rows))


def plain_best_fit_decreasing(lengths: list[int], sequence_len: int) -> list[list[int]]:
    """Pack sample by sample: open rows lie in stacks by their room, and `bisect` finds the smallest room that suffices."""
    rows: list[list[int]] = []
    rooms: list[int] = []
    stacks: dict[int, list[int]] = {}
    for item in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        place = bisect.bisect_left(rooms, lengths[item])
        if place < len(rooms):
            room = rooms[place]
            row = stacks[room].pop()
            if not stacks[room]:
                del rooms[place], stacks[room]
        else:
            room, row = sequence_len, len(rows)
            rows.append([])
        rows[row].append(item)
        left = room - lengths[item]
        if left not in stacks:
            bisect.insort(rooms, left)
            stacks[left] = []
        stacks[left].append(row)
    return rows


def time_copies(lengths: Int64, sequence_len: int, repeats: int) -> Iterator[Timing]:
    """Time our best_fit with a copy of the tokens, then TRL's packer over the whole set and in its default batches."""
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars
    from trl.data_utils import pack_dataset

    disable_progress_bars()
    tokens = np.arange(lengths.sum(), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    seconds, copied = best_of(repeats, partial(pack_and_copy, tokens, offsets, sequence_len))
    yield Timing("sftdata best_fit", seconds, len(copied))
    column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(tokens))
    dataset = Dataset(pa.table({"input_ids": column}))
    for label, options in (("whole set", {"batch_size": len(lengths)}), ("default batches", {})):
        seconds, packed = best_of(repeats, partial(pack_dataset, dataset, sequence_len, "bfd", options))
        yield Timing(f"trl bfd, {label}", seconds, len(packed))


def pack_and_copy(tokens: Tokens, offsets: Int64, sequence_len: int) -> list[Tokens]:
    """Plan with best_fit and copy the tokens of every row into place. tokens: all samples on end; offsets: (n + 1,)."""
    plan = pack(np.diff(offsets), np.array([len(offsets) - 1]), strategy="best_fit", sequence_len=sequence_len)
    segment_ends = np.cumsum(plan.length, dtype=np.int64)
    shift = offsets[plan.item] + plan.start - (segment_ends - plan.length)
    copied = tokens[np.repeat(shift, plan.length) + np.arange(len(tokens))]
    return np.split(copied, segment_ends[plan.pack_offsets[1:-1] - 1])


def best_of(repeats: int, function: Callable[[], Result]) -> tuple[float, Result]:
    """Return the fewest CPU seconds of `repeats` calls, and what the last returned."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        result = function()
        best = min(best, time.process_time() - begin)
    return best, result


def print_table(title: str, lengths: Int64, sequence_len: int, timings: list[Timing]) -> None:
    """Print one Markdown table; the ratio is CPU time against the first line."""
    bound = lower_bound(lengths, sequence_len)
    print(
        f"\n{title}: {len(lengths):,} samples, {lengths.sum():,} tokens, rows of {sequence_len:,}, lower bound {bound:,} rows\n"
    )
    print("| packer | CPU s | ratio | rows | fill % |")
    print("|---|---:|---:|---:|---:|")
    for packer, seconds, num_rows in timings:
        fill = 100 * lengths.sum() / (num_rows * sequence_len)
        print(f"| {packer} | {seconds:.3f} | {seconds / timings[0].seconds:.1f} | {num_rows:,} | {fill:.2f} |")


if __name__ == "__main__":
    main()
