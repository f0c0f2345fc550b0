"""Rendering a batch of examples into texts and flat arrays of character positions.

Most examples of a source have the same shape: the same roles and flags, other contents. A template mostly puts the same text
around the contents of all of them, so it is asked once a shape, with a placeholder for every content, and the positions in all
rows follow from the lengths of their contents. A built-in template cannot look into contents; a Jinja template may, so each of
its rows is rendered, and one whose text is not what its shape says is proven on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.errors import TokenizerError
from sftdata.record_json import canonical
from sftdata.records import Example, InvalidRecord, Turn
from sftdata.templates import TOKENIZER_DEFAULT, load_template
from sftdata.templates.jinja import JinjaTemplate
from sftdata.templates.proof import has_markup
from sftdata.templates.render import Rendered, Template, TrainScope, render_plain, render_verbatim
from sftdata.tokenizers.files import TokenizerFiles

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

PLACEHOLDER = " \ue000 "
"""Stands for a content: between spaces, which shows whether the template strips them."""
MAX_SHAPES = 4096
"""Shapes remembered; past that many the memory is cleared."""

Shape = tuple[object, ...]


def open_template(name: str, files: TokenizerFiles) -> Template | None:
    """Load a chat template for a tokenizer, whose BOS and EOS it uses.

    None where the tokenizer's own is wanted and it has none: only dialogues need one. Raises TemplateError.
    """
    if name == TOKENIZER_DEFAULT and not files.chat_template:
        return None
    return load_template(
        name,
        tokenizer_template=files.chat_template,
        bos_token=files.special("bos_token"),
        eos_token=files.special("eos_token"),
        added_tokens=files.added_tokens,
    )


class CharSpans(NamedTuple):
    """Spans of rows in characters of each row's own text, ascending by row. row, starts, ends, values: (m,)."""

    row: Int64
    starts: Int64
    ends: Int64
    values: Float64
    """The weight of a weight span, the turn of a content span; else 0."""


class RenderedBatch(NamedTuple):
    """The rendered examples of a batch; the spans are those of `templates.render.Rendered`."""

    texts: list[str]
    trained: CharSpans
    weights: CharSpans
    content: CharSpans
    turn_ends: CharSpans
    """Every turn's end, as a span without length."""


class _Positions(NamedTuple):
    """Spans of every row of a shape: each border is a constant plus the lengths of the first contents."""

    constants: Int64
    """(m, 2)"""
    counts: Int64
    """(m, 2) how many contents stand before the border."""
    values: Float64


class _Plan(NamedTuple):
    """How the rows of one shape are rendered."""

    format: str
    """The text with `%s` for every content."""
    contents: tuple[tuple[int, int, bool], ...]
    """Where each content comes from: turn, span (−1: all of them), stripped of outer whitespace."""
    spans: tuple[_Positions, _Positions, _Positions, _Positions]
    """As in `RenderedBatch`."""


class _Group(NamedTuple):
    """The rows of one shape in a batch."""

    plan: _Plan
    rows: list[int]
    contents: list[str]
    """All contents, row after row."""


class Renderer:
    """Renders the examples of one source."""

    def __init__(
        self, source: str, template: Template | None, scope: TrainScope, *, bos_token: str | None, eos_token: str | None
    ) -> None:
        self._source = source
        self._template = template
        self.scope = scope
        self._bos_token, self._eos_token = bos_token, eos_token
        self._plans: dict[Shape, _Plan | None] = {}

    def render(self, example: Example) -> Rendered:
        """Render one example. Raises InvalidRecord, and TokenizerError where the tokenizer lacks what the source needs."""
        if example.chat:
            if self._template is None:
                raise TokenizerError(
                    f"source {self._source!r} has dialogues, but the tokenizer has no chat template; "
                    "set tokenizer.chat_template"
                )
            template = self._template.with_variables(example.variables) if example.variables else self._template
            return template.render(example.turns, self.scope, example.tools)
        if example.verbatim:
            return render_verbatim(example.turns, self.scope)
        if self._eos_token is None:
            raise TokenizerError(
                f"source {self._source!r} has plain text, but the tokenizer has no eos_token to end it with; "
                "set eos_token in its tokenizer_config.json"
            )
        return render_plain(example.turns, self._bos_token, self._eos_token, self.scope)

    def render_batch(self, examples: Sequence[Example]) -> tuple[RenderedBatch, dict[int, InvalidRecord]]:
        """Render the examples that can be rendered, in order; the others are returned by number, with what is wrong.

        Raises TokenizerError as `render` does.
        """
        texts: list[str] = []
        groups: dict[Shape, _Group] = {}
        single: list[tuple[int, Rendered]] = []
        refused: dict[int, InvalidRecord] = {}
        for number, example in enumerate(examples):
            shape, plan = self._plan_of(example)
            planned = None if plan is None else self._planned(plan, example)
            if plan is not None and planned is not None:
                text, contents = planned
                group = groups.setdefault(shape, _Group(plan, [], []))
                group.rows.append(len(texts))
                group.contents.extend(contents)
                texts.append(text)
                continue
            try:
                rendered = self.render(example)
            except InvalidRecord as error:
                refused[number] = error
                continue
            single.append((len(texts), rendered))
            texts.append(rendered.text)
        spans = [_group_spans(group) for group in groups.values()]
        if single:
            spans.append(_single_spans(single))
        return RenderedBatch(texts, *map(_merge, zip(*spans, strict=True))) if spans else _EMPTY, refused

    def _planned(self, plan: _Plan, example: Example) -> tuple[str, tuple[str, ...]] | None:
        """Return an example's text and contents by the plan of its shape; None where a Jinja template does otherwise."""
        contents = _contents(plan, example.turns)
        text = plan.format % contents
        template = self._template
        if example.chat and isinstance(template, JinjaTemplate):
            if any(not content or content.isspace() or has_markup(content) for content in contents):
                return None
            try:
                return (text, contents) if template.with_variables(example.variables).text(example.turns) == text else None
            except InvalidRecord:
                return None
        return text, contents

    def _plan_of(self, example: Example) -> tuple[Shape, _Plan | None]:
        turns = example.turns
        if example.tools is not None or example.verbatim or any(turn.parts or turn.reasoning or turn.fields for turn in turns):
            return (), None
        variables = example.variables and canonical(example.variables)
        shape: Shape = (example.chat, variables, *[(turn[0], turn[2], len(turn[1]), turn[3], turn[4]) for turn in turns])
        if shape in self._plans:
            return shape, self._plans[shape]
        if len(self._plans) >= MAX_SHAPES:
            self._plans.clear()
        plan = self._plans[shape] = self._make_plan(example)
        return shape, plan

    def _make_plan(self, example: Example) -> _Plan | None:
        """Return the plan of an example's shape; None where its rows must be rendered one by one."""
        turns = tuple(
            turn._replace(spans=tuple(span._replace(text=PLACEHOLDER) for span in turn.spans)) for turn in example.turns
        )
        try:
            return _read_plan(self.render(example._replace(turns=turns)), turns)
        except InvalidRecord:
            return None  # every row of the shape is refused, each with its own error


def _read_plan(rendered: Rendered, turns: Sequence[Turn]) -> _Plan | None:
    contents = _origins(rendered, turns)
    if contents is None:
        return None
    pieces = [(start, end) for start, end, _ in rendered.content]
    text = rendered.text
    borders = [0, *(border for piece in pieces for border in piece), len(text)]
    glue = [text[borders[k] : borders[k + 1]].replace("%", "%%") for k in range(0, len(borders), 2)]
    trained = _positions([(start, end, 0.0) for start, end in rendered.trained], pieces)
    weights = _positions(rendered.weights, pieces)
    content = _positions(rendered.content, pieces)
    turn_ends = _positions([(end, end, 0.0) for end in rendered.turn_ends], pieces)
    if (trained.constants[1:, 0] <= trained.constants[:-1, 1]).any():
        return None  # only contents lie between two trained spans: where they are empty, the spans are one
    return _Plan("%s".join(glue), contents, (trained, weights, content, turn_ends))


def _origins(rendered: Rendered, turns: Sequence[Turn]) -> tuple[tuple[int, int, bool], ...] | None:
    """Return (turn, span, stripped) of every content in the text; None where they are not simply written there."""
    by_turn: dict[int, list[str]] = {}
    for start, end, owner in rendered.content:
        by_turn.setdefault(owner, []).append(rendered.text[start:end])
    origins: dict[int, list[tuple[int, int, bool]]] = {}
    for number, turn in enumerate(turns):
        written = by_turn.get(number, [])
        whole = 0 if len(turn.spans) == 1 else -1
        if written in ([turn.content], [turn.content.strip()]):
            origins[number] = [(number, whole, written != [turn.content])]
        elif written == [span.text for span in turn.spans]:
            origins[number] = [(number, index, False) for index in range(len(turn.spans))]
        else:
            return None
    return tuple(origins[owner].pop(0) for _, _, owner in rendered.content)


def _positions(spans: Sequence[tuple[int, int, float]], pieces: Sequence[tuple[int, int]]) -> _Positions:
    lengths = np.array([0, *accumulate(end - start for start, end in pieces)], dtype=np.int64)
    borders = np.array([span[:2] for span in spans], dtype=np.int64).reshape(-1, 2)
    counts = np.searchsorted(np.array([end for _, end in pieces], dtype=np.int64), borders, side="right")
    values = np.array([span[2] for span in spans], dtype=np.float64)
    return _Positions(borders - lengths[counts], counts, values)


def _contents(plan: _Plan, turns: Sequence[Turn]) -> tuple[str, ...]:
    contents = []
    for number, span, stripped in plan.contents:
        turn = turns[number]
        text = turn.content if span < 0 else turn.spans[span].text
        contents.append(text.strip() if stripped else text)
    return tuple(contents)


Spans4 = tuple[CharSpans, CharSpans, CharSpans, CharSpans]


def _group_spans(group: _Group) -> Spans4:
    num_contents = len(group.plan.contents)
    lengths = np.fromiter(map(len, group.contents), dtype=np.int64, count=len(group.contents))
    before = np.zeros((len(group.rows), num_contents + 1), dtype=np.int64)
    np.cumsum(lengths.reshape(-1, num_contents), axis=1, out=before[:, 1:])
    rows = np.array(group.rows, dtype=np.int64)

    def spans(positions: _Positions) -> CharSpans:
        constants, counts, values = positions
        starts = before[:, counts[:, 0]] + constants[:, 0]
        ends = before[:, counts[:, 1]] + constants[:, 1]
        return CharSpans(np.repeat(rows, len(values)), starts.ravel(), ends.ravel(), np.tile(values, len(rows)))

    trained, weights, content, turn_ends = map(spans, group.plan.spans)
    return trained, weights, content, turn_ends


def _single_spans(single: Sequence[tuple[int, Rendered]]) -> Spans4:
    trained = ((row, start, end, 0.0) for row, rendered in single for start, end in rendered.trained)
    weights = ((row, *span) for row, rendered in single for span in rendered.weights)
    content = ((row, *span) for row, rendered in single for span in rendered.content)
    turn_ends = ((row, end, end, 0.0) for row, rendered in single for end in rendered.turn_ends)
    return _char_spans(trained), _char_spans(weights), _char_spans(content), _char_spans(turn_ends)


def _char_spans(spans: Iterable[tuple[int, int, int, float]]) -> CharSpans:
    rows, starts, ends, values = tuple(zip(*spans, strict=True)) or ((), (), (), ())
    row, first, last = (np.array(column, dtype=np.int64) for column in (rows, starts, ends))
    return CharSpans(row, first, last, np.array(values, dtype=np.float64))


def _merge(parts: Sequence[CharSpans]) -> CharSpans:
    """Return the spans of several groups of rows as one, by row."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([part.row for part in parts]), kind="stable")
    row, starts, ends = (np.concatenate([part[column] for part in parts])[order] for column in range(3))
    return CharSpans(row, starts, ends, np.concatenate([part.values for part in parts])[order])


_EMPTY = RenderedBatch([], *(_char_spans([]) for _ in range(4)))
