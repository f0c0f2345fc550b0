"""Saying where in a recipe something is wrong: file and line, or the `--set` that brought it, and the nearest known key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from sftdata.errors import RecipeError, suggest
from sftdata.recipe import Recipe
from sftdata.strict_yaml import Place


class Places:
    """Where every value of a recipe was written."""

    def __init__(self, name: str, lines: dict[Place, int]) -> None:
        self.name = name
        self._lines = lines
        self._overrides: dict[Place, str] = {}

    def override(self, place: Place, text: str) -> None:
        """Note that the value at a place, and the sections that had to be made for it, come from a `--set`."""
        created = [place[:depth] for depth in range(1, len(place)) if place[:depth] not in self._lines]
        self._overrides.update(dict.fromkeys([*created, place], text))

    def overridden(self, place: Place) -> bool:
        """Return whether a `--set` gave the value at a place, or a part of it."""
        return any(given[: len(place)] == place for given in self._overrides)

    def error(self, place: Sequence[str | int], message: str) -> RecipeError:
        """Return the error for a place: `recipes/a.yaml:14 sources[0].clean: message`."""
        where = place_text(place)
        return RecipeError(f"{self._origin(tuple(place))} {where + ': ' if where else ''}{message}")

    def _origin(self, place: Place) -> str:
        while place and place not in self._lines and place not in self._overrides:
            place = place[:-1]
        return self._overrides.get(place, f"{self.name}:{self._lines.get(place, 1)}")


def place_text(place: Sequence[str | int]) -> str:
    """Return a place as users write it: `sources[0].clean[1]`."""
    return re.sub(r"^\.", "", "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place))


def explain(error: ValidationError, places: Places, known: Iterable[str] | None = None, below: Place = ()) -> RecipeError:
    """Return the first thing that pydantic found wrong as one line.

    `below` is where the checked value stands in the recipe, `known` are its keys where they are not those of `Recipe`.
    """
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")  # a misspelt key is also a missing one
    # A section that is checked by itself is flat: what follows its key is pydantic's name of a kind of value.
    parts = first["loc"][:1] if below else first["loc"]
    place = (*below, *(part for part in parts if not _is_validator_name(part)))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "does_not_fit":
        return places.error((*place, *first["ctx"]["place"]), message)
    if first["type"] == "extra_forbidden":
        message = f"unknown key{suggest(str(place[-1]), _fields_at(place[:-1]) if known is None else known)}"
    elif first["type"] == "missing":
        message = "is missing"
    elif first["type"] != "value_error":
        message = f"{re.sub(' or instance of .*', '', message[:1].lower() + message[1:])}, not {first['input']!r}"
    return places.error(place, message)


def _is_validator_name(part: Any) -> bool:
    return isinstance(part, str) and part.startswith("function-")


def _fields_at(place: Sequence[str | int]) -> list[str]:
    """Return the keys that are known at a place of the recipe."""
    model: type[BaseModel] = Recipe
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = next(iter(_models_in(field.annotation if field else None)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
