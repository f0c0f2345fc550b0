"""Records of segments that say themselves what is trained, without a template."""

from __future__ import annotations

from typing import Any

from sftdata.formatters._parts import flags, parse_json, place_of, text_part
from sftdata.records import Example, InvalidRecord, Turn
from sftdata.registry import formatter


@formatter
def input_output(record: dict[str, Any], *, segments: str = "segments") -> Example:
    """Take a list of segments, {text: ..., train: true|false}: their texts as they are, each trained or not.

    `segments` names the field. `label` is another name of `train`; `weight` may stand beside it. No template, no BOS and no
    EOS is added, and control tokens written in the texts act: the record is the whole row. Raises InvalidRecord.
    """
    items = record.get(segments)
    if isinstance(items, str):
        items = parse_json(items, segments)
        record[segments] = items
    if items == []:
        raise InvalidRecord("messages_empty", f"field {segments!r} holds no segments")
    if not isinstance(items, list):
        if segments not in record:
            raise InvalidRecord.for_field(record, segments)
        raise InvalidRecord("field_type", f"field {segments!r} is {type(items).__name__}, not a list of segments")
    turns = []
    for number, item in enumerate(items):
        path = (segments, number)
        span = text_part(item, path)
        train, weight = flags(item if "train" in item else {**item, "train": item.get("label")}, path)
        if train is None:
            raise InvalidRecord("field_missing", f"{place_of(path)} does not say whether it is trained: train: true or false")
        turns.append(Turn("segment", (span,), "", train, weight))
    return Example(tuple(turns), False, "input_output", verbatim=True)
