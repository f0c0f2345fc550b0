"""The commands that faults are put into: what lies there before, what must lie there after, and nothing between the two."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from build_support import OUTSIDE_SAME_BYTES, write_small_recipe

from faults import zygote
from faults.zygote import Ended

Bytes = dict[str, bytes]


def read_bytes(folder: Path) -> Bytes | None:
    """Return every file of an output by name, those aside that may differ from run to run; None for no folder."""
    if not folder.exists():
        return None
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: data for name, data in files.items() if name not in OUTSIDE_SAME_BYTES}


def leftovers(folder: Path) -> list[str]:
    """Return what a command that ended should not have left: anything hidden but lock and work folder."""
    beside = [path for path in folder.glob(".*") if path.name not in (".out.lock", ".sftdata-work")]
    inside = folder.glob(".sftdata-work/*/.*")
    return [path.relative_to(folder).as_posix() for path in (*beside, *inside)]


@dataclass(eq=False)
class Scene:
    """A command and its two states: the folder before it, and the output that it makes of it."""

    name: str
    folder: Path
    """`before` in it is copied for every trial."""
    arguments: tuple[str, ...]
    old: Bytes | None = None
    new: Bytes = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    """The names of all storage operations of an undisturbed run, in order."""

    def stage(self, trial: str) -> Path:
        """Return a fresh folder as it is before the command."""
        place = self.folder / trial
        shutil.copytree(self.folder / "before", place)
        return place

    def run(self, place: Path, **changes: str) -> Ended:
        """Run the command in a folder."""
        return zygote.run(*self.arguments, folder=place, **changes)

    def rehearse(self) -> None:
        """Run the command undisturbed, noting its operations and its output."""
        self.old = read_bytes(self.folder / "before" / "out")
        place, log = self.stage("undisturbed"), self.folder / "operations.log"
        ended = self.run(place, SFTDATA_FAILPOINT_LOG=str(log))
        assert ended.code == 0, ended.said
        self.operations = [line.split()[0] for line in log.read_text(encoding="utf-8").splitlines()]
        new = read_bytes(place / "out")
        assert new and new != self.old and not leftovers(place), "the command makes something new and leaves nothing else"
        self.new = new

    def is_whole(self, place: Path) -> bool:
        """Say whether the output is as it was before, or as it is after."""
        return read_bytes(place / "out") in (self.old, self.new) or (self.old is not None and self._aside(place))

    def _aside(self, place: Path) -> bool:
        """Say whether a swap was cut short between its two renames: the next run puts the old folder back."""
        return read_bytes(place / "out") is None and read_bytes(place / ".out.old") == self.old

    def problems_after_rerun(self, place: Path) -> list[str]:
        """Run the command again, undisturbed, and return what is not as it must be then."""
        ended = self.run(place)
        found = [f"exit code {ended.code} of the rerun: {ended.said}"] if ended.code else []
        found += [] if read_bytes(place / "out") == self.new else ["the rerun gives other bytes"]
        return found + [f"left: {name}" for name in leftovers(place)]


def first_build(folder: Path) -> Scene:
    """A build where nothing was before."""
    write_small_recipe(folder / "before" / "raw")
    return Scene("first build", folder, ("build", "raw/recipe.yaml", "--out", "out"))


def second_build(folder: Path) -> Scene:
    """A build over the output of another recipe, whose results it shares in part."""
    write_small_recipe(folder / "before" / "raw")
    arguments = ("build", "raw/recipe.yaml", "--out", "out")
    ended = zygote.run(*arguments, "--set", "seed=1", folder=folder / "before")
    assert ended.code == 0, ended.said
    return Scene("build over an old one", folder, arguments)


def ingest_again(folder: Path) -> Scene:
    """An ingest over that of fewer files."""
    before = folder / "before"
    write_small_recipe(before / "raw")
    arguments = ("ingest", "raw/talk", "--format", "jsonl", "--out", "out")
    late = before / "raw" / "talk" / "b.jsonl"
    aside = late.rename(before / "b.jsonl")
    ended = zygote.run(*arguments, folder=before)
    assert ended.code == 0, ended.said
    aside.rename(late)
    return Scene("ingest over an old one", folder, arguments)


SCENES = (first_build, second_build, ingest_again)


def open_scenes(folder: Path, makers: Sequence[Callable[[Path], Scene]] = SCENES) -> list[Scene]:
    """Return the scenes, rehearsed, each in a folder of its own."""
    scenes = []
    for maker in makers:
        scene = maker(folder / maker.__name__)
        scene.rehearse()
        scenes.append(scene)
    return scenes
