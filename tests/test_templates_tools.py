"""Tools, calls and reasoning in Jinja templates: what a model writes of them is trained, as an oracle by hand says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_oracle import Chunks, contents, expected, expected_content, trained_mask, turn

from sftdata.records import InvalidRecord, Span, Turn
from sftdata.templates import Rendered, Template, TrainScope, load_template

SCOPE = TrainScope()
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "look", "parameters": {"at": {"type": "string"}}}}]

HERMES = """{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}
{%- if m.role == 'tool' %}{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}
{%- if m.reasoning_content %}{{ '<think>\\n' + m.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}
{{- m.content or '' }}
{%- for call in m.tool_calls or [] %}{{ '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

TAGGED = """{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>' ~ (m.content or '') }}
{%- for call in m.tool_calls or [] %}<call name="{{ call.function.name }}">
{%- for key, value in call.function.arguments | dictsort %}{{ '<' ~ key ~ '>' }}
{{- value if value is string else value | tojson }}{{ '</' ~ key ~ '>' }}{% endfor %}</call>
{%- endfor %}</s>{% else %}{{ '<|' + m.role + '|>' + m.content }}{% endif %}{% endfor %}"""


@cache
def template(source: str) -> Template:
    return load_template("tokenizer_default", tokenizer_template=source, bos_token=None, eos_token="</s>")


def calling(content: str | None, *calls: tuple[str, Any], **fields: Any) -> Turn:
    made = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    spans = () if content is None else (Span(("c",), content),)
    return Turn("assistant", spans, fields={"tool_calls": made}, **fields)


def hermes(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = [("<|im_start|>system\n" + json.dumps(TOOLS[0]) + "\n<|im_end|>\n", ".")]
    for one in turns:
        if one.role == "tool":
            chunks += [("<|im_start|>user\n<tool_response>\n", "."), (one.content, "c")]
            chunks.append(("\n</tool_response><|im_end|>\n", "."))
            continue
        chunks.append((f"<|im_start|>{one.role}\n", "."))
        if one.role != "assistant":
            chunks += [(one.content, "c"), ("<|im_end|>\n", ".")]
            continue
        if one.reasoning is not None:
            chunks += [("<think>\n", "e"), (one.reasoning.text.strip("\n"), "t"), ("\n</think>\n\n", "e")]
        chunks.append((one.content, "t"))
        for call in (one.fields or {}).get("tool_calls", ()):
            arguments = call["function"]["arguments"]
            written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            chunks += [('<tool_call>\n{"name": "', "e"), (call["function"]["name"], "t"), ('", "arguments": ', "e")]
            chunks += [(written, "t"), ("}\n</tool_call>", "e")]
        chunks += [("<|im_end|>", "e"), ("\n", ".")]
    return chunks


def tagged(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = []
    for one in turns:
        chunks.append((f"<|{one.role}|>", "."))
        if one.role != "assistant":
            chunks.append((one.content, "c"))
            continue
        chunks.append((one.content, "t"))
        for call in (one.fields or {}).get("tool_calls", ()):
            chunks.append((f'<call name="{call["function"]["name"]}">', "e"))
            for key, value in sorted(call["function"]["arguments"].items(), key=lambda item: item[0].lower()):
                written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                chunks += [(f"<{key}>", "e"), (written, "t"), (f"</{key}>", "e")]
            chunks.append(("</call>", "e"))
        chunks.append(("</s>", "e"))
    return chunks


names = st.sampled_from(["look", "look_up", "</tool_call>", "看", 'say "hi"', "<|im_end|>"])
values = st.one_of(contents, st.integers(), st.booleans(), st.lists(contents, max_size=2))
arguments = st.dictionaries(names, values, max_size=3)
reasonings = st.one_of(st.none(), contents.filter(lambda text: bool(text.strip())).map(lambda text: Span(("r",), text)))


@st.composite
def conversations(draw: st.DrawFn, as_text: bool) -> list[Turn]:
    """Draw a question, calls of tools with their answers, and what is said at last."""
    given_arguments = st.one_of(arguments, arguments.map(json.dumps)) if as_text else arguments
    turns = [turn("user", draw(contents))]
    for _ in range(draw(st.integers(1, 2))):
        calls = draw(st.lists(st.tuples(names, given_arguments), min_size=1, max_size=2))
        turns.append(calling(draw(st.one_of(st.none(), contents)), *calls, reasoning=draw(reasonings) if as_text else None))
        turns += [turn("tool", draw(contents)) for _ in calls]
    return [*turns, turn("assistant", "Seen." + draw(contents), reasoning=draw(reasonings) if as_text else None)]


@settings(max_examples=150, deadline=None)
@given(conversations(as_text=True))
def test_calls_in_json_are_trained_as_the_oracle_says(turns: list[Turn]) -> None:
    rendered = template(HERMES).render(turns, SCOPE, TOOLS)
    assert (rendered.text, trained_mask(rendered)) == expected(hermes(turns))
    assert covers_texts(rendered, turns)


@settings(max_examples=150, deadline=None)
@given(conversations(as_text=False))
def test_calls_value_by_value_are_trained_as_the_oracle_says(turns: list[Turn]) -> None:
    rendered = template(TAGGED).render(turns, SCOPE)
    assert (rendered.text, trained_mask(rendered)) == expected(tagged(turns))
    assert covers_texts(rendered, turns)


def covers_texts(rendered: Rendered, turns: list[Turn]) -> bool:
    """Say whether the contents of the turns, stripped, are all among what counts as the record's own."""
    written = {rendered.text[low:high].strip() for low, high, _ in rendered.content}
    return {one.content.strip() for one in turns} - {""} <= written


def test_names_and_definitions_of_the_record_count_as_its_content() -> None:
    hostile = [{"type": "function", "function": {"name": "<|im_end|>", "description": "<|im_start|>assistant"}}]
    rendered = template(HERMES).render([turn("user", "a"), turn("assistant", "b")], SCOPE, hostile)
    written = [rendered.text[low:high] for low, high, _ in rendered.content]
    assert "<|im_end|>" in written and "<|im_start|>assistant" in written
    assert [rendered.text[low:high] for low, high in rendered.trained] == ["b<|im_end|>"]
    assert expected_content([("x", "c")]) == "c"


def test_arguments_go_in_the_form_that_the_template_takes() -> None:
    as_text = [turn("user", "a"), calling("", ("look", '{"at": "moon"}'))]
    rendered = template(TAGGED).render(as_text, SCOPE)
    assert rendered.text == '<|user|>a<|assistant|><call name="look"><at>moon</at></call></s>'
    quoting = TAGGED.replace("call.function.arguments | dictsort", "{'json': call.function.arguments | tojson} | items")
    assert '\\"' not in template(quoting).render(as_text, SCOPE).text
    adding = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    adding += "{{ c.function.name + c.function.arguments }}{% endfor %}</s>{% endfor %}"
    whole = template(adding).render([turn("user", "a"), calling("b", ("look", {"at": "moon"}))], SCOPE).text
    assert whole == 'a</s>blook{"at": "moon"}</s>'


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("call.function.name", "'look'"), "leaves out the call of turn 1"),
        (("call.function.name", "call.function.name | upper"), "changes the call of turn 1"),
        (("m.tool_calls or []", "[]"), "leaves out the call of turn 1"),
        (("{{ '<|im_end|>\\\\n' }}\n", "\n"), "no stop token follows the answer in turn 1"),
    ],
)
def test_a_template_that_does_not_show_a_call_is_refused(change: tuple[str, str], reason: str) -> None:
    turns = [turn("user", "a"), calling("b", ("see", {"at": "moon"})), turn("user", "c")]
    assert template(HERMES).render(turns, SCOPE).trained
    source = HERMES.replace(change[0].replace("\\\\", "\\"), change[1])
    assert source != HERMES
    with pytest.raises(InvalidRecord, match=reason):
        template(source).render(turns, SCOPE)


def trained(rendered: Rendered) -> list[str]:
    return [rendered.text[low:high] for low, high in rendered.trained]


THINKING = [turn("user", "a"), turn("assistant", "b", reasoning=Span(("r",), "hm"))]


def test_reasoning_is_context_where_it_is_not_to_be_trained() -> None:
    assert trained(template(HERMES).render(THINKING, SCOPE)) == ["<think>\nhm\n</think>\n\nb<|im_end|>"]
    silent = TrainScope(train_on_thinking=False)
    assert trained(template(HERMES).render(THINKING, silent)) == ["b<|im_end|>"]
    inside = [THINKING[0], turn("assistant", "<think>\nhm\n</think>\n\nb")]
    assert trained(template(HERMES).render(inside, silent)) == ["b<|im_end|>"]
    assert trained(template(HERMES).render([*inside, calling("<think>x</think>", ("look", {}))], silent))[1:] != []


def test_reasoning_has_flags_of_its_own() -> None:
    answer = THINKING[1]._replace(reasoning_flags=(None, 0.5), weight=2.0)
    rendered = template(HERMES).render([THINKING[0], answer], SCOPE)
    weights = [(rendered.text[low:high], weight) for low, high, weight in rendered.weights]
    assert weights == [("<think>\nhm", 0.5), ("\n</think>\n\nb<|im_end|>", 2.0)]
    answer = THINKING[1]._replace(reasoning_flags=(True, 1.0), train=False)
    assert trained(template(HERMES).render([THINKING[0], answer], SCOPE)) == ["<think>\nhm"]


@pytest.mark.parametrize("name", ["chatml", "llama2"])
def test_built_in_templates_refuse_what_they_have_no_place_for(name: str) -> None:
    built_in = load_template(name, tokenizer_template=None, bos_token="<s>", eos_token="</s>")
    plain = [turn("user", "a"), turn("assistant", "b")]
    assert built_in.render(plain, SCOPE).trained
    called = [calling(None, ("f", {}))]
    for turns, tools, what in ((plain, TOOLS, "tools"), (THINKING, None, "reasoning"), (called, None, "calls")):
        with pytest.raises(InvalidRecord, match=what) as caught:
            built_in.render(turns, SCOPE, tools)
        assert caught.value.reason == "template_raised"


SWITCHED = "{% if think %}THINK {% endif %}" + HERMES + "{% if add_generation_prompt and not think %}<think></think>{% endif %}"


def test_variables_reach_the_template_and_its_habits() -> None:
    loaded = template(SWITCHED)
    on, off = loaded.with_variables({"think": True}), loaded.with_variables({"think": False})
    assert on.render(THINKING, SCOPE).text == "THINK " + off.render(THINKING, SCOPE).text
    assert on.prompt(THINKING[:1]).endswith("assistant\n") and off.prompt(THINKING[:1]).endswith("<think></think>")
    assert trained(on.render(THINKING, SCOPE)) == trained(off.render(THINKING, SCOPE)) != []
    assert loaded.with_variables({"think": True}) is on and loaded.with_variables(None) is loaded
    for number in range(200):
        loaded.with_variables({"think": number})
    assert loaded.with_variables({"messages": []}).render(THINKING, SCOPE).trained


def test_built_in_templates_have_no_variables() -> None:
    built_in = load_template("chatml", tokenizer_template=None, bos_token=None, eos_token=None)
    assert built_in.with_variables(None) is built_in
    with pytest.raises(InvalidRecord, match="has no variables; think was given"):
        built_in.with_variables({"think": True})
