"""Pack 10 million lengths, and run the packers of TRL and LLaMA-Factory beside ours on the same lengths.

    python benchmarks/pack.py [--num-lengths 10000000] [--num-compared 50000] [--sequence-len 4096] [--repeats 3]

Lengths are log-normal (median 200 tokens), cut at `sequence_len`. Each strategy plans all of them in a process of its own: CPU
seconds of all its threads, its peak memory, and the rows against the lower bound. The packers of others, where they are
installed (`pip install trl`, `pip install --no-deps llamafactory`), run at `--num-compared`, as they are and as their projects
call them (batches of 1,000): TRL's plans and copies tokens, so ours does the same there; LLaMA-Factory's only plans. The best
of `--repeats` runs counts, and the ratio is their CPU time to ours.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

import sftdata
from sftdata.packing import STRATEGIES, lower_bound, pack

Int64 = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int32]
Result = TypeVar("Result")

WINDOW = 1000
"""Samples that `datasets.map` hands over at once: what TRL and LLaMA-Factory pack together unless told otherwise."""


class Timing(NamedTuple):
    """One line of a table of packers: what ran, its CPU seconds, and how many rows it made."""

    packer: str
    seconds: float
    num_rows: int


def main() -> None:
    """Print versions, then the table of our strategies and those of the other packers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-lengths", type=int, default=10_000_000)
    parser.add_argument("--num-compared", type=int, default=50_000)
    parser.add_argument("--sequence-len", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--strategy", choices=STRATEGIES, help="plan with one strategy in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.strategy:
        print(json.dumps(measure(arguments.strategy, arguments.num_lengths, arguments.sequence_len, arguments.repeats)))
        return
    packages = ", ".join(map(version, ("numpy", "datasets", "trl", "llamafactory")))
    print(f"sftdata {sftdata.__version__}, Python {platform.python_version()}, {platform.machine()}, {packages}")
    print_strategies(arguments.num_lengths, arguments.sequence_len, arguments.repeats)
    lengths = draw_lengths(arguments.num_compared, arguments.sequence_len)
    if importlib.util.find_spec("trl"):
        timings = list(time_copies(lengths, arguments.sequence_len, arguments.repeats))
        print_packers("plan and copy tokens", lengths, arguments.sequence_len, timings)
    if importlib.util.find_spec("llamafactory"):
        timings = list(time_plans(lengths, arguments.sequence_len, arguments.repeats))
        print_packers("plan", lengths, arguments.sequence_len, timings)


def version(package: str) -> str:
    """Return "name version", or say that the package is not installed."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} not installed: not run"


def draw_lengths(num_samples: int, sequence_len: int) -> Int64:
    """Draw the tokens of each sample, (num_samples,), always the same."""
    drawn = np.random.default_rng(20240820).lognormal(np.log(200), 0.9, num_samples).astype(np.int64)
    return np.clip(drawn, 1, sequence_len)


def measure(strategy: str, num_lengths: int, sequence_len: int, repeats: int) -> dict[str, Any]:
    """Plan with one strategy, rows in seeded order, and return CPU seconds, peak MiB of this process, and rows."""
    lengths = draw_lengths(num_lengths, sequence_len)
    keys = np.random.default_rng(1).integers(0, 2**64, num_lengths, dtype=np.uint64)
    ends = np.array([num_lengths])
    before = peak_memory()
    run = partial(pack, lengths, ends, strategy=strategy, sequence_len=sequence_len, keys=keys)
    seconds, plan = best_of(repeats, run)
    found = {"seconds": seconds, "before": before, "peak": peak_memory(), "rows": int(plan.bucket_rows.sum())}
    return {**found, "fill": int(lengths.sum()) / (found["rows"] * sequence_len), "bound": lower_bound(lengths, sequence_len)}


def peak_memory() -> float:
    """Return the most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_strategies(num_lengths: int, sequence_len: int, repeats: int) -> None:
    """Run every strategy in a process of its own and print what it took."""
    print(f"\n{num_lengths:,} lengths, rows of {sequence_len:,}, one core\n")
    print("| strategy | CPU s | peak MiB | of which lengths, keys, Python | rows | lower bound | fill % |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for strategy in STRATEGIES:
        options = {"--num-lengths": num_lengths, "--sequence-len": sequence_len, "--repeats": repeats, "--strategy": strategy}
        command = [sys.executable, __file__, *(str(part) for option in options.items() for part in option)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"| {strategy} | {found['seconds']:.2f} | {found['peak']:,.0f} | {found['before']:,.0f} | {found['rows']:,} "
            f"| {found['bound']:,} | {100 * found['fill']:.3f} |"
        )


def time_copies(lengths: Int64, sequence_len: int, repeats: int) -> Iterator[Timing]:
    """Time our best_fit with a copy of the tokens, then TRL's packer in its default batches and over the whole set."""
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
    for label, options in ((f"batches of {WINDOW:,}", {}), ("whole set", {"batch_size": len(lengths)})):
        seconds, packed = best_of(repeats, partial(pack_dataset, dataset, sequence_len, "bfd", options))
        yield Timing(f"trl bfd, {label}", seconds, len(packed))


def pack_and_copy(tokens: Tokens, offsets: Int64, sequence_len: int) -> list[Tokens]:
    """Plan with best_fit and copy the tokens of every row into place. tokens: all samples on end; offsets: (n + 1,)."""
    plan = pack(np.diff(offsets), np.array([len(offsets) - 1]), strategy="best_fit", sequence_len=sequence_len)
    segment_ends = np.cumsum(plan.length, dtype=np.int64)
    shift = offsets[plan.item] + plan.start - (segment_ends - plan.length)
    copied = tokens[np.repeat(shift, plan.length) + np.arange(len(tokens))]
    return np.split(copied, segment_ends[plan.pack_offsets[1:-1] - 1])


def time_plans(lengths: Int64, sequence_len: int, repeats: int) -> Iterator[Timing]:
    """Time our best_fit, then LLaMA-Factory's knapsacks in its default batches and over the whole set."""
    greedy_knapsack = load_greedy_knapsack()
    ends = np.array([len(lengths)])
    seconds, plan = best_of(repeats, partial(pack, lengths, ends, strategy="best_fit", sequence_len=sequence_len))
    yield Timing("sftdata best_fit", seconds, int(plan.bucket_rows.sum()))
    for label, size in ((f"batches of {WINDOW:,}", WINDOW), ("whole set", len(lengths))):
        windows = [lengths[first : first + size].tolist() for first in range(0, len(lengths), size)]
        seconds, num_rows = best_of(repeats, lambda windows=windows: sum(
            len(greedy_knapsack(list(window), sequence_len)) for window in windows
        ))  # fmt: skip
        yield Timing(f"llamafactory greedy_knapsack, {label}", seconds, num_rows)


def load_greedy_knapsack() -> Callable[[list[int], int], list[list[int]]]:
    """Return LLaMA-Factory's packer from its own file alone: importing the package would need all that it depends on."""
    package = importlib.util.find_spec("llamafactory")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "data", "processor", "processor_utils.py")
    spec = importlib.util.spec_from_file_location("processor_utils", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["processor_utils"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    function: Callable[[list[int], int], list[list[int]]] = module.greedy_knapsack
    return function


def best_of(repeats: int, function: Callable[[], Result]) -> tuple[float, Result]:
    """Return the fewest CPU seconds of `repeats` calls, and what the last returned."""
    best = float("inf")
    result = None
    for _ in range(repeats):
        result = None  # not held while the next one is made
        begin = time.process_time()
        result = function()
        best = min(best, time.process_time() - begin)
    assert result is not None
    return best, result


def print_packers(title: str, lengths: Int64, sequence_len: int, timings: list[Timing]) -> None:
    """Print one table; the ratio is CPU time against the first line."""
    bound = lower_bound(lengths, sequence_len)
    print(f"\n{title}: {len(lengths):,} samples, {lengths.sum():,} tokens, lower bound {bound:,} rows\n")
    print("| packer | CPU s | ratio | rows | fill % |")
    print("|---|---:|---:|---:|---:|")
    for packer, seconds, num_rows in timings:
        fill = 100 * lengths.sum() / (num_rows * sequence_len)
        print(f"| {packer} | {seconds:.3f} | {seconds / timings[0].seconds:.1f} | {num_rows:,} | {fill:.2f} |")


if __name__ == "__main__":
    main()
