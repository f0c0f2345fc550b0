"""Where a build works: the folder it fills, the folder it works in, and the files behind its sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sftdata import storage
from sftdata.errors import DataError, RecipeError
from sftdata.recipe_loader import Loaded, load_recipe
from sftdata.scanning import Listed, list_inputs

WORK_FOLDER = ".sftdata-work"
REMOTE = "remote"
"""In the work folder: copies of inputs that URLs name."""


def load(recipe: str | Path | Loaded, overrides: Sequence[str], allow_code: bool) -> Loaded:
    """Return a recipe, loaded where it is not yet."""
    if not isinstance(recipe, Loaded):
        return load_recipe(recipe, overrides=overrides, allow_code=allow_code)
    if overrides:
        raise RecipeError("overrides go to load_recipe when a loaded recipe is built")
    return recipe


def folders(loaded: Loaded, out: str | Path | None, work_dir: str | Path | None) -> tuple[Path, Path]:
    """Return the output folder and the work folder, absolute; a linked output is replaced where it lies."""
    output = Path(out or loaded.recipe.output or f"shards/{loaded.recipe.name}").resolve()
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: is a file; name a folder with --out")
    if output.is_dir() and any(output.iterdir()) and not (output / "manifest.json").is_file():
        raise DataError(f"{output}: holds other files and no build; name another folder with --out")
    return output, Path(work_dir).absolute() if work_dir else output.parent / WORK_FOLDER


def input_files(loaded: Loaded, output: Path, work: Path) -> list[Listed]:
    """Return the input files of a build; what it writes itself is none of them."""
    return list_inputs(loaded.recipe.sources, loaded.folder, (output, work), remote=work / REMOTE, allow_code=loaded.allow_code)


@contextmanager
def begun(loaded: Loaded, out: str | Path | None, work_dir: str | Path | None) -> Iterator[tuple[Path, Path, list[Listed]]]:
    """Hold the output folder and mark the work folder as used; give both, and the input files."""
    output, work = folders(loaded, out, work_dir)
    with storage.lock(output), storage.in_use(storage.make_folder(work)):
        storage.recover(output)
        storage.remove_staged(output)
        yield output, work, input_files(loaded, output, work)
