"""The language cleaner on short and mixed texts: certain, or silent."""

from __future__ import annotations

import pytest
from cleaning_support import answer_to

from sftdata.cleaners.language import language
from sftdata.errors import RecipeError
from sftdata.records import Drop

KEPT = {
    "zh": ["是。", "起来吧。", "皇上驾到！", "我用 Python 写程序。", "他说：“Bonjour à tous”，大家都笑了。", "𠮷野家"],
    "en": ["Yes.", "ok", "Where is the garden?", "The word 海 means sea, and the word 山 means mountain."],
    "ja": ["はい。", "東京", "私は学生です。", "コーヒーをください"],
    "ko": ["네, 알겠습니다."],
    "fr": ["Le chat dort sur le canapé et il ne bouge plus."],
}


@pytest.mark.parametrize("code", KEPT)
def test_texts_in_a_wanted_language_stay_and_others_go(code: str) -> None:
    for text in KEPT[code]:
        assert answer_to(language, text, languages=[code]) == text
    gone = [text for text in KEPT[code][-1:] if text != "𠮷野家"]
    for text in gone:
        answer = answer_to(language, text, languages=["vi"])
        assert isinstance(answer, Drop) and answer.rule == code and text.startswith(answer.evidence)


def test_what_nobody_can_tell_stays() -> None:
    code = "```python\nfor x in range(3):\n    print(x)\n```"
    for text in ("", "😀😀", "x = 3", "12 + 4 = 16", "https://example.org/der/weg", code, "!"):
        assert answer_to(language, text, languages=["zh"]) == text, text


def test_a_translation_has_both_languages() -> None:
    text = "The rain fell all night long in the garden. 雨在园子里下了一整夜。"
    assert answer_to(language, text, languages=["zh"]) == answer_to(language, text, languages=["en"]) == text
    answer = answer_to(language, text, languages=["ko"])
    assert isinstance(answer, Drop) and answer.rule.split("+")[0] == "en"


def test_prompts_are_not_looked_at_unless_asked_for() -> None:
    text = "Die Katze schläft auf dem Sofa und träumt vom Garten."
    assert answer_to(language, text, role="user", languages=["zh"]) == text
    assert answer_to(language, text, role="user", languages=["zh"], roles=["user"]) == Drop("language", "de", text)


@pytest.mark.parametrize("options", [{"languages": []}, {"languages": ["cn"]}, {"languages": ["en"], "min_probability": 0}])
def test_languages_that_nobody_knows_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="language: "):
        answer_to(language, "x", **options)
