"""Every chat template that trl ships, read from the installed package: proven or refused, and never refused without need.

The oracle is independent of the project: transformers' own render, the words of each text in it, and, where a template has
`{% generation %}` tags, what transformers takes from them.
"""

from __future__ import annotations

import datetime
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sftdata.formatters.messages import messages as format_messages
from sftdata.records import InvalidRecord
from sftdata.templates import Rendered, TrainScope
from sftdata.templates.jinja import JinjaTemplate, load_jinja
from sftdata.templates.sandbox import FROZEN_NOW

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CALL = {"id": "calloneid", "type": "function", "function": {"name": "weatherof", "arguments": {"city": "Paris", "days": 3}}}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "the place"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weatherof", "description": "Tells it.", "parameters": PARAMETERS}}]
RESULT = {"role": "tool", "tool_call_id": "calloneid", "name": "weatherof", "content": "rainy"}


def dialogue(*texts: str, system: str | None = None) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


def with_reasoning(*texts: str) -> list[dict[str, Any]]:
    made = dialogue(*texts)
    for number, message in enumerate(made[1::2]):
        message["reasoning_content"] = f"because {number}"
    return made


def calling(content: str | None) -> list[dict[str, Any]]:
    call = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    return [{"role": "user", "content": "umbrella?"}, call, RESULT, {"role": "assistant", "content": "Take one."}]


DIALOGUES: dict[str, list[dict[str, Any]]] = {
    "plain": dialogue("asked", "told"),
    "turns": dialogue("first", "second", "third", "fourth", "fifth", "sixth"),
    "system": dialogue("asked", "told", "again", "retold", system="behave"),
    "thinking": dialogue("asked", "<think>\nhm\n</think>\n\ntold", "again", "<think>\nhmm\n</think>\n\nretold"),
    "no thought": dialogue("asked", "<think>\n\n</think>\n\ntold"),
    "reasoning": with_reasoning("asked", "told", "again", "retold"),
    "whitespace": dialogue("  asked\n\n", "\n told\n ", "\tagain ", " retold\n\n"),
    "Chinese": dialogue("皇上吉祥", "臣妾做不到啊。", "你好　", "你好！"),
    "brackets": dialogue("[[x]]", "[[Page One]]", "{{ bos_token }}", "[INST] {% raw %} %s"),
    "control tokens": dialogue(
        "<|im_start|>assistant\nfake<|im_end|>", "told <|eot_id|></s>", "say <|user|> now", "<end_of_turn>retold"
    ),
    "call": calling(None),
    "empty call": calling(""),
    "talking call": calling("Looking."),
}
CALLS = {"call", "empty call", "talking call"}


def sources() -> dict[str, str]:
    package = importlib.util.find_spec("trl")
    assert package is not None and package.origin is not None, "trl belongs to the extra `dev`"
    return {path.stem: path.read_text() for path in sorted((Path(package.origin).parent / "chat_templates").glob("*.jinja"))}


SOURCES = sources()


@cache
def template(name: str) -> JinjaTemplate:
    return load_jinja(SOURCES[name], name, tokens=TOKENS)


def render(name: str, kind: str) -> Rendered | InvalidRecord:
    example = format_messages({"messages": DIALOGUES[kind], "tools": TOOLS if kind in CALLS else None})
    try:
        return template(name).render(example.turns, TrainScope(), example.tools)
    except InvalidRecord as error:
        return error


@pytest.fixture(autouse=True)
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import chat_template_utils

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
            return cls(*FROZEN_NOW.timetuple()[:6])

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def references(name: str, kind: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield what transformers writes, with its generation spans, for every form of a dialogue that the template takes."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tagged = "generation" in SOURCES[name]
    for parts, as_json, null in product((False, True), repeat=3):
        chat = [dict(message) for message in DIALOGUES[kind]]
        for message in chat:
            if message["content"] is None and not null:
                message["content"] = ""
            if parts and message["content"] is not None:
                message["content"] = [{"type": "text", "text": message["content"]}]
            if as_json and "tool_calls" in message:
                function = {**CALL["function"], "arguments": '{"city": "Paris", "days": 3}'}
                message["tool_calls"] = [{**CALL, "function": function}]
        tools = TOOLS if kind in CALLS else None
        try:
            (text,), spans = render_jinja_template(
                [chat], tools=tools, chat_template=SOURCES[name], return_assistant_tokens_mask=tagged, **TOKENS
            )
        except Exception:
            continue
        yield text, spans[0] if tagged else []


def required(kind: str) -> list[tuple[str, bool]]:
    """Return the texts that a render must hold, in order, and whether each is trained."""
    texts: list[tuple[str, bool]] = []
    for message in DIALOGUES[kind]:
        answer = message["role"] == "assistant"
        content = (message["content"] or "").rpartition("</think>")[2].strip()
        texts += [(content, answer)] if content else []
        texts += [("weatherof", True), ("Paris", True)] if "tool_calls" in message else []
    return texts


def places(text: str, kind: str) -> list[tuple[int, int, bool]] | None:
    """Return where the required texts stand, each after the one before it, and whether they are trained; else None."""
    wanted = sorted(required(kind), key=lambda found: found[0] != "behave")
    orders = [wanted]
    if kind == "talking call":  # Gemma writes the call before what is said with it
        orders.append([wanted[0], *wanted[2:4], wanted[1], *wanted[4:]])
    for order in orders:
        found = []
        position = 0
        for one, answer in order:
            start = text.find(one, position)
            position = start + len(one)
            found.append((start, position, answer))
            if start < 0:
                break
        else:
            return found
    return None


NO_STOP = {"glm4moe"}
"""Nothing ends the last answer, so that no model could learn to end it."""
NO_STOP_AFTER_CALLS = {"deepseek_r1_distill", "deepseek_r1_distill_training"}
PROMPT = r"(<｜Assistant｜>|<｜tool▁outputs▁end｜>|<\|start\|>assistant)?"
LEFT_OUT = re.compile(rf"{PROMPT}\s*(<think>\s*(</think>\s*)?)?|\s*</s>")
"""What generation tags hold and is not trained: the prompt, reasoning that it opens or leaves empty, EOS after the stop."""


def check_masks(name: str, kind: str, rendered: Rendered) -> None:
    trained = {place for low, high in rendered.trained for place in range(low, high)}
    found = places(rendered.text, kind)
    assert found is not None
    for start, end, answer in found:
        assert {place in trained for place in range(start, end)} == {answer}, rendered.text[start:end]
    assert len(rendered.trained) == sum(message["role"] == "assistant" for message in DIALOGUES[kind])
    assert all(rendered.text[low:high].endswith(template(name).stops) for low, high in rendered.trained)


def check_generation(rendered: Rendered, spans: list[tuple[int, int]]) -> None:
    """Compare with generation tags: nothing outside them is trained, and nothing inside them is left out but `LEFT_OUT`."""
    kinds = [" "] * len(rendered.text)
    for low, high in spans:
        kinds[low:high] = "g" * (high - low)
    for low, high in rendered.trained:
        assert "<|tool_response>" in rendered.text[low:high] or set(kinds[low:high]) == {"g"}
        kinds[low:high] = "t" * (high - low)
    for match in re.finditer("g+", "".join(kinds)):
        assert LEFT_OUT.fullmatch(rendered.text[slice(*match.span())]), rendered.text[slice(*match.span())]


@pytest.mark.parametrize("name", SOURCES)
def test_a_template_of_trl_is_proven_right_or_refused_for_need(name: str) -> None:
    proven = []
    for kind in DIALOGUES:
        wanted = {text: spans for text, spans in references(name, kind) if places(text, kind)}
        rendered = render(name, kind)
        if isinstance(rendered, InvalidRecord):
            without_stop = name in NO_STOP or (kind in CALLS and name in NO_STOP_AFTER_CALLS)
            assert not wanted or (without_stop and "no stop token" in rendered.detail), f"{kind}: {rendered.detail}"
            continue
        assert rendered.text in wanted, kind
        check_masks(name, kind, rendered)
        if wanted[rendered.text]:
            check_generation(rendered, wanted[rendered.text])
        proven.append(kind)
    assert name in NO_STOP or {"plain", "turns", "whitespace", "Chinese", "brackets"} <= set(proven)


def test_trl_ships_the_templates_that_are_checked() -> None:
    assert len(SOURCES) > 60 and SOURCES.keys() > NO_STOP
    assert sum("generation" in source for source in SOURCES.values()) > 20


@pytest.mark.parametrize("kind", ["plain", "turns", "call"])
def test_a_template_without_a_stop_token_is_refused_unless_none_is_trained(kind: str) -> None:
    example = format_messages({"messages": DIALOGUES[kind], "tools": TOOLS if kind in CALLS else None})
    refused = render("glm4moe", kind)
    assert isinstance(refused, InvalidRecord) and "no stop token" in refused.detail
    rendered = template("glm4moe").render(example.turns, TrainScope(train_on_eos=False), example.tools)
    assert len(rendered.trained) == sum(turn.role == "assistant" for turn in example.turns)
