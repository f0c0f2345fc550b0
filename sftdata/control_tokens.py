"""Control tokens in content: finding those that the record's own text has become, and keeping them ordinary text.

A row is clean when none of its control tokens touches content, those aside that its role may use there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.masking import to_bytes
from sftdata.records import InvalidRecord, Span, Turn
from sftdata.rendering import CharSpans, RenderedBatch
from sftdata.templates.proof import Unproven, free_block
from sftdata.templates.render import Template, TrainScope
from sftdata.tokenizers.encoder import Batch, Encoded, Encoder, Row, splice
from sftdata.tokenizers.files import TokenizerFiles

REASONING_AND_TOOL_TOKENS = tuple((f"<{name}>", f"</{name}>") for name in ("think", "tool_call", "tool_response", "tools"))
"""Tokens that an answer may itself contain, where the tokenizer's own template knows one of a pair (Qwen3, GLM, DeepSeek)."""

_BRACKETED = re.compile(r"<\|[^|<>\s]+\|>|<</?\w+>>|</?\w+>|\[/?\w+\]")
_SPEAKER = re.compile(r"(?:#+ )?\w+:\s*\Z")
"""What stands right before a content: `USER: `, `### Response:`."""

MayUse = Callable[[int, int], frozenset[str]]
"""(row, turn) → the control tokens that the turn's content may hold."""


class Found(NamedTuple):
    """A control token, or a template's plain-text marker, in content."""

    turn: int
    token: str


def allowed_control(given: Mapping[str, Sequence[str]] | None, files: TokenizerFiles) -> dict[str, frozenset[str]]:
    """Return the control tokens that content of each role may hold: those given, else the template's own reasoning tokens."""
    if given is not None:
        return {role: frozenset(tokens) for role, tokens in given.items()}
    text, added = files.chat_template or "", set(files.added_tokens)
    pairs = [pair for pair in REASONING_AND_TOOL_TOKENS if any(token in text for token in pair)]
    own = added.intersection(token for pair in pairs for token in pair)
    return {"assistant": frozenset(own)} if own else {}


def find_forged(
    encoder: Encoder, rendered: RenderedBatch, batch: Batch, encoded: Encoded, may_use: MayUse
) -> dict[int, list[Found]]:
    """Return, by row, the control tokens that touch content whose role may not use them."""
    content = to_bytes(batch, rendered.content)
    control = np.flatnonzero(encoder.is_control[encoded.ids])
    if not len(control) or not len(content.row):
        return {}
    starts, ends = encoded.starts[control], encoded.ends[control]
    span = np.searchsorted(content.starts, ends, side="left") - 1
    touching = np.flatnonzero((span >= 0) & (content.ends[np.maximum(span, 0)] > starts))
    control, span = control[touching], span[touching]
    inside = (content.starts[span] <= starts[touching]) & (ends[touching] <= content.ends[span])
    row = np.searchsorted(encoded.row_offsets, control, side="right") - 1
    written = _may_be_written(encoder, batch, encoded.ids[control], row)
    control, span, inside, row = control[written], span[written], inside[written], row[written]
    columns = (encoded.ids[control], control, row, content.values[span].astype(np.int64), inside)
    forged: dict[int, list[Found]] = {}
    for number, token, owner, turn, whole in zip(*(column.tolist() for column in columns), strict=True):
        literal = encoder.control.texts[number]
        if whole and literal in may_use(owner, turn):
            continue
        place = _place(encoder, batch, encoded, owner, token)
        forging = None if place is None else _forging_turn(rendered, owner, place, literal, may_use)
        if forging is not None:
            forged.setdefault(owner, []).append(Found(forging, literal))
    return forged


def _may_be_written(
    encoder: Encoder, batch: Batch, ids: npt.NDArray[np.int32], row: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return which control tokens may be written in their rows: not the unknown token where the text does not name it."""
    unknown = encoder.control.unknown
    if unknown is None:
        return np.ones(len(ids), dtype=bool)
    naming = [number for number, text in enumerate(batch.texts) if unknown in text]
    written: npt.NDArray[np.bool_] = (ids != encoder.control.ids[unknown]) | np.isin(row, naming)
    return written


def _place(encoder: Encoder, batch: Batch, encoded: Encoded, row: int, token: int) -> tuple[int, int] | None:
    """Return the characters of a control token in its row, without the spaces that it took along.

    None for the unknown token where it stands for other text, which the vocabulary lacks.
    """
    borders = np.searchsorted(batch.char_bytes, [encoded.starts[token], encoded.ends[token]]) - batch.row_chars[row]
    start, end = int(borders[0]), int(borders[1])
    literal = encoder.control.texts[int(encoded.ids[token])]
    position = batch.texts[row].find(literal, start, end)
    if position >= 0:
        return position, position + len(literal)
    return None if literal == encoder.control.unknown else (start, end)


def _forging_turn(
    rendered: RenderedBatch, row: int, place: tuple[int, int], token: str, may_use: MayUse
) -> int | None:
    """Return the turn whose content has a part in a control token that it may not use; None where there is none."""
    for start, end, turn in _content_of(rendered.content, row):
        inside = start <= place[0] and place[1] <= end
        if start < place[1] and place[0] < end and not (inside and token in may_use(row, turn)):
            return turn
    return None


def _content_of(content: CharSpans, row: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, turn) of a row's contents."""
    first, last = np.searchsorted(content.row, [row, row + 1])
    columns = (column[first:last].tolist() for column in (content.starts, content.ends, content.values))
    for start, end, turn in zip(*columns, strict=True):
        yield start, end, int(turn)


def _glue_of(content: CharSpans, row: int, text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of a row that the template wrote: all that is not content."""
    position = 0
    for start, end, _ in _content_of(content, row):
        if position < start:
            yield position, start
        position = end
    if position < len(text):
        yield position, len(text)


def escape(
    encoder: Encoder, rendered: RenderedBatch, batch: Batch, encoded: Encoded, rows: Sequence[int], may_use: MayUse
) -> tuple[Encoded, set[int]]:
    """Encode rows again with the control tokens of their content as ordinary text, but for those allowed there.

    Returns also the rows in which that cannot be proven: their control tokens must be exactly those written and allowed.
    """
    replaced: dict[int, Row] = {}
    unproven: set[int] = set()
    for row in rows:
        text = rendered.texts[row]
        written = _written(encoder, rendered.content, row, text, may_use)
        try:
            base = free_block([text], len(encoder.control.ids))
        except Unproven:
            unproven.add(row)
            continue
        ids, offsets = replaced[row] = encoder.encode_escaped(text, written, base)
        expected = [encoder.control.ids[text[start:end]] for start, end in written]
        if _control_ids(encoder, text, ids, offsets) != expected:
            unproven.add(row)
    return (splice(batch, encoded, replaced) if replaced else encoded), unproven


def _written(encoder: Encoder, content: CharSpans, row: int, text: str, may_use: MayUse) -> list[tuple[int, int]]:
    """Return the spans of the control tokens that the template wrote or that content may hold, in order."""
    pattern = encoder.control.pattern
    spans = [match.span() for start, end in _glue_of(content, row, text) for match in pattern.finditer(text, start, end)]
    for start, end, turn in _content_of(content, row):
        allowed = may_use(row, turn)
        if allowed:
            spans.extend(match.span() for match in pattern.finditer(text, start, end) if match[0] in allowed)
    return sorted(spans)


def _control_ids(encoder: Encoder, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return a row's control ids, without those that stand for text that the vocabulary lacks."""
    control = encoder.control
    found = []
    for index in np.flatnonzero(encoder.is_control[list(ids)]).tolist():
        literal = control.texts[ids[index]]
        if literal != control.unknown or literal in text[slice(*offsets[index])]:
            found.append(ids[index])
    return found


def plain_markers(template: Template | None, encoder: Encoder) -> re.Pattern[str] | None:
    """Return a pattern of the plain-text markers that a template writes (`[INST]`, `USER:`), or None where it has none."""
    if template is None:
        return None
    found: set[str] = set()
    for rendered_text, content in _observed(template):
        position = 0
        for start, end, _ in content:
            glue = encoder.control.pattern.sub("", rendered_text[position:start])
            found.update(_BRACKETED.findall(glue))
            speaker = _SPEAKER.search(glue)
            if speaker:
                found.add(speaker[0].strip())
            position = end
        found.update(_BRACKETED.findall(encoder.control.pattern.sub("", rendered_text[position:])))
    if not found:
        return None
    longest_first = sorted(found, key=lambda marker: (-len(marker), marker))
    return re.compile("|".join((r"(?<!\w)" if marker[0].isalnum() else "") + re.escape(marker) for marker in longest_first))


def _observed(template: Template) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """Yield the text and content spans of small dialogues, as far as the template takes them."""

    def turn(role: str, *texts: str) -> Turn:
        return Turn(role, tuple(Span((), text) for text in texts), "\n" if len(texts) > 1 else "")

    asked = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    for turns in ([turn("system", "s"), *asked], asked, [turn("user", "a", "e"), turn("assistant", "b")]):
        try:
            rendered = template.render(turns, TrainScope())
        except InvalidRecord:
            continue
        yield rendered.text, rendered.content


def find_markers(pattern: re.Pattern[str], rendered: RenderedBatch) -> dict[int, list[Found]]:
    """Return, by row, the plain-text markers in content."""
    found: dict[int, list[Found]] = {}
    columns = (column.tolist() for column in rendered.content)
    for row, start, end, turn in zip(*columns, strict=True):
        for match in pattern.finditer(rendered.texts[row], start, end):
            found.setdefault(row, []).append(Found(int(turn), match[0]))
    return found
