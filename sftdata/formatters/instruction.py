"""Records of the Alpaca kind: instruction, optional input, output, and optionally a system prompt and earlier turns."""

from __future__ import annotations

from typing import Any

from sftdata.records import Example, InvalidRecord, Span, Turn
from sftdata.registry import formatter


@formatter
def instruction(
    record: dict[str, Any],
    *,
    instruction: str = "instruction",
    input: str = "input",
    output: str = "output",
    system: str | None = None,
    history: str | None = None,
) -> Example:
    """Take instruction, input and output fields: the first two make the user's turn, the output is the answer.

    The options name the record's fields. An input that is missing, null or blank is left out; else it follows the instruction
    after a newline. `system` names a field with a system prompt and `history` one with earlier [user, assistant] pairs; a
    record where they are missing, null or empty has none, and its shape says so (`instruction+system+history`).
    Raises InvalidRecord (`field_missing`, `field_type`).
    """
    asked, given, answer = record.get(instruction), record.get(input), record.get(output)
    if type(asked) is not str:
        raise InvalidRecord.for_field(record, instruction)
    if type(answer) is not str:
        raise InvalidRecord.for_field(record, output)
    question = _question(record, Span((instruction,), asked), input, given)
    turns = (question, Turn("assistant", (Span((output,), answer),)))
    if system is None and history is None:
        return Example(turns, True, "instruction")
    before, shape = _earlier_turns(record, system, history)
    return Example(before + turns, True, shape)


def _question(record: dict[str, Any], asked: Span, name: str, given: Any) -> Turn:
    if given is None or given == "":
        return Turn("user", (asked,))
    if type(given) is not str:
        raise InvalidRecord.for_field(record, name)
    if given.isspace():
        return Turn("user", (asked,))
    span = Span((name,), given)
    if not asked.text or asked.text.isspace():
        return Turn("user", (span,))
    return Turn("user", (asked, span), "\n")


def _earlier_turns(record: dict[str, Any], system: str | None, history: str | None) -> tuple[tuple[Turn, ...], str]:
    """Return the turns before the question, and the shape's name."""
    turns: list[Turn] = []
    shape = "instruction"
    prompt = None if system is None else record.get(system)
    if system is not None and prompt is not None and prompt != "":
        if type(prompt) is not str:
            raise InvalidRecord.for_field(record, system)
        turns.append(Turn("system", (Span((system,), prompt),)))
        shape += "+system"
    pairs = None if history is None else record.get(history)
    if history is not None and pairs is not None and pairs != []:
        turns.extend(_history_turns(pairs, history))
        shape += "+history"
    return tuple(turns), shape


def _history_turns(pairs: Any, name: str) -> list[Turn]:
    if not isinstance(pairs, list):
        raise InvalidRecord("field_type", f"field {name!r} is {type(pairs).__name__}, not a list of [user, assistant] pairs")
    turns: list[Turn] = []
    for number, pair in enumerate(pairs):
        if not (isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is str and type(pair[1]) is str):
            raise InvalidRecord("field_type", f"item {number} of field {name!r} is not a [user, assistant] pair of strings")
        turns.append(Turn("user", (Span((name, number, 0), pair[0]),)))
        turns.append(Turn("assistant", (Span((name, number, 1), pair[1]),)))
    return turns
