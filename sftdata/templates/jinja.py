"""Jinja chat templates: the tokenizer's own or a file, rendered in the sandbox, their masks proven by traced texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2

from sftdata.errors import TemplateError
from sftdata.record_json import canonical
from sftdata.records import InvalidRecord, Span, Turn
from sftdata.templates.dialogue import Dialogue, Form, forms, plain_dialogue, traced_dialogue
from sftdata.templates.places import Habits, Written, check_trainable, find_places, observed_habits
from sftdata.templates.proof import Unproven, find_texts
from sftdata.templates.render import Rendered, Tools, TrainScope, assemble, trained_turns
from sftdata.templates.sandbox import compile_template, render

MAX_VARIANTS = 64
"""Sets of variables remembered; past that many the memory is cleared."""
TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|user|>",
    "<|observation|>",
    "</s>",
    "<eos>",
)
"""Tokens that end a turn in published templates; those that a template's source holds count as its stop tokens, as EOS does.
Where a template has none of its own, the next speaker's token ends the turn (GLM: `<|user|>`, `<|observation|>`)."""


@dataclass(frozen=True, eq=False)
class JinjaTemplate:
    """A compiled Jinja template."""

    name: str
    jinja: str
    source_files: tuple[Path, ...]
    compiled: jinja2.Template
    tokens: Mapping[str, str]
    """The tokenizer's special tokens, by the names that templates use."""
    stops: tuple[str, ...]
    """The tokens that end a turn, longest first."""
    habits: Habits
    special_tokens: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    variants: dict[str, JinjaTemplate] = field(default_factory=dict)
    """The template with other variables, by their JSON text."""

    @property
    def bos_token(self) -> str | None:
        """The tokenizer's own."""
        return self.tokens.get("bos_token")

    @property
    def stop_token(self) -> str:
        """What ends an answer, as seen; else the tokenizer's EOS."""
        return self.habits.stop_token or self.tokens.get("eos_token", "")

    def with_variables(self, variables: dict[str, Any] | None) -> JinjaTemplate:
        """Return the template with further variables set; its habits may be others with them."""
        if not variables:
            return self
        key = canonical(variables)
        if key not in self.variants:
            if len(self.variants) >= MAX_VARIANTS:
                self.variants.clear()
            made = replace(self, variables=variables, variants={}, habits=Habits())
            self.variants[key] = replace(made, habits=_observe(made))
        return self.variants[key]

    def text(self, turns: Sequence[Turn]) -> str:
        """Return the text of turns without reasoning or calls, of which nothing is proven. Raises InvalidRecord."""
        if self.habits.parts:
            return self._write(plain_dialogue(turns, None, Form(parts=True)), False)
        return self._write(Dialogue([{"role": turn.role, "content": turn.content} for turn in turns], None, []), False)

    def render(self, turns: Sequence[Turn], scope: TrainScope, tools: Tools = None) -> Rendered:
        """Render a dialogue and prove its mask. Raises InvalidRecord (`template_raised`, `mask_unproven`)."""
        if not turns:
            raise InvalidRecord("messages_empty", "a dialogue without turns")
        refusals = []
        for form in forms(turns, self.habits.parts):
            try:
                return self._rendered(turns, scope, tools, form)
            except Unproven as error:
                refusals.append(InvalidRecord("mask_unproven", str(error)))
            except InvalidRecord as error:
                refusals.append(error)
        raise next((error for error in reversed(refusals) if error.reason == "mask_unproven"), refusals[0])

    def prompt(self, turns: Sequence[Turn], tools: Tools = None) -> str:
        """Return the text of a dialogue up to where the assistant shall go on. Raises InvalidRecord."""
        refusals = []
        for form in forms(turns, self.habits.parts):
            try:
                return self._write(plain_dialogue(turns, tools, form), True)
            except InvalidRecord as error:
                refusals.append(error)
        raise refusals[0]

    def _write(self, given: Dialogue, add_generation_prompt: bool) -> str:
        variables = {
            **self.tokens,
            **self.variables,
            "messages": given.messages,
            "tools": given.tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return render(self.compiled, variables, tracing=bool(given.leaves))
        except Exception as error:  # a foreign program: whatever it raises is its refusal of this dialogue
            detail = str(error).partition("\n")[0] or type(error).__name__
            raise InvalidRecord("template_raised", f"template {self.name!r}: {detail}") from error

    def _rendered(self, turns: Sequence[Turn], scope: TrainScope, tools: Tools, form: Form) -> Rendered:
        written = self._proven(turns, tools, form)
        places = find_places(written, self.habits, self.stops, scope)
        for number, chosen in enumerate(trained_turns(turns, scope)):
            check_trainable(number, places[number], scope, chosen)
        rendered = assemble(written.text, places, scope)
        return rendered._replace(content=written.found.texts, weights=sorted(rendered.weights))

    def _proven(self, turns: Sequence[Turn], tools: Tools, form: Form) -> Written:
        plain = self._write(plain_dialogue(turns, tools, form), False)
        given = traced_dialogue(turns, tools, form)
        try:
            traced = self._write(given, False)
        except InvalidRecord as error:
            raise Unproven(f"the template raises on traced texts: {error.detail}") from error

        def prompt_before(number: int) -> str:
            return self._write(traced_dialogue(turns[:number], tools, form), True)

        return Written(plain, turns, given.leaves, find_texts(plain, traced, turns, given.leaves), prompt_before)


def load_jinja(
    source: str,
    name: str,
    *,
    tokens: Mapping[str, str],
    files: tuple[Path, ...] = (),
    stop_tokens: Sequence[str] = (),
    added_tokens: Sequence[str] = (),
) -> JinjaTemplate:
    """Compile a Jinja template for a tokenizer.

    `tokens`: the tokenizer's special tokens by name (`bos_token`, `eos_token`, `pad_token` …), as templates see them;
    `stop_tokens`: further tokens that end a turn; `added_tokens`: where none of these is known to follow an answer, the one of
    them that does ends a turn. Raises TemplateError with the line for a template that is not Jinja.
    """
    try:
        compiled = compile_template(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{name}:{error.lineno} not a Jinja template: {error.message}") from error
    except (jinja2.TemplateError, RecursionError) as error:
        raise TemplateError(f"{name}: not a Jinja template: {error}") from error
    ends = {tokens.get("eos_token", ""), *stop_tokens, *(end for end in TURN_ENDS if end in source)} - {""}
    template = JinjaTemplate(name, source, files, compiled, tokens, _longest_first(ends), Habits())
    template = replace(template, habits=_observe(template))
    if template.habits.stop_token or not added_tokens:
        return template
    habits = _observe(replace(template, stops=_longest_first(set(added_tokens) - {""})))
    if not habits.stop_token or habits.closing:
        return template  # an added token further on may belong to anything
    return replace(template, stops=_longest_first({*ends, habits.stop_token}), habits=habits)


def _longest_first(tokens: set[str]) -> tuple[str, ...]:
    return tuple(sorted(tokens, key=lambda token: (-len(token), token)))


def _observe(template: JinjaTemplate) -> Habits:
    """Render a question, alone and with an answer, and see what the template writes around the answer."""
    question, answer = Turn("user", (Span((), "a"),)), Turn("assistant", (Span((), "b"),))
    for parts in (False, True):
        form = Form(parts)
        try:
            asked, prompt = (template._write(plain_dialogue([question], None, form), prompted) for prompted in (False, True))
            written = template._proven([question, answer], None, form)
        except (InvalidRecord, Unproven):
            continue
        return observed_habits(asked, prompt, written, parts, template.stops)
    return Habits()  # a template that does not take this dialogue: nothing is known, nothing is extended
