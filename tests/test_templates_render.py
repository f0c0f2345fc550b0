"""What is trained: scopes, flags and weights, and plain examples without a template."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_oracle import content_mask, contents, trained_mask, turn

from sftdata.records import Span, Turn
from sftdata.templates import Rendered, Template, TrainScope, load_template, render_plain


@cache
def chatml() -> Template:
    return load_template("chatml", tokenizer_template=None, bos_token=None, eos_token=None)


def trained(rendered: Rendered) -> list[str]:
    return [rendered.text[low:high] for low, high in rendered.trained]


def scope(*roles: str, inputs: bool = False, eos: bool = True) -> TrainScope:
    return TrainScope(frozenset(roles or ("assistant",)), inputs, eos)


DIALOGUE = [turn("system", "S"), turn("user", "U"), turn("assistant", "A"), turn("user", "V"), turn("assistant", "B")]


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        (scope(), ["A<|im_end|>", "B<|im_end|>"]),
        (scope(eos=False), ["A", "B"]),
        (scope("user", "system"), ["S<|im_end|>", "U<|im_end|>", "V<|im_end|>"]),
        (scope("tool"), []),
    ],
)
def test_scope_chooses_roles_and_stop_tokens(wanted: TrainScope, texts: list[str]) -> None:
    assert trained(chatml().render(DIALOGUE, wanted)) == texts


def test_train_on_inputs_trains_the_whole_text_but_what_says_no() -> None:
    whole = chatml().render(DIALOGUE, scope(inputs=True))
    assert trained(whole) == [whole.text]
    turns = [*DIALOGUE[:2], DIALOGUE[2]._replace(train=False), *DIALOGUE[3:]]
    assert "".join(trained(chatml().render(turns, scope(inputs=True)))) == whole.text.replace("A<|im_end|>", "", 1)
    without = chatml().render(DIALOGUE, scope(inputs=True, eos=False))
    assert "".join(trained(without)) == whole.text.replace("<|im_end|>", "")


def test_a_turn_that_says_train_goes_before_the_scope() -> None:
    turns = [turn("user", "U", train=True), turn("assistant", "A", train=False), turn("assistant", "B", weight=0.0)]
    assert trained(chatml().render(turns, scope())) == ["U<|im_end|>"]


def test_weights_are_given_for_trained_turns_only() -> None:
    turns = [turn("user", "U", weight=3.0), turn("assistant", "A", weight=0.5), turn("assistant", "B")]
    rendered = chatml().render(turns, scope())
    assert [(rendered.text[low:high], weight) for low, high, weight in rendered.weights] == [("A<|im_end|>", 0.5)]


Flags = tuple[bool | None, float]
FLAGS = st.tuples(st.sampled_from([None, True, False]), st.sampled_from([0.0, 0.5, 1.0]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(contents, FLAGS), min_size=2, max_size=4), st.sampled_from(["", "\n"]), st.booleans())
def test_parts_are_trained_by_their_own_flags(parts: list[tuple[str, Flags]], joint: str, eos: bool) -> None:
    answer = Turn("assistant", tuple(Span((), text) for text, _ in parts), joint, parts=tuple(flags for _, flags in parts))
    rendered = chatml().render([turn("user", "q"), answer], scope(eos=eos))
    kinds = ["t" if train is not False and weight else "." for _, (train, weight) in parts]
    mask = ""
    for number, ((text, _), kind) in enumerate(zip(parts, kinds, strict=True)):
        if number:
            mask += ("t" if kinds[number - 1] == kind == "t" else ".") * len(joint)
        mask += kind * len(text)
    mask += (kinds[-1] if eos else ".") * len("<|im_end|>") + "."
    prefix = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert rendered.text == prefix + answer.content + "<|im_end|>\n"
    assert trained_mask(rendered) == "." * len(prefix) + mask


@settings(max_examples=200, deadline=None)
@given(contents, contents, st.sampled_from([None, "<s>"]), st.booleans(), st.booleans())
def test_plain_trains_the_target_and_eos(source: str, target: str, bos: str | None, inputs: bool, eos: bool) -> None:
    rendered = render_plain([turn("source", source), turn("target", target)], bos, "</s>", scope(inputs=inputs, eos=eos))
    opening = bos or ""
    assert rendered.text == opening + source + target + "</s>"
    mask = "." * len(opening) + ("t" if inputs else ".") * len(source) + "t" * len(target) + ("t" if eos else ".") * 4
    assert trained_mask(rendered) == mask
    assert content_mask(rendered) == "." * len(opening) + "c" * len(source + target) + "...."
    assert rendered.turn_ends == [len(opening + source), len(rendered.text)]


def test_plain_text_is_trained_whatever_the_roles() -> None:
    rendered = render_plain([turn("text", "从前")], "<s>", "</s>", scope("nobody"))
    assert trained(rendered) == ["从前</s>"]
    assert trained(render_plain([turn("text", "x", train=False)], "<s>", "</s>", scope())) == []
    assert render_plain([turn("text", "x", weight=0.5)], None, "</s>", scope()).weights == [(0, 5, 0.5)]
