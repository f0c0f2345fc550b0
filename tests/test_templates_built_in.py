"""The built-in templates: against an oracle written by hand, against their own Jinja text, and the loader of their files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_oracle import (
    Chunks,
    Oracle,
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
from sftdata.templates import Template, TrainScope, built_in_names, load_template
from sftdata.templates.built_in import load_segments

SCOPE = TrainScope()


@cache
def template(name: str) -> Template:
    return load_template(name, tokenizer_template=None, bos_token="<s>", eos_token="</s>")


def chatml(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = []
    for one in turns:
        answer = one.role == "assistant"
        chunks += [(f"<|im_start|>{one.role}\n", "."), (one.content, "t" if answer else "c")]
        chunks += [("<|im_end|>", "e" if answer else "."), ("\n", ".")]
    return chunks


def llama2(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = []
    for number, one in enumerate(turns):
        if one.role == "system":
            chunks += [("<s>[INST] <<SYS>>\n", "."), (one.content, "c"), ("\n<</SYS>>\n\n", ".")]
        elif one.role == "user":
            opening = "" if number and turns[number - 1].role == "system" else "<s>[INST] "
            chunks += [(opening, "."), (one.content.strip(), "c"), (" [/INST]", ".")]
        else:
            chunks += [(" ", "e"), (one.content.strip(), "t"), (" </s>", "e")]
    return chunks


def with_names(names: tuple[str, str, str], opening: str, system_end: str, spaces: tuple[str, str]) -> Oracle:
    """Return the oracle of the templates that write a name before each turn."""

    def oracle(turns: Sequence[Turn]) -> Chunks:
        chunks: Chunks = [("<s>", ".")]
        if turns[0].role != "system":
            chunks.append((opening, "."))
        for one in turns:
            if one.role == "system":
                chunks += [(one.content, "c"), (system_end, ".")]
            elif one.role == "user":
                chunks += [(names[0], "."), (one.content, "c"), (names[1], ".")]
            else:
                chunks += [(names[2], "."), (spaces[0], "e"), (one.content, "t"), ("</s>" + spaces[1], "e")]
        return chunks

    return oracle


def atom(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = []
    for one in turns:
        if one.role == "user":
            chunks += [("<s>Human: ", "."), (one.content, "c"), ("请回答用户问题: \n</s>", ".")]
        else:
            chunks += [("<s>Assistant:", "."), (one.content, "t"), ("</s>", "e")]
    return chunks


HUMAN = "A chat between a curious human and an artificial intelligence assistant. "
HUMAN += "The assistant gives helpful, detailed, and polite answers to the human's questions.\n\n"
USER = HUMAN.replace("human", "user").strip() + " "
TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"

ORACLES: dict[str, Oracle] = {
    "atom": atom,
    "chatml": chatml,
    "llama2": llama2,
    "human_assistant": with_names(("Human: <s>", "</s>", "Assistant: <s>"), HUMAN, "\n\n", ("", "")),
    "vicuna": with_names(("USER: ", " ", "ASSISTANT:"), USER, " ", (" ", "")),
    "alpaca": with_names(("### Instruction:\n", "\n\n", "### Response:\n"), TASK, "\n\n", ("", "")),
}


@cache
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    empty = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=empty, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def by_transformers(name: str, turns: Sequence[Turn], *, prompt: bool = False) -> str:
    text = tokenizer().apply_chat_template(
        as_messages(turns), chat_template=template(name).jinja, tokenize=False, add_generation_prompt=prompt
    )
    assert isinstance(text, str)
    return text


def test_oracles_cover_every_built_in_template() -> None:
    assert sorted(ORACLES) == built_in_names() == ["alpaca", "atom", "chatml", "human_assistant", "llama2", "vicuna"]


def dialogues_for(name: str) -> st.SearchStrategy[list[Turn]]:
    """Return dialogues that a template has places for."""
    drawn = dialogues(alternate=name in ("llama2", "atom"))
    return drawn.map(lambda turns: [one for one in turns if one.role != "system"]) if name == "atom" else drawn


@pytest.mark.parametrize("name", sorted(ORACLES))
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_segments_place_every_character_as_the_oracle_does(name: str, data: st.DataObject) -> None:
    turns = data.draw(dialogues_for(name))
    rendered = template(name).render(turns, SCOPE)
    chunks = ORACLES[name](turns)
    assert (rendered.text, trained_mask(rendered)) == expected(chunks)
    assert content_mask(rendered) == expected_content(chunks)
    assert rendered.turn_ends == sorted(rendered.turn_ends)
    assert len(rendered.turn_ends) == len(turns) and rendered.turn_ends[-1] == len(rendered.text)


@pytest.mark.parametrize("name", sorted(ORACLES))
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_segments_equal_their_jinja_text(name: str, data: st.DataObject) -> None:
    turns = data.draw(dialogues_for(name))
    if name in ("alpaca", "atom"):
        asked = st.builds(lambda a, b: Turn("user", (Span(("i",), a), Span(("j",), b)), "\n"), contents, contents)
        turns = [data.draw(asked) if one.role == "user" and data.draw(st.booleans()) else one for one in turns]
    assert template(name).render(turns, SCOPE).text == by_transformers(name, turns)
    assert template(name).prompt(turns) == by_transformers(name, turns, prompt=True)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_every_answer_ends_in_a_trained_stop_token(name: str) -> None:
    turns = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "")]
    rendered = template(name).render(turns, SCOPE)
    assert len(rendered.trained) == 2
    for _, end in rendered.trained:
        assert rendered.text[:end].endswith(template(name).stop_token)
    assert template(name).stop_token in template(name).special_tokens


def test_alpaca_has_a_text_for_an_instruction_with_an_input() -> None:
    asked = Turn("user", (Span(("instruction",), "Add."), Span(("input",), "1 2")), "\n")
    rendered = template("alpaca").render([asked, turn("assistant", "3")], SCOPE)
    assert "paired with an input" in rendered.text
    assert rendered.text.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3</s>")
    assert [rendered.text[low:high] for low, high, _ in rendered.content] == ["Add.", "1 2", "3"]


def test_atom_writes_its_phrase_between_instruction_and_input() -> None:
    asked = Turn("user", (Span(("instruction",), "Add."), Span(("input",), "1 2")), "\n")
    rendered = template("atom").render([asked, turn("assistant", "3")], SCOPE)
    assert rendered.text == "<s>Human: Add.请回答用户问题: 1 2\n</s><s>Assistant:3</s>"
    assert [rendered.text[low:high] for low, high in rendered.trained] == ["3</s>"]


def test_a_missing_bos_or_eos_token_is_the_templates_own() -> None:
    loaded = load_template("vicuna", tokenizer_template=None, bos_token=None, eos_token=None)
    assert (loaded.bos_token, loaded.stop_token, loaded.special_tokens) == ("<s>", "</s>", ("<s>", "</s>"))
    own = load_template("vicuna", tokenizer_template=None, bos_token=None, eos_token="<|endoftext|>")
    assert own.render([turn("user", "a"), turn("assistant", "b")], SCOPE).text.endswith("ASSISTANT: b<|endoftext|>")


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("llama2", ["assistant"]),
        ("llama2", ["system"]),
        ("llama2", ["user", "user"]),
        ("llama2", ["user", "system", "assistant"]),
        ("vicuna", ["user", "system"]),
        ("alpaca", ["tool"]),
        ("chatml", ["narrator"]),
    ],
)
def test_dialogues_without_a_place_in_the_template_are_refused(name: str, roles: list[str]) -> None:
    with pytest.raises(InvalidRecord, match=name) as caught:
        template(name).render([turn(role, "x") for role in roles], SCOPE)
    assert caught.value.reason == "template_raised"


def test_a_dialogue_without_turns_is_refused() -> None:
    with pytest.raises(InvalidRecord) as caught:
        template("chatml").render([], SCOPE)
    assert caught.value.reason == "messages_empty"


GOOD = 'stop_token: "</x>"\nroles:\n  assistant: {after: "</x>"}\njinja: "x"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "begins: x\n", r"bad.yaml:5 unknown key 'begins'; did you mean 'begin'\?"),
        (GOOD.replace("{after:", "{afterr: '', after:"), r"bad.yaml:3 unknown key 'afterr'; did you mean 'after'\?"),
        (GOOD + "alternate: 1\n", "bad.yaml:5 'alternate' is int, not bool"),
        (GOOD.replace("roles:\n  assistant: {", "roles: {").replace("}", ": 1}"), "bad.yaml:"),
        (GOOD.replace('jinja: "x"\n', ""), "key 'jinja' is missing"),
        (GOOD.replace("assistant", "user"), "bad.yaml:2 the roles lack 'assistant'"),
        (GOOD.replace('after: "</x>"', 'after: "x"'), "does not end in the stop token '</x>'"),
        (GOOD + 'begin: "{eos}"\n', "the tokenizer has none"),
        (GOOD + "jinja: y\n", "bad.yaml:5 'jinja' stands twice"),
        ("- 1\n", "bad.yaml:1 a template is a mapping"),
        ("a: [\n", "bad.yaml:"),
    ],
)
def test_a_template_file_with_a_mistake_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD, encoding="utf-8")
    assert load_segments(good, bos_token=None, eos_token=None).stop_token == "</x>"
    bad.write_text(text, encoding="utf-8")
    with pytest.raises(TemplateError, match=message):
        load_segments(bad, bos_token=None, eos_token=None)
