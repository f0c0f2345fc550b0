"""Short and odd rows survive every cleaner, whatever it does to others; and cleaners change nothing that is equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.cleaning import BoundStep, SpanTable, clean
from sftdata.records import Example, Span, Turn
from sftdata.registry import known_steps

SHORT = ["", "是", "是。", "起来吧", "好的。", "😀", "😂🎉👩‍👩‍👧", "a", "？", "1", "。。。", "ok", "\u3000", "𠮷", "谢皇上"]
NEEDED: dict[str, dict[str, Any]] = {
    "language": {"languages": ["zh", "en", "ja"]},
    "terms": {"block": ["不会有的词"], "replace": {"neverthere": "x"}},
    "decontaminate": {},
}
"""Options that a step cannot do without."""
PUNCTUATION = "，。！？（）：；“”‘’《》、…—１２３ＡＢ～"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    path: Path = tmp_path_factory.mktemp("benchmark") / "b.txt"
    path.write_text("one item of a benchmark that nobody has in the data at all\n是\n😀\n", encoding="utf-8")
    return {**NEEDED, "decontaminate": {"benchmarks": [str(path)]}}


def run(name: str, options: dict[str, Any], texts: list[str], role: str) -> tuple[list[str], set[int]]:
    """Return the texts after a cleaner, and the rows that it dropped."""
    step = known_steps("cleaner")[name]
    spans = SpanTable()
    for row, text in enumerate(texts):
        spans.add(row, Example((Turn("user", (Span(("q",), "好"),)), Turn(role, (Span(("t",), text),))), True, "x"))
    done = clean(spans, [BoundStep(name, step.batched, step.function, options)])
    return [done.edited.get(row, {}).get(("t",), text) for row, text in enumerate(texts)], set(done.dropped)


NAMES = sorted(known_steps("cleaner"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["assistant", "text", "target", "user"])
def test_short_rows_survive(name: str, role: str, options: dict[str, dict[str, Any]]) -> None:
    texts, dropped = run(name, options.get(name, {}), SHORT, role)
    assert dropped == set() and len(NAMES) >= 11
    blank_again = {"", "\u3000"}
    assert all(after == before or before in blank_again for before, after in zip(SHORT, texts, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_chinese_punctuation_and_widths_stay_by_default(name: str, options: dict[str, dict[str, Any]]) -> None:
    texts, dropped = run(name, options.get(name, {}), [PUNCTUATION, f"你好{PUNCTUATION}世界"], "assistant")
    assert not dropped and texts == [PUNCTUATION, f"你好{PUNCTUATION}世界"]


ALPHABET = st.sampled_from([*"雨落。，？！\n \tab1", "😀", "rain ", "@", "\u200b", "13800138000", "As an AI"])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(ALPHABET, max_size=30).map("".join), min_size=1, max_size=6))
def test_a_step_answers_the_same_alone_and_in_company_and_again(options, texts):
    for name in NAMES:
        together, dropped = run(name, options.get(name, {}), texts, "assistant")
        again, _ = run(name, options.get(name, {}), texts, "assistant")
        alone = [run(name, options.get(name, {}), [text], "assistant") for text in texts]
        assert again == together and [after for [after], _ in alone] == together, name
        assert {row for row, (_, gone) in enumerate(alone) if gone} == dropped, name
