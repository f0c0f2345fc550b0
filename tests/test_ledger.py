"""The ledger's excerpts: the changed span with its surroundings, and no more."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.ledger import CONTEXT, LONGEST, Entry, around, change
from sftdata.schemas import LEDGER

TEXT = st.text("ab宫", max_size=120)
LONG = "x" * 100


def test_entry_has_the_columns_of_the_ledger():
    assert list(Entry._fields) == LEDGER.names


def test_change_shows_the_span_with_forty_characters_on_either_side():
    before, after = change(f"{LONG}old{LONG}", f"{LONG}new text{LONG}")
    assert before == "x" * CONTEXT + "old" + "x" * CONTEXT
    assert after == "x" * CONTEXT + "new text" + "x" * CONTEXT


def test_inserted_and_removed_text_show_where_they_stood():
    assert change("abc", "abXc") == ("abc", "abXc")
    before, after = change(f"{LONG}cut{LONG}", LONG + LONG)
    assert "cut" in before and after == "x" * 2 * CONTEXT


def test_very_long_change_is_cut_at_its_end():
    before, after = change(f"start{'y' * 5000}end", "startend")
    assert before == "start" + "y" * (LONGEST + CONTEXT) and after == "startend"


@settings(deadline=None)
@given(TEXT, TEXT, TEXT, TEXT)
def test_change_holds_all_that_differs(head, old, new, tail):
    before_text, after_text = head + old + tail, head + new + tail
    before, after = change(before_text, after_text)
    assert before in before_text and after in after_text
    assert len(before) <= len(old) + 2 * CONTEXT and len(after) <= len(new) + 2 * CONTEXT
    assert (before == after) == (before_text == after_text)


def test_around_shows_evidence_in_its_place_or_the_beginning():
    text = f"{LONG}found{LONG}"
    assert around(text, "found") == "x" * CONTEXT + "found" + "x" * CONTEXT
    assert around(text, "absent") == around(text, "") == "x" * CONTEXT
    assert around("short", "") == "short" and around("", "") == ""
    assert len(around("z" * 5000, "z" * 5000)) == LONGEST + CONTEXT
