"""Loading a recipe: YAML with places, `--set`, and a check of every step's name and options.

Every message names file, line and key, and the nearest known name.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model

from sftdata import registry, strict_yaml
from sftdata.errors import RecipeError, suggest
from sftdata.recipe import DEDUP, Recipe, StepSpec
from sftdata.recipe_dedup import Dedup
from sftdata.recipe_places import Places, explain
from sftdata.remote import is_url
from sftdata.strict_yaml import Place
from sftdata.templates import TOKENIZER_DEFAULT, built_in_names
from sftdata.trainer.settings import TrainSettings


class Loaded:
    """A recipe with the place it came from: what `build` takes."""

    def __init__(self, recipe: Recipe, folder: Path, name: str, *, allow_code: bool = False) -> None:
        self.recipe = recipe
        self.folder = folder
        """Paths in `sources`, `tokenizer` and templates are relative to it."""
        self.name = name
        """The file, as messages name it."""
        self.allow_code = allow_code

    def resolve(self, path: str) -> Path:
        """Return a path of the recipe as a path of this machine."""
        return self.folder / Path(path).expanduser()


def load_recipe(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    allow_code: bool = False,
    out: str | Path | None = None,
    folder: str | Path | None = None,
) -> Loaded:
    """Load, override and check a recipe.

    `overrides` are `a.b=value` texts as `--set` takes them; values are YAML 1.2 scalars or flow collections. `folder` is what
    paths in the recipe are relative to, by default the folder that it lies in.
    Raises RecipeError with file, line, the key and the nearest known one.
    """
    path = Path(path)
    home = Path(folder or path.parent).resolve()
    document = strict_yaml.load(path)
    if not isinstance(document.value, dict):
        raise RecipeError(f"{path}:1 a recipe is a mapping of keys to values")
    places = Places(str(path), document.lines)
    for override in overrides:
        apply_override(document.value, override, home, places)
    if out is not None:
        document.value["output"] = str(out)
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        raise explain(error, places) from error
    loaded = Loaded(recipe, home, str(path), allow_code=allow_code)
    _check_steps(loaded, places)
    _check_template(loaded, places)
    if recipe.train:
        train_settings(recipe.train, recipe.seed, places, complete=False)
    return loaded


def train_settings(section: Mapping[str, Any], seed: int, places: Places, *, complete: bool = True) -> TrainSettings:
    """Return a recipe's `train:` section as checked settings; `seed` is the recipe's, which the section may override.

    Where it need not be `complete`, the model may still be missing: `sftdata train --set` can bring it.
    Raises RecipeError with the place, the key and the nearest known one.
    """
    hints = get_type_hints(TrainSettings)
    written = {field.name: field.name.rstrip("_") for field in dataclasses.fields(TrainSettings)}  # `from` is no Python name
    defaults: dict[str, Any] = {
        field.name: (hints[field.name], Field(default=_default(field), alias=written[field.name]))
        for field in dataclasses.fields(TrainSettings)
    }
    model = create_model("train", __config__=ConfigDict(extra="forbid", protected_namespaces=()), **defaults)
    try:
        checked = model.model_validate({"seed": seed, **section})
    except ValidationError as error:
        raise explain(error, places, known=dict.fromkeys(written.values()), below=("train",)) from error
    settings = TrainSettings(**{name: getattr(checked, name) for name in defaults})
    try:
        settings.check(complete=complete)
    except RecipeError as error:
        where, _, message = str(error).partition(": ")
        raise places.error(tuple(where.split(".")), message) from error
    return settings


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


PATHS = (("tokenizer", "path"), ("tokenizer", "chat_template"), ("tokenizer", "extend", "pieces"))
"""Where values are paths, `path` of a source aside: in the recipe relative to it, in `--set` to the current folder."""


ALTERNATIVES: dict[Place, tuple[str, ...]] = {
    ("tokenizer", "path"): ("train",),
    ("tokenizer", "train"): ("path",),
    ("train", "model"): ("base_model", "from"),
    ("train", "base_model"): ("model", "from"),
    ("train", "from"): ("model", "base_model"),
    ("train", "max_steps"): ("num_epochs",),
    ("train", "num_epochs"): ("max_steps",),
}
"""Keys that exclude each other: an override of one takes the place of the other that the recipe gives."""


def apply_override(recipe: dict[str, Any], override: str, folder: Path, places: Places) -> None:
    """Set one `a.b=value` in a recipe; paths are turned from the current folder to `folder`, the recipe's.

    A key of which the recipe gives the alternative (`max_steps` beside `num_epochs`) takes its place. Raises RecipeError.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: write it as a.b=value")
    value = _override_value(key, text)
    *parents, leaf = key.split(".")
    target: dict[str, Any] = recipe
    place: Place = ()
    if parents[:1] == ["sources"] and len(parents) > 1:
        target, place = _source_named(recipe, parents[1], override)
        parents = parents[2:]
        if (leaf, parents) == ("path", []):
            value = _from_here(value, folder)
    elif (*parents, leaf) in PATHS:
        value = _from_here(value, folder)
    for parent in parents:
        child = target.setdefault(parent, {})
        if child is None:
            child = target[parent] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"--set {override}: {parent!r} is not a section")
        target = child
    target[leaf] = value
    places.override((*place, *parents, leaf), f"--set {override}:")
    if value is not None:
        _take_place(recipe, (*parents, leaf), places)


def _take_place(recipe: dict[str, Any], place: Place, places: Places) -> None:
    """Remove the recipe's alternative to the key at a place, unless an override gave that too."""
    section = place[0]
    for other in ALTERNATIVES.get(place[:2], ()):
        if not places.overridden((section, other)):
            recipe[str(section)].pop(other, None)


def _override_value(key: str, text: str) -> Any:
    """Return the value of an override: a flow collection or a quoted text as YAML, anything else as one scalar (`*.jsonl`)."""
    if text[:1] in ("[", "{", '"', "'"):
        return strict_yaml.parse(text, f"--set {key}").value
    return strict_yaml.parse_scalar(text)


def _from_here(value: Any, folder: Path) -> Any:
    """Return a path, or paths, given relative to the current folder as the recipe would write them."""
    if isinstance(value, list):
        return [_from_here(item, folder) for item in value]
    if not isinstance(value, str) or is_url(value) or value.startswith("hub:"):
        return value
    named = value in (TOKENIZER_DEFAULT, *built_in_names())
    return value if named else os.path.relpath(Path(value).expanduser(), folder)


def _source_named(recipe: dict[str, Any], name: str, override: str) -> tuple[dict[str, Any], Place]:
    sources = [source for source in recipe.get("sources") or [] if isinstance(source, dict)]
    for number, source in enumerate(sources):
        if source.get("name") == name:
            return source, ("sources", number)
    known = [str(source.get("name")) for source in sources]
    raise RecipeError(f"--set {override}: no source is called {name!r}{suggest(name, known)}")


def _check_steps(loaded: Loaded, places: Places) -> None:
    recipe = loaded.recipe
    for index, source in enumerate(recipe.sources):
        _check_step(loaded, places, "ingestor", source.ingest, ("sources", index, "ingest"))
        for number, step in enumerate(source.clean):
            _check_step(loaded, places, "cleaner", step, ("sources", index, "clean", number))
        _check_step(loaded, places, "formatter", source.format, ("sources", index, "format"))
    seen_dedup = False
    for number, step in enumerate(recipe.clean):
        place: Place = ("clean", number)
        if step.name == DEDUP:
            _check_dedup(recipe, places, step, place)
            seen_dedup = True
        elif seen_dedup:
            raise places.error(place, "dedup comes after the cleaners")
        else:
            _check_step(loaded, places, "cleaner", step, place)


def _check_step(loaded: Loaded, places: Places, kind: str, spec: StepSpec, place: Place) -> None:
    if kind == "cleaner" and spec.name == DEDUP:
        raise places.error(place, "dedup decides over all sources; put it in the recipe's own clean")
    try:
        step = registry.find_step(kind, spec.name, allow_code=loaded.allow_code)
        spec.options.update(registry.check_options(step, spec.options))
        if step.assets is not None:
            step.assets(**registry.locate_options(step, spec.options, loaded.folder))
    except RecipeError as error:
        raise places.error((*place, spec.name), str(error).removeprefix(f"{spec.name}: ")) from error


def _check_dedup(recipe: Recipe, places: Places, step: StepSpec, place: Place) -> None:
    try:
        dedup = Dedup(**step.options)
    except ValidationError as error:
        raise explain(error, places, known=Dedup.model_fields, below=(*place, DEDUP)) from error
    if dedup.over == "turn" and recipe.tokenize.compat:
        raise places.error((*place, DEDUP, "over"), "turn has no meaning under tokenize.compat, which decides what is trained")
    names = [source.name for source in recipe.sources]
    for option, name in dedup.unknown_sources(names):
        raise places.error((*place, DEDUP, option), f"no source is called {name!r}{suggest(name, names)}")
    if set(dedup.against) == set(names):
        raise places.error((*place, DEDUP, "against"), "names every source; there is nothing left to compare with them")


def _check_template(loaded: Loaded, places: Places) -> None:
    """Raise for a chat template that is neither a known name nor a file."""
    name = loaded.recipe.tokenizer.chat_template
    known = (TOKENIZER_DEFAULT, *built_in_names())
    if name not in known and not loaded.resolve(name).is_file():
        hint = suggest(Path(name).name, known)
        raise places.error(("tokenizer", "chat_template"), f"no chat template and no file is called {name!r}{hint}")
