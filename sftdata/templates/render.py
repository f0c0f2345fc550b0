"""From turns to text and the characters of it that are trained: what every template has in common.

A template says where it put each turn (`Place`); `assemble` decides from the scope and the turns' own flags which of that is
trained. No tokenizer here: `tokenizing.py` carries characters over to tokens by offsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sftdata.records import Turn

PLAIN_TARGETS = ("target", "text")
"""The roles of plain examples that are trained whatever `roles_to_train` says: it speaks of chats."""

REASONING = -1
"""In place of the number of a span: the turn's reasoning …"""
CALL = -2
"""… and its tool calls."""


class TrainScope(NamedTuple):
    """Which characters are trained, as the recipe's `tokenize` section says; a turn's own `train` goes before it."""

    roles_to_train: frozenset[str] = frozenset({"assistant"})
    train_on_inputs: bool = False
    """The whole text is trained, the template's own text included, except turns that say `train: false`."""
    train_on_eos: bool = True
    """A trained turn includes its stop token."""
    train_turns: str = "all"
    """`last`: of the turns of `roles_to_train` only the last one."""
    train_on_thinking: bool = True
    """A trained turn includes its reasoning; else that is context."""


def scope_of(options: Mapping[str, Any]) -> TrainScope:
    """Return the scope that the recipe's `tokenize` section asks for."""
    return TrainScope(
        frozenset(options["roles_to_train"]),
        options["train_on_inputs"],
        options["train_on_eos"],
        options["train_turns"],
        options["train_on_thinking"],
    )


class Rendered(NamedTuple):
    """The text of an example. All positions are characters of `text`, intervals are half-open, sorted and disjoint."""

    text: str
    trained: list[tuple[int, int]]
    """The trained characters: each trained turn with its stop token."""
    weights: list[tuple[int, int, float]]
    """The trained characters whose weight is not 1."""
    content: list[tuple[int, int, int]]
    """The characters that came from the record, with the number of their turn; they may hold forged control tokens."""
    turn_ends: list[int]
    """Where each turn ends, its stop token and the template's text after it included; never falling."""


class Place(NamedTuple):
    """Where a template put a turn."""

    turn: Turn
    start: int
    """Where the text begins that a model writes for this turn: after the generation prompt."""
    pieces: tuple[tuple[int, int, int], ...]
    """(start, end, number of the span, or `REASONING` or `CALL`) of what the turn says, in order, never none."""
    stop: int
    """After the stop token; the end of the content where none follows."""
    end: int
    """Where the turn ends."""


Tools = Sequence[dict[str, Any]] | None
"""Definitions of the tools on offer, as JSON Schema."""


class Template(Protocol):
    """A loaded chat template."""

    @property
    def name(self) -> str:
        """The name that the recipe uses, or the file's."""

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Tokens that the template writes; those that the tokenizer lacks are added to it."""

    @property
    def bos_token(self) -> str | None:
        """The BOS token that the template may write; to be set in a tokenizer that has none."""

    @property
    def stop_token(self) -> str:
        """What ends a turn of the assistant: the saved tokenizer's `eos_token`."""

    @property
    def jinja(self) -> str:
        """The template as Jinja text, saved with the tokenizer."""

    @property
    def source_files(self) -> tuple[Path, ...]:
        """The files that the template was read from: part of the fingerprint."""

    def render(self, turns: Sequence[Turn], scope: TrainScope, tools: Tools = None) -> Rendered:
        """Render a dialogue, with the tools that are on offer. Raises InvalidRecord (`template_raised`, `mask_unproven`)."""

    def with_variables(self, variables: dict[str, Any] | None) -> Template:
        """Return the template with further variables set, as `enable_thinking`. Raises InvalidRecord (`template_raised`)."""

    def prompt(self, turns: Sequence[Turn], tools: Tools = None) -> str:
        """Return the text of a dialogue up to where the assistant shall go on. Raises InvalidRecord."""


def render_plain(turns: Sequence[Turn], bos_token: str | None, eos_token: str, scope: TrainScope) -> Rendered:
    """Render an example without a template: [BOS] texts EOS.

    The texts of `PLAIN_TARGETS` and the EOS are trained, a source only under `train_on_inputs` or by its own flag, BOS never.
    """
    texts = [bos_token or ""]
    start = first = len(texts[0])
    places = []
    for index, turn in enumerate(turns):
        content = turn.content
        end = stop = start + len(content)
        if index == len(turns) - 1:
            stop = end + len(eos_token)
        if turn.role in PLAIN_TARGETS and turn.train is None:
            turn = turn._replace(train=True)
        places.append(Place(turn, start, span_pieces(turn, start, end), stop, stop))
        texts.append(content)
        start = end
    texts.append(eos_token)
    return assemble("".join(texts), places, scope, first)


def span_pieces(turn: Turn, start: int, end: int, skipped: int = 0) -> tuple[tuple[int, int, int], ...]:
    """Return the pieces of a turn whose content stands whole in [start, end), less `skipped` characters at its beginning."""
    if not turn.parts:
        return ((start, end, 0),)
    pieces = []
    position = start - skipped
    for number, span in enumerate(turn.spans):
        after = position + len(span.text)
        pieces.append((min(max(position, start), end), min(max(after, start), end), number))
        position = after + len(turn.joint)
    return tuple(pieces)


def trained_turns(turns: Sequence[Turn], scope: TrainScope) -> list[bool]:
    """Return which turns the scope trains where they do not say otherwise themselves."""
    chosen = [scope.train_on_inputs or turn.role in scope.roles_to_train for turn in turns]
    if scope.train_turns == "last":
        could = (number for number, turn in enumerate(turns) if chosen[number] and turn.train is not False and turn.weight > 0)
        last = max(could, default=-1)
        return [number == last for number in range(len(turns))]
    return chosen


def flags_of(turn: Turn, span: int, chosen: bool, scope: TrainScope) -> tuple[bool, float]:
    """Return whether a turn's span is trained, and with which weight; `chosen`: the scope trains the turn."""
    train, weight = turn.train, turn.weight
    if span >= 0 and turn.parts:
        train, weight = turn.parts[span]
    elif span == REASONING:
        train, weight = turn.reasoning_flags or (train, weight)
        if not scope.train_on_thinking:
            return False, weight
    if train is None:
        train = turn.train
    if train is None:
        train = chosen
    return train and weight > 0, weight


def assemble(text: str, places: Sequence[Place], scope: TrainScope, first: int = 0) -> Rendered:
    """Decide what is trained of a text in which every turn's place is known; nothing before `first` ever is.

    `weights` and `content` come in the order of the places.
    """
    wanted: list[tuple[int, int]] = []
    unwanted: list[tuple[int, int]] = []
    weights: list[tuple[int, int, float]] = []
    content: list[tuple[int, int, int]] = []
    chosen = trained_turns([place.turn for place in places], scope)
    for index, (turn, start, pieces, stop, _) in enumerate(places):
        end = stop
        for low, end, _ in pieces:
            if low < end:
                content.append((low, end, index))
        if not scope.train_on_eos:
            unwanted.append((end, stop))
            stop = end
        if turn.parts or any(span == REASONING for _, _, span in pieces):
            _divide(places[index], stop, (chosen[index], scope), wanted, unwanted, weights)
            continue
        trained = turn.train if turn.train is not None else chosen[index]
        weight = turn.weight
        if not trained or weight <= 0:
            unwanted.append((start, stop))
            continue
        wanted.append((start, stop))
        if weight != 1.0:
            weights.append((start, stop, weight))
    if scope.train_on_inputs:
        wanted = _outside(_joined(unwanted), first, len(text))
    return Rendered(text, _joined(wanted), weights, content, [place.end for place in places])


def _divide(
    place: Place,
    stop: int,
    scope: tuple[bool, TrainScope],
    wanted: list[tuple[int, int]],
    unwanted: list[tuple[int, int]],
    weights: list[tuple[int, int, float]],
) -> None:
    """Add a turn whose parts carry their own flags: the stop token goes with the last part, text between two with both."""
    position = place.start
    previous = True
    for number, (low, high, span) in enumerate(place.pieces):
        trained, weight = flags_of(place.turn, span, *scope)
        low = position if number == 0 or (previous and trained) else low
        high = stop if number == len(place.pieces) - 1 else high
        (wanted if trained else unwanted).append((low, high))
        if trained and weight != 1.0 and low < high:
            weights.append((low, high, weight))
        position, previous = high, trained


def render_verbatim(turns: Sequence[Turn], scope: TrainScope) -> Rendered:
    """Render texts that are all there is; each is trained by its own flag, or as `trained_turns` says.

    None of it counts as content: what the author of such a record writes as a control token is meant as one.
    """
    places = []
    start = 0
    for turn in turns:
        end = start + len(turn.content)
        places.append(Place(turn, start, ((start, end, 0),), end, end))
        start = end
    return assemble("".join(turn.content for turn in turns), places, scope)._replace(content=[])


def _joined(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the intervals sorted, the empty ones left out, those that touch made one."""
    if len(intervals) == 1 and intervals[0][0] < intervals[0][1]:
        return intervals
    joined: list[tuple[int, int]] = []
    for low, high in sorted(intervals):
        if low >= high:
            continue
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


def _outside(intervals: list[tuple[int, int]], first: int, end: int) -> list[tuple[int, int]]:
    """Return what of [first, end) no interval covers."""
    free = []
    position = first
    for low, high in intervals:
        free.append((position, low))
        position = max(position, high)
    free.append((position, end))
    return free
