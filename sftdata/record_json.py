"""Records as canonical JSON text, the form in which they travel between phases."""

from __future__ import annotations

import json
from typing import Any

import orjson


def canonical(value: Any) -> str:
    """Return a record, or a value of one, as JSON text: keys in their order, no spaces, UTF-8 as it is."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers past 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse(text: str) -> Any:
    """Return what `canonical` wrote."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
