"""The steps of a recipe as tasks take them and all that their output depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sftdata import registry, storage
from sftdata.recipe import StepSpec
from sftdata.work import Read, code_fingerprint, library_version

PACKAGE = Path(__file__).resolve().parent


def is_outside(path: Path) -> bool:
    """Say whether a file lies outside of the package: what lies in it is code, which does not change while it runs."""
    return not path.resolve().is_relative_to(PACKAGE)


class _Known(NamedTuple):
    """What is known of a step; holding the specification keeps its id its own."""

    spec: StepSpec
    identity: dict[str, Any]
    reads: tuple[Read, ...]


@dataclass(frozen=True)
class StepOrigin:
    """What finds a recipe's steps: the folder that their paths are relative to, and whether outside code may run.

    What a step depends on is looked at once, when it is first asked for.
    """

    folder: Path
    allow_code: bool = False
    _known: dict[tuple[str, int], _Known] = field(default_factory=dict, compare=False, repr=False)

    def named(self, kind: str, spec: StepSpec) -> tuple[str, dict[str, Any]]:
        """Return a step as a task takes it: its name, and its options with paths of this machine."""
        return spec.name, registry.locate_options(self._find(kind, spec), spec.options, self.folder)

    def identity(self, kind: str, spec: StepSpec) -> dict[str, Any]:
        """Return all that a step's output depends on, its input aside."""
        return self._look(kind, spec).identity

    def reads(self, kind: str, spec: StepSpec) -> tuple[Read, ...]:
        """Return the files that a step reads, those aside that belong to the package like its code."""
        return self._look(kind, spec).reads

    def _look(self, kind: str, spec: StepSpec) -> _Known:
        key = (kind, id(spec))
        if key not in self._known:
            step = self._find(kind, spec)
            assets = step.assets(**self.named(kind, spec)[1]) if step.assets is not None else ()
            reads = [Read.whole(Path(path), storage.file_digest(Path(path))) for path in assets]
            identity = {
                "name": spec.name,
                "options": spec.options,
                "code": code_fingerprint(step.module),
                "libraries": {library: library_version(library) for library in step.libraries},
                "assets": [read.digest for read in reads],
            }
            self._known[key] = _Known(spec, identity, tuple(read for read in reads if is_outside(Path(read.path))))
        return self._known[key]

    def _find(self, kind: str, spec: StepSpec) -> registry.Step:
        return registry.find_step(kind, spec.name, allow_code=self.allow_code)
