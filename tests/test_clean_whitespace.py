"""The whitespace cleaner: what is tidied, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata.cleaners.whitespace import whitespace
from sftdata.errors import RecipeError


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  是。 \n", "是。"),
        ("a \t\nb", "a\nb"),
        ("a\n\n\n\nb", "a\n\nb"),
        ("a\n \n\t\n\nb\n\n", "a\n\nb"),
        ("a\u00a0b\u2009c", "a b c"),
        ("  indented\n    more", "  indented\n    more"),
        ("\u3000\u3000第一段。\n\u3000\u3000第二段。", "\u3000\u3000第一段。\n\u3000\u3000第二段。"),
        ("see:\n\n\n```\na\n\n\n\nb  \n```\n\n\n\nend ", "see:\n\n```\na\n\n\n\nb  \n```\n\nend"),
        ("```\nopen  \n\n\n\nto the end", "```\nopen  \n\n\n\nto the end"),
        ("", ""),
        ("   ", ""),
    ],
)
def test_blanks_are_tidied_outside_code(before: str, after: str) -> None:
    assert whitespace(before) == after


def test_options_say_how_much() -> None:
    assert whitespace("a\n\n\n\n\nb", max_empty_lines=2) == "a\n\n\nb" and whitespace("a\n\nb", max_empty_lines=0) == "a\nb"
    assert whitespace("  a  b \t c", collapse=True) == "a b c" and whitespace("a  b") == "a  b"
    with pytest.raises(RecipeError, match="max_empty_lines"):
        whitespace.__globals__["_no_files"](max_empty_lines=-1)


@given(st.text(alphabet="ab是。`~ \t\n\u00a0\u3000", max_size=60))
def test_a_tidied_text_stays_and_loses_no_word(text: str) -> None:
    tidied = whitespace(text)
    assert "".join(tidied.split()) == "".join(text.split()) and whitespace(tidied) == tidied
