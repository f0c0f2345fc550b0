"""Loading a recipe: YAML with places, `--set`, and a check of every step's name and options.

Every message names file, line and key, and the nearest known name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from sftdata import registry, strict_yaml
from sftdata.errors import RecipeError, suggest
from sftdata.recipe import DEDUP, Dedup, Recipe, StepSpec
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
    path: str | Path, *, overrides: Sequence[str] = (), allow_code: bool = False, out: str | Path | None = None
) -> Loaded:
    """Load, override and check a recipe.

    `overrides` are `a.b=value` texts as `--set` takes them; values are YAML 1.2 scalars or flow collections.
    Raises RecipeError with file, line, the key and the nearest known one.
    """
    path = Path(path)
    document = strict_yaml.load(path)
    if not isinstance(document.value, dict):
        raise RecipeError(f"{path}:1 a recipe is a mapping of keys to values")
    for override in overrides:
        apply_override(document.value, override, path.resolve().parent)
    if out is not None:
        document.value["output"] = str(out)
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        raise RecipeError(_explain(error, str(path), document.lines)) from error
    loaded = Loaded(recipe, path.resolve().parent, str(path), allow_code=allow_code)
    _check_steps(loaded, document.lines)
    if recipe.train:
        train_settings(recipe.train, recipe.seed, place=str(path), lines=document.lines)
    return loaded


def train_settings(
    section: Mapping[str, Any],
    seed: int,
    *,
    place: str = "train",
    lines: Mapping[strict_yaml.Place, int] | None = None,
) -> TrainSettings:
    """Return a recipe's `train:` section as checked settings; `seed` is the recipe's, which the section may override.

    `place` and `lines` say in messages where the section stands. Raises RecipeError with the key and the nearest known one.
    """
    hints = get_type_hints(TrainSettings)
    defaults = {field.name: (hints[field.name], _default(field)) for field in fields(TrainSettings)}
    model = create_model("train", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **defaults)
    try:
        checked = model.model_validate({"seed": seed, **section})
    except ValidationError as error:
        first = error.errors()[0]
        known = defaults if first["type"] == "extra_forbidden" else None
        where = ("train", *first["loc"])
        line = "" if lines is None else f":{_line(lines, where)}"
        message = f"unknown key{suggest(str(first['loc'][0]), known)}" if known else f"{first['msg'].lower()}, not {first['input']!r}"
        raise RecipeError(f"{place}{line} {place_text(where)}: {message}") from error
    settings = TrainSettings(**{name: getattr(checked, name) for name in defaults})
    try:
        settings.check()
    except RecipeError as error:
        line = "" if lines is None else f"{place}:{_line(lines, ('train',))} "
        raise RecipeError(f"{line}{error}") from error
    return settings


PATHS = (("tokenizer", "path"), ("tokenizer", "chat_template"))
"""Where values are paths, `path` of a source aside: in the recipe relative to it, in `--set` to the current folder."""


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def apply_override(recipe: dict[str, Any], override: str, folder: Path) -> None:
    """Set one `a.b=value` in a recipe; paths are turned from the current folder to `folder`, the recipe's. Raises RecipeError."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: write it as a.b=value")
    value = strict_yaml.parse(text, f"--set {key}").value
    *parents, leaf = key.split(".")
    if parents[:1] == ["sources"] and len(parents) > 1:
        target = _source_named(recipe, parents[1], override)
        parents = parents[2:]
        if (leaf, parents) == ("path", []):
            value = _from_here(value, folder)
    else:
        target = recipe
    for parent in parents:
        child = target.setdefault(parent, {})
        if child is None:
            child = target[parent] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"--set {override}: {parent!r} is not a section")
        target = child
    target[leaf] = _from_here(value, folder) if (*parents, leaf) in PATHS else value


def _from_here(value: Any, folder: Path) -> Any:
    """Return a path, or paths, given relative to the current folder as the recipe would write them; other values as they are."""
    if isinstance(value, list):
        return [_from_here(item, folder) for item in value]
    here = isinstance(value, str) and not value.startswith("hub:") and value not in (TOKENIZER_DEFAULT, *built_in_names())
    return os.path.relpath(Path(value).expanduser(), folder) if here else value


def _source_named(recipe: dict[str, Any], name: str, override: str) -> dict[str, Any]:
    sources = [source for source in recipe.get("sources") or [] if isinstance(source, dict)]
    for source in sources:
        if source.get("name") == name:
            return source
    known = [str(source.get("name")) for source in sources]
    raise RecipeError(f"--set {override}: no source is called {name!r}{suggest(name, known)}")


def _explain(error: ValidationError, path: str, lines: Mapping[strict_yaml.Place, int]) -> str:
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")  # a misspelt key is also a missing one
    place = tuple(part for part in first["loc"] if not _is_validator_name(part))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key{suggest(str(place[-1]), _fields_at(place[:-1]))}"
    elif first["type"] == "missing":
        message = "is missing"
        place, missing = place[:-1], place[-1]
        return f"{path}:{_line(lines, place)} {place_text((*place, missing))}: {message}"
    elif first["type"] != "value_error":
        message = f"{message[:1].lower()}{message[1:]}, not {first['input']!r}"
    where = place_text(place)
    return f"{path}:{_line(lines, place)} {where + ': ' if where else ''}{message}"


def _is_validator_name(part: str | int) -> bool:
    return isinstance(part, str) and part.startswith("function-")


def _line(lines: Mapping[strict_yaml.Place, int], place: Sequence[str | int]) -> int:
    place = tuple(place)
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def place_text(place: Sequence[str | int]) -> str:
    """Return a place as users write it: `sources[0].clean[1]`."""
    return re.sub(r"^\.", "", "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place))


def _fields_at(place: Sequence[str | int]) -> list[str]:
    """Return the keys that are known at a place of the recipe."""
    model: type[BaseModel] = Recipe
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = next((kind for kind in _models_in(field.annotation if field else None)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _check_steps(loaded: Loaded, lines: Mapping[strict_yaml.Place, int]) -> None:
    recipe = loaded.recipe
    for index, source in enumerate(recipe.sources):
        _check_step(loaded, lines, "ingestor", source.ingest, ("sources", index, "ingest"))
        for number, step in enumerate(source.clean):
            _check_step(loaded, lines, "cleaner", step, ("sources", index, "clean", number))
        _check_step(loaded, lines, "formatter", source.format, ("sources", index, "format"))
    seen_dedup = False
    for number, step in enumerate(recipe.clean):
        place = ("clean", number)
        if step.name == DEDUP:
            _check_dedup(loaded, lines, step, place, seen_dedup)
            seen_dedup = True
            continue
        if seen_dedup:
            raise RecipeError(f"{loaded.name}:{_line(lines, place)} {place_text(place)}: dedup comes after the cleaners")
        _check_step(loaded, lines, "cleaner", step, place)


def _check_step(
    loaded: Loaded, lines: Mapping[strict_yaml.Place, int], kind: str, spec: StepSpec, place: Sequence[str | int]
) -> None:
    where = f"{loaded.name}:{_line(lines, place)} {place_text(place)}"
    if kind == "cleaner" and spec.name == DEDUP:
        raise RecipeError(f"{where}: dedup decides over all sources; put it in the recipe's own clean")
    try:
        step = registry.find_step(kind, spec.name, allow_code=loaded.allow_code)
        spec.options.update(registry.check_options(step, spec.options))
        if step.assets is not None:
            step.assets(**spec.options)
    except RecipeError as error:
        raise RecipeError(f"{where}.{spec.name}: {error}") from error


def _check_dedup(
    loaded: Loaded, lines: Mapping[strict_yaml.Place, int], step: StepSpec, place: Sequence[str | int], again: bool
) -> None:
    where = f"{loaded.name}:{_line(lines, place)} {place_text(place)}"
    if again:
        raise RecipeError(f"{where}: a second dedup; one method decides over all rows")
    try:
        Dedup(**step.options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"{where}.dedup: unknown option {name!r}{suggest(name, Dedup.model_fields)}") from error
        raise RecipeError(f"{where}.dedup.{name}: {first['msg'].lower()}, not {first['input']!r}") from error
