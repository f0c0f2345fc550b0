"""Decontamination: n-grams of benchmarks in prompts and answers, in English and Chinese, and what is too short to tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cleaning_support import answer_to, spans_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.cleaners.decontaminate import decontaminate
from sftdata.errors import RecipeError
from sftdata.records import Drop
from sftdata.registry import find_step

QUESTION = "Which of the seven maids swept the yard that morning before the rain came down on the old garden wall?"
ZH = "窗外的雨下了整整一夜天亮时院子里的海棠落了一地小丫头们在廊下站着说话"
SHORT = "Name the largest moon of the planet Saturn."


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "maids.jsonl").write_text(json.dumps({"question": QUESTION, "answer": {"text": ["the third", SHORT]}}) + "\n")
    items = [{"问题": ZH, "n": 3}, {"问题": "短题"}]
    (tmp_path / "rain.json").write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "plain.txt").write_text("\n".join(f"word{n} " * 3 + " ".join(f"w{n}x{k}" for k in range(14)) for n in range(5)))
    return [str(tmp_path / name) for name in ("maids.jsonl", "rain.json", "plain.txt")]


def test_a_piece_of_a_benchmark_is_found_on_both_sides_and_named(files: list[str]) -> None:
    piece = " ".join(QUESTION.split()[3:16]).upper()
    plain = "w3x0 w3x1, " + " ".join(f"w3x{k}" for k in range(2, 14))
    table = spans_of(("user", f"tell me: {piece}!"), ("assistant", f"他说：{ZH[5:25]}。"), ("text", plain))
    found = decontaminate(table, benchmarks=files)
    assert [(drop.reason, drop.rule) for drop in found] == [
        ("benchmark_prompt", "maids.jsonl"), ("benchmark_answer", "rain.json"), ("benchmark_answer", "plain.txt")
    ]  # fmt: skip
    assert found[0].evidence == piece and found[1].evidence == ZH[5:25]


def test_one_word_or_character_less_is_not_enough(files: list[str]) -> None:
    for text in (" ".join(QUESTION.split()[3:15]), ZH[5:24], "的" + ZH[5:24], "短题", "the third", ""):
        assert answer_to(decontaminate, text, benchmarks=files) == text
    assert isinstance(answer_to(decontaminate, ZH[5:24], benchmarks=files, characters=19), Drop)


def test_a_short_item_counts_as_a_whole(files: list[str]) -> None:
    assert answer_to(decontaminate, f"Please {SHORT.lower()} Thanks", benchmarks=files).evidence == SHORT.lower()[:-1]
    other = SHORT.replace("largest", "smallest")
    assert answer_to(decontaminate, other, benchmarks=files) == other


def test_only_named_fields_and_roles_count(files: list[str]) -> None:
    assert answer_to(decontaminate, SHORT, benchmarks=files[:1], fields=["question"]) == SHORT
    assert answer_to(decontaminate, QUESTION, role="user", benchmarks=files, roles=["assistant"]) == QUESTION


def test_files_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a"\n')
    (tmp_path / "none.jsonl").write_text('{"a": "too short"}\n')
    load = find_step("cleaner", "decontaminate").assets
    for name, message in (("bad", r"bad\.jsonl:2 is not JSON"), ("none", "holds no text"), ("x", "cannot be read")):
        with pytest.raises(RecipeError, match=message):
            load(benchmarks=[str(tmp_path / f"{name}.jsonl")])
    for options, message in (({}, "at least one file"), ({"words": 3}, "words is at least 8")):
        with pytest.raises(RecipeError, match=message):
            load(benchmarks=[], **options)


WORDS = st.lists(st.sampled_from([*"雨落海棠花开", "rain ", "fell ", "on ", "it "]), max_size=40)


@settings(deadline=None, max_examples=40)
@given(WORDS, WORDS, st.integers(0, 30), st.integers(0, 40))
def test_a_window_is_found_wherever_it_stands(tmp_path_factory, before, item, start, length):
    path = tmp_path_factory.mktemp("b") / "item.txt"
    path.write_text("".join(item) + "\nrain " + "snow " * 12, encoding="utf-8")
    piece = item[start : start + length]
    text = "".join([*before, "x ", *piece, " y"])
    units = [unit.strip() for unit in piece]
    has_han = [not unit.isascii() for unit in units]
    words_in_a_row = max((sum(1 for _ in run) for run in _runs(has_han)), default=0)
    answer = answer_to(decontaminate, text, benchmarks=[str(path)])
    if words_in_a_row >= 13 or (len(units) >= 20 and any(_windows(has_han))):
        assert isinstance(answer, Drop)


def _runs(has_han: list[bool]) -> list[list[bool]]:
    runs: list[list[bool]] = [[]]
    for flag in has_han:
        if flag:
            runs.append([])
        else:
            runs[-1].append(flag)
    return runs


def _windows(has_han: list[bool]) -> list[bool]:
    return [any(has_han[n : n + 20]) for n in range(len(has_han) - 19)]
