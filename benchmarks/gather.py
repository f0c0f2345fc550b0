"""Plan and gather from tokens that lie in the work folder, beside `cp` of the shards that come out, both flushed to the disk.

    python benchmarks/gather.py [--megabytes 800] [--rounds 3] [--workers N] [--folder DIR]

Texts are made and built once. Each round then builds with another seed, which re-runs plan and gather alone, and copies the
shards with `cp`, followed by `sync` of the copies. The seconds of plan and gather are those of `.sftdata/run.json`. The speed
of a round is the shards' bytes by its seconds, and the ratio is that against the copy of the same round; the median counts.
The whole build also checks the kept results, assembles the folder and hashes it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import sftdata
from sftdata.tokenizer_building import train_tokenizer

STRATEGIES = ("best_fit", "packed", "padding")
SAMPLE_BYTES = 10 << 20
"""Text from which the tokenizer is learned."""


class Round(NamedTuple):
    """What one round took: bytes of shards, seconds of each side."""

    num_bytes: int
    plan: float
    gather: float
    build: float
    copy: float

    @property
    def ratio(self) -> float:
        """Speed of plan and gather, copying = 1."""
        return self.copy / (self.plan + self.gather)


def main() -> None:
    """Run the benchmark and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=800, help="of text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--folder", type=Path, help="where to write; its disk is measured (default: the temporary folder)")
    arguments = parser.parse_args()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "numpy"))
    print(f"sftdata {sftdata.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {libraries}\n")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        recipe = write_recipe(folder, arguments.megabytes << 20)
        first = sftdata.build(recipe, out=folder / "shards", workers=arguments.workers)
        counts = first.manifest["counts"]["tokenize"]
        print(f"{counts['kept']:,} samples, {counts['tokens']:,} tokens\n")
        print("| strategy | shards MB | plan s | gather s | MB/s | cp + sync MB/s | ratio | whole build s |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for strategy in STRATEGIES:
            done = list(run_rounds(recipe, strategy, arguments.rounds, arguments.workers))
            print_row(strategy, sorted(done, key=lambda each: each.ratio)[len(done) // 2])
            print(f"| ratios | {', '.join(f'{each.ratio:.2f}' for each in done)} |")


def write_recipe(folder: Path, num_bytes: int) -> Path:
    """Write texts of made-up words, 10 to 1,000 words long, a tokenizer of 4,000 pieces, and a recipe."""
    generator = random.Random(20240820)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(generator.choices(syllables, k=generator.randint(1, 4))) for _ in range(4000)]
    for name, size in (("sample.jsonl", SAMPLE_BYTES), ("texts.jsonl", num_bytes)):
        written = 0
        with open(folder / name, "w", encoding="utf-8") as file:
            while written < size:
                text = " ".join(generator.choices(words, k=int(10 * 100 ** generator.random())))
                written += file.write(json.dumps({"text": text}) + "\n")
    train_tokenizer([folder / "sample.jsonl"], folder / "tokenizer", vocab_size=4000)
    recipe = {
        "name": "gather",
        "tokenizer": {"path": "tokenizer"},
        "sources": [{"name": "texts", "path": "texts.jsonl", "ingest": "jsonl", "format": "text"}],
        "tokenize": {"sequence_len": 4096},
        "pack": {"strategy": "best_fit"},
        "limits": {"max_drop": 1.0},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def run_rounds(recipe: Path, strategy: str, num_rounds: int, workers: int | None) -> Iterator[Round]:
    """Build with a new order of rows, then copy the shards, and yield what both took."""
    for number in range(num_rounds):
        os.sync()  # what earlier steps left to be written is not for this round to write
        out = recipe.parent / "shards"
        changes = [f"pack.strategy={strategy}", f"mix={{strategy: buckets, bins: {number + 2}}}"]
        result = sftdata.build(recipe, out=out, overrides=changes, workers=workers)
        run = json.loads((result.folder / ".sftdata" / "run.json").read_text(encoding="utf-8"))
        seconds = run["stage_seconds"]
        if result.num_tasks - result.num_reused != 1 + len(list(out.glob("*/*.arrow"))):
            raise SystemExit("the build ran other tasks than plan and gather; the round says nothing")
        num_bytes, copy = copy_shards(out)
        yield Round(num_bytes, seconds["plan"], seconds["gather"], run["seconds"], copy)


def copy_shards(folder: Path) -> tuple[int, float]:
    """Copy the shards with cp and flush the copies; return their bytes and the seconds."""
    shards = sorted(folder.glob("*/*.arrow"))
    target = folder.with_name("copy")
    target.mkdir()
    os.sync()
    begin = time.perf_counter()
    subprocess.run(["cp", "--reflink=never", "--parents", *(path.relative_to(folder) for path in shards), target],
                   cwd=folder, check=True)  # fmt: skip
    subprocess.run(["sync", *target.glob("*/*.arrow")], check=True)
    seconds = time.perf_counter() - begin
    num_bytes = sum(path.stat().st_size for path in shards)
    subprocess.run(["rm", "-r", target], check=True)
    return num_bytes, seconds


def print_row(strategy: str, found: Round) -> None:
    """Print the round that stands for a strategy."""
    megabytes = found.num_bytes / 1e6
    speed = megabytes / (found.plan + found.gather)
    print(
        f"| {strategy} | {megabytes:,.0f} | {found.plan:.2f} | {found.gather:.2f} | {speed:,.0f} "
        f"| {megabytes / found.copy:,.0f} | {found.ratio:.2f} | {found.build:.2f} |"
    )


if __name__ == "__main__":
    main()
