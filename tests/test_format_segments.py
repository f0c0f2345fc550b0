"""Records that say themselves what is trained, and sources of mixed shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from build_support import write_small_recipe

import sftdata
from sftdata.formatters.auto import LADDER, auto
from sftdata.formatters.input_output import input_output
from sftdata.records import InvalidRecord
from sftdata.registry import check_options, find_step
from sftdata.schemas import QUARANTINE_REASONS
from sftdata.templates.render import TrainScope, render_verbatim

SEGMENTS = [
    {"text": "<s>Q: ", "label": False},
    {"type": "text", "value": "A: yes", "train": True, "weight": 0.5},
    {"text": "</s>", "train": True},
]


@pytest.mark.parametrize("as_json", [False, True])
def test_segments_are_the_whole_text_trained_by_their_own_flags(as_json: bool) -> None:
    record: dict[str, Any] = {"segments": json.dumps(SEGMENTS) if as_json else SEGMENTS}
    example = input_output(record)
    assert (example.chat, example.verbatim, example.shape) == (False, True, "input_output")
    assert [record["segments"][turn.spans[0].path[1]][turn.spans[0].path[2]] for turn in example.turns] == [
        "<s>Q: ", "A: yes", "</s>",
    ]  # fmt: skip
    rendered = render_verbatim(example.turns, TrainScope())
    assert rendered.text == "<s>Q: A: yes</s>"
    assert [rendered.text[low:high] for low, high in rendered.trained] == ["A: yes</s>"]
    assert [(rendered.text[low:high], weight) for low, high, weight in rendered.weights] == [("A: yes", 0.5)]
    assert rendered.content == [] and rendered.turn_ends == [6, 12, 16]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "messages_empty"),
        (None, "field_type"),
        ("[", "json_syntax"),
        ({"text": "x"}, "field_type"),
        (["x"], "field_type"),
        ([{"text": "x"}], "field_missing"),
        ([{"train": True}], "field_missing"),
        ([{"text": 7, "train": True}], "field_type"),
        ([{"text": "x", "label": "yes"}], "field_type"),
        ([{"type": "image", "train": True}], "field_type"),
    ],
)
def test_segments_that_do_not_say_what_is_trained_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(InvalidRecord) as caught:
        input_output({"segments": value})
    assert caught.value.reason == reason and reason in QUARANTINE_REASONS


RECORDS: list[tuple[dict[str, Any], str, list[tuple[str, str]]]] = [
    ({"messages": [{"role": "user", "content": "a"}], "text": "x"}, "messages:role/content", [("user", "a")]),
    ({"conversations": [{"from": "gpt", "value": "b"}], "system": "s"}, "messages:from/value",
     [("system", "s"), ("assistant", "b")]),
    ({"segments": [{"text": "a", "train": True}]}, "input_output", [("segment", "a")]),
    ({"instruction": "a", "input": "", "output": "b", "history": [["c", "d"]]}, "instruction+history",
     [("user", "c"), ("assistant", "d"), ("user", "a"), ("assistant", "b")]),
    ({"source": "a", "target": "b", "category": "c"}, "source_target", [("source", "a"), ("target", "b")]),
    ({"prompt": "a", "completion": "b"}, "source_target", [("user", "a"), ("assistant", "b")]),
    ({"question": "a", "answer": "b", "text": None}, "source_target", [("user", "a"), ("assistant", "b")]),
    ({"text": "a", "messages": None}, "text", [("text", "a")]),
]  # fmt: skip


@pytest.mark.parametrize(("record", "shape", "turns"), RECORDS)
def test_auto_recognises_each_record_on_its_own(record: dict[str, Any], shape: str, turns: list[tuple[str, str]]) -> None:
    example = auto(record)
    assert (example.shape, [(turn.role, turn.content) for turn in example.turns]) == (shape, turns)


def test_auto_refuses_what_it_does_not_know_and_what_its_formatter_refuses() -> None:
    with pytest.raises(InvalidRecord, match=r"has 'title'; known are messages, .*instruction\+output") as caught:
        auto({"title": "x"})
    assert caught.value.reason == "shape_unknown"
    with pytest.raises(InvalidRecord) as caught:
        auto({"messages": [], "text": "x"})
    assert caught.value.reason == "messages_empty"


def test_auto_knows_the_options_of_its_formatters() -> None:
    assert len(LADDER) > 4
    for name, _, options in LADDER:
        check_options(find_step("formatter", name), options)
    mapped = auto({"messages": [{"role": "narrator", "content": "a"}]}, roles={"narrator": "assistant"})
    assert mapped.turns[0].role == "assistant"


def test_a_file_of_mixed_shapes_says_which_rows_are_which(tmp_path: Path) -> None:
    records = [
        {"instruction": "a", "output": "b"},
        {"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]},
        {"instruction": "e", "output": "f"},
    ]
    source = {"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": "auto"}
    recipe = write_small_recipe(tmp_path, sources=[source])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    built = sftdata.build(recipe, out=tmp_path / "out")
    counts = built.manifest["counts"]["prepare"]
    assert (counts["shape:instruction"], counts["shape:messages:role/content"]) == (2, 1)
    [life] = sftdata.why(built.folder, "rows.jsonl#1")
    [event] = life.events
    assert (event.action, event.reason, event.evidence) == ("flag", "shape", "messages:role/content")
