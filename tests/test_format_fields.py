"""The formatters of plain fields: text, source_target, instruction."""

from __future__ import annotations

from typing import Any

import pytest

from sftdata.formatters.instruction import instruction
from sftdata.formatters.source_target import source_target
from sftdata.formatters.text import text
from sftdata.records import Example, InvalidRecord
from sftdata.registry import check_options, find_step
from sftdata.schemas import QUARANTINE_REASONS


def contents(example: Example) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in example.turns]


def value_at(record: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        record = record[step]
    return record


def assert_paths_lead_to_the_texts(record: dict[str, Any], example: Example) -> None:
    spans = [span for turn in example.turns for span in turn.spans]
    assert spans
    for span in spans:
        assert value_at(record, span.path) == span.text


def refused(function: Any, record: dict[str, Any], **options: Any) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        function(record, **options)
    assert caught.value.reason in QUARANTINE_REASONS
    return caught.value


def test_text_takes_the_named_field() -> None:
    example = text({"story": "从前 有座山", "n": 1}, text="story")
    assert contents(example) == [("text", "从前 有座山")]
    assert example.turns[0].spans[0].path == ("story",)
    assert (example.chat, example.shape) == (False, "text")


def test_source_target_is_plain_or_a_chat() -> None:
    record = {"q": "", "a": "Forty-two."}
    plain, chat = source_target(record, source="q", target="a"), source_target(record, source="q", target="a", chat=True)
    assert contents(plain) == [("source", ""), ("target", "Forty-two.")] and not plain.chat
    assert contents(chat) == [("user", ""), ("assistant", "Forty-two.")] and chat.chat
    assert_paths_lead_to_the_texts(record, chat)


@pytest.mark.parametrize("blank", [{}, {"input": None}, {"input": ""}, {"input": " \n"}])
def test_instruction_without_input_is_the_instruction_alone(blank: dict[str, Any]) -> None:
    example = instruction({"instruction": "Name a colour.", "output": "Red.", **blank})
    assert contents(example) == [("user", "Name a colour."), ("assistant", "Red.")]
    assert example.shape == "instruction" and example.chat


def test_instruction_joins_the_input_by_a_newline() -> None:
    record = {"instruction": "Translate.", "input": "你好", "output": "Hello."}
    example = instruction(record)
    assert contents(example)[0] == ("user", "Translate.\n你好")
    assert [span.path for span in example.turns[0].spans] == [("instruction",), ("input",)]
    assert_paths_lead_to_the_texts(record, example)


def test_instruction_that_is_blank_leaves_the_input_alone() -> None:
    assert contents(instruction({"instruction": " ", "input": "你好", "output": "Hello."}))[0] == ("user", "你好")


def test_instruction_places_system_and_history_before() -> None:
    record = {"instruction": "c", "output": "d", "sys": "s", "past": [["a", "b"], ["e", "f"]]}
    example = instruction(record, system="sys", history="past")
    assert "".join(turn.content for turn in example.turns) == "sabefcd"
    assert [turn.role for turn in example.turns] == ["system"] + ["user", "assistant"] * 3
    assert example.shape == "instruction+system+history"
    assert_paths_lead_to_the_texts(record, example)


@pytest.mark.parametrize("empty", [{}, {"sys": None, "past": None}, {"sys": "", "past": []}])
def test_instruction_without_system_and_history_says_so(empty: dict[str, Any]) -> None:
    example = instruction({"instruction": "a", "output": "b", **empty}, system="sys", history="past")
    assert example.shape == "instruction" and len(example.turns) == 2


def test_formatters_name_the_missing_field_and_what_is_there() -> None:
    for function, field in ((text, "text"), (source_target, "source"), (instruction, "instruction")):
        error = refused(function, {"title": "x", "body": "y"})
        assert error.reason == "field_missing"
        assert repr(field) in error.detail and "'title', 'body'" in error.detail


@pytest.mark.parametrize("value", [None, 7, True, ["a"], {"a": 1}])
def test_formatters_refuse_values_that_are_no_strings(value: Any) -> None:
    assert refused(text, {"text": value}).reason == "field_type"
    assert refused(source_target, {"source": "a", "target": value}).reason == "field_type"
    assert refused(instruction, {"instruction": "a", "output": value}).reason == "field_type"
    if value is not None:
        assert refused(instruction, {"instruction": "a", "output": "b", "input": value}).reason == "field_type"
        assert refused(instruction, {"instruction": "a", "output": "b", "s": value}, system="s").reason == "field_type"


@pytest.mark.parametrize("past", ["x", {"a": 1}, [["a"]], [["a", "b", "c"]], ["ab"], [["a", None]]])
def test_instruction_refuses_a_history_of_no_pairs(past: Any) -> None:
    error = refused(instruction, {"instruction": "a", "output": "b", "past": past}, history="past")
    assert error.reason == "field_type" and "'past'" in error.detail


def test_formatters_are_registered_with_their_options() -> None:
    step = find_step("formatter", "instruction")
    assert check_options(step, {"system": "s"}) == {"system": "s"}
    assert find_step("formatter", "messages").help and find_step("formatter", "text").help
    assert check_options(find_step("formatter", "messages"), {"roles": {"narrator": "assistant"}})
