"""The repetition cleaner: each rule on a text that breaks it alone, and texts that repeat as good prose does."""

from __future__ import annotations

import random

import pytest
from cleaning_support import answer_to
from hypothesis import given
from hypothesis import strategies as st

from sftdata.cleaners.repetition import repetition
from sftdata.errors import RecipeError
from sftdata.records import Drop

HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]


def words(number: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(number)]


def prose(number: int, seed: int = 0) -> str:
    return " ".join(words(number, seed))


def han(number: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(HAN, k=number))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("\n".join(["the same line", *words(60)[:2], prose(200), *["the same line"] * 3]), "lines>0.3"),
        ("\n".join([prose(9, n) for n in range(12)] + [prose(60, 99)] * 2), "lines_characters>0.2"),
        ("\n\n".join([f"{prose(30, n)}\n{prose(30, n + 50)}" for n in (1, 2, 1, 1)]), "lines>0.3"),
        (f"{prose(100)} " + "go on " * 45, "top_2_grams>0.2"),
        (f"{prose(150)} {prose(20, 1)} {prose(60, 2)} {prose(20, 1)} {prose(20, 1)}", "repeated_5_grams>0.15"),
        (han(250) + "朕知道了" * 30, "top_4_grams>0.2"),
        (han(200, 1) + han(60, 2) + han(60, 2), "repeated_10_grams>0.15"),
    ],
)
def test_a_text_that_repeats_itself_goes(text: str, rule: str) -> None:
    answer = answer_to(repetition, text)
    assert isinstance(answer, Drop) and answer.rule == rule and answer.evidence and answer.evidence in text


def test_short_texts_and_ordinary_ones_stay() -> None:
    for text in ("", "是。", "哈" * 60, "是。\n是。\n是。", "ok " * 50, prose(400), han(900), "😀" * 500):
        assert answer_to(repetition, text) == text
    assert isinstance(answer_to(repetition, "ok " * 50, min_words=10), Drop)
    assert answer_to(repetition, "ok " * 500, role="user") == "ok " * 500


def test_options_that_cannot_be_meant_are_refused() -> None:
    for options in ({"min_words": -1}, {"roles": ["x"]}):
        with pytest.raises(RecipeError, match="repetition: "):
            answer_to(repetition, "x", **options)


@given(st.lists(st.sampled_from(["雨", "rain ", "\n", "。", "落"]), max_size=80).map("".join), st.integers(0, 30))
def test_a_higher_limit_on_words_only_keeps_more(text: str, least: int) -> None:
    if answer_to(repetition, text, min_words=least) == text:
        assert answer_to(repetition, text, min_words=least + 5) == text
