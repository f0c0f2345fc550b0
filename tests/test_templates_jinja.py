"""Foreign Jinja templates: proven masks against oracles written by hand, and refusals."""

from __future__ import annotations

import os
import re
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from family_templates import FAMILIES
from foreign_templates import ANSWER_ONLY, CASES, INSTRUCT, MODEL_ROLE, RAW, SYSTEM_LAST, THINKING
from hypothesis import given, settings
from hypothesis import strategies as st
from template_oracle import (
    as_messages,
    content_mask,
    contents,
    dialogues,
    expected,
    expected_content,
    trained_mask,
    turn,
)

from sftdata.errors import TemplateError
from sftdata.records import InvalidRecord, Span, Turn
from sftdata.templates import Template, TrainScope, load_template
from sftdata.templates.jinja import load_jinja

SCOPE = TrainScope()


@cache
def template(source: str) -> Template:
    return load_template("tokenizer_default", tokenizer_template=source, bos_token="<s>", eos_token="</s>")


ALL = {**CASES, **FAMILIES}
EXAMPLES = int(os.environ.get("SFTDATA_FUZZ_EXAMPLES", "100"))
"""Of each template; `make fuzz` takes more."""


def with_thoughts(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    thought = st.builds("<think>\n{}\n</think>\n\n{}".format, texts, texts)
    bracketed = st.builds("[THINK]{}[/THINK]{}".format, texts, texts)
    return st.one_of(texts, texts, thought, bracketed)


def with_reasoning(turns: list[Turn], thoughts: list[str]) -> list[Turn]:
    """Give answers reasoning beside their content; an empty thought gives none."""
    return [
        one._replace(reasoning=Span(("reasoning_content",), thought)) if thought and one.role == "assistant" else one
        for one, thought in zip_longest(turns, thoughts[: len(turns)], fillvalue="")
    ]


@pytest.mark.parametrize("name", sorted(ALL))
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_masks_are_those_of_the_oracle_or_refused(name: str, data: st.DataObject) -> None:
    source, oracle, system = ALL[name]
    turns = data.draw(dialogues(system=system, texts=with_thoughts(contents)))
    turns = with_reasoning(turns, data.draw(st.lists(contents, max_size=4)))
    text, mask = expected(oracle(turns))
    try:
        rendered = template(source).render(turns, SCOPE)
    except InvalidRecord as error:
        assert (error.reason, may_be_refused(turns)) == ("mask_unproven", True), error.detail
        return
    assert (rendered.text, trained_mask(rendered)) == (text, mask)
    assert content_mask(rendered) == expected_content(oracle(turns))
    assert len(rendered.turn_ends) == len(turns) and rendered.turn_ends == sorted(rendered.turn_ends)


def may_be_refused(turns: list[Turn]) -> bool:
    """Say whether there is a reason: an answer of which nothing may be left, or more than its reasoning."""
    answers = [one.content for one in turns if one.role == "assistant"]
    return any(not answer.rpartition("</think>")[2].rpartition("[/THINK]")[2].strip() for answer in answers)


def test_reasoning_of_earlier_turns_is_taken_away_and_that_of_the_last_trained() -> None:
    answer = "<think>\nHm, {}.\n</think>\n\nIt is {}."
    answers = [turn("assistant", answer.format(1, 2)), turn("assistant", answer.format(3, 4))]
    turns = [turn("user", "a"), answers[0], turn("user", "b"), answers[1]]
    rendered = template(THINKING).render(turns, SCOPE)
    trained = [rendered.text[low:high] for low, high in rendered.trained]
    assert trained == ["It is 2.<|im_end|>", "<think>\nHm, 3.\n</think>\n\nIt is 4.<|im_end|>"]
    assert "Hm, 1" not in rendered.text


def test_an_empty_block_of_reasoning_that_the_template_adds_is_not_trained() -> None:
    rendered = template(THINKING).render([turn("user", "a"), turn("assistant", "It is 4.")], SCOPE)
    assert "<think>\n\n</think>\n\nIt is 4." in rendered.text
    assert [rendered.text[low:high] for low, high in rendered.trained] == ["It is 4.<|im_end|>"]


def test_reasoning_that_the_prompt_opens_is_trained_from_there() -> None:
    turns = [turn("user", "a"), turn("assistant", "<think>Hm.</think>It is 4.")]
    rendered = template(ANSWER_ONLY).render(turns, SCOPE)
    assert rendered.text.startswith(template(ANSWER_ONLY).prompt(turns[:1]))
    assert [rendered.text[low:high] for low, high in rendered.trained] == ["Hm.</think>\nIt is 4.</s>"]


def test_trimmed_texts_are_proven_without_their_outer_space() -> None:
    turns = [turn("user", "\n a "), turn("assistant", " \nIt is 4. \n")]
    rendered = template(MODEL_ROLE).render(turns, SCOPE)
    assert [rendered.text[low:high] for low, high in rendered.trained] == ["It is 4.<end_of_turn>"]
    assert template(MODEL_ROLE).stop_token == "<end_of_turn>"


@pytest.mark.parametrize(
    ("source", "reason", "message"),
    [
        (RAW.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}"), "mask_unproven", "twice"),
        (RAW.replace("m.content", "m.content | upper"), "mask_unproven", "changes the content of turn 0"),
        (RAW.replace("m.content", "m.content[:3]"), "mask_unproven", "leaves out a part of the content of turn 0"),
        (RAW.replace("m.content", "m.content | length"), "mask_unproven", "leaves out the content of turn 0"),
        (RAW.replace("in messages", "in messages[1:]"), "mask_unproven", r"leaves out the content of turn 0 \(user\)"),
        (RAW.replace("in messages", "in messages | reverse"), "mask_unproven", "moves the content of turn 1"),
        (RAW.replace("<|im_end|>", ""), "mask_unproven", "no stop token follows the answer in turn 1"),
        ("{{ raise_exception('no ' + messages[0].role) }}", "template_raised", "no user"),
        ("{{ messages.x.y }}", "template_raised", "no attribute 'x'"),
        ("{{ 1 // 0 }}", "template_raised", "zero"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "template_raised", "000 steps"),
    ],
)
def test_a_template_that_does_not_show_the_texts_is_refused(source: str, reason: str, message: str) -> None:
    turns = [turn("user", "four letters"), turn("assistant", "and more")]
    assert template(RAW).render(turns, SCOPE).trained
    with pytest.raises(InvalidRecord, match=message) as caught:
        template(source).render(turns, SCOPE)
    assert caught.value.reason == reason


def test_flags_of_parts_hold_in_foreign_templates() -> None:
    spans = (Span((), "ab "), Span((), "cd"))
    parts = Turn("assistant", spans, parts=((False, 1.0), (None, 0.5)))
    rendered = template(RAW).render([turn("user", "q"), parts], SCOPE)
    assert [rendered.text[low:high] for low, high in rendered.trained] == ["cd<|im_end|>"]
    assert [(rendered.text[low:high], weight) for low, high, weight in rendered.weights] == [("cd<|im_end|>", 0.5)]


@settings(max_examples=60, deadline=None)
@given(turns=dialogues())
def test_renders_equal_those_of_transformers(turns: list[Turn]) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    for source in (RAW, SYSTEM_LAST, THINKING):
        values: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
        reference = render_jinja_template([as_messages(turns)], chat_template=source, add_generation_prompt=True, **values)
        assert template(source).prompt(turns) == reference[0][0]


def test_an_added_token_right_after_the_answer_ends_it_where_none_is_known() -> None:
    source = "{% for m in messages %}{{ '[|' + m.role + '|]' + m.content + '[|over|]' }}{% endfor %}"
    turns = [turn("user", "a"), turn("assistant", "b")]
    with pytest.raises(InvalidRecord, match="no stop token"):
        load_jinja(source, "own", tokens={}).render(turns, SCOPE)
    known = load_jinja(source, "own", tokens={"eos_token": "</s>"}, added_tokens=["</s>", "[|over|]", "[|user|]"])
    rendered = known.render(turns, SCOPE)
    assert known.stop_token == "[|over|]" and [rendered.text[low:high] for low, high in rendered.trained] == ["b[|over|]"]
    later = load_jinja(source.replace("'[|over|]'", "' so [|over|]'"), "own", tokens={}, added_tokens=["[|over|]"])
    with pytest.raises(InvalidRecord, match="no stop token"):
        later.render(turns, SCOPE)


def test_a_file_is_read_and_part_of_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(INSTRUCT, encoding="utf-8")
    tokens = {"unk_token": "?"}
    loaded = load_template(str(path), tokenizer_template=None, bos_token="<s>", eos_token="</s>", other_tokens=tokens)
    assert loaded.source_files == (path,) and loaded.jinja == INSTRUCT
    assert loaded.render([turn("user", "a"), turn("assistant", "b")], SCOPE).text == "<s>[INST] a [/INST] b</s>"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chatlm", "unknown chat template 'chatlm'; did you mean 'chatml'?"),
        ("missing.jinja", "missing.jinja: cannot be read"),
        ("tokenizer_default", "the tokenizer has no chat template"),
    ],
)
def test_a_template_that_is_not_there_is_an_error_with_its_cure(name: str, message: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(message)):
        load_template(name, tokenizer_template=None, bos_token=None, eos_token="</s>")


def test_a_file_that_is_no_jinja_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jinja"
    path.write_text("{{ bos_token }}\n{% for m in messages %}", encoding="utf-8")
    with pytest.raises(TemplateError, match=r"bad\.jinja:2 not a Jinja template"):
        load_template(str(path), tokenizer_template=None, bos_token=None, eos_token="</s>")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TemplateError, match="not UTF-8"):
        load_template(str(path), tokenizer_template=None, bos_token=None, eos_token="</s>")
