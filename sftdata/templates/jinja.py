"""Jinja chat templates: the tokenizer's own or a file, rendered in the sandbox, their masks proven by sentinels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import jinja2

from sftdata.errors import TemplateError
from sftdata.records import InvalidRecord, Span, Turn
from sftdata.templates.proof import TAGS, Piece, Unproven, free_block, inner_pieces, locate, mark, whole_pieces, wider_pieces
from sftdata.templates.render import Place, Rendered, TrainScope, assemble, flags_of
from sftdata.templates.sandbox import compile_template, render

TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|return|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<eos>",
)
"""Tokens that end a turn in published templates; those that a template's source holds count as its stop tokens, as EOS does."""

_THINK_AT_END = re.compile(r"<think>\s*\Z")
_SPACE = re.compile(r"\s*")


class _Habits(NamedTuple):
    """What two small dialogues show about a template."""

    generation_prompt: str = ""
    lead: str = ""
    """The whitespace that the model, not the prompt, writes before an answer."""
    stop_token: str = ""


@dataclass(frozen=True, eq=False)
class JinjaTemplate:
    """A compiled Jinja template."""

    name: str
    jinja: str
    bos_token: str | None
    stop_token: str
    source_files: tuple[Path, ...]
    text_of: Callable[[Sequence[Turn], Sequence[str], bool], str]
    """(turns, their contents, with the generation prompt) → the render. Raises InvalidRecord."""
    stop_pattern: re.Pattern[str]
    generation_prompt: str
    lead: str
    special_tokens: tuple[str, ...] = ()

    def render(self, turns: Sequence[Turn], scope: TrainScope) -> Rendered:
        """Render a dialogue and prove its mask. Raises InvalidRecord (`template_raised`, `mask_unproven`)."""
        if not turns:
            raise InvalidRecord("messages_empty", "a dialogue without turns")
        plain = self.text_of(turns, [turn.content for turn in turns], False)
        try:
            pieces, starts = _proven_pieces(self.text_of, plain, turns)
            places = self._places(plain, turns, pieces, starts)
            for number, place in enumerate(places):
                _check_trainable(number, place, scope)
        except Unproven as error:
            raise InvalidRecord("mask_unproven", str(error)) from error
        rendered = assemble(plain, places, scope)
        return rendered._replace(content=sorted(rendered.content), weights=sorted(rendered.weights))

    def prompt(self, turns: Sequence[Turn]) -> str:
        """Return the text of a dialogue up to where the assistant shall go on. Raises InvalidRecord."""
        return self.text_of(turns, [turn.content for turn in turns], True)

    def _places(self, text: str, turns: Sequence[Turn], pieces: Sequence[Piece], starts: Sequence[int | None]) -> list[Place]:
        """Return each turn's place, from those of its pieces."""
        located: dict[int, list[tuple[int, Piece]]] = {}
        for start, piece in zip(starts, pieces, strict=True):
            if start is not None:
                located.setdefault(piece.turn, []).append((start, piece))
        order = sorted(located, key=lambda number: located[number][0][0])
        places: dict[int, Place] = {}
        low = 0
        for number, following in zip_longest(order, order[1:]):
            high = len(text) if following is None else located[following][0][0]
            places[number] = self._place(text, turns[number], located[number], (low, high))
            low = places[number].stop
        return _filled(places, turns, len(text))

    def _place(self, text: str, turn: Turn, located: Sequence[tuple[int, Piece]], bounds: tuple[int, int]) -> Place:
        """Return a turn's place; `bounds`: the end of the turn before it in the text, and the first content after it."""
        runs = _runs(text, turn, located)
        first, last = located[0][1], located[-1][1]
        begin = _extended_start(text, turn.content[: first.start].lstrip(), runs[0][0], bounds[0])
        end = _extended_end(text, turn.content[last.end :].rstrip(), runs[-1][1], bounds[1])
        runs[0] = (begin, *runs[0][1:])
        runs[-1] = (runs[-1][0], end, runs[-1][2])
        stopped = self.stop_pattern.match(text, end, bounds[1])
        stop = stopped.end() if stopped else end
        blank = _SPACE.match(text, stop, bounds[1])
        after = blank.end() if stopped and blank else stop
        start = self._answer_start(text, begin, bounds[0]) if turn.role == "assistant" else begin
        return Place(turn, start, tuple(runs), stop, after)

    def _answer_start(self, text: str, begin: int, low: int) -> int:
        """Return where the model begins to write an answer whose content begins at `begin`."""
        opened = _THINK_AT_END.search(self.generation_prompt)
        if opened and text.startswith(opened[0], begin):
            return begin + len(opened[0])  # the prompt has opened the reasoning already
        if self.lead and text.endswith(self.lead, low, begin):
            return begin - len(self.lead)
        return begin


def _proven_pieces(
    text_of: Callable[[Sequence[Turn], Sequence[str], bool], str], plain: str, turns: Sequence[Turn]
) -> tuple[list[Piece], list[int | None]]:
    """Return the widest pieces that can be proven, and their places. Raises Unproven."""
    pieces = whole_pieces(turns)
    with suppress(Unproven):
        return pieces, _prove(text_of, plain, turns, pieces)
    pieces = inner_pieces(turns)
    starts = _prove(text_of, plain, turns, pieces)
    wider = wider_pieces(plain, turns, pieces, starts)
    if wider is not None:
        with suppress(Unproven):
            return wider, _prove(text_of, plain, turns, wider)
    return pieces, starts


def _prove(
    text_of: Callable[[Sequence[Turn], Sequence[str], bool], str], plain: str, turns: Sequence[Turn], pieces: Sequence[Piece]
) -> list[int | None]:
    base = free_block([plain, *(turn.content for turn in turns)], 2 * len(pieces))
    try:
        marked = text_of(turns, mark(turns, pieces, base), False)
    except InvalidRecord as error:
        raise Unproven(f"the template raises on marked texts: {error.detail}") from error
    return locate(plain, marked, turns, pieces, base)


def _runs(text: str, turn: Turn, located: Sequence[tuple[int, Piece]]) -> list[tuple[int, int, int]]:
    """Return the turn's pieces as (start, end, span), made one where only the content's own tags and whitespace lie between."""
    runs: list[tuple[int, int, int]] = []
    before = 0
    for start, piece in located:
        end = start + piece.end - piece.start
        if runs and runs[-1][2] == piece.span:
            own, written = turn.content[before : piece.start], text[runs[-1][1] : start]
            if "".join(own.split()) == "".join(written.split()):
                start = runs.pop()[0]
        runs.append((start, end, piece.span))
        before = piece.end
    return runs


def _extended_start(text: str, prefix: str, start: int, low: int) -> int:
    """Return where a content begins whose first piece begins at `start`, after `prefix`: tags, and whitespace of any length."""
    if not prefix or TAGS.sub("", prefix).strip():
        return start
    opened = re.compile(r"\s*".join((*TAGS.findall(prefix), r"\Z"))).search(text, low, start)
    return opened.start() if opened else start


def _extended_end(text: str, suffix: str, end: int, high: int) -> int:
    """Return where a content ends whose last piece ends at `end`, before `suffix`, likewise."""
    if not suffix or TAGS.sub("", suffix).strip():
        return end
    closed = re.compile(r"\s*".join(("", *TAGS.findall(suffix)))).match(text, end, high)
    return closed.end() if closed else end


def _filled(places: Mapping[int, Place], turns: Sequence[Turn], length: int) -> list[Place]:
    """Return the places in the order of the turns; a turn without any text stands, empty, after the one before it."""
    filled: list[Place] = []
    end = 0
    for number, turn in enumerate(turns):
        place = places.get(number) or Place(turn, end, ((end, end, 0),), end, end)
        end = length if number == len(turns) - 1 else max(end, place.end)
        filled.append(place._replace(end=end))
    return filled


def _check_trainable(number: int, place: Place, scope: TrainScope) -> None:
    """Refuse a trained answer that is not there or does not end in a stop token."""
    trained = flags_of(place.turn, place.pieces[-1][2], scope)[0]
    if place.turn.role != "assistant" or not trained or not scope.train_on_eos:
        return
    if place.stop == place.pieces[-1][1]:
        what = "no stop token follows the answer" if place.pieces[0][0] < place.stop else "nothing is left of the answer"
        raise Unproven(f"{what} in turn {number}")


def load_jinja(
    source: str, name: str, *, files: tuple[Path, ...] = (), tokens: Mapping[str, str], stop_tokens: Sequence[str] = ()
) -> JinjaTemplate:
    """Compile a Jinja template for a tokenizer.

    `tokens`: the tokenizer's special tokens by name (`bos_token`, `eos_token`, `pad_token` …), as templates see them;
    `stop_tokens`: further tokens that end a turn. Raises TemplateError with the line for a template that is not Jinja.
    """
    try:
        compiled = compile_template(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{name}:{error.lineno} not a Jinja template: {error.message}") from error
    except (jinja2.TemplateError, RecursionError) as error:
        raise TemplateError(f"{name}: not a Jinja template: {error}") from error

    def text_of(turns: Sequence[Turn], contents: Sequence[str], add_generation_prompt: bool) -> str:
        messages = [{"role": turn.role, "content": content} for turn, content in zip(turns, contents, strict=True)]
        variables = {**tokens, "messages": messages, "tools": None, "documents": None}
        try:
            return render(compiled, {**variables, "add_generation_prompt": add_generation_prompt})
        except Exception as error:  # a foreign program: whatever it raises is its refusal of this dialogue
            raise InvalidRecord("template_raised", f"template {name!r}: {error or type(error).__name__}") from error

    eos_token = tokens.get("eos_token", "")
    ends = {token for token in (eos_token, *stop_tokens, *(end for end in TURN_ENDS if end in source)) if token}
    alternatives = "|".join(re.escape(token) for token in sorted(ends, key=lambda token: (-len(token), token)))
    pattern = re.compile(rf"\s*({alternatives})" if ends else r"(?!)")
    habits = _observe(text_of, pattern)
    return JinjaTemplate(
        name=name,
        jinja=source,
        bos_token=tokens.get("bos_token"),
        stop_token=habits.stop_token or eos_token,
        source_files=files,
        text_of=text_of,
        stop_pattern=pattern,
        generation_prompt=habits.generation_prompt,
        lead=habits.lead,
    )


def _observe(text_of: Callable[[Sequence[Turn], Sequence[str], bool], str], pattern: re.Pattern[str]) -> _Habits:
    """Render a question, alone and with an answer, and see what the template writes around the answer."""
    question, answer = Turn("user", (Span((), "a"),)), Turn("assistant", (Span((), "b"),))
    try:
        asked, prompt = text_of([question], ["a"], False), text_of([question], ["a"], True)
        answered = text_of([question, answer], ["a", "b"], False)
        turns = [question, answer]
        start = _prove(text_of, answered, turns, whole_pieces(turns))[1]
    except (InvalidRecord, Unproven):
        return _Habits()  # a template that does not take this dialogue: nothing is known, nothing is extended
    if start is None:
        return _Habits()
    lead = answered[len(prompt) : start] if answered.startswith(prompt) else ""
    stopped = pattern.match(answered, start + 1)
    return _Habits(
        generation_prompt=prompt[len(asked) :] if prompt.startswith(asked) else "",
        lead=lead if lead.isspace() else "",
        stop_token=stopped[1] if stopped else "",
    )
