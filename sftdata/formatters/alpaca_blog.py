"""Records of the Alpaca kind with the prompt of a published comparison of padding, packing and concatenation on GPT-2."""

from __future__ import annotations

from typing import Any

from sftdata.records import Example, InvalidRecord, Span, Turn
from sftdata.registry import formatter

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n    \n"
)
"""The line of four spaces is the published handler's: its training prompt is an indented literal."""
INPUT = ". Here are the inputs: "


@formatter
def alpaca_blog(
    record: dict[str, Any],
    *,
    instruction: str = "instruction",
    input: str = "input",
    output: str = "output",
    keep_empty_input: bool = False,
) -> Example:
    """Take instruction, input and output fields with a fixed prompt before them, as the published GPT-2 comparison does.

    The options name the record's fields. An empty or missing input is left out; the first published version kept it, and wrote
    the words that announce it after the instruction: `keep_empty_input`. Raises InvalidRecord (`field_missing`, `field_type`).
    """
    asked, given, answer = record.get(instruction), record.get(input), record.get(output)
    if type(asked) is not str:
        raise InvalidRecord.for_field(record, instruction)
    if given is not None and type(given) is not str:
        raise InvalidRecord.for_field(record, input)
    if type(answer) is not str:
        raise InvalidRecord.for_field(record, output)
    question: tuple[Span, ...] = (Span((), PROMPT), Span((instruction,), asked))
    if given or keep_empty_input:
        question += (Span((), INPUT),)
    if given:
        question += (Span((input,), given),)
    turns = (Turn("user", question), Turn("assistant", (Span((output,), answer),)))
    return Example(turns, True, "alpaca_blog")
