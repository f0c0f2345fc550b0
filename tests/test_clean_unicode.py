"""The unicode cleaner: what it repairs, and what it must leave alone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata.cleaners.unicode import unicode
from sftdata.registry import check_options, find_step


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words\n\ttabbed",
        "，。！？（）“”１２３～：；",
        "起来吧。",
        "是",
        "😀",
        "👨‍👩‍👧",
        "क्‍ष",
        "می‌خواهم",
        "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
        "café ½ €5 – “so”",
    ],
)
def test_unicode_returns_clean_text_as_the_same_object(text: str) -> None:
    assert unicode(text) is text


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("e\u0301", "é"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a\x00b\x07c\x1bd", "abcd"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\ufeff标题", "标题"),
        ("abc\u202egnp.exe\u202c", "abcgnp.exe"),
        ("soft\u00adhyphen", "softhyphen"),
        ("a\u200db", "ab"),
        ("你\u200c好", "你好"),
        ("hi\U000e0041\U000e0042", "hi"),
        ("half \ud83d", "half \ufffd"),
        ("pair \ud83d\ude00", "pair 😀"),
    ],
)
def test_unicode_repairs_characters(raw: str, clean: str) -> None:
    assert unicode(raw) == clean


def test_unicode_keeps_joiners_that_join_beside_ones_that_do_not() -> None:
    assert unicode("👩\u200d💻 x\u200d می\u200cخواهم") == "👩\u200d💻 x می\u200cخواهم"


@pytest.mark.parametrize("original", ["café", "naïve façade", "it’s “fine” – yes", "你好，世界", "привет", "£5", "Łódź źle"])
def test_unicode_repairs_mojibake(original: str) -> None:
    broken = "".join(
        bytes([byte]).decode("cp1252") if byte not in b"\x81\x8d\x8f\x90\x9d" else chr(byte) for byte in original.encode()
    )
    assert broken != original
    assert unicode(broken) == original
    assert unicode(broken, mojibake=False) != original


@pytest.mark.parametrize(
    "text", ["CAFÉ”", "MENÜ“", "dijo “qué”—y salió", "IRMÃ” e IRMÃ»", "Ärger…", "MAÇÃ", "¿SÍ¿QUÉ?", "Ünlü Ölçü"]
)
def test_unicode_leaves_accented_text_alone(text: str) -> None:
    assert unicode(text) is text


def test_unicode_form_is_an_option() -> None:
    assert unicode("ＡＢ１，", form="NFKC") == "AB1,"
    assert unicode("e\u0301", form="none") == "e\u0301"
    assert check_options(find_step("cleaner", "unicode"), {"form": "NFKC"}) == {"form": "NFKC"}


@given(st.text())
def test_unicode_is_idempotent_and_normal(text: str) -> None:
    once = unicode(text)
    assert unicodedata.is_normalized("NFC", once)
    assert unicode(once, mojibake=False) == once


@given(st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1))
def test_unicode_never_changes_han(text: str) -> None:
    assert unicode(text) is text
