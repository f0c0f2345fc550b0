"""Tool definitions and tool calls of a record, in the spellings that are in use, as chat templates take them."""

from __future__ import annotations

from typing import Any

from sftdata.formatters._parts import parse_json, place_of
from sftdata.records import InvalidRecord, Path

EMPTY: tuple[Any, ...] = (None, "", "null", "[]", "{}", [], {})


def tool_definitions(record: dict[str, Any], name: str) -> list[dict[str, Any]] | None:
    """Return a record's tools, a list of objects or JSON text of one; None where it has none. Raises InvalidRecord."""
    tools = record.get(name)
    if tools in EMPTY:
        return None
    if isinstance(tools, str):
        tools = parse_json(tools, name)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidRecord("field_type", f"field {name!r} is {type(tools).__name__}, not a list of tool definitions")
    return tools or None


def tool_calls(message: dict[str, Any], path: Path) -> list[dict[str, Any]] | None:
    """Return a message's `tool_calls`, or its older `function_call`; None where it has none. Raises InvalidRecord."""
    for key in ("tool_calls", "function_call"):
        if message.get(key) not in EMPTY:
            return _checked(message[key], (*path, key))
    return None


def written_calls(text: Any, path: Path) -> list[dict[str, Any]]:
    """Return the calls of a turn whose text is one, or a list of them, as JSON. Raises InvalidRecord."""
    if not isinstance(text, (str, list, dict)):
        raise InvalidRecord("field_type", f"{place_of(path)} is {type(text).__name__}, not a tool call")
    return _checked(text, path)


def _checked(value: Any, path: Path) -> list[dict[str, Any]]:
    calls = parse_json(value, place_of(path)) if isinstance(value, str) else value
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls:
        raise InvalidRecord("field_type", f"{place_of(path)} is no list of tool calls")
    made = []
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRecord("field_type", f"{place_of((*path, number))} is no tool call: it has no name")
        made.append(call if function is not call else {"type": "function", "function": call})
    return made
