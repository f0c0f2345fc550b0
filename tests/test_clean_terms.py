"""The terms cleaner: the user's own lists, whole words in Latin script, anywhere in Chinese."""

from __future__ import annotations

from pathlib import Path

import pytest
from cleaning_support import answer_to

from sftdata.cleaners.terms import lower, terms
from sftdata.errors import RecipeError
from sftdata.records import Drop, Edit, Mark
from sftdata.registry import find_step


def test_a_blocked_term_drops_masks_or_flags() -> None:
    told = ("blocked_term", "Acme", "ACME")
    assert answer_to(terms, "We at ACME know.", block=["Acme"]) == Drop(*told)
    assert answer_to(terms, "We at ACME know.", block=["Acme"], action="mask_loss") == Mark("mask_loss", 0.0, *told)
    assert answer_to(terms, "We at ACME know.", block=["Acme"], action="flag") == Mark("flag", 0.0, *told)


def test_latin_terms_are_whole_words_and_chinese_ones_stand_anywhere() -> None:
    for text in ("classic", "the class", "assess", "ASS1"):
        assert answer_to(terms, text, block=["ass"]) == text
    for text in ("ass", "an ass.", "骂ass了"):
        assert isinstance(answer_to(terms, text, block=["ass"]), Drop)
    assert answer_to(terms, "本公司电话", block=["公司"]) == Drop("blocked_term", "公司", "公司")
    assert answer_to(terms, "Turkey", block=["turkey"], ignore_case=False) == "Turkey"


def test_replacements_take_the_longest_from_the_left() -> None:
    swap = {"甄嬛": "她", "甄嬛传": "那本书", "C++": "C"}
    assert answer_to(terms, "甄嬛传里的甄嬛会写c++。", replace=swap) == Edit(
        "那本书里的她会写C。", "replaced_term", "甄嬛传, 甄嬛, C++", "甄嬛传"
    )
    assert answer_to(terms, "İstanbul ACME", replace={"acme": "x"}).text == "İstanbul x" and len(lower("İẞ")) == 2


def test_files_hold_a_term_a_line(tmp_path: Path) -> None:
    (tmp_path / "block.txt").write_text("\ufeffbad word\n\n坏词\n", encoding="utf-8")
    (tmp_path / "swap.txt").write_text("old\tnew\ngone\t\n", encoding="utf-8")
    files = {"block_file": str(tmp_path / "block.txt"), "replace_file": str(tmp_path / "swap.txt")}
    assert find_step("cleaner", "terms").assets(**files) == tuple(files.values())
    assert isinstance(answer_to(terms, "a Bad Word", **files), Drop)
    assert answer_to(terms, "old and gone", **files).text == "new and "
    (tmp_path / "swap.txt").write_text("old\tnewer still\n", encoding="utf-8")
    assert answer_to(terms, "old", **files).text == "newer still"


@pytest.mark.parametrize("options", [{}, {"block": [""]}, {"block_file": "nowhere.txt"}, {"block": ["x"], "roles": ["y"]}])
def test_lists_that_cannot_be_meant_are_refused_at_load(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="terms: "):
        find_step("cleaner", "terms").assets(**options)


def test_a_replacement_without_a_tab_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "swap.txt").write_text("a\tb\noops\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"swap\.txt:2 'oops'"):
        find_step("cleaner", "terms").assets(replace_file=str(tmp_path / "swap.txt"))
