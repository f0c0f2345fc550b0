"""The plan step on rows by the million, and what that means for 10⁹: seconds, memory, bytes of the plan.

    python benchmarks/plan.py [--rows 10000000] [--strategies best_fit,packed,padding] [--folder DIR]

Tokenized parts are made with random digests and lengths; their tokens, which the plan never reads, are holes in the files. The
plan step then runs as in a build, in a process of its own, on a tenth of the parts and on all of them. Memory is the anonymous
memory of that process (proc(5), RssAnon): mapped files are not in it. What a row takes is the slope between the two runs,
and 10⁹ rows are extrapolated from it in a straight line: sorts grow a little faster, by log(10⁹) / log(10⁷) = 1.3 at most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import shutil
import sys
import tempfile
import threading
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sftdata.entries import TOKENIZED_FILE, decisions_name, plan_name
from sftdata.planning import plan
from sftdata.resolving import DECISION
from sftdata.schemas import TOKENIZED
from sftdata.tables import stream_writer

PART_ROWS = 250_000
BATCH_ROWS = 4096
SEQUENCE_LEN = 4096
MEAN_TOKENS = 400
TARGET = 10**9


class Holes:
    """A file to which only what is not zero is written."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed below
        self.closed = False

    def write(self, data: Any) -> int:
        """Write the data, or skip as many bytes."""
        view = memoryview(data).cast("B")
        if len(view) > 1 << 16 and not np.frombuffer(view, dtype=np.uint8).any():
            return self._file.seek(len(view), os.SEEK_CUR) and len(view)
        return self._file.write(view) or 0

    def flush(self) -> None:
        """Do nothing: nothing is held."""

    def close(self) -> None:
        """Close the file at the length that was written."""
        if not self.closed:
            self._file.truncate(self._file.tell())
            self._file.close()
        self.closed = True


def make_part(work: Path, number: int) -> Path:
    """Write one tokenized part and return its folder."""
    folder = work / "tokenize" / f"part-{number:04d}"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(number)
    holes = Holes(folder / TOKENIZED_FILE)
    with closing(holes), pa.ipc.new_stream(pa.PythonFile(holes, mode="w"), TOKENIZED) as writer:
        for first in range(0, PART_ROWS, BATCH_ROWS):
            writer.write_batch(make_batch(generator, first, min(BATCH_ROWS, PART_ROWS - first)))
    decisions = work / "resolve"
    decisions.mkdir(exist_ok=True)
    with stream_writer(decisions / decisions_name(number), DECISION) as table:
        marks = pa.nulls(PART_ROWS, pa.string())
        table.extend_columns([pa.array(np.ones(PART_ROWS, dtype=bool)), pa.array(np.zeros(PART_ROWS, dtype=np.int8)), marks])
    return folder


def make_batch(generator: np.random.Generator, first: int, count: int) -> pa.RecordBatch:
    """Return rows of log-normal length, half of each trained, that have nothing but what the plan reads."""
    length = np.clip(generator.lognormal(np.log(MEAN_TOKENS) - 0.5, 1.0, count).astype(np.int32), 2, SEQUENCE_LEN)

    def lists(values: np.ndarray, sizes: np.ndarray, kind: pa.DataType) -> pa.ListArray:
        offsets = pa.array(np.append(0, np.cumsum(sizes)).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(values, type=kind))

    none = np.zeros(count, dtype=np.int32)
    digests = pa.py_buffer(generator.bytes(16 * count))
    columns = {
        "row": pa.array(np.arange(first, first + count, dtype=np.int32)),
        "input_ids": lists(np.zeros(int(length.sum()), dtype=np.int32), length, pa.int32()),
        "mask_runs": lists(np.stack([length // 2, length - length // 2], axis=1).reshape(-1), none + 2, pa.int32()),
        "num_trained": pa.array(length - length // 2),
        "digest": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, [None, digests]),
    }
    for field in TOKENIZED:
        if field.name not in columns:
            empty_list = pa.types.is_list(field.type)
            columns[field.name] = lists(none[:0], none, field.type.value_type) if empty_list else pa.nulls(count, field.type)
    return pa.RecordBatch.from_arrays([columns[field.name] for field in TOKENIZED], schema=TOKENIZED)


def specification(work: Path, parts: list[Path], strategy: str) -> dict[str, Any]:
    """Return what the plan step is asked to do."""
    names = [path.relative_to(work).as_posix() for path in parts]
    mix = {"strategy": "concat", "bins": 1, "shuffle": True, "compat": None, "group_by_length": None, "by": None,
           "budget": None, "order_by": None, "stop": None}  # fmt: skip
    return {
        "work": str(work), "parts": names, "documents": names, "decisions": str(work / "resolve"),
        "sources": ["rows"] * len(parts), "categories": ["rows"] * len(parts), "weights": [{"name": "rows"}],
        "tokenize": {"sequence_len": SEQUENCE_LEN, "excess_length": "drop", "compat": None}, "mix": mix,
        "pack": {"strategy": strategy, "validation": None, "compat": None, "num_packed_sequences": 8},
        "shards": {"max_bytes": 256 << 20}, "split": {"validation": 0.0}, "seed": 42,
    }  # fmt: skip


def anonymous() -> int:
    """Return the anonymous memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def run_plan(folder: str, spec: dict[str, Any], answer: Any) -> None:
    """Carry out the plan step and send (seconds, processor seconds, peak bytes, bytes of the plan)."""
    target = Path(folder)
    target.mkdir()
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    before = anonymous()
    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    plan(target, spec)
    seconds = time.perf_counter() - begin
    done.set()
    watcher.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    size = (target / plan_name("train")).stat().st_size
    answer.send((seconds, used.ru_utime + used.ru_stime, peak[0] - before, size))


def measure(work: Path, parts: list[Path], strategy: str) -> tuple[float, float, int, int]:
    """Return what `run_plan` found in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    folder = work / f"plan-{strategy}-{len(parts)}"
    process = context.Process(target=run_plan, args=(str(folder), specification(work, parts, strategy), theirs))
    process.start()
    found: tuple[float, float, int, int] = ours.recv()
    process.join()
    shutil.rmtree(folder)
    return found


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10**7)
    parser.add_argument("--strategies", default="best_fit,packed,padding")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {version('numpy')}, pyarrow {version('pyarrow')}, {os.cpu_count()} cores")
    num_parts = max(arguments.rows // PART_ROWS, 10)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        work = Path(name)
        parts = [make_part(work, number) for number in range(num_parts)]
        print(f"{num_parts} parts; rows of {MEAN_TOKENS} tokens on average, log-normal, at most {SEQUENCE_LEN}; mix concat")
        for strategy in arguments.strategies.split(","):
            few, many = (measure(work, parts[:count], strategy) for count in (num_parts // 10, num_parts))
            rows = (num_parts - num_parts // 10) * PART_ROWS
            _, cpu, memory, size = ((high - low) / rows for low, high in zip(few, many, strict=True))
            print(
                f"{strategy:>9}: {num_parts * PART_ROWS:,} rows in {many[0]:.1f} s ({many[1]:.1f} s of processor), peak "
                f"{many[2] / 2**20:,.0f} MiB: {memory:.0f} bytes a row, plan {size:.1f} bytes a row"
            )
            print(
                f"           10⁹ rows, extrapolated: {cpu * TARGET / 60:,.0f} min of one core, "
                f"{memory * TARGET / 1e9:,.0f} GB of memory, plan of {size * TARGET / 1e9:,.0f} GB"
            )


if __name__ == "__main__":
    main()
