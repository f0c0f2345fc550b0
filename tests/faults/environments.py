"""What a build must not depend on: workers, hash seeds, locales, the order in which a folder lists its files, free space."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults import zygote
from faults.scenes import Scene, read_bytes
from faults.trials import Outcome, Problems

SHUFFLED = """
import os, random, sys

class Listing:
    def __init__(self, found): self.found = iter(found)
    def __iter__(self): return self.found
    def __next__(self): return next(self.found)
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def close(self): pass

def shuffled(listing, kind):
    def listed(*arguments):
        found = list(listing(*arguments))
        random.Random(len(found) + {seed}).shuffle(found)
        return kind(found)
    return listed

os.listdir, os.scandir = shuffled(os.listdir, list), shuffled(os.scandir, Listing)
from sftdata.cli import main
main(sys.argv[1:], prog_name="sftdata")
"""

ENVIRONMENTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    **{f"{number} workers": (("--workers", str(number)), {}) for number in (1, 2, 4)},
    **{f"PYTHONHASHSEED={seed}": (("--workers", "2"), {"PYTHONHASHSEED": seed}) for seed in ("0", "1", "7", "1234", "random")},
    **{f"LC_ALL={name}": ((), {"LC_ALL": name, "LANG": name}) for name in ("C", "POSIX", "zh_CN.UTF-8", "en_US.UTF-8")},
    "TZ=Asia/Tokyo": ((), {"TZ": "Asia/Tokyo"}),
}
"""Name → options and environment."""


def same_bytes(scene: Scene, names: tuple[str, ...] = tuple(ENVIRONMENTS), seeds: tuple[int, ...] = (1, 2, 3)) -> Outcome:
    """Build in each environment, and with folders listed in other orders, and compare with the scene's own bytes."""
    begin = time.monotonic()
    problems: Problems = []
    tries = [(name, ("-m", "sftdata"), *ENVIRONMENTS[name]) for name in names]
    tries += [(f"listing {seed}", ("-c", SHUFFLED.replace("{seed}", str(seed))), (), {}) for seed in seeds]
    for number, (name, start, options, changes) in enumerate(tries):
        place = scene.stage(f"environment-{number}")
        command = [sys.executable, *start, *scene.arguments, *options]
        done = subprocess.run(command, cwd=place, env=zygote.environment(**changes), capture_output=True, text=True)
        if done.returncode or read_bytes(place / "out") != scene.new:
            problems.append(f"{name}: exit code {done.returncode}, other bytes: {done.stderr}")
        shutil.rmtree(place)
    seconds = time.monotonic() - begin
    return Outcome("workers, hash seeds, locales, listings", len(tries), len(tries) - len(problems), seconds, problems)


@contextmanager
def _small_disk(place: Path, num_bytes: int) -> Iterator[None]:
    """Mount a disk of so many bytes on a folder. Raises PermissionError where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "none", str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _disk_space(folder: Path) -> int:
    """Return the bytes that a folder takes on a disk, files of two names counted once."""
    return sum({status.st_ino: status.st_blocks * 512 for status in map(Path.lstat, folder.rglob("*"))}.values())


def full_disk(scene: Scene, tries: int) -> Outcome:
    """Build on a real disk that is too small by ever less, then with room enough. Raises PermissionError (mount)."""
    begin = time.monotonic()
    problems: Problems = []
    place = scene.folder / "disk"
    place.mkdir()
    before, after = (_disk_space(scene.folder / name) for name in ("before", "undisturbed"))
    for number in range(tries):
        with _small_disk(place, before + (number + 1) * (after - before) // (tries + 1)):
            shutil.copytree(scene.folder / "before", place, dirs_exist_ok=True)
            ended = scene.run(place)
            if ended.code != 74 or len(ended.lines) != 1 or "free some space" not in ended.said:
                problems.append(f"size {number}: exit code {ended.code}: {ended.said}")
            elif not scene.is_whole(place):
                problems.append(f"size {number}: the output is neither old nor new")
            else:
                subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
                problems += [f"size {number}: {problem}" for problem in scene.problems_after_rerun(place)]
    failed = {problem.partition(":")[0] for problem in problems}
    return Outcome("a disk that is full", tries, tries - len(failed), time.monotonic() - begin, problems)
