"""What formatters share: flags of messages and parts, the first of several keys, places in error messages."""

from __future__ import annotations

import json
import math
from typing import Any

from sftdata.records import InvalidRecord, Path, Span

PART_KEYS = ("text", "value", "content")

Flags = tuple[bool | None, float]
"""(train, weight)"""


def place_of(path: Path) -> str:
    """Return where a value stands, as the user would look for it."""
    return ".".join(map(str, path))


def first_key(fields: dict[str, Any], keys: tuple[str, ...], path: Path) -> str:
    """Return the first of `keys` that holds a value; null counts only where no other key does better. Raises InvalidRecord."""
    for key in keys:
        if fields.get(key) is not None:
            return key
    for key in keys:
        if key in fields:
            raise InvalidRecord("field_type", f"{key!r} of {place_of(path)} is null")
    has = ", ".join(map(repr, fields)) or "no fields"
    raise InvalidRecord("field_missing", f"{place_of(path)} has none of {', '.join(map(repr, keys))}; it has {has}")


def flags(fields: dict[str, Any], path: Path, default: Flags = (None, 1.0)) -> Flags:
    """Return (train, weight) of a message or part; what it does not say is taken from `default`. Raises InvalidRecord."""
    train, weight = fields.get("train"), fields.get("weight")
    if weight is None:
        weight = fields.get("loss_weight")
    if train is None and weight is None:
        return default
    if train is not None and type(train) is not bool:
        raise InvalidRecord("field_type", f"'train' of {place_of(path)} is {train!r}, not true or false")
    if weight is None:
        return train, default[1]
    if type(weight) not in (int, float) or not (weight >= 0 and math.isfinite(weight)):
        raise InvalidRecord("field_type", f"'weight' of {place_of(path)} is {weight!r}, not a number from 0")
    if weight == 0:
        return False, 0.0
    inherited = default[0] if default[1] else None
    return inherited if train is None else train, float(weight)


def text_part(part: Any, path: Path) -> Span:
    """Return the text of a part `{type: text, text|value|content: ...}`. Raises InvalidRecord."""
    if not isinstance(part, dict) or part.get("type", "text") != "text":
        kind = repr(part.get("type")) if isinstance(part, dict) else type(part).__name__
        raise InvalidRecord("field_type", f"{place_of(path)} is {kind}; only parts of type 'text' can be trained on")
    key = first_key(part, PART_KEYS, path)
    if type(part[key]) is not str:
        raise InvalidRecord("field_type", f"{key!r} of {place_of(path)} is {type(part[key]).__name__}, not a string")
    return Span((*path, key), part[key])


def parse_json(text: str, name: str) -> Any:
    """Return a field that is stored as JSON text. Raises InvalidRecord (`encoding`, `json_limits`, `json_syntax`)."""
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRecord("encoding", f"field {name!r} holds half of a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise InvalidRecord("json_limits", f"field {name!r} is nested too deeply") from error
    except ValueError as error:
        raise InvalidRecord("json_syntax", f"field {name!r} is a string but not JSON: {error}") from error
    return value
