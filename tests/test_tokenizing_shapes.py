"""Records with tools, reasoning, segments and hostile shapes through the whole phase, tokens and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_templates_tools import HERMES
from tokenizing_fixture import Phase, write_family

ASKED = {"role": "user", "content": "Is it full?"}


def phase(tmp_path: Path, template: str = HERMES, **options: Any) -> Phase:
    return Phase(tmp_path, write_family(tmp_path / "raw", "byte_level", template=template), "tokenizer_default", **options)


def calling(arguments: Any, content: str | None = None, **fields: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    return {"messages": [ASKED, {"role": "assistant", "content": content, "tool_calls": [call], **fields}]}


def test_calls_and_reasoning_are_trained_with_their_stop_token(tmp_path: Path) -> None:
    result = phase(tmp_path).run([calling({"at": "the moon"}, reasoning_content="Look up.")])
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "the moon"}}\n</tool_call><|im_end|>'
    assert result.trained(0) == f"<think>\nLook up.\n</think>\n\n{call}"
    silent = phase(tmp_path, train_on_thinking=False).run([calling({}, "Oh.", reasoning_content="Hm.")])
    assert silent.trained(0).startswith("Oh.<tool_call>")


def test_a_control_token_in_an_argument_stays_text(tmp_path: Path) -> None:
    hostile, benign = calling({"at": "x<|im_end|>y"}), calling({"at": "x y"})
    result = phase(tmp_path).run([hostile, benign])
    assert result.decoded(0).count("<|im_end|>") == result.decoded(1).count("<|im_end|>") + 1
    assert result.control_ids(0) == result.control_ids(1) and result.counts["control_rows"] == 1


def test_records_that_differ_in_their_calls_or_tools_are_no_copies(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    moon, sun = calling({"at": "moon"}), calling({"at": "sun"})
    digests = [row["digest"] for row in phase(tmp_path).run([moon, sun, {**moon, "tools": tools}, moon]).rows]
    assert len(digests) == 4 and len(set(digests)) == 3 and digests[0] == digests[3]


def test_only_the_last_turn_is_trained_when_asked(tmp_path: Path) -> None:
    turns = [ASKED, {"role": "assistant", "content": "No."}] * 2
    record = {"messages": [*turns, ASKED, {"role": "assistant", "content": "Yes.", "train": False}]}
    result = phase(tmp_path, train_turns="last").run([record, {"messages": turns}])
    assert [result.trained(row) for row in (0, 1)] == ["No.<|im_end|>"] * 2
    assert result.rows[0]["mask_runs"][0] == result.rows[1]["mask_runs"][0] > 10


def test_control_tokens_in_segments_act(tmp_path: Path) -> None:
    run = phase(tmp_path)
    run.format = ("input_output", {})
    segments = [{"text": "<|im_end|>Q:", "label": False}, {"text": " yes<|im_end|>", "label": True}]
    result = run.run([{"segments": segments}])
    assert (result.decoded(0), result.trained(0)) == ("<|im_end|>Q: yes<|im_end|>", " yes<|im_end|>")
    assert len(result.control_ids(0)) == 2 and result.counts["control_rows"] == 0


def test_a_mixed_file_is_rendered_shape_by_shape(tmp_path: Path) -> None:
    run = phase(tmp_path)
    run.format = ("auto", {})
    result = run.run([{"text": "Plain."}, calling({}), {"instruction": "a", "output": "b"}])
    assert [result.trained(row) for row in (0, 2)] == ["Plain.<|im_end|>", "b<|im_end|>"]


@pytest.mark.parametrize(
    ("messages", "template", "reason"),
    [
        ([ASKED, {"role": "assistant", "content": "x" * 1_000_000}], HERMES, None),
        ([ASKED, {"role": "assistant", "content": "<think>" + "x" * 1_000_000 + "</think>y"}], HERMES, None),
        ([ASKED], HERMES, None),
        ([{"role": "system", "content": ""}, ASKED, {"role": "assistant", "content": "x"}], HERMES, None),
        ([ASKED, {"role": "assistant", "content": ""}], HERMES, "mask_unproven"),
        ([ASKED, {"role": "assistant", "content": "x"}], "{{ nothing.at.all }}", "template_raised"),
        ([ASKED, {"role": "assistant", "content": "x"}], HERMES.replace("m.content or", "m.content[:0] or"), "mask_unproven"),
    ],
)
def test_hostile_rows_are_tokenized_or_quarantined_with_one_line(
    tmp_path: Path, messages: list[dict[str, Any]], template: str, reason: str | None
) -> None:
    result = phase(tmp_path, template).run([{"messages": messages}])
    assert len(result.rows) == (reason is None) and len(result.quarantine) == (reason is not None)
    if reason is not None:
        assert result.quarantine[0]["reason"] == reason and "\n" not in result.quarantine[0]["place"]
    elif len(messages) > 1:
        assert result.rows[0]["num_trained"] > 0 and result.trained(0).endswith("<|im_end|>")
