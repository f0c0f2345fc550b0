"""What one core does in each stage of a build, the bytes that it moves, and the memory of builds of growing input.

    python benchmarks/scale.py [--megabytes 256,1024] [--workers 2] [--piece-mib 16] [--folder DIR]

Dialogues are made from words at random and written as JSON Lines. Each size is built in a process of its own, from nothing:
jsonl, cleaners unicode and slop, exact dedup, template chatml, best_fit packing in buckets, a tokenizer of 8,000 pieces learned
from the same words. For every stage it prints seconds, processor seconds, megabytes of input for each of these, which is what
one core does in a second, bytes written, and the peak of anonymous memory (proc(5), RssAnon) of the building process and
of all workers together: mapped files are not in it, since the system drops their pages when it needs room.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MB = 10**6
STAGES = ("scan", "prepare", "resolve", "tokenizer", "tokenize", "plan", "gather", "assemble")


def write_input(path: Path, num_bytes: int) -> None:
    """Write dialogues of 4 KB on average: a question, and an answer that no other record has."""
    generator = random.Random(7)
    words = ["".join(generator.choices("aeioubcdfglmnprst", k=generator.randint(2, 9))) for _ in range(20_000)]
    written = 0
    with open(path, "w", encoding="utf-8", buffering=1 << 20) as file:
        while written < num_bytes:
            texts = [" ".join(generator.choices(words, k=generator.randint(20, size))) for size in (200, 1000)]
            written += file.write(json.dumps({"instruction": texts[0], "output": texts[1]}) + "\n")


def write_recipe(folder: Path, tokenizer: dict[str, Any], piece_mib: int) -> Path:
    """Write the recipe of the benchmark."""
    ingest = {"jsonl": {"piece_mib": piece_mib}}
    source = {"name": "rows", "path": "rows.jsonl", "ingest": ingest, "clean": ["unicode", "slop"], "format": "instruction"}
    recipe = {
        "name": "scale",
        "tokenizer": tokenizer,
        "sources": [source],
        "clean": ["dedup"],
        "tokenize": {"sequence_len": 4096},
        "mix": {"strategy": "buckets", "bins": 10},
        "pack": {"strategy": "best_fit"},
        "limits": {"max_bad": 1.0, "max_drop": 1.0},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def build_and_watch(recipe: Path, out: Path, workers: int) -> dict[str, Any]:
    """Build in this process; return seconds and peak memory of every stage, in bytes, and what the manifest counts."""
    import psutil

    import sftdata
    from sftdata import pipeline, progress

    own = psutil.Process()
    stage, begin = ["scan"], (time.perf_counter(), processor_seconds(own))
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, list[int]] = {}
    done = threading.Event()

    def enter(name: str, num_tasks: int = 0) -> None:
        nonlocal begin
        now = (time.perf_counter(), processor_seconds(own))
        spent = [end - start for start, end in zip(begin, now, strict=True)]
        seconds[stage[0]] = [sum(pair) for pair in zip(seconds.get(stage[0], [0.0, 0.0]), spent, strict=True)]
        stage[0], begin = name, now

    def watch() -> None:
        while not done.wait(0.05):
            found = [anonymous(os.getpid()), sum(anonymous(child.pid) for child in own.children(recursive=True))]
            peaks[stage[0]] = [max(pair) for pair in zip(peaks.get(stage[0], [0, 0]), found, strict=True)]

    assemble = pipeline.check_unchanged

    def after_gather(parts: Any) -> None:
        enter("assemble")
        assemble(parts)

    pipeline.check_unchanged = after_gather  # the last thing before the folder is put together
    watcher = threading.Thread(target=watch)
    watcher.start()
    with progress.listen(lambda count: None, enter):
        result = sftdata.build(recipe, out=out, workers=workers)
    enter("end")
    done.set()
    watcher.join()
    return {"seconds": seconds, "peaks": peaks, "counts": result.manifest["counts"]}


def processor_seconds(process: Any) -> float:
    """Return the processor time of a process, of its workers, and of those that have ended."""
    times = process.cpu_times()
    workers = sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))
    return float(sum(times[:4]) + workers)


def anonymous(pid: int) -> int:
    """Return the anonymous memory of a process in bytes; 0 once it has gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def show(found: dict[str, Any], folder: Path, workers: int) -> None:
    """Print the table of one build."""
    size = (folder / "rows.jsonl").stat().st_size
    sizes = {stage: folder_size(folder / ".sftdata-work" / stage) for stage in STAGES[1:-1]}
    sizes["assemble"] = folder_size(folder / "out")
    rows, tokens = found["counts"]["tokenize"]["rows"], found["counts"]["tokenize"]["tokens"]
    print(f"\n{size / MB:,.0f} MB of input, {rows:,} rows, {tokens:,} tokens, {workers} workers")
    heads = ("seconds", "core s", "MB/s a core", "MB written", "builder MiB", "workers MiB")
    print(f"{'stage':<10}" + "".join(f"{head:>13}" for head in heads))
    for stage in STAGES:
        seconds, cores = found["seconds"].get(stage, (0.0, 0.0))
        ours, theirs = (peak / 2**20 for peak in found["peaks"].get(stage, (0, 0)))
        figures = (seconds, cores, size / MB / max(cores, 0.01))
        written = (sizes.get(stage, 0) / MB, ours, theirs)
        cells = [*(f"{value:>13,.1f}" for value in figures), *(f"{value:>13,.0f}" for value in written)]
        print(f"{stage:<10}" + "".join(cells))
    whole = max(ours + theirs for ours, theirs in found["peaks"].values()) / 2**20
    num_parts = len(list((folder / ".sftdata-work" / "prepare").iterdir()))
    print(f"peak of all processes together: {whole:,.0f} MiB; {num_parts} parts")


def learn_tokenizer(folder: Path) -> Path:
    """Return a tokenizer that is learned from 2 MB of the texts."""
    write_input(folder / "rows.jsonl", 2 * MB)
    recipe = write_recipe(folder, {"train": {"vocab_size": 8000}, "chat_template": "chatml"}, 4)
    command = [sys.executable, "-m", "sftdata", "build", str(recipe), "--out", str(folder / "out")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder / "out" / "tokenizer"


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", default="256,1024")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--piece-mib", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--build", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        print(json.dumps(build_and_watch(*arguments.build, arguments.workers)))
        return
    libraries = ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "fastokens", "pyarrow", "numpy", "orjson"))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {libraries}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        tokenizer = learn_tokenizer(Path(name))
        for megabytes in map(int, arguments.megabytes.split(",")):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
                folder = Path(place)
                write_input(folder / "rows.jsonl", megabytes * MB)
                used = {"path": str(tokenizer), "chat_template": "chatml"}
                recipe = write_recipe(folder, used, arguments.piece_mib)
                task = ["--build", str(recipe), str(folder / "out"), "--workers", str(arguments.workers)]
                child = subprocess.run([sys.executable, __file__, *task], stdout=subprocess.PIPE, check=True, text=True)
                show(json.loads(child.stdout), folder, arguments.workers)


if __name__ == "__main__":
    main()
