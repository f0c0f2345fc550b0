"""Records of several shapes in one source: each is recognised on its own, by a fixed ladder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sftdata import registry
from sftdata.records import Example, InvalidRecord
from sftdata.registry import formatter

LADDER: tuple[tuple[str, tuple[tuple[str, ...], ...], dict[str, Any]], ...] = (
    ("messages", (("messages",), ("conversations",), ("conversation",), ("dialog",), ("dialogue",)), {"system": "system"}),
    ("input_output", (("segments",),), {}),
    ("instruction", (("instruction", "output"),), {"system": "system", "history": "history"}),
    ("source_target", (("source", "target"),), {}),
    ("source_target", (("prompt", "completion"),), {"source": "prompt", "target": "completion", "chat": True}),
    ("source_target", (("prompt", "response"),), {"source": "prompt", "target": "response", "chat": True}),
    ("source_target", (("question", "answer"),), {"source": "question", "target": "answer", "chat": True}),
    ("text", (("text",),), {}),
)
"""(formatter, the fields by which it is chosen, its options), tried in this order."""


@formatter
def auto(record: dict[str, Any], *, roles: dict[str, str] | None = None) -> Example:
    """Take records of any shape that is known, each by its own: messages, segments, instruction, source/target, text.

    The first rung of `LADDER` all of whose fields the record has, none of them null, decides; the build's counts say how many
    records had which shape. `roles` is that of `messages`. Raises InvalidRecord (`shape_unknown`, or what the formatter finds).
    """
    for name, choices, options in LADDER:
        if any(all(record.get(field) is not None for field in fields) for fields in choices):
            function: Callable[..., Example] = registry.find_step("formatter", name, allow_code=False).function
            given = {**options, "roles": roles} if name == "messages" else options
            return function(record, **given)
    known = ", ".join("+".join(fields) for _, choices, _ in LADDER for fields in choices)
    raise InvalidRecord("shape_unknown", f"the record has {', '.join(map(repr, record)) or 'no fields'}; known are {known}")
