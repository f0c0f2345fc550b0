"""The sandbox: as transformers renders, always the same, and within limits."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest

from sftdata.templates.sandbox import MAX_OUTPUT, compile_template, render

MESSAGES = [{"role": "user", "content": "a<é"}, {"role": "assistant", "content": "b"}]


def rendered(source: str) -> str:
    return render(compile_template(source), {"messages": MESSAGES})


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ loop.nextitem is defined }}{% endfor %}",
        "{% for k, v in messages[0].items() %}{{ k ~ '=' ~ v ~ missing }}{% endfor %}",
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "{% for a in [[[1], [2]], [3]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
        "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
        "{{ '%s-%5d' % ('a', 3) }}{{ '{:>4}'.format(7) }}{{ 'ab' * 3 }}{{ [1] + [2] }}{{ 2 ** 10 }}{{ 7 % 4 }}",
        "{% set x %}{{ messages[0].content | upper }}{% endset %}{{ x }}{% set y | lower %}QQ{% endset %}{{ y }}",
        "{% macro f(n) %}{% if n %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}{{ dict(a=1).a }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% generation %}{{ messages[1].content }}{% endgeneration %}\n  {% if true %}\n  x\n  {% endif %}\n",
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(',') }}",
        "{% macro f(n) %}{{ n }}{% endmacro %}{{ f(10 ** 9) }}{{ {'id': 12345678901} | tojson }}{{ 99999999 | string }}",
        "{% for m in nothing %}x{% else %}none{% endfor %}{{ messages[:1] | list | length }}",
    ],
)
def test_sandbox_renders_as_transformers_does(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    reference: Any = render_jinja_template([MESSAGES], chat_template=source)
    assert rendered(source) == reference[0][0]
    assert rendered(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% for i in range(900000) %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=2) %}{% for i in range(90) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ [0] * 999999999 }}",
        "{{ 'x'.ljust(999999999) }}",
        "{{ 'x' | center(999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace(_x=1) }}",
    ],
)
def test_sandbox_stops_what_works_without_end_or_breaks_out(source: str) -> None:
    with pytest.raises((jinja2.exceptions.SecurityError, OverflowError)):
        rendered(source)


def test_sandbox_counts_every_render_anew() -> None:
    template = compile_template("{% for i in range(90000) %}{% endfor %}done")
    assert [render(template, {}) for _ in range(12)] == ["done"] * 12


def test_sandbox_writes_up_to_its_limit() -> None:
    template = compile_template("{{ text }}{{ text }}")
    assert len(render(template, {"text": "x" * (MAX_OUTPUT // 2)})) == MAX_OUTPUT
    with pytest.raises(jinja2.exceptions.SecurityError, match="10,000,000"):
        render(template, {"text": "x" * (MAX_OUTPUT // 2 + 1)})


def test_sandbox_has_no_clock_and_no_chance() -> None:
    assert rendered("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"
    assert rendered("{{ lipsum is defined }}") == "False"
    with pytest.raises(jinja2.exceptions.TemplateError, match="random"):
        compile_template("{{ [1, 2] | random }}")
