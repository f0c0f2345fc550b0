"""Tokenizers on their own: learned from a recipe's cleaned training text or from files, or extended; written as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftdata import storage
from sftdata.environment import with_pins
from sftdata.errors import DataError, RecipeError
from sftdata.executors.choice import choose_executor
from sftdata.pipeline import task_runner, tell
from sftdata.places import WORK_FOLDER, input_files
from sftdata.recipe_loader import load_recipe
from sftdata.runner import Runner, Summary
from sftdata.scanning import Part, check_unchanged, num_bytes, scan
from sftdata.tasks import Planned, TaskMaker
from sftdata.templates import TOKENIZER_DEFAULT, built_in_names
from sftdata.tokenizer_making import make_tokenizer
from sftdata.tokenizers.files import locate
from sftdata.work import ENTRY, Task, without_leftovers

RECIPE_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class MadeTokenizer:
    """A tokenizer folder, and what is known of it."""

    folder: Path
    facts: dict[str, Any]
    """As in a build's manifest under `tokenizer`; `warnings` are lines with their cure."""


def train_tokenizer(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    vocab_size: int,
    algorithm: str = "bpe",
    chat_template: str | None = None,
    field: str = "text",
    workers: int | None = None,
    work_dir: str | Path | None = None,
    allow_code: bool = False,
) -> MadeTokenizer:
    """Learn a tokenizer from one recipe, or from files, and write its folder with special tokens and chat template.

    inputs: a `.yaml` file, whose sources are read, cleaned, resolved and split as in a build, which then reuses them; or files:
    the texts in `field` of `.jsonl`, the lines of others. Raises the errors of `sftdata.errors`.
    """
    folder = _new_folder(out)
    train = {"algorithm": algorithm, "vocab_size": vocab_size}
    if any(Path(path).suffix in RECIPE_SUFFIXES for path in inputs):
        if len(inputs) > 1:
            raise RecipeError("a tokenizer is learned from one recipe, or from files")
        template = [] if chat_template is None else [f"tokenizer.chat_template={chat_template}"]
        overrides = ["tokenizer.extend=null", f"tokenizer.train={json.dumps(train)}", *template]
        return _from_recipe(Path(inputs[0]), folder, overrides, workers, work_dir, allow_code)
    files = _files(inputs)
    if not files:
        raise DataError("a tokenizer is learned from a recipe or from files; none is given")
    spec = {"path": None, "train": train, "template": _template(chat_template), "files": files, "field": field}
    return _publish(folder, lambda temporary: make_tokenizer(temporary, spec))


def extend_tokenizer(
    tokenizer: str | Path,
    pieces: str | Path,
    out: str | Path,
    *,
    add_parts: bool = False,
    chat_template: str | None = None,
    texts: Sequence[str | Path] = (),
    field: str = "text",
) -> MadeTokenizer:
    """Add pieces to a tokenizer, a path or `hub:org/name`, and write it to a new folder.

    `texts` are files on which characters per token are measured, before and after. Raises the errors of `sftdata.errors`.
    """
    folder = _new_folder(out)
    spec: dict[str, Any] = {"path": str(locate(str(tokenizer), Path())), "train": None, "template": _template(chat_template)}
    spec |= {"extend": {"pieces": str(pieces), "add_parts": add_parts}, "files": _files(texts), "field": field}
    return _publish(folder, lambda temporary: make_tokenizer(temporary, spec))


def _files(paths: Sequence[str | Path]) -> list[str]:
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f"{path}: no such file")
    return [str(path) for path in paths]


def _template(name: str | None) -> str:
    known = (None, TOKENIZER_DEFAULT, *built_in_names())
    return (name or TOKENIZER_DEFAULT) if name in known else str(Path(str(name)).resolve())


def _new_folder(out: str | Path) -> Path:
    """Return where to write. Raises DataError where something is: a tokenizer in use is never replaced."""
    folder = Path(out).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is not empty; name a new folder with --out")
    return folder


def _publish(folder: Path, write: Callable[[Path], dict[str, Any]]) -> MadeTokenizer:
    """Let `write` fill a folder that appears under its name when it is complete."""
    storage.make_folder(folder.parent)
    temporary = storage.temporary_name(folder)
    storage.remove_tree(temporary)
    storage.make_folder(temporary)
    try:
        facts = write(temporary)
        with storage.lock(folder):
            storage.publish(temporary, _new_folder(folder))
    finally:
        storage.remove_tree(temporary)
    return MadeTokenizer(folder, facts)


class _Known(Exception):
    """Raised where the story goes on to tokenizing: the tokenizer is made."""


class _UpToTokenizer:
    """Runs the stages of a build up to its tokenizer."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.made: tuple[Task, Summary] | None = None

    def map(self, planned: Sequence[Planned]) -> list[Summary]:
        """Run the tasks. Raises _Known after the tokenizer's."""
        summaries = self._runner.map(planned)
        if planned and planned[0].task.stage == "tokenizer":
            self.made = planned[0].task, summaries[0]
            raise _Known
        return summaries


def _tell_up_to_tokenizer(maker: TaskMaker, runner: Runner, parts: Sequence[Part]) -> tuple[Task, Summary]:
    up_to = _UpToTokenizer(runner)
    with suppress(_Known):
        tell(maker, up_to, parts, None)
    assert up_to.made is not None
    return up_to.made


def _from_recipe(
    recipe: Path, folder: Path, overrides: Sequence[str], workers: int | None, work_dir: str | Path | None, allow_code: bool
) -> MadeTokenizer:
    loaded = load_recipe(recipe, overrides=overrides, allow_code=allow_code)
    output = Path(loaded.recipe.output or f"shards/{loaded.recipe.name}").resolve()
    work = Path(work_dir).absolute() if work_dir else output.parent / WORK_FOLDER
    with storage.in_use(storage.make_folder(work)):
        listed = input_files(loaded, output, work)
        executor = choose_executor(workers, num_bytes(listed))
        with without_leftovers(work), closing(executor):
            parts = scan(listed, executor)
            task, facts = with_pins(lambda: _tell_up_to_tokenizer(TaskMaker(loaded, work), task_runner(executor), parts))
        check_unchanged(parts)

    def copy(temporary: Path) -> dict[str, Any]:
        for path in sorted(task.entry.iterdir()):
            if path.name != ENTRY:
                storage.write_bytes(temporary / path.name, path.read_bytes())
        return facts

    return _publish(folder, copy)
