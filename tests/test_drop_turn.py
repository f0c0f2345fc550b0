"""Dropping single turns: the dialogue that is left is valid, counted, in the ledger, and trained."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from build_support import write_small_recipe
from hypothesis import given
from hypothesis import strategies as st

from sftdata import build, open_shards, verify, why
from sftdata.cleaning import Cleaned, SpanTable, bind, clean
from sftdata.formatters.messages import messages
from sftdata.formatting import apply_marks
from sftdata.pipeline import BuildResult
from sftdata.records import Example
from sftdata.rounds import has_answer, round_of

SLOP = "As an AI language model, I cannot smell the sea."
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"day": 1}}}
DIALOGUE: list[dict[str, Any]] = [
    {"role": "system", "content": "You keep a lighthouse."},
    {"role": "user", "content": "Is the lamp lit?"},
    {"role": "assistant", "content": "It is lit at dusk."},
    {"role": "user", "content": "How does the sea smell?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "salt"},
    {"role": "assistant", "content": SLOP},
    {"role": "user", "content": "And the oil?"},
    {"role": "assistant", "content": "It smells of fish."},
]
TURNS = {"slop": {"actions": {"ai_identity": "drop_turn", "refusal": "drop_turn"}}}


def cleaned(dialogue: list[dict[str, Any]], *, whole: bool = False) -> tuple[Example, Cleaned, SpanTable]:
    example = messages({"messages": dialogue})
    spans = SpanTable()
    spans.add(0, example, whole=whole)
    done = clean(spans, bind(list(TURNS.items()), allow_code=False))
    return apply_marks(example, done.marks.get(0, [])), done, spans


def test_drop_turn_takes_the_round_with_its_tool_calls() -> None:
    left, done, spans = cleaned(DIALOGUE)
    assert [turn.content for turn in left.turns] == [DIALOGUE[number]["content"] for number in (0, 1, 2, 7, 8)]
    assert [(entry[1], entry[4], entry[5]) for entry in done.entries] == [
        (6, "drop_turn", "ai_identity"),
        (3, "drop_turn", "round"),
        (4, "drop_turn", "round"),
        (5, "drop_turn", "round"),
    ]
    assert not set(spans.turns) & {3, 4, 5, 6} and not spans.structures and not done.dropped


@pytest.mark.parametrize(("dialogue", "whole"), [([*DIALOGUE[:1], *DIALOGUE[3:7]], False), (DIALOGUE, True)])
def test_drop_turn_drops_the_sample_where_no_answer_is_left(dialogue: list[dict[str, Any]], whole: bool) -> None:
    _, done, spans = cleaned(dialogue, whole=whole)
    assert done.dropped == {0: "slop:ai_identity"}
    assert [entry[4] for entry in done.entries] == ["drop"] and not spans.texts


def test_a_bad_system_prompt_goes_alone() -> None:
    assert round_of(["system", "user", "assistant"], 0) == {0}
    assert round_of(["system", "user", "assistant"], 2) == {1, 2}
    assert round_of(["assistant", "user", "user", "assistant", "user"], 2) == {1, 2, 3}


@given(st.lists(st.sampled_from(["user", "assistant", "tool", "system"]), min_size=1, max_size=12), st.data())
def test_what_is_left_never_joins_two_questions_that_were_apart(roles: list[str], data: st.DataObject) -> None:
    turn = data.draw(st.integers(0, len(roles) - 1))
    gone = round_of(roles, turn)
    assert turn in gone
    left = [(number, role) for number, role in enumerate(roles) if number not in gone and role != "system"]
    for (first, before), (second, after) in pairwise(left):
        between = [role for role in roles[first + 1 : second] if role != "system"]
        assert not between or after == "user" or before == after == "user" or roles[turn] == "system"
    assert has_answer(roles, gone) == any(role == "assistant" for _, role in left)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    folder = tmp_path_factory.mktemp("turns")
    plain = [row for row in DIALOGUE if row["role"] != "tool" and row["content"]]
    others = [[{**row, "content": f"{row['content']} {n}"} for row in plain[1:3]] for n in range(8)]
    rows = [plain, [*plain[:3], *plain[5:]], *others]
    lines = [json.dumps({"messages": row}) for row in rows]
    source = {"name": "talk", "path": "talk.jsonl", "ingest": "jsonl", "clean": [TURNS], "format": "messages"}
    recipe = write_small_recipe(folder, sources=[source], mix={}, split={})
    (folder / "talk.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return build(recipe, out=folder / "out", workers=1)


def test_built_dialogue_is_trained_without_the_turn(built: BuildResult) -> None:
    [life] = why(built.folder, "talk.jsonl#0")
    assert life.outcome == "trained" and "fish" in life.text
    assert SLOP not in life.text and "How does the sea" not in life.text
    assert [(event.action, event.reason, event.turn) for event in life.events] == [
        ("drop_turn", "ai_identity", 4), ("drop_turn", "round", 3),
    ]  # fmt: skip
    assert life.events[0].rule.startswith("en.") and life.events[0].evidence in SLOP


def test_dropped_turns_are_counted_and_the_build_is_sound(built: BuildResult) -> None:
    counts = built.manifest["counts"]["prepare"]
    assert counts["drop_turn:slop:ai_identity"] == counts["drop_turn:slop:round"] == 1
    assert counts["dropped"] == 0 and counts["kept"] == 10
    assert verify(built.folder).sound and open_shards(built.folder).splits["train"].num_rows


def test_what_is_left_is_a_copy_of_a_dialogue_that_never_had_the_turn(built: BuildResult) -> None:
    [life] = why(built.folder, "talk.jsonl#1")
    assert life.outcome == "dropped"
    assert [(event.reason, event.evidence) for event in life.events] == [("duplicate", "talk talk.jsonl#0")]
