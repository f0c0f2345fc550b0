"""The life of a record, by id and by text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizing_fixture import family_json

import sftdata


def test_slop_row_is_found_by_its_text_with_the_rule_that_dropped_it(bundled: Path) -> None:
    lives = sftdata.why(bundled, "As an AI language model")
    assert [life.id for life in lives] == ["dialogue.jsonl#156"]
    [event] = lives[0].events
    assert (event.step, event.action, event.reason) == ("slop", "drop", "ai_identity")
    assert event.rule and "As an AI" in event.evidence and lives[0].file.startswith("dialogue.jsonl (xxh3 ")


def test_duplicate_names_its_survivor_and_the_survivor_its_duplicates(bundled: Path) -> None:
    [copy] = sftdata.why(bundled, "dialogue.jsonl#64")
    assert copy.outcome == "dropped" and copy.events[0].reason == "duplicate"
    [kept] = sftdata.why(bundled, copy.events[0].evidence)
    assert kept.id == "dialogue.jsonl#16" and kept.duplicates == ["dialogue dialogue.jsonl#64"]
    assert kept.placements and kept.text.startswith("<|im_start|>user\n")


def test_quarantined_row_shows_place_and_raw_bytes(bundled: Path) -> None:
    [life] = sftdata.why(bundled, "dialogue.jsonl#72")
    assert life.outcome == "quarantined" and life.raw.startswith('{"instruction"')
    assert "line 73" in life.events[0].evidence


def test_kept_row_is_found_by_its_text_and_its_place_holds_it(bundled: Path) -> None:
    [life] = sftdata.why(bundled, "本宫姓沈，闺名令徽")
    [place] = life.placements
    row = sftdata.inspect(bundled, split=place.split, row=place.row)
    segment = row.segments[place.segment]
    assert (segment.source, segment.id) == (life.source, life.id)
    assert "".join(run.text for run in segment.runs) == life.text


def test_edit_shows_before_and_after(bundled: Path) -> None:
    [life] = sftdata.why(bundled, "dialogue.jsonl#164")
    assert any(event.action == "edit" and "\u200b" in event.before and "\u200b" not in event.after for event in life.events)


@pytest.mark.parametrize("wanted", ["no such text anywhere", "dialogue.jsonl#99999", "  "])
def test_unknown_record_is_an_error(bundled: Path, wanted: str) -> None:
    with pytest.raises(sftdata.DataError):
        sftdata.why(bundled, wanted)


def test_inspect_keeps_the_space_between_context_and_trained_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(family_json("sentencepiece"), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (tmp_path / "plain.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}")
    (tmp_path / "a.jsonl").write_text('{"instruction": "which hour?", "output": "the third one"}\n')
    (tmp_path / "recipe.yaml").write_text(
        "{name: a, tokenizer: {path: ., chat_template: plain.jinja}, output: %s,"
        " sources: [{name: a, path: a.jsonl, ingest: jsonl, format: instruction}]}" % (tmp_path / "out")
    )
    [segment] = sftdata.inspect(sftdata.build(tmp_path / "recipe.yaml").folder).segments
    assert [run.kind for run in segment.runs] == ["context", "control", "context", "trained", "trained control"]
    assert "".join(run.text for run in segment.runs) == "[user] which hour?</s>[assistant] the third one</s>"


def test_inspect_refuses_rows_and_splits_that_are_not_there(small: Path) -> None:
    with pytest.raises(sftdata.DataError, match="there is no row 9999"):
        sftdata.inspect(small, row=9999)
    with pytest.raises(sftdata.DataError, match="did you mean 'train'"):
        sftdata.inspect(small, split="trian")
