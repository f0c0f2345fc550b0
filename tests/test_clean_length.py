"""The length cleaner: what it measures and what it drops."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sftdata.cleaners.length import length
from sftdata.errors import RecipeError
from sftdata.records import Drop
from sftdata.registry import find_step
from sftdata.schemas import SPANS


def spans_of(*texts: tuple[str, str]) -> pa.Table:
    rows = [{"row": row, "field": "f", "turn": row, "role": role, "text": text} for row, (role, text) in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=SPANS)


def test_length_keeps_short_chinese_rows_by_default() -> None:
    answers = length(spans_of(("assistant", "是。"), ("assistant", "起来吧"), ("assistant", "")))
    assert answers == ["是。", "起来吧", ""]


def test_length_drops_short_and_long_answers() -> None:
    table = spans_of(("assistant", "  ab  "), ("target", "abcdef"), ("text", "abcd"))
    assert length(table, min_chars=3, max_chars=5) == [
        Drop("too_short", "min_chars=3", "ab"),
        Drop("too_long", "max_chars=5", "abcdef"),
        "abcd",
    ]


def test_length_measures_answers_unless_roles_say_otherwise() -> None:
    table = spans_of(("user", "好"), ("system", "s"), ("tool", "t"), ("source", "x"))
    assert length(table, min_chars=5) == ["好", "s", "t", "x"]
    assert length(table, min_chars=5, roles=["user"])[0] == Drop("too_short", "min_chars=5", "好")


def test_length_counts_code_points_not_bytes() -> None:
    assert length(spans_of(("assistant", "皇上万福")), min_chars=4, max_chars=4) == ["皇上万福"]


@pytest.mark.parametrize(
    "options", [{"min_chars": -1}, {"min_chars": 5, "max_chars": 4}, {"max_chars": 0}, {"roles": ["asistant"]}]
)
def test_length_refuses_options_that_cannot_be_meant(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="length: "):
        length(spans_of(("assistant", "x")), **options)
    assets = find_step("cleaner", "length").assets
    assert assets is not None
    with pytest.raises(RecipeError, match="length: "):
        assets(**options)
