"""Dialogues as lists of messages, in the spellings that are in use."""

from __future__ import annotations

from typing import Any

from sftdata.formatters._parts import Flags, first_key, flags, parse_json, place_of, text_part
from sftdata.formatters._tools import tool_calls, tool_definitions, written_calls
from sftdata.records import Example, InvalidRecord, Path, Span, Turn
from sftdata.registry import formatter

MESSAGE_FIELDS = ("messages", "conversations", "conversation", "dialog", "dialogue")
"""Where the messages are looked for, in this order, when the recipe names no field."""

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
TEMPLATE_FIELDS = ("tool_call_id", "name")
"""Fields that go to the chat template as they are."""

ROLES = {
    "system": "system",
    "developer": "system",
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

PLAIN_SHAPES = {(role, content): f"{role}/{content}" for role in ROLE_KEYS for content in CONTENT_KEYS}
CALL_ROLES = ("function_call", "tool_call", "tool_calls")
"""Roles of an assistant's turn whose text is a tool call, as JSON."""


@formatter
def messages(
    record: dict[str, Any],
    *,
    messages: str | None = None,
    system: str | None = None,
    roles: dict[str, str] | None = None,
    tools: str | None = "tools",
    template_variables: dict[str, Any] | None = None,
) -> Example:
    """Take a list of messages: OpenAI role/content, ShareGPT from/value, Colossal from/content, or content parts.

    `messages` names the field (default: the first of `MESSAGE_FIELDS` that the record has), `system` a field with a system
    prompt outside the list, `tools` one with tool definitions (null leaves them out), `roles` maps more role names
    ({narrator: assistant}). A message may carry `tool_calls` and `reasoning_content`, and it or a content part
    {type: text, text|value: ...} may carry `train: true|false` and `weight` or `loss_weight` (0 is never trained). A list
    stored as JSON text is parsed and **replaces the text in the record**, so that paths lead into it.

    `template_variables` are set for the chat template ({enable_thinking: false}); those of a record's own field
    `chat_template_kwargs`, which may only be switches and numbers, go before them. Raises InvalidRecord.
    """
    name = messages if messages is not None else _find_field(record)
    items = _message_list(record, name)
    mapped = {role.lower(): target for role, target in roles.items()} if roles else {}
    turns: list[Turn] = []
    shapes = set()
    plain_roles = {role: name for role, name in {**ROLES, **mapped}.items() if name not in CALL_ROLES} if mapped else ROLES
    for number, message in enumerate(items):
        plain = _plain_turn(message, name, number, plain_roles)
        turn, shape = plain or _turn(message, (name, number), mapped)
        turns.append(turn)
        shapes.add(shape)
    if system is not None and record.get(system) not in (None, ""):
        turns.insert(0, _system_turn(record, system, turns[0]))
    offered = None if tools is None else tool_definitions(record, tools)
    shape = _shape(shapes) + ("+tools" if offered or any(turn.fields for turn in turns) else "")
    return Example(tuple(turns), True, shape, offered, _variables(record, template_variables))


def _variables(record: dict[str, Any], given: dict[str, Any] | None) -> dict[str, Any] | None:
    own = record.get("chat_template_kwargs")
    if not own:
        return given
    if not isinstance(own, dict) or not all(value is None or isinstance(value, (bool, int, float)) for value in own.values()):
        raise InvalidRecord("field_type", "field 'chat_template_kwargs' may hold switches and numbers, no texts")
    return {**(given or {}), **own}


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
        items = parse_json(items, name)
        if isinstance(items, list):
            record[name] = items
    if isinstance(items, list) and items:
        return items
    if items == []:
        raise InvalidRecord("messages_empty", f"field {name!r} holds no messages")
    if name not in record:
        raise InvalidRecord.for_field(record, name)
    raise InvalidRecord("field_type", f"field {name!r} is {type(items).__name__}, not a list of messages")


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
        raise InvalidRecord("field_type", f"{place_of(path)} is {type(message).__name__}, not an object with role and content")
    role_key = first_key(message, ROLE_KEYS, path)
    role = _role(message[role_key], path, roles)
    if role in CALL_ROLES:
        content_key = first_key(message, CONTENT_KEYS, path)
        calls = written_calls(message[content_key], (*path, content_key))
        train, weight = flags(message, path)
        return Turn("assistant", (), "", train, weight, fields={"tool_calls": calls}), f"{role_key}/{content_key}"
    turn, shape = _content_turn(role, message, path, role_key)
    return _with_fields(turn, message, path), shape


def _plain_turn(message: Any, name: str, number: int, roles: dict[str, str]) -> tuple[Turn, str] | None:
    """Return a message that is a known role and a text and nothing else, as most are; None for any other."""
    if type(message) is not dict or len(message) != 2:
        return None
    (role_key, role), (content_key, content) = message.items()
    shape = PLAIN_SHAPES.get((role_key, content_key))
    if shape is None or type(content) is not str or type(role) is not str or role not in roles:
        return None
    return Turn(roles[role], (Span((name, number, content_key), content),)), shape


def _content_turn(role: str, message: dict[str, Any], path: Path, role_key: str) -> tuple[Turn, str]:
    """Return a message's content as a turn; it may be missing where the message calls a tool."""
    own = flags(message, path)
    content_key = next((key for key in CONTENT_KEYS if message.get(key) is not None), None)
    if (content_key is None or message[content_key] == []) and tool_calls(message, path):
        return Turn(role, (), "", *own), f"{role_key}/{content_key or CONTENT_KEYS[0]}"
    content_key = content_key or first_key(message, CONTENT_KEYS, path)
    content = message[content_key]
    if type(content) is str:
        return Turn(role, (Span((*path, content_key), content),), "", *own), f"{role_key}/{content_key}"
    if isinstance(content, list) and content:
        return _parts_turn(role, content, (*path, content_key), own), "parts"
    kind = "an empty list" if content == [] else type(content).__name__
    raise InvalidRecord("field_type", f"{content_key!r} of {place_of(path)} is {kind}, not a string")


def _with_fields(turn: Turn, message: dict[str, Any], path: Path) -> Turn:
    """Return a turn with the message's reasoning, tool calls, and what else the template may read."""
    key = next((key for key in REASONING_KEYS if message.get(key)), None)
    if key is not None:
        if type(message[key]) is not str:
            raise InvalidRecord("field_type", f"{key!r} of {place_of(path)} is {type(message[key]).__name__}, not a string")
        turn = turn._replace(reasoning=Span((*path, key), message[key]))
    fields = {name: message[name] for name in TEMPLATE_FIELDS if message.get(name) is not None}
    calls = tool_calls(message, path)
    if calls:
        fields["tool_calls"] = calls
    if calls and turn.role != "assistant":
        raise InvalidRecord("messages_role", f"{place_of(path)} calls a tool, but its role is {turn.role!r}")
    return turn._replace(fields=fields) if fields else turn


def _role(name: Any, path: Path, roles: dict[str, str]) -> str:
    lowered = name.strip().lower() if isinstance(name, str) else name
    role = (roles.get(lowered) or ROLES.get(lowered)) if isinstance(lowered, str) else None
    if role is not None:
        return role
    if lowered in CALL_ROLES:
        return str(lowered)
    raise InvalidRecord("messages_role", f"{place_of(path)} has the unknown role {name!r}; map it with roles: {{{name}: user}}")


def _parts_turn(role: str, content: list[Any], path: Path, own: Flags) -> Turn:
    spans = tuple(text_part(part, (*path, number)) for number, part in enumerate(content))
    of_parts = tuple(flags(part, (*path, number), own) for number, part in enumerate(content))
    flagged = any(of_part != own for of_part in of_parts)
    return Turn(role, spans, "", *own, parts=of_parts if flagged else ())
