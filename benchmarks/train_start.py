"""How long `sftdata train` takes from the command to its first step, and where that time goes.

    python benchmarks/train_start.py SHARDS [--set A=B]... [--times 3]

Starts the command, notes when each line appears, and stops it after the first step. Prints one line a try: seconds on the
clock, and in brackets seconds of processor time, which say what a machine that does nothing else would take at most.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARKS = {"verified, counted": "steps:", "model made": "computing in", "first step": "step 1/"}
"""What is over when a line with this text appears."""


def processor_seconds(process_id: int) -> float:
    """Return the processor time that a process has taken, over all its threads."""
    fields = Path(f"/proc/{process_id}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lap(shards: Path, overrides: list[str], out: Path) -> dict[str, tuple[float, float]]:
    """Return the seconds from the start of the command to each mark, by the clock and of the processor."""
    options = [f"--set={override}" for override in ["logging_steps=1", "report_to=none", *overrides]]
    command = [sys.executable, "-m", "sftdata", "train", str(shards), "--out", str(out), *options]
    found: dict[str, tuple[float, float]] = {}
    started = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        assert process.stderr is not None
        for line in process.stderr:
            words = " ".join(line.split())
            for name, mark in MARKS.items():
                if words.startswith(mark) and "validation" not in words:
                    found.setdefault(name, (time.monotonic() - started, processor_seconds(process.pid)))
            if len(found) == len(MARKS):
                process.terminate()
                break
        process.communicate()
    if len(found) < len(MARKS):
        sys.exit(f"{shards}: no first step was seen; try the command itself: {' '.join(command)}")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for number in range(arguments.times):
            found = lap(arguments.shards, arguments.overrides, Path(name, str(number)))
            print(", ".join(f"{mark} after {clock:.1f} s ({used:.1f})" for mark, (clock, used) in found.items()), flush=True)


if __name__ == "__main__":
    main()
