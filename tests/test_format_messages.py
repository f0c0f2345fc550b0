"""The formatter of dialogues."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.formatters.messages import MESSAGE_FIELDS, messages
from sftdata.records import Example, InvalidRecord
from sftdata.schemas import QUARANTINE_REASONS


def refused(record: dict[str, Any], **options: Any) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        messages(record, **options)
    assert caught.value.reason in QUARANTINE_REASONS
    return caught.value


def contents(example: Example) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in example.turns]


def with_one(message: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a"}, message]}


@pytest.mark.parametrize(
    ("record", "shape"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages:role/content"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "messages:from/value"),
        ({"messages": [{"from": "Human", "content": "a"}, {"from": "ASSISTANT", "content": "b"}]}, "messages:from/content"),
        ({"dialog": [{"role": "user", "content": "a"}, {"from": "bot", "value": "b"}]}, "messages:mixed"),
        ({"conversation": [{"role": "user", "content": "a"}, {"role": "model", "content": [{"text": "b"}]}]}, "messages:parts"),
    ],
)
def test_messages_recognises_the_spellings_in_use(record: dict[str, Any], shape: str) -> None:
    example = messages(record)
    assert contents(example) == [("user", "a"), ("assistant", "b")]
    assert (example.shape, example.chat) == (shape, True)


def test_messages_looks_for_its_field_in_a_fixed_order() -> None:
    fields: dict[str, Any] = {name: [{"role": "user", "content": name}] for name in reversed(MESSAGE_FIELDS)}
    assert len(fields) > 1
    for name in MESSAGE_FIELDS:
        assert contents(messages(fields)) == [("user", name)]
        fields[name] = None
    assert refused({"title": "x"}).reason == "shape_unknown"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text()), min_size=1, max_size=6),
    st.booleans(),
)
def test_messages_paths_write_back_every_text(turns: list[tuple[str, str]], as_json: bool) -> None:
    items = [{"role": role, "content": text} for role, text in turns]
    record: dict[str, Any] = {"messages": json.dumps(items) if as_json else items, "n": 1}
    for turn in messages(record).turns:
        for span in turn.spans:
            owner: Any = record
            for step in span.path[:-1]:
                owner = owner[step]
            assert owner[span.path[-1]] == span.text
            owner[span.path[-1]] = span.text + "!"
    assert contents(messages(record)) == [(role, text + "!") for role, text in turns]


def test_messages_as_json_text_take_the_place_of_the_text() -> None:
    record: dict[str, Any] = {"chat": '[{"from": "human", "value": "hi"}]'}
    assert messages(record, messages="chat").turns[0].spans[0].path == ("chat", 0, "value")
    assert record["chat"] == [{"from": "human", "value": "hi"}]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("not json", "json_syntax"),
        ("[" * 100_000, "json_limits"),
        ('[{"role": "user", "content": "\\ud800"}]', "encoding"),
        ("{}", "field_type"),
        ("[]", "messages_empty"),
        ([], "messages_empty"),
        (None, "field_type"),
        ({"role": "user"}, "field_type"),
        (["hi"], "field_type"),
    ],
)
def test_messages_refuses_what_is_no_list_of_messages(value: Any, reason: str) -> None:
    assert refused({"m": value}, messages="m").reason == reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "narrator", "content": "x"}, "messages_role"),
        ({"role": 3, "content": "x"}, "messages_role"),
        ({"role": ["user"], "content": "x"}, "messages_role"),
        ({"content": "x"}, "field_missing"),
        ({"role": "user"}, "field_missing"),
        ({"role": None, "content": "x"}, "field_type"),
        ({"role": "assistant", "content": None}, "field_type"),
        ({"role": "assistant", "content": 7}, "field_type"),
        ({"role": "assistant", "content": []}, "field_type"),
        ({"role": "assistant", "content": ["x"]}, "field_type"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}, "field_type"),
        ({"role": "assistant", "content": [{"type": "text"}]}, "field_missing"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "field_type"),
        ({"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}, "field_type"),
        ({"role": "assistant", "content": "x", "tool_calls": "f("}, "json_syntax"),
        ({"role": "user", "content": "x", "tool_calls": [{"name": "f"}]}, "messages_role"),
        ({"role": "assistant", "content": "x", "reasoning_content": ["because"]}, "field_type"),
        ({"from": "function_call", "value": "not JSON"}, "json_syntax"),
        ({"from": "function_call", "value": "[]"}, "field_type"),
        ({"from": "function_call", "value": 7}, "field_type"),
        ({"role": "user", "content": "x", "train": "yes"}, "field_type"),
        ({"role": "user", "content": "x", "weight": -1}, "field_type"),
        ({"role": "user", "content": "x", "weight": float("nan")}, "field_type"),
        ({"role": "user", "content": "x", "weight": True}, "field_type"),
    ],
)
def test_messages_refuses_a_message_it_cannot_read(message: dict[str, Any], reason: str) -> None:
    error = refused(with_one(message))
    assert error.reason == reason
    assert "messages.1" in error.detail


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "moon"}}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_messages_carries_tools_calls_and_reasoning_to_the_template(tools: Any) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [CALL], "thinking": "Look up."}
    answer = {"role": "tool", "content": "full", "tool_call_id": "c1", "name": "look"}
    example = messages({**with_one(call), "messages": [*with_one(call)["messages"], answer], "tools": tools})
    assert example.tools == TOOLS and example.shape == "messages:role/content+tools"
    assert contents(example) == [("user", "a"), ("assistant", ""), ("tool", "full")]
    called, answered = example.turns[1], example.turns[2]
    assert called.spans == () and called.fields == {"tool_calls": [CALL]}
    assert called.reasoning == (("messages", 1, "thinking"), "Look up.")
    assert answered.fields == {"tool_call_id": "c1", "name": "look"}


@pytest.mark.parametrize("empty", [None, "", "null", "[]", []])
def test_messages_without_tools_are_as_before(empty: Any) -> None:
    record = with_one({"role": "assistant", "content": "b", "tool_calls": [], "reasoning_content": None})
    example = messages({**record, "tools": empty})
    assert example.tools is None and example.shape == "messages:role/content"
    assert all(turn.fields is None and turn.reasoning is None for turn in example.turns)


def test_messages_refuses_tools_that_are_none_and_leaves_them_out_when_told() -> None:
    record = {**with_one({"role": "assistant", "content": "b"}), "tools": {"name": "f"}, "mine": TOOLS}
    assert refused(record).reason == "field_type"
    assert refused({**record, "tools": "[1]"}).reason == "field_type"
    assert messages(record, tools=None).tools is None
    assert messages(record, tools="mine").tools == TOOLS


def test_messages_takes_calls_in_older_spellings() -> None:
    function = {"name": "look", "arguments": '{"at": "moon"}'}
    wanted = {"tool_calls": [{"type": "function", "function": function}]}
    assert messages(with_one({"role": "assistant", "content": "", "function_call": function})).turns[1].fields == wanted
    turn = messages(with_one({"from": "function_call", "value": json.dumps(function), "weight": 0.5})).turns[1]
    assert (turn.role, turn.fields, turn.weight) == ("assistant", wanted, 0.5)
    two = messages(with_one({"role": "tool_calls", "content": json.dumps([function, function])})).turns[1]
    assert two.fields is not None and len(two.fields["tool_calls"]) == 2


def test_messages_maps_further_roles_in_any_case() -> None:
    record = with_one({"role": " Narrator", "content": "x"})
    assert contents(messages(record, roles={"NARRATOR": "assistant"}))[1] == ("assistant", "x")
    call = with_one({"from": "function_call", "value": "f()"})
    assert contents(messages(call, roles={"function_call": "assistant"}))[1] == ("assistant", "f()")


def test_messages_takes_a_system_prompt_from_a_field() -> None:
    record = {"system": "Be brief.", "conversations": [{"from": "human", "value": "a"}]}
    example = messages(record, system="system")
    assert contents(example) == [("system", "Be brief."), ("user", "a")]
    assert example.turns[0].spans[0].path == ("system",)
    assert len(messages({**record, "system": None}, system="system").turns) == 1
    record["conversations"] = [{"from": "system", "value": "s"}]
    assert refused(record, system="system").reason == "messages_role"


@pytest.mark.parametrize(
    ("flags", "train", "weight"),
    [
        ({}, None, 1.0),
        ({"train": None, "weight": None}, None, 1.0),
        ({"train": False}, False, 1.0),
        ({"train": True, "weight": 0.5}, True, 0.5),
        ({"loss_weight": 2}, None, 2.0),
        ({"weight": 0}, False, 0.0),
        ({"train": True, "loss_weight": 0}, False, 0.0),
    ],
)
def test_messages_honours_train_and_weight(flags: dict[str, Any], train: bool | None, weight: float) -> None:
    turn = messages(with_one({"role": "assistant", "content": "b", **flags})).turns[1]
    assert (turn.train, turn.weight, turn.parts) == (train, weight, ())


def test_messages_keeps_the_flags_of_content_parts() -> None:
    parts = [{"type": "text", "text": "a", "train": False}, {"text": "b", "weight": 0.5}, {"type": "text", "value": "c"}]
    turn = messages(with_one({"role": "assistant", "content": parts, "weight": 2})).turns[1]
    assert turn.content == "abc"
    assert turn.parts == ((False, 2.0), (None, 0.5), (None, 2.0))
    assert [span.path[-2:] for span in turn.spans] == [(0, "text"), (1, "text"), (2, "value")]
    plain = messages(with_one({"role": "assistant", "content": [{"text": "a"}, {"text": "b"}]})).turns[1]
    assert plain.parts == () and plain.content == "ab"


def test_messages_leaves_a_record_of_lists_untouched() -> None:
    record = with_one({"role": "assistant", "content": [{"text": "b", "weight": 1}]})
    before = copy.deepcopy(record)
    messages(record)
    assert record == before


def test_messages_passes_variables_and_takes_no_texts_for_them() -> None:
    record = with_one({"role": "assistant", "content": "b"})
    assert messages(record).variables is None
    given = {"enable_thinking": True, "style": "brief"}
    own = {**record, "chat_template_kwargs": {"enable_thinking": False}}
    assert messages(own, template_variables=given).variables == {"enable_thinking": False, "style": "brief"}
    assert given["enable_thinking"] is True
    for bad in ({"style": "<|im_end|>"}, "x", [1]):
        assert refused({**record, "chat_template_kwargs": bad}).reason == "field_type"
