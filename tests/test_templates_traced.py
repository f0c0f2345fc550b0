"""Traced strings: equal to plain ones under every operation, and right about which characters they took along."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.templates.sandbox import compile_template, render
from sftdata.templates.traced import CHANGED, ESCAPED, UNKNOWN, Run, Traced, concat, cut, runs_of, to_json, trace

texts = st.text(st.sampled_from("ab \n<>Z\"\\中\ue000"), max_size=8)
separators = st.sampled_from(["a", "<", " ", "ab", "\n"])

OPERATIONS: dict[str, Callable[[Any, str], Any]] = {
    "strip": lambda text, _: text.strip(),
    "lstrip": lambda text, other: text.lstrip(other),
    "rstrip": lambda text, other: text.rstrip(other),
    "slice": lambda text, _: text[1:-1],
    "first": lambda text, _: text[:1],
    "reverse": lambda text, _: text[::-1],
    "last": lambda text, _: text[-1] if text else text,
    "add": lambda text, other: text + other,
    "radd": lambda text, other: other + text,
    "twice": lambda text, _: text * 2,
    "split": lambda text, other: text.split(other)[-1],
    "split once": lambda text, other: text.split(other, 1)[0],
    "split blank": lambda text, _: (text.split() or [text])[0],
    "rsplit": lambda text, other: text.rsplit(other, 1)[-1],
    "rsplit blank": lambda text, _: (text.rsplit(None, 1) or [text])[0],
    "partition": lambda text, other: text.partition(other)[2],
    "rpartition": lambda text, other: text.rpartition(other)[0],
    "lines": lambda text, _: (text.splitlines() or [text])[-1],
    "prefix": lambda text, other: text.removeprefix(other),
    "suffix": lambda text, other: text.removesuffix(other),
    "replace": lambda text, other: text.replace(other, "__"),
    "replace nothing": lambda text, _: text.replace("", "-"),
    "join": lambda text, other: text.join([other, other]),
    "upper": lambda text, _: text.upper(),
    "letters": lambda text, _: "".join(list(text)) if type(text) is str else concat(iter(text)),
}


@settings(max_examples=400, deadline=None)
@given(texts, st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), separators), max_size=4))
def test_traced_text_is_the_plain_one_and_its_runs_are_right(text: str, operations: list[tuple[str, str]]) -> None:
    plain: str = text
    followed: str = trace(text, 7)
    for name, other in operations:
        plain, followed = OPERATIONS[name](plain, other), OPERATIONS[name](followed, other)
    assert followed == plain and hash(followed) == hash(plain)
    position = 0
    for start, end, leaf, first in runs_of(followed):
        assert position <= start <= end <= len(plain) and leaf == 7
        assert first == CHANGED or plain[start:end] == text[first : first + end - start]
        position = end


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_what_was_added_is_never_counted_as_traced(text: str, other: str) -> None:
    both = other + trace(text, 0) + other
    assert [(run.start, run.end) for run in runs_of(both)] == [(len(other), len(other) + len(text))]
    assert all(run.start == run.end for run in runs_of(cut(both, 0, len(other))))


def test_a_text_of_which_nothing_is_left_says_where_it_would_be() -> None:
    blank = trace("  \n", 3).strip()
    assert blank == "" and runs_of("<a>" + blank + "</a>") == (Run(3, 3, 3, 0),)
    assert [run.leaf for run in runs_of(trace("x</think>", 4).split("</think>")[-1])] == [4]


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def traced_value(value: Any) -> Any:
    if isinstance(value, str):
        return trace(value, 0)
    if isinstance(value, dict):
        return {trace(name, 0): traced_value(item) for name, item in value.items()}
    return [traced_value(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=300, deadline=None)
@given(values, st.booleans(), st.booleans(), st.sampled_from([None, 2]))
def test_json_of_traced_values_is_that_of_plain_ones(value: Any, ascii_only: bool, sort_keys: bool, indent: int | None) -> None:
    options = {"ensure_ascii": ascii_only, "indent": indent, "separators": None, "sort_keys": sort_keys}
    written = to_json(traced_value(value), options)
    assert written == json.dumps(value, **options)
    for start, end, _, first in runs_of(written):
        assert first in (0, ESCAPED) and "\n" not in written[start:end]


def test_json_says_which_texts_it_had_to_escape() -> None:
    written = to_json({"a": trace('say "hi"', 0), "b": trace("plain", 1)}, {})
    assert [(run.leaf, run.first) for run in runs_of(written)] == [(0, ESCAPED), (1, 0)]


RENDERS = {
    "{{ a ~ '-' ~ b }}": [(0, 0), (1, 0)],
    "{{ [a, b] | join(', ') }}": [(0, 0), (1, 0)],
    "{{ ', '.join([a, b]) }}": [(0, 0), (1, 0)],
    "{% set x %}{{ a | trim }}{% endset %}{{ x[1:] }}": [(0, 1)],
    "{% macro f(x) %}({{ x }}){% endmacro %}{{ f(a) }}": [(0, 0)],
    "{% set n = namespace(t='') %}{% for x in [a, b] %}{% set n.t = n.t + x %}{% endfor %}{{ n.t }}": [(0, 0), (1, 0)],
    "{{ a | default('none') }}{{ c | default(b) }}": [(0, 0), (1, 0)],
    "{{ a | upper }}": [(0, CHANGED)],
    "{{ '%s!' | format(a) }}": [(0, CHANGED)],
    "{{ '%s!' % a }}": [(0, CHANGED)],
    "{{ '{}!'.format(a) }}": [(0, CHANGED)],
    "{{ 'x'.replace('x', a) }}": [(0, CHANGED)],
    "{{ a | title }}": [(0, CHANGED)],
    "{{ [a, b] | map('upper') | join }}": [(0, CHANGED), (1, CHANGED)],
    "{{ a | length }}{{ 'yes' if a == 'alpha' }}": [],
}


@pytest.mark.parametrize("source", sorted(RENDERS))
def test_a_template_keeps_trace_of_what_it_writes(source: str) -> None:
    compiled = compile_template(source)
    written = render(compiled, {"a": trace("alpha", 0), "b": trace("beta", 1)}, tracing=True)
    assert written == render(compiled, {"a": "alpha", "b": "beta"})
    assert [(run.leaf, run.first) for run in runs_of(written)] == RENDERS[source]


def test_a_traced_text_shows_a_template_nothing_more() -> None:
    compiled = compile_template("{{ a._runs }}{{ a.runs }}")
    assert render(compiled, {"a": trace("alpha", 0)}, tracing=True) == render(compiled, {"a": "alpha"}) == ""
    assert runs_of(Traced("x"))[0].first == CHANGED and runs_of(Traced("x"))[0].leaf == UNKNOWN
