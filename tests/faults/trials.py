"""The faults: each function tries one kind so many times and says how often all was as it must be afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from faults import zygote
from faults.scenes import Scene, leftovers, read_bytes
from faults.zygote import Ended

Problems = list[str]

ERRORS = {"enospc": "No space left on device", "eio": "Input/output error", "short": "short write"}
GRACE = 10.0
"""Seconds in which the processes of a killed group must be gone."""


class Outcome(NamedTuple):
    """One line of the table."""

    kind: str
    tried: int
    identical: int
    """Trials after which the output was byte for byte what it must be, and nothing else was left."""
    seconds: float
    problems: Problems


def _try_all(kind: str, trials: Sequence[Callable[[], Problems]], jobs: int) -> Outcome:
    begin = time.monotonic()
    if jobs == 1:
        found = [trial() for trial in trials]
    else:
        with ThreadPoolExecutor(jobs) as pool:
            found = list(pool.map(lambda trial: trial(), trials))
    problems = [problem for problems in found for problem in problems]
    return Outcome(kind, len(trials), found.count([]), time.monotonic() - begin, problems)


def _some(numbers: Sequence[int], most: int | None) -> list[int]:
    """Return at most so many of the numbers, spread evenly, the last among them; all without a limit."""
    if most is None or len(numbers) <= most:
        return list(numbers)
    return [numbers[(part + 1) * len(numbers) // most - 1] for part in range(most)]


@contextmanager
def _place(scene: Scene, trial: str) -> Iterator[Path]:
    place = scene.stage(trial)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def kills_at_operations(scene: Scene, most: int | None = None, jobs: int = 1) -> Outcome:
    """SIGKILL at every storage operation; then the command again."""

    def trial(number: int) -> Problems:
        with _place(scene, f"kill-{number}") as place:
            ended = scene.run(place, SFTDATA_FAILPOINT=f"any:{number}:kill")
            found = [] if ended.code == -signal.SIGKILL else [f"was not killed: {ended}"]
            found += [] if scene.is_whole(place) else ["the output is neither old nor new"]
            found += scene.problems_after_rerun(place)
            return [f"{scene.name}, kill at operation {number}: {problem}" for problem in found]

    numbers = _some(range(1, len(scene.operations) + 1), most)
    trials = [lambda number=number: trial(number) for number in numbers]
    return _try_all(f"SIGKILL at an operation, {scene.name}", trials, jobs)


def errors_at_operations(scene: Scene, action: str, most: int | None = None, jobs: int = 1) -> Outcome:
    """ENOSPC, EIO or a short write at every operation: one line, exit code 74, the output whole; then the command again."""

    def trial(number: int) -> Problems:
        with _place(scene, f"{action}-{number}") as place:
            ended = scene.run(place, SFTDATA_FAILPOINT=f"any:{number}:{action}")
            found = list(_problems_of_error(ended, ERRORS[action], read_bytes(place / "out") == scene.new))
            found += [] if read_bytes(place / "out") in (scene.old, scene.new) else ["the output is neither old nor new"]
            found += [f"left: {name}" for name in leftovers(place) if name != ".out.old"]
            found += scene.problems_after_rerun(place)
            return [f"{scene.name}, {action} at operation {number}: {problem}" for problem in found]

    able = [number for number, name in enumerate(scene.operations, 1) if action != "short" or name == "write"]
    trials = [lambda number=number: trial(number) for number in _some(able, most)]
    return _try_all(f"{action.upper()} at an operation, {scene.name}", trials, jobs)


def _problems_of_error(ended: Ended, expected: str, done: bool) -> Iterator[str]:
    """Yield what is wrong with a command whose operation failed; one that is done may leave cleaning up to the next."""
    if ended.code == 0 and done:
        return
    if ended.code != 74:
        yield f"exit code {ended.code}"
    if len(ended.lines) != 1 or expected not in ended.lines[0]:
        yield f"said {ended.lines}"


def _start(scene: Scene, place: Path, *options: str, **changes: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own."""
    command = [sys.executable, "-m", "sftdata", *scene.arguments, *options]
    return subprocess.Popen(
        command, cwd=place, env=zygote.environment(**changes), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # else a background job's children ignore it
    )  # fmt: skip


def _group(number: int) -> list[int]:
    """Return the living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended meanwhile
        if int(group) == number and state != "Z":
            found.append(int(path.parent.name))
    return found


def _orphans(process: subprocess.Popen[str]) -> Problems:
    """Return what still runs of a group after a while."""
    end = time.monotonic() + GRACE
    while (left := _group(process.pid)) and time.monotonic() < end:
        time.sleep(0.02)
    return [f"still runs: {number}" for number in left]


def _workers(process: subprocess.Popen[str]) -> list[int]:
    return [number for number in _group(process.pid) if number != process.pid]


@cache
def duration(scene: Scene) -> float:
    """Return the seconds that the command takes with two workers."""
    with _place(scene, "timed") as place:
        begin = time.monotonic()
        process = _start(scene, place, "--workers", "2")
        _, said = process.communicate()
        assert process.returncode == 0, said
        return time.monotonic() - begin


def kills_at_random(scene: Scene, tries: int, seed: int = 0, most: float | None = None) -> Outcome:
    """SIGKILL of the whole process group at a random time, with 1, 2 and 4 workers in turn; then the command again."""
    chance, latest = random.Random(seed), most or duration(scene)

    def trial(number: int) -> Problems:
        with _place(scene, f"random-{number}") as place:
            process = _start(scene, place, "--workers", str((1, 2, 4)[number % 3]))
            time.sleep(chance.uniform(0, latest))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            found = _orphans(process)
            found += [] if scene.is_whole(place) else ["the output is neither old nor new"]
            found += scene.problems_after_rerun(place)
            return [f"{scene.name}, random kill {number}: {problem}" for problem in found]

    return _try_all("SIGKILL of the process group", [lambda number=number: trial(number) for number in range(tries)], 1)


def signals_at_random(scene: Scene, number: signal.Signals, tries: int, seed: int = 0, most: float | None = None) -> Outcome:
    """SIGTERM to the command, or Ctrl-C to its group, once it works: exit code, nothing left, nobody left; then again."""
    chance, latest = random.Random(seed), most or duration(scene)

    def trial(attempt: int) -> Problems:
        with _place(scene, f"{number.name}-{attempt}") as place:
            process = _start(scene, place, "--workers", "2")
            while not (place / ".out.lock").exists() and process.poll() is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, latest / 2))
            if process.poll() is None:
                (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
            _, said = process.communicate()
            lines = Ended(process.returncode, said).lines
            stopped = process.returncode == 128 + number and len(lines) == 1 and lines[0].startswith("stopped by")
            done = process.returncode == 0 and read_bytes(place / "out") == scene.new
            found = [] if stopped or done else [f"exit code {process.returncode}: {said}"]
            found += _orphans(process) + [f"left: {name}" for name in leftovers(place)]
            found += [] if scene.is_whole(place) else ["the output is neither old nor new"]
            found += scene.problems_after_rerun(place)
            return [f"{scene.name}, {number.name} {attempt}: {problem}" for problem in found]

    return _try_all(number.name, [lambda attempt=attempt: trial(attempt) for attempt in range(tries)], 1)


def lost_workers(scene: Scene, number: signal.Signals, tries: int, seed: int = 0, most: float | None = None) -> Outcome:
    """SIGKILL or SIGSTOP to one worker at a random time: its task is done by another, and the bytes are the same."""
    chance, latest = random.Random(seed), most or duration(scene)

    def trial(attempt: int) -> Problems:
        with _place(scene, f"worker-{number.name}-{attempt}") as place:
            process = _start(scene, place, "--workers", "2", SFTDATA_WORKER_TIMEOUT="600" if number == signal.SIGKILL else "10")
            while not _workers(process) and process.poll() is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, latest / 2))
            with contextlib.suppress(ProcessLookupError, IndexError):  # they are done
                os.kill(chance.choice(_workers(process)), number)
            _, said = process.communicate()
            found = [] if process.returncode == 0 else [f"exit code {process.returncode}: {said}"]
            found += [] if read_bytes(place / "out") == scene.new else ["other bytes"]
            found += _orphans(process) + [f"left: {name}" for name in leftovers(place)]
            return [f"{scene.name}, worker {number.name} {attempt}: {problem}" for problem in found]

    what = "a worker killed" if number == signal.SIGKILL else "a worker stopped (hangs)"
    return _try_all(what, [lambda attempt=attempt: trial(attempt) for attempt in range(tries)], 1)


def builds_at_once(scene: Scene, tries: int, num_builds: int = 4) -> Outcome:
    """Several commands for one output at once: those that find it locked say so with exit code 75."""

    def trial(attempt: int) -> Problems:
        with _place(scene, f"at-once-{attempt}") as place:
            processes = [_start(scene, place, "--workers", "1") for _ in range(num_builds)]
            said = [process.communicate()[1] for process in processes]
            codes = [process.returncode for process in processes]
            found = [] if 0 in codes and set(codes) <= {0, 75} else [f"exit codes {codes}: {said}"]
            found += [] if read_bytes(place / "out") == scene.new else ["other bytes"]
            found += [f"left: {name}" for name in leftovers(place)]
            return [f"{scene.name}, at once {attempt}: {problem}" for problem in found]

    trials = [lambda attempt=attempt: trial(attempt) for attempt in range(tries)]
    return _try_all(f"{num_builds} builds of one folder at once", trials, 1)


def builds_beside(scene: Scene, tries: int) -> Outcome:
    """Two commands for two outputs that share a work folder, at once: both are done."""

    def trial(attempt: int) -> Problems:
        with _place(scene, f"beside-{attempt}") as place:
            processes = [_start(scene, place, "--out", name, "--workers", "2") for name in ("out", "other")]
            said = [process.communicate()[1] for process in processes]
            codes = [process.returncode for process in processes]
            found = [] if codes == [0, 0] else [f"exit codes {codes}: {said}"]
            found += [f"other bytes in {name}" for name in ("out", "other") if read_bytes(place / name) != scene.new]
            return [f"{scene.name}, beside {attempt}: {problem}" for problem in found]

    trials = [lambda attempt=attempt: trial(attempt) for attempt in range(tries)]
    return _try_all("two builds that share a work folder at once", trials, 1)


def damaged_results(scene: Scene, tries: int, seed: int = 0, jobs: int = 1) -> Outcome:
    """A flipped bit, a cut or a missing file among the kept results: they are made again, and said."""
    chance = random.Random(seed)

    def trial(attempt: int) -> Problems:
        with _place(scene, f"damaged-{attempt}") as place:
            found = [] if scene.run(place).code == 0 else ["the first build failed"]
            shutil.rmtree(place / "out")
            files = sorted(path for path in place.glob(".sftdata-work/*/*/*") if path.is_file())
            path = files[attempt * len(files) // tries]
            _damage(path, chance)
            ended = scene.run(place)
            found += [] if ended.code == 0 and "damaged" in ended.said else [f"exit code {ended.code}: {ended.said}"]
            found += scene.problems_after_rerun(place)
            return [f"{scene.name}, {path.relative_to(place)} damaged: {problem}" for problem in found]

    trials = [lambda attempt=attempt: trial(attempt) for attempt in range(tries)]
    return _try_all("a kept result damaged", trials, jobs)


def _damage(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    how = chance.choice(("flip", "flip", "cut", "remove")) if data else "remove"
    if how == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(data[: chance.randrange(len(data))] if how == "cut" else data)
