"""Rendering a batch gives for every example what rendering it alone gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from foreign_templates import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata import rendering
from sftdata.records import Example, InvalidRecord, Span, Turn
from sftdata.rendering import CharSpans, RenderedBatch, Renderer
from sftdata.templates import load_template
from sftdata.templates.built_in import load_segments
from sftdata.templates.jinja import load_jinja
from sftdata.templates.render import Rendered, Template, TrainScope

JINJA = {
    **{name: source for name, (source, _, _) in CASES.items()},
    "plain": "{% for m in messages %}{{ m.role + ':' + m.content + '</s>' }}{% endfor %}",
    "switched": "{% for m in messages %}{{ m.role + ('!' if loud else ':') + m.content + '</s>' }}{% endfor %}",
    "trims": "{% for m in messages %}{{ m.role + ':' + m.content | trim + '</s>' }}{% endfor %}",
    "looks": "{% for m in messages %}{{ m.role }}{% if 'a' in m.content %}!{% endif %}{{ m.content + '</s>' }}{% endfor %}",
    "raises": "{% for m in messages %}{% if 'b' in m.content %}{{ raise_exception('b') }}{% endif %}{{ m.content }}</s>"
    "{% endfor %}",
}

PERCENT = """
stop_token: "</s>"
roles:
  user: {before: "100% %s ", tail: "%d"}
  assistant: {lead: "%", after: "</s>"}
jinja: "{# none #}"
"""

pieces = st.sampled_from([" ", "a", "b", "%s", "中👩", "\ue000", "\n", "<think>", "</think>", "a b", "</s>"])
contents = st.lists(pieces, max_size=4).map("".join)
weights = st.sampled_from([1.0, 1.0, 0.5, 0.0])
trains = st.sampled_from([None, None, True, False])


@st.composite
def turns(draw: st.DrawFn, roles: Sequence[str]) -> Turn:
    """Draw a turn of one or two spans, sometimes with flags of its own, sometimes with flags of its spans."""
    spans = tuple(Span(("x",), text) for text in draw(st.lists(contents, min_size=1, max_size=2)))
    joint = draw(st.sampled_from(["", "\n"])) if len(spans) > 1 else ""
    parts = ()
    if draw(st.integers(0, 5)) == 0:
        parts = tuple((draw(trains), draw(weights)) for _ in spans)
    return Turn(draw(st.sampled_from(roles)), spans, joint, draw(trains), draw(weights), parts)


dialogues = st.lists(turns(("system", "user", "assistant")), max_size=4)
variables = st.sampled_from([None, None, {"loud": True}, {"loud": False}])
chats = st.builds(lambda found, given: Example(tuple(found), True, "t", None, given), dialogues, variables)
plain_turns = st.lists(turns(("source", "target", "text")), min_size=1, max_size=3)
plains = plain_turns.map(lambda found: Example(tuple(found), False, "t"))
scopes = st.builds(
    TrainScope, st.sampled_from([frozenset({"assistant"}), frozenset({"user", "system"})]), st.booleans(), st.booleans()
)


def template_named(name: str, folder: Path) -> Template:
    """Return a built-in template, one with per cent signs, or a Jinja template."""
    if name in JINJA:
        return load_jinja(JINJA[name], "test", tokens={"bos_token": "<s>", "eos_token": "</s>"})
    if name == "percent":
        (folder / "percent.yaml").write_text(PERCENT, encoding="utf-8")
        return load_segments(folder / "percent.yaml", bos_token=None, eos_token=None)
    return load_template(name, tokenizer_template=None, bos_token="<s>", eos_token="</s>")


def of_row(spans: CharSpans, row: int, *, keep_empty: bool = False) -> list[tuple[int, int, float]]:
    """Return a row's spans."""
    found = zip(*(column.tolist() for column in spans), strict=True)
    return [(start, end, value) for owner, start, end, value in found if owner == row and (keep_empty or start < end)]


def assert_like_alone(
    renderer: Renderer, examples: list[Example], batch: RenderedBatch, refused: dict[int, InvalidRecord]
) -> None:
    """Compare a batch with its examples rendered one by one."""
    row = 0
    for number, example in enumerate(examples):
        try:
            alone = renderer.render(example)
        except InvalidRecord as error:
            assert refused[number].reason == error.reason and refused[number].detail == error.detail
            continue
        assert number not in refused and batch.texts[row] == alone.text
        assert of_row(batch.trained, row) == [(start, end, 0.0) for start, end in alone.trained if start < end]
        assert of_row(batch.weights, row) == [span for span in alone.weights if span[0] < span[1]]
        assert of_row(batch.content, row) == alone.content
        assert [end for _, end, _ in of_row(batch.turn_ends, row, keep_empty=True)] == alone.turn_ends
        row += 1
    assert row == len(batch.texts) == len(examples) - len(refused)
    assert all((column[1:] >= column[:-1]).all() for column in (spans.row for spans in batch[1:]))


@pytest.mark.parametrize("name", ["chatml", "llama2", "vicuna", "human_assistant", "alpaca", "percent", *JINJA])
@settings(max_examples=40, deadline=None)
@given(examples=st.lists(st.one_of(chats, plains), max_size=8), scope=scopes)
def test_a_batch_is_its_examples_rendered_alone(
    tmp_path_factory: pytest.TempPathFactory, name: str, examples: list[Example], scope: TrainScope
) -> None:
    template = template_named(name, tmp_path_factory.mktemp("template"))
    renderer = Renderer("talk", template, scope, bos_token="<s>", eos_token="</s>")
    assert_like_alone(renderer, examples, *renderer.render_batch(examples))
    assert_like_alone(renderer, examples[::-1], *renderer.render_batch(examples[::-1]))  # with shapes remembered


def question_and_answer(question: str, answer: str) -> Example:
    """Return a dialogue of two turns."""
    return Example((Turn("user", (Span((), question),)), Turn("assistant", (Span((), answer),))), True, "t")


@pytest.mark.parametrize("name", ["chatml", "thinking", "headers"])
def test_rows_of_one_shape_are_proven_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    renderer = Renderer("talk", template_named(name, Path()), TrainScope(), bos_token=None, eos_token="</s>")
    asked = []
    render = renderer.render

    def count(example: Example) -> Rendered:
        asked.append(example)
        return render(example)

    monkeypatch.setattr(renderer, "render", count)
    batch, _ = renderer.render_batch([question_and_answer("a" * number, "b") for number in range(1, 51)])
    assert len(batch.texts) == 50 and len(asked) == 1


def test_the_memory_of_shapes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MAX_SHAPES", 3)
    renderer = Renderer("talk", template_named("chatml", Path()), TrainScope(), bos_token=None, eos_token="</s>")
    turns = question_and_answer("a", "b").turns
    examples = [Example((turns[0]._replace(weight=weight), turns[1]), True, "t") for weight in (0.1, 0.2, 0.3, 0.4, 0.1)]
    assert_like_alone(renderer, examples, *renderer.render_batch(examples))
    assert 0 < len(renderer._plans) <= 3
