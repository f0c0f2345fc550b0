"""How long a build takes of which nothing, one input file of many, or one cleaner has changed.

    python benchmarks/rebuild.py [--files 1000] [--rows 20] [--rounds 5]

Every figure is a whole command in a process of its own, start of Python included; the median of the rounds, with the processor
time beside it, which does not grow with what else the machine does. The tokenizer is that of the first build, so that an edit
does not learn another one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Timing(NamedTuple):
    """One command: seconds on the clock and of the processor, and what it says that it reused."""

    wall: float
    processor: float
    said: str


def write_file(folder: Path, number: int, num_rows: int, edition: int = 0) -> None:
    """Write one input file; another edition differs in one row."""
    rows = [
        {"instruction": f"File {number}, row {row}: 几更天了?", "output": f"回娘娘，{number * row} 更了。Rain at the window."}
        for row in range(num_rows)
    ]
    rows[0]["output"] += f" The {edition}th telling." if edition else ""
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / f"{number:05d}.jsonl").write_text(f"{text}\n", encoding="utf-8")


def write_recipe(folder: Path, num_files: int, num_rows: int) -> Path:
    """Write the input files and a recipe over them."""
    (folder / "raw").mkdir(parents=True)
    for number in range(num_files):
        write_file(folder / "raw", number, num_rows)
    recipe = {
        "name": "rebuild",
        "tokenizer": {"train": {"vocab_size": 800}, "chat_template": "chatml"},
        "sources": [
            {"name": "rows", "path": "raw", "ingest": "jsonl", "clean": ["unicode", "slop"], "format": "instruction"},
        ],
        "clean": [{"length": {"min_chars": 2}}, "dedup"],
        "tokenize": {"sequence_len": 1024},
        "split": {"validation": 0.05},
        "pack": {"strategy": "best_fit"},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def build(recipe: Path, *options: str) -> Timing:
    """Build in a process of its own."""
    command = [sys.executable, "-m", "sftdata", "build", str(recipe), "--out", str(recipe.parent / "out"), *options]
    before, begin = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    wall, after = time.perf_counter() - begin, os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    used = after.children_user + after.children_system - before.children_user - before.children_system
    [said] = [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith(f"{recipe.parent / 'out'}: ")]
    return Timing(wall, used, said)


def show(what: str, timings: list[Timing]) -> None:
    """Print one line of the table."""
    wall, used = (statistics.median(getattr(timing, name) for timing in timings) for name in ("wall", "processor"))
    print(f"{what:<28} {wall:8.2f} s {used:8.2f} s   {timings[-1].said}", flush=True)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.files} files of {options.rows} rows; Python {platform.python_version()}, {os.cpu_count()} processors")
    print(f"{'build':<28} {'clock':>10} {'processor':>10}   said")
    with tempfile.TemporaryDirectory() as name:
        recipe = write_recipe(Path(name) / "build", options.files, options.rows)
        show("first", [build(recipe)])
        shutil.copytree(recipe.parent / "out" / "tokenizer", recipe.parent / "tokenizer")
        fixed = ("--set", "tokenizer.train=null", "--set", "tokenizer.path=" + str(recipe.parent / "tokenizer"))
        build(recipe, *fixed)
        show("nothing changed", [build(recipe, *fixed) for _ in range(options.rounds)])
        edited = []
        for edition in range(1, options.rounds + 1):
            write_file(recipe.parent / "raw", options.files // 2, options.rows, edition)
            edited.append(build(recipe, *fixed))
        show("one file edited", edited)
        length = [(*fixed, "--set", f"tokenize.sequence_len={512 + edition}") for edition in range(options.rounds)]
        show("another sequence_len", [build(recipe, *choice) for choice in length])
        cleaner = [(*fixed, "--set", f"clean=[{{length: {{min_chars: {3 + edition}}}}}, dedup]") for edition in range(2)]
        show("another option of a cleaner", [build(recipe, *choice) for choice in cleaner])


if __name__ == "__main__":
    main()
