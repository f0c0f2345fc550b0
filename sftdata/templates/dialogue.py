"""What a chat template is given of a dialogue: messages and tools, as plain values or with every text of the record traced."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sftdata.records import Turn
from sftdata.templates.traced import cut, trace

CONTENT, REASONING, CALL, OTHER = "content", "reasoning", "call", "other"
"""What a text is: a turn's content, its separate reasoning, the name or an argument of a tool call, or anything else: ids,
names and tool definitions, which may be written or not."""


class Leaf(NamedTuple):
    """One text of the record that a template may write."""

    turn: int
    """−1 for the tools that are on offer."""
    kind: str
    text: str
    plain_arguments: bool = False
    """The arguments of a call as one JSON text, which a template must not put between quotes."""


class Form(NamedTuple):
    """How a dialogue is put where templates differ in what they take."""

    parts: bool = False
    """Contents as lists of text parts."""
    arguments: type | None = None
    """The arguments of tool calls all as `dict` or all as `str` (JSON text); None: as they stand in the record."""
    null: bool = False
    """A content that is null stays so; else it is an empty text, since many templates would write the word None."""


class Dialogue(NamedTuple):
    """The variables of a template."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    leaves: list[Leaf]
    """The texts by the number in their runs; none where nothing is traced."""


def forms(turns: Sequence[Turn], parts: bool) -> Iterator[Form]:
    """Yield the forms to try, that of the record first: what a template raises on, or writes wrongly, it may take in another.

    `parts`: contents go as lists of parts.
    """
    yield Form(parts)
    calls = [call for turn in turns if turn.fields for call in turn.fields.get("tool_calls") or ()]
    kinds = {type(function_of(call).get("arguments")) for call in calls}
    others: list[type | None] = [kind for kind in (dict, str) if kinds & {dict, str} and kinds - {kind}]
    for arguments in others:
        yield Form(parts, arguments)
    if any(not turn.spans for turn in turns):
        for arguments in (None, *others):
            yield Form(parts, arguments, null=True)


def function_of(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object of a tool call that holds its name and arguments."""
    function = call.get("function")
    return function if isinstance(function, dict) else call


def plain_dialogue(turns: Sequence[Turn], tools: Sequence[Any] | None, form: Form) -> Dialogue:
    """Return the variables as plain values."""
    return _dialogue(turns, tools, form, None)


def traced_dialogue(turns: Sequence[Turn], tools: Sequence[Any] | None, form: Form) -> Dialogue:
    """Return the variables with every text of the record traced."""
    return _dialogue(turns, tools, form, [])


def _dialogue(turns: Sequence[Turn], tools: Sequence[Any] | None, form: Form, leaves: list[Leaf] | None) -> Dialogue:
    messages = [_message(turn, number, form, leaves) for number, turn in enumerate(turns)]
    offered = _tree(list(tools), -1, OTHER, leaves) if tools else None
    return Dialogue(messages, offered, leaves or [])


def _traced(leaves: list[Leaf] | None, number: int, kind: str, text: str, plain_arguments: bool = False) -> str:
    if leaves is None:
        return text
    leaves.append(Leaf(number, kind, text, plain_arguments))
    return trace(text, len(leaves) - 1)


def _message(turn: Turn, number: int, form: Form, leaves: list[Leaf] | None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role}
    if turn.spans or not form.null:
        content = _traced(leaves, number, CONTENT, turn.content)
        message["content"] = _parts(turn, content) if form.parts else content
    else:
        message["content"] = None
    if turn.fields:
        message |= {name: _tree(value, number, OTHER, leaves) for name, value in turn.fields.items() if name != "tool_calls"}
        if turn.fields.get("tool_calls"):
            message["tool_calls"] = [_call(call, number, form, leaves) for call in turn.fields["tool_calls"]]
    if turn.reasoning is not None:  # under the names that templates read too, as transformers does
        reasoning = _traced(leaves, number, REASONING, turn.reasoning.text)
        message |= dict.fromkeys(("thinking", "reasoning_content", *map(str, turn.reasoning.path[-1:])), reasoning)
    return message


def _parts(turn: Turn, content: str) -> list[dict[str, str]]:
    """Return a content as text parts: one a span, where nothing joins the spans."""
    if turn.joint or len(turn.spans) < 2:
        return [{"type": "text", "text": content}]
    parts = []
    position = 0
    for span in turn.spans:
        parts.append({"type": "text", "text": cut(content, position, position + len(span.text))})
        position += len(span.text)
    return parts


def _call(call: Mapping[str, Any], number: int, form: Form, leaves: list[Leaf] | None) -> dict[str, Any]:
    """Return a tool call; its name and arguments must be written, its id and type may be."""
    function = function_of(call)
    if function is not call:
        others = {name: _tree(value, number, OTHER, leaves) for name, value in call.items() if name != "function"}
        return {**others, "function": _call(function, number, form, leaves)}
    made: dict[str, Any] = {}
    for name, value in call.items():
        if name == "arguments":
            made[name] = _arguments(value, number, form.arguments, leaves)
        else:
            made[name] = _tree(value, number, CALL if name == "name" else OTHER, leaves)
    return made


def _arguments(value: Any, number: int, wanted: type | None, leaves: list[Leaf] | None) -> Any:
    if wanted is dict and isinstance(value, str):
        parsed = _parsed(value)
        value = parsed if isinstance(parsed, dict) else value
    elif wanted is str and isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        return _traced(leaves, number, CALL, value, isinstance(_parsed(value), dict))
    return _tree(value, number, CALL, leaves)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # not JSON: the text stays what it is


def _tree(value: Any, number: int, kind: str, leaves: list[Leaf] | None) -> Any:
    """Return a JSON value with every text in it traced, keys too."""
    if leaves is None:
        return value
    if isinstance(value, str):
        return _traced(leaves, number, kind, value)
    if isinstance(value, dict):
        return {_tree(name, number, kind, leaves): _tree(item, number, kind, leaves) for name, item in value.items()}
    if isinstance(value, list):
        return [_tree(item, number, kind, leaves) for item in value]
    return value
