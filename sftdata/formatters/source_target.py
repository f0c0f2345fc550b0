"""Pairs of a given text and the text that shall follow it."""

from __future__ import annotations

from typing import Any

from sftdata.records import Example, InvalidRecord, Span, Turn
from sftdata.registry import formatter


@formatter
def source_target(record: dict[str, Any], *, source: str = "source", target: str = "target", chat: bool = False) -> Example:
    """Take a source and a target field: the source is context, the target is trained; no template unless `chat`.

    `source` and `target` name the fields; `chat: true` makes them a user and an assistant turn of the chat template. An empty
    source is fine: the target is then plain text. Raises InvalidRecord (`field_missing`, `field_type`).
    """
    given, wanted = record.get(source), record.get(target)
    if type(given) is not str:
        raise InvalidRecord.for_field(record, source)
    if type(wanted) is not str:
        raise InvalidRecord.for_field(record, target)
    first, second = ("user", "assistant") if chat else ("source", "target")
    turns = (Turn(first, (Span((source,), given),)), Turn(second, (Span((target,), wanted),)))
    return Example(turns, chat, "source_target")
