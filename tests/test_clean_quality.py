"""The quality cleaner: every rule of Gopher, C4 and FineWeb on a text that breaks it alone."""

from __future__ import annotations

import pytest
from cleaning_support import answer_to

from sftdata.cleaners.quality import quality
from sftdata.errors import RecipeError
from sftdata.records import Drop

SENTENCE = "The maids that have swept the yard of the house stood there and talked about the rain with old friends. "
GOOD = SENTENCE * 5
ZH = "窗外的雨下了整整一夜，天亮时院子里的海棠落了一地，小丫头们在廊下站着说话，都不忍心去扫。"
GOOD_ZH = ZH * 4


@pytest.mark.parametrize(
    ("rules", "text", "limit"),
    [
        ("gopher", "a to of and I x y z " * 20, "gopher mean_word_length 3–10"),
        ("gopher", (SENTENCE + "# " * 4) * 5, "gopher #_per_word>0.1"),
        ("gopher", f"• {SENTENCE}\n" * 6, "gopher bullet_lines>0.9"),
        ("gopher", f"{SENTENCE.strip()}..\n" * 6, "gopher ellipsis_lines>0.3"),
        ("gopher", GOOD + "1234 " * 40, "gopher alphabetic_words<0.8"),
        ("gopher", "garden weather morning window lantern " * 15, "gopher stop_words<2"),
        ("gopher", "雨落海棠花" * 30, "gopher stop_words<2"),
        ("gopher", (ZH + "…" * 3) * 4, "gopher ..._per_word>0.1"),
        ("c4", GOOD + "Lorem ipsum dolor.", "c4 lorem ipsum"),
        ("c4", GOOD + "{", "c4 {"),
        ("c4", GOOD.replace(".", ","), "c4 sentences<3"),
        ("fineweb", GOOD.replace(".", "\n"), "fineweb lines_ending_in_punctuation<=0.12"),
        ("fineweb", f"{GOOD}\nOne more line that comes again, and again.\n" * 2, "fineweb characters_in_duplicate_lines>=0.1"),
        ("fineweb", "\n".join([*(f"line {n} is short." for n in range(40)), SENTENCE]), "fineweb short_lines>=0.67"),
        ("fineweb", "\n".join([*(f"第{n}行很短的话。" for n in range(30)), GOOD_ZH]), "fineweb short_lines>=0.67"),
    ],
)
def test_a_text_that_breaks_a_rule_goes(rules: str, text: str, limit: str) -> None:
    answer = answer_to(quality, text, rules=[rules])
    assert isinstance(answer, Drop) and answer.rule == limit and answer.evidence in text


@pytest.mark.parametrize("rules", ["gopher", "c4", "fineweb"])
def test_prose_passes(rules: str) -> None:
    for text in (GOOD, GOOD_ZH, ZH + "\n" + GOOD_ZH[::-1]):
        assert answer_to(quality, text, rules=[rules]) == text


def test_short_texts_and_answers_are_not_judged() -> None:
    for text in ("", "是。", "{}", "• a\n• b\n• c", "1 2 3"):
        assert answer_to(quality, text, rules=["gopher", "c4", "fineweb"]) == text
    broken = "garden weather morning window lantern " * 15
    assert answer_to(quality, broken, role="assistant") == broken
    assert isinstance(answer_to(quality, broken, role="assistant", roles=["assistant"]), Drop)
    assert isinstance(answer_to(quality, "{ }. a", rules=["c4"], min_words=1), Drop)


def test_options_that_cannot_be_meant_are_refused() -> None:
    for options in ({"min_words": -1}, {"roles": ["x"]}):
        with pytest.raises(RecipeError, match="quality: "):
            answer_to(quality, "x", **options)
