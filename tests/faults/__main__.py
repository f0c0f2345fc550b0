"""`make faults`: every fault of every kind, and a table of what became of them; exit code 1 where one was not survived.

    python -m faults [--only NAME] [--most N] [--jobs N]

`--only` tries the kinds whose names hold a text, `--most` at most so many of each. SFTDATA_NUM_KILLS sets the number of random
kills (200). Works on a disk in memory where there is one: what is tried is the death of processes, not of power, and flushing
would only cost time.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sftdata
from faults import zygote
from faults.environments import full_disk, same_bytes
from faults.scenes import Scene, open_scenes
from faults.trials import (
    ERRORS,
    Outcome,
    builds_at_once,
    builds_beside,
    damaged_results,
    errors_at_operations,
    kills_at_operations,
    kills_at_random,
    lost_workers,
    signals_at_random,
)

NUM_KILLS = int(os.environ.get("SFTDATA_NUM_KILLS", "200"))
MEMORY_DISK = Path("/dev/shm")
SHOWN = 20
"""Problems that are printed of each kind."""


def kinds(scenes: list[Scene], most: int | None, jobs: int) -> dict[str, Callable[[], Outcome]]:
    """Return every kind of fault by name."""

    def at_most(number: int) -> int:
        return number if most is None else min(most, number)

    first = scenes[0]
    return {
        "environments": lambda: same_bytes(first),
        **{f"kill {scene.name}": partial(kills_at_operations, scene, most, jobs) for scene in scenes},
        "kill at random": lambda: kills_at_random(first, at_most(NUM_KILLS)),
        **{
            f"{action} {scene.name}": partial(errors_at_operations, scene, action, most, jobs)
            for scene in scenes
            for action in ERRORS
        },
        "damaged results": lambda: damaged_results(first, at_most(100), jobs=jobs),
        "builds at once": lambda: builds_at_once(first, at_most(10)),
        "builds beside": lambda: builds_beside(first, at_most(10)),
        "worker killed": lambda: lost_workers(first, signal.SIGKILL, at_most(20)),
        "worker stopped": lambda: lost_workers(first, signal.SIGSTOP, at_most(20)),
        "SIGTERM": lambda: signals_at_random(first, signal.SIGTERM, at_most(20)),
        "SIGINT": lambda: signals_at_random(first, signal.SIGINT, at_most(20)),
        "full disk": lambda: full_disk(first, at_most(20)),
    }


def show(outcome: Outcome, width: int = 48) -> None:
    """Print one line of the table, and what went wrong."""
    print(f"{outcome.kind:<{width}} {outcome.tried:>6,} {outcome.identical:>14,} {outcome.seconds:>9.0f}", flush=True)
    for problem in outcome.problems[:SHOWN]:
        print(f"    {problem}", flush=True)


def main() -> int:
    """Run the suite; return the exit code."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    disk = MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None
    print(f"sftdata {sftdata.__version__}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d', time.gmtime())}")
    print(f"{'fault':<48} {'tried':>6} {'byte-identical':>14} {'seconds':>9}")
    failed = 0
    with tempfile.TemporaryDirectory(dir=disk) as name:
        for kind, inflict in kinds(open_scenes(Path(name)), options.most, options.jobs).items():
            if options.only in kind:
                try:
                    outcome = inflict()
                except PermissionError as error:
                    print(f"{kind}: not tried, since no disk can be mounted here ({error})", flush=True)
                    continue
                show(outcome)
                failed += outcome.tried - outcome.identical
    zygote.close()
    print("all as it must be" if not failed else f"{failed} not as they must be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
