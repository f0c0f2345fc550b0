"""Dialogues as lists of messages, in the spellings that are in use."""

from __future__ import annotations

import json
import math
from typing import Any

from sftdata.records import Example, InvalidRecord, Path, Span, Turn
from sftdata.registry import formatter

MESSAGE_FIELDS = ("messages", "conversations", "conversation", "dialog", "dialogue")
"""Where the messages are looked for, in this order, when the recipe names no field."""

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
PART_KEYS = ("text", "value", "content")

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""Role in the data, lower case → role of the turn."""

TOOL_ROLES = ("function_call", "tool_call", "tool_calls")
"""Roles whose text is a call: rendered as an ordinary answer it would teach the wrong text, so it is refused unless mapped."""
REFUSED_KEYS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Message fields beside the content that belong to what the model says: refused rather than lost."""


@formatter
def messages(
    record: dict[str, Any],
    *,
    messages: str | None = None,
    system: str | None = None,
    roles: dict[str, str] | None = None,
) -> Example:
    """Take a list of messages: OpenAI role/content, ShareGPT from/value, Colossal from/content, or content parts.

    `messages` names the field (default: the first of `MESSAGE_FIELDS` that the record has), `system` a field with a system
    prompt outside the list, `roles` maps more role names ({narrator: assistant}). A message, or a content part
    {type: text, text|value: ...}, may carry `train: true|false` and `weight` or `loss_weight` (0 is never trained). A list
    stored as JSON text is parsed and **replaces the text in the record**, so that paths lead into it. Raises InvalidRecord.
    """
    name = messages if messages is not None else _find_field(record)
    items = _message_list(record, name)
    if record.get("tools") not in (None, "", "null", "[]", []):
        raise InvalidRecord("messages_tools", "records with tools are not supported yet")
    mapped = {role.lower(): target for role, target in roles.items()} if roles else {}
    turns: list[Turn] = []
    shapes = set()
    for number, message in enumerate(items):
        turn, shape = _turn(message, (name, number), mapped)
        turns.append(turn)
        shapes.add(shape)
    if system is not None and record.get(system) not in (None, ""):
        turns.insert(0, _system_turn(record, system, turns[0]))
    return Example(tuple(turns), True, _shape(shapes))


def _find_field(record: dict[str, Any]) -> str:
    for name in MESSAGE_FIELDS:
        if record.get(name) is not None:
            return name
    known, has = ", ".join(map(repr, MESSAGE_FIELDS)), ", ".join(map(repr, record)) or "no fields"
    raise InvalidRecord("shape_unknown", f"none of the fields {known}; the record has {has}")


def _message_list(record: dict[str, Any], name: str) -> list[Any]:
    """Return the record's messages; those stored as JSON text take the place of the text in the record."""
    items = record.get(name)
    if isinstance(items, str):
        items = _parse(items, name)
        if isinstance(items, list):
            record[name] = items
    if isinstance(items, list) and items:
        return items
    if items == []:
        raise InvalidRecord("messages_empty", f"field {name!r} holds no messages")
    if name not in record:
        raise InvalidRecord.for_field(record, name)
    raise InvalidRecord("field_type", f"field {name!r} is {type(items).__name__}, not a list of messages")


def _parse(text: str, name: str) -> Any:
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


def _shape(shapes: set[str]) -> str:
    if "parts" in shapes:
        return "messages:parts"
    return f"messages:{shapes.pop()}" if len(shapes) == 1 else "messages:mixed"


def _system_turn(record: dict[str, Any], name: str, first: Turn) -> Turn:
    prompt = record[name]
    if not isinstance(prompt, str):
        raise InvalidRecord.for_field(record, name)
    if first.role == "system":
        raise InvalidRecord("messages_role", f"two system prompts: field {name!r} and the first message")
    return Turn("system", (Span((name,), prompt),))


def _turn(message: Any, path: Path, roles: dict[str, str]) -> tuple[Turn, str]:
    """Return one message as a turn, and the name of its shape."""
    if not isinstance(message, dict):
        raise InvalidRecord("field_type", f"{_place(path)} is {type(message).__name__}, not an object with role and content")
    role_key = _first_key(message, ROLE_KEYS, path)
    role = _role(message[role_key], path, roles)
    for key in REFUSED_KEYS:
        if message.get(key):
            raise InvalidRecord("messages_tools", f"{_place(path)} has {key!r}: these are not supported yet")
    content_key = _first_key(message, CONTENT_KEYS, path)
    train, weight = _flags(message, path)
    content = message[content_key]
    if type(content) is str:
        return Turn(role, (Span((*path, content_key), content),), "", train, weight), f"{role_key}/{content_key}"
    if isinstance(content, list) and content:
        return _parts_turn(role, content, (*path, content_key), (train, weight)), "parts"
    kind = "an empty list" if content == [] else type(content).__name__
    raise InvalidRecord("field_type", f"{content_key!r} of {_place(path)} is {kind}, not a string")


def _role(name: Any, path: Path, roles: dict[str, str]) -> str:
    lowered = name.strip().lower() if isinstance(name, str) else name
    role = (roles.get(lowered) or ROLES.get(lowered)) if isinstance(lowered, str) else None
    if role is not None:
        return role
    if lowered in TOOL_ROLES:
        raise InvalidRecord("messages_tools", f"{_place(path)} is a {lowered!r}: tool calls are not supported yet")
    raise InvalidRecord("messages_role", f"{_place(path)} has the unknown role {name!r}; map it with roles: {{{name}: user}}")


def _parts_turn(role: str, content: list[Any], path: Path, flags: tuple[bool | None, float]) -> Turn:
    spans, own_flags = [], []
    flagged = False
    for number, part in enumerate(content):
        place = (*path, number)
        if not isinstance(part, dict) or part.get("type", "text") != "text":
            kind = repr(part.get("type")) if isinstance(part, dict) else type(part).__name__
            raise InvalidRecord("field_type", f"{_place(place)} is {kind}; only parts of type 'text' can be trained on")
        key = _first_key(part, PART_KEYS, place)
        if type(part[key]) is not str:
            raise InvalidRecord("field_type", f"{key!r} of {_place(place)} is {type(part[key]).__name__}, not a string")
        spans.append(Span((*place, key), part[key]))
        own = _flags(part, place, flags)
        flagged = flagged or own != flags
        own_flags.append(own)
    return Turn(role, tuple(spans), "", *flags, parts=tuple(own_flags) if flagged else ())


def _flags(fields: dict[str, Any], path: Path, default: tuple[bool | None, float] = (None, 1.0)) -> tuple[bool | None, float]:
    """Return (train, weight) of a message or part; what it does not say is taken from `default`."""
    train, weight = fields.get("train"), fields.get("weight")
    if weight is None:
        weight = fields.get("loss_weight")
    if train is None and weight is None:
        return default
    if train is not None and type(train) is not bool:
        raise InvalidRecord("field_type", f"'train' of {_place(path)} is {train!r}, not true or false")
    if weight is None:
        return train, default[1]
    if type(weight) not in (int, float) or not (weight >= 0 and math.isfinite(weight)):
        raise InvalidRecord("field_type", f"'weight' of {_place(path)} is {weight!r}, not a number from 0")
    if weight == 0:
        return False, 0.0
    inherited = default[0] if default[1] else None
    return inherited if train is None else train, float(weight)


def _first_key(fields: dict[str, Any], keys: tuple[str, ...], path: Path) -> str:
    """Return the first of `keys` that holds a value; null counts only where no other key does better."""
    for key in keys:
        if fields.get(key) is not None:
            return key
    for key in keys:
        if key in fields:
            raise InvalidRecord("field_type", f"{key!r} of {_place(path)} is null")
    has = ", ".join(map(repr, fields)) or "no fields"
    raise InvalidRecord("field_missing", f"{_place(path)} has none of {', '.join(map(repr, keys))}; it has {has}")


def _place(path: Path) -> str:
    return ".".join(map(str, path))
