"""`make resume`: a run of 40 steps resumed after every step under four splits of the batch, and a crash at every operation of a
checkpoint; exit code 1 where one did not end as it must.

    python -m resuming [--every N] [--only NAME]

`--every` tries only every N-th step or operation, `--only` the kinds whose names hold a text. Works on a disk in memory where
there is one: what is tried is the death of processes, not of power.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from faults.__main__ import MEMORY_DISK, show
from faults.trials import Outcome

import sftdata
from resuming import crashes, steps


def kinds(folder: Path, every: int) -> dict[str, Callable[[], Outcome]]:
    """Return every kind of trial by name."""
    shards = steps.shards_in(folder)
    for name, noise in (("quiet", False), ("noisy", True)):
        (folder / name).mkdir()
        steps.write_whole(folder / name, steps.whole_run(shards, folder / name, noise=noise))
    scene = crashes.open_scene(folder / "crashes")
    after = range(1, steps.NUM_STEPS + 1, every)
    numbers = range(1, len(scene.operations) + 1, every)
    splits = {
        str(split): lambda split=split: steps.outcome(str(split), shards, folder / "quiet", split, after)
        for split in steps.SPLITS
    }
    return {
        **splits,
        "noise": lambda: steps.outcome(f"{steps.FIRST}, noise", shards, folder / "noisy", steps.FIRST, after, noise=True),
        **{action: lambda action=action: crashes.at_operations(scene, action, numbers) for action in crashes.ACTIONS},
        "half": lambda: crashes.half_written(scene),
        "too large": lambda: crashes.too_large(scene),
    }


def main() -> int:
    """Run the suite; return the exit code."""
    parser = argparse.ArgumentParser(prog="resuming", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    day = time.strftime("%Y-%m-%d", time.gmtime())
    libraries = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"sftdata {sftdata.__version__}, Python {platform.python_version()}, {libraries}, {day}")
    print(f"{'stopped and resumed':<64} {'tried':>6} {'as it must be':>14} {'seconds':>9}")
    failed = 0
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None) as name:
        for kind, trials in kinds(Path(name), options.every).items():
            if options.only in kind:
                outcome = trials()
                show(outcome, width=64)
                failed += outcome.tried - outcome.identical
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
