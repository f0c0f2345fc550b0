"""A whole build beside `tokenizers` alone on the same texts and cores, and the memory of a build from 1 to 20 times the input.

    python benchmarks/build.py [--data FILE.json] [--tokenizer FOLDER] [--rounds 3] [--times 20]

Without arguments it uses the bundled dialogues and the tokenizer that their recipe learns. Each round runs all sides, so that
what else the machine does falls on all; the ratio of each round is printed, and their median. The build reads, formats,
tokenizes, proves masks, packs, writes and hashes, once as it is and once with the cleaners unicode, slop and dedup before; the
other side only encodes texts that lie ready in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("tokenizers", "fastokens", "pyarrow", "numpy", "orjson")


def records(path: Path) -> list[dict[str, str]]:
    """Return the records of a JSON array, or the readable ones of JSON Lines."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    found = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if {"instruction", "output"} <= set(record):
            found.append(record)
    return found


CLEANED = ("--set", "sources.rows.clean=[unicode, slop]", "--set", "clean=[dedup]")


def write_recipe(folder: Path, rows: list[dict[str, str]], times: int, tokenizer: Path) -> Path:
    """Write the rows, repeated with a running number in every text so that no cache knows them, and a recipe over them."""
    folder.mkdir(parents=True)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for copy in range(times):
            for row in rows:
                own = {name: f"{copy} {text}" for name, text in row.items() if text}
                file.write(json.dumps({**row, **own}, ensure_ascii=False) + "\n")
    recipe = {
        "name": "benchmark",
        "tokenizer": {"path": str(tokenizer), "chat_template": "chatml"},
        "sources": [{"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": "instruction"}],
        "tokenize": {"sequence_len": 1024},
        "pack": {"strategy": "best_fit"},
        "limits": {"max_bad": 1.0, "max_drop": 1.0},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def rendered(path: Path) -> list[str]:
    """Return the texts that the build tokenizes, written out by hand."""
    texts = []
    for line in (path.parent / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        user = "\n".join(filter(None, [row["instruction"], row.get("input", "")]))
        texts.append(f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{row['output']}<|im_end|>\n")
    return texts


def build(recipe: Path, out: Path, *options: str) -> tuple[float, float, int]:
    """Build in a process of its own; return seconds, peak memory in MiB, and tokens."""
    paths = ["--out", str(out), "--work-dir", f"{out}.work"]
    command = [sys.executable, "-m", "sftdata", "build", str(recipe), *paths, "--json", *options]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    peak = [0.0]
    watcher = threading.Thread(target=watch, args=(process.pid, peak))
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - begin
    watcher.join()
    if process.returncode:
        raise SystemExit(f"the build failed: {' '.join(command)}")
    return seconds, peak[0], json.loads(output)["counts"]["tokenize"]["tokens"]


def watch(pid: int, peak: list[float]) -> None:
    """Follow the memory of a process and its children: what is theirs alone, mapped files aside."""
    try:
        parent = psutil.Process(pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            peak[0] = max(peak[0], sum(map(anonymous, [parent, *parent.children(recursive=True)])))
            time.sleep(0.02)
    except psutil.NoSuchProcess:
        return


def anonymous(process: psutil.Process) -> float:
    """Return the anonymous memory of a process in MiB (proc(5), smaps_rollup); 0 once it has gone."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) / 1024
    except OSError:
        return 0.0
    return 0.0


def encode_alone(tokenizer: Path, texts: list[str]) -> tuple[float, int]:
    """Encode the texts with `tokenizers` on all cores; return seconds and tokens. Loading is not counted."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    begin = time.perf_counter()
    num_tokens = sum(len(row.ids) for row in loaded.encode_batch_fast(texts, add_special_tokens=False))
    return time.perf_counter() - begin, num_tokens


def rounds(recipe: Path, folder: Path, count: int) -> Iterator[tuple[float, float]]:
    """Run all sides in turn and yield the ratios of each round: of the plain build, and of the one that cleans."""
    texts = rendered(recipe)
    for number in range(count):
        seconds, _, num_tokens = build(recipe, folder / f"out-{number}")
        alone, num_alone = encode_alone(folder / f"out-{number}" / "tokenizer", texts)
        if num_alone != num_tokens:
            raise SystemExit(f"the sides made {num_tokens} and {num_alone} tokens of the same texts")
        clean_seconds, _, num_clean = build(recipe, folder / f"clean-{number}", *CLEANED)
        theirs = num_alone / alone
        plain, clean = num_tokens / seconds / theirs, num_clean / clean_seconds / theirs
        print(
            f"round {number}: tokenizers alone {theirs:,.0f} tokens/s; build {num_tokens / seconds:,.0f}, ratio {plain:.2f}; "
            f"with cleaning {num_clean / clean_seconds:,.0f}, ratio {clean:.2f}"
        )
        yield plain, clean


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "recipes" / "data" / "zhenhuan" / "dialogue.jsonl")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=20)
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, " + ", ".join(f"{n} {version(n)}" for n in LIBRARIES))
    rows = records(arguments.data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = arguments.tokenizer or learned(folder)
        numbers = (1, arguments.times)
        recipes = {times: write_recipe(folder / f"x{times}", rows, times, tokenizer.resolve()) for times in numbers}
        plain, clean = zip(*rounds(recipes[arguments.times], folder, arguments.rounds), strict=True)
        medians = f"{statistics.median(plain):.2f}, with cleaning {statistics.median(clean):.2f}"
        print(f"speed of a whole build, tokenizers alone = 1: median {medians}")
        for times, recipe in recipes.items():
            for workers in ("1", "2"):
                seconds, peak, num_tokens = build(recipe, folder / f"memory-{times}-{workers}", "--workers", workers)
                print(f"{times:>3} x input, {workers} workers: {num_tokens:>12,} tokens, {seconds:.2f} s, peak {peak:,.0f} MiB")


def learned(folder: Path) -> Path:
    """Return the tokenizer that the bundled recipe learns."""
    out = folder / "bundled"
    subprocess.run(
        [sys.executable, "-m", "sftdata", "build", str(ROOT / "recipes" / "zhenhuan.yaml"), "--out", str(out)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return out / "tokenizer"


if __name__ == "__main__":
    main()
