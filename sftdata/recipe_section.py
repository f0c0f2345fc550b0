"""What every section of a recipe is made of: a frozen model, and errors that say where the wrong value stands."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A part of the recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def at(place: tuple[str | int, ...], message: str) -> PydanticCustomError:
    """Return the error for a value that does not fit another one; `place` is where it stands in the section."""
    return PydanticCustomError("does_not_fit", "{message}", {"message": message, "place": place})


def check_meaning(section: Section, key: str, options: Mapping[str, tuple[str, ...]]) -> None:
    """Raise for an option that is given under a value of `key` for which it has no meaning."""
    value = getattr(section, key)
    for name, values in options.items():
        if getattr(section, name) is not None and value not in values:
            under = f"{key} {value}" if value else f"no {key}"
            raise at((name,), f"has no meaning under {under}, only under {' and '.join(values)}")
