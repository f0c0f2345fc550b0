"""Plain text for pretraining."""

from __future__ import annotations

from typing import Any

from sftdata.records import Example, InvalidRecord, Span, Turn
from sftdata.registry import formatter


@formatter
def text(record: dict[str, Any], *, text: str = "text") -> Example:
    """Take one field as plain text: no template, everything is trained.

    `text` names the field. Raises InvalidRecord (`field_missing`, `field_type`).
    """
    value = record.get(text)
    if type(value) is not str:
        raise InvalidRecord.for_field(record, text)
    return Example((Turn("text", (Span((text,), value),)),), False, "text")
