"""From the proven places of texts to those of turns: where the model begins to write, and the stop token that it ends with.

A model writes more of an answer than the record's texts: the tags around its reasoning, the frame of a tool call, the stop
token. Its part begins where the prompt for it ends (the header that the template puts before every answer, or else what the
prompt of this very turn ends with) and goes on to the first stop token after the turn's last text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from sftdata.records import InvalidRecord, Turn
from sftdata.templates import dialogue
from sftdata.templates.dialogue import Leaf
from sftdata.templates.proof import EMPTY_REASONING, REASONING_TAGS, Found, Unproven, reasoning_end
from sftdata.templates.render import CALL, REASONING, Place, TrainScope, flags_of
from sftdata.templates.traced import Run, runs_of

_OPENED_REASONING = re.compile("(?:" + "|".join(re.escape(opening) for opening, _ in REASONING_TAGS) + r")\s*\Z")
_EMPTY_AT_END = re.compile(EMPTY_REASONING.pattern.removeprefix(r"\s*") + r"\Z")
_SPACE = re.compile(r"\s*")


class Habits(NamedTuple):
    """What two small dialogues show about a template."""

    parts: bool = False
    """It takes contents as lists of parts only."""
    prompt: str = ""
    """The generation prompt …"""
    header: str = ""
    """… and without the reasoning that it opens, or leaves empty: what stands before every answer."""
    lead: str = ""
    """The whitespace that the model, not the prompt, writes before an answer."""
    closing: str = ""
    """What it writes between an answer and its stop token."""
    stop_token: str = ""


class Written(NamedTuple):
    """A dialogue as a template writes it, its texts proven."""

    text: str
    turns: Sequence[Turn]
    leaves: Sequence[Leaf]
    found: Found
    prompt_before: Callable[[int], str]
    """Number of an answer → the prompt for it, traced. Raises InvalidRecord."""


def observed_habits(asked: str, prompt: str, written: Written, parts: bool, stops: Sequence[str]) -> Habits:
    """Return a template's habits from a question without and with the generation prompt, and from the question answered."""
    start, end, *_ = written.found.pieces[1][0]
    text = written.text
    lead = text[len(prompt) : start] if text.startswith(prompt) else ""
    added = prompt[len(asked) :] if prompt.startswith(asked) else ""
    header = added if added.strip() else lead  # a template without a generation prompt may have a header all the same
    stopped = _any_of(stops).search(text, end)
    return Habits(
        parts=parts,
        prompt=added,
        header=_EMPTY_AT_END.sub("", _OPENED_REASONING.sub("", header)),
        lead=lead if lead.isspace() else "",
        closing=text[end : stopped.start()].strip() if stopped else "",
        stop_token=stopped[0] if stopped else "",
    )


def _any_of(stops: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, stops)) or "(?!)")


def find_places(written: Written, habits: Habits, stops: Sequence[str], scope: TrainScope) -> list[Place]:
    """Return the place of every turn. Raises Unproven."""
    pieces = written.found.pieces
    order = sorted(pieces, key=lambda number: pieces[number][0])
    places: dict[int, Place] = {}
    low = 0
    for number, following in zip_longest(order, order[1:]):
        high = len(written.text) if following is None else pieces[following][0].start
        places[number] = _Turn(written, number, (low, high), habits).place(stops, scope)
        low = places[number].stop
    return _filled(places, written.turns, len(written.text))


def _filled(places: Mapping[int, Place], turns: Sequence[Turn], length: int) -> list[Place]:
    """Return the places in the order of the turns; a turn without any text stands, empty, after the one before it."""
    filled: list[Place] = []
    end = 0
    for number, turn in enumerate(turns):
        place = places.get(number) or Place(turn, end, ((end, end, 0),), end, end)
        end = length if number == len(turns) - 1 else max(end, place.end)
        filled.append(place._replace(end=end))
    return filled


class _Turn(NamedTuple):
    """One turn in what was written."""

    written: Written
    number: int
    bounds: tuple[int, int]
    """The end of the turn before it in the text, and the first text after it."""
    habits: Habits

    def place(self, stops: Sequence[str], scope: TrainScope) -> Place:
        """Return the turn's place. Raises Unproven."""
        text, turn, pieces = self.written.text, self.written.turns[self.number], self.written.found.pieces[self.number]
        answers = turn.role == "assistant"
        runs = _by_span(self.written, self.number, scope)
        start, end = runs[0][0], max(high for _, high, _ in runs)
        stopped = self._stop_after(end, stops, _says(turn, pieces[-1], self.written.leaves))
        if stopped and answers:
            end = max(end, stopped[0])
        runs[-1] = (runs[-1][0], end, runs[-1][2])
        stop = stopped[1] if stopped else end
        blank = _SPACE.match(text, stop, self.bounds[1])
        after = blank.end() if stopped and blank else stop
        if answers:
            start = self._answer_start(start, stops)
            if any(start < low and high < stop and owner != self.number for low, high, owner in self.written.found.texts):
                raise Unproven(f"a text of another turn stands inside turn {self.number}")
        return Place(turn, start, tuple(runs), stop, after)

    def _stop_after(self, end: int, stops: Sequence[str], says: bool) -> tuple[int, int] | None:
        """Return where what the turn says ends, after its last text, and where its stop token does; None without one.

        A content is followed by its stop token; reasoning and calls have more of the template's text before it.
        """
        text, high, pattern = self.written.text, self.bounds[1], _any_of(stops)
        if not says:
            found = pattern.search(text, end, high)
            return found.span() if found else None
        closing = re.compile(rf"\s*{re.escape(self.habits.closing)}").match(text, end, high) if self.habits.closing else None
        blank = _SPACE.match(text, closing.end() if closing else end, high)
        found = pattern.match(text, blank.end(), high) if blank else None
        return (closing.end() if closing else end, found.end()) if found else None

    def _answer_start(self, first: int, stops: Sequence[str]) -> int:
        """Return where the model begins to write an answer whose first text begins at `first`. Raises Unproven."""
        text, turn, low = self.written.text, self.written.turns[self.number], self.bounds[0]
        start = self._after_header(first)
        if start is None:
            kind = self.written.leaves[self.written.found.pieces[self.number][0].leaf].kind
            if kind == dialogue.CONTENT and not _OPENED_REASONING.search(text, low, first):
                lead = self.habits.lead
                return first - len(lead) if lead and text.endswith(lead, low, first) else first
            start = self._after_prompt(first, stops)
        empty, own = EMPTY_REASONING.match(text, start, first), EMPTY_REASONING.match(turn.content)
        if empty and (own is None or empty[0].split() != own[0].split()):
            return empty.end()  # the template says that there is no reasoning; the record does not
        opened = _OPENED_REASONING.search(self.habits.prompt)
        if opened and text.startswith(opened[0], start):
            return start + len(opened[0])  # the prompt has opened the reasoning already
        return start

    def _after_header(self, first: int) -> int | None:
        """Return where the last header before an answer ends that the template itself wrote; None where there is none."""
        header, text, low = self.habits.header, self.written.text, self.bounds[0]
        place = text.rfind(header, low, first) if header.strip() else -1
        while place >= 0:
            end = place + len(header)
            if not any(start < end and place < stop for start, stop, _ in self.written.found.texts):
                return end
            place = text.rfind(header, low, end - 1)
        return None

    def _after_prompt(self, first: int, stops: Sequence[str]) -> int:
        """Return where an answer begins, from what the prompt for it writes after the texts before it. Raises Unproven."""
        unknown = f"where the answer of turn {self.number} begins is not known"
        try:
            prompt = self.written.prompt_before(self.number)
        except InvalidRecord as error:
            raise Unproven(f"{unknown}: {error.detail}") from error
        text = self.written.text
        after = prompt[max((run.end for run in runs_of(prompt) if run.start < run.end), default=0) :]
        glue = max((stop for _, stop, _ in self.written.found.texts if stop <= first), default=0)
        start = glue + len(after)
        if not text.startswith(after, glue) or start > first or _any_of(stops).search(text, start, first):
            raise Unproven(unknown)  # neither the prompt nor what ends the turn before is the model's to write
        return start


def _says(turn: Turn, last: Run, leaves: Sequence[Leaf]) -> bool:
    """Say whether the last text of a turn is what it says aloud, no reasoning and no call."""
    if leaves[last.leaf].kind != dialogue.CONTENT:
        return False
    return turn.role != "assistant" or last.first < 0 or last.first + last.end - last.start >= reasoning_end(turn.content)


def _by_span(written: Written, number: int, scope: TrainScope) -> list[tuple[int, int, int]]:
    """Return a turn's pieces as (start, end, span), neighbours of the same span made one."""
    turn = written.turns[number]
    thought = reasoning_end(turn.content) if turn.role == "assistant" and not scope.train_on_thinking else 0
    spans: list[tuple[int, int, int]] = []
    for run in written.found.pieces[number]:
        for start, end, span in _cut_by_span(run, written.leaves[run.leaf].kind, turn, thought):
            if spans and spans[-1][2] == span:
                start = spans.pop()[0]
            spans.append((start, end, span))
    return spans


def _cut_by_span(run: Run, kind: str, turn: Turn, thought: int) -> list[tuple[int, int, int]]:
    """Return a run cut where its flags change; `thought`: where reasoning in the content ends that is not trained."""
    start, end, _, first = run
    if kind != dialogue.CONTENT:
        return [(start, end, REASONING if kind == dialogue.REASONING else CALL)]
    borders = {thought: REASONING} if thought else {}
    position = 0
    for number, (_, text) in enumerate(turn.spans if turn.parts else ()):
        position += len(text)
        borders.setdefault(max(position, thought), number)
        position += len(turn.joint)
    if not turn.parts:
        borders.setdefault(max(len(turn.content), thought), 0)
    cuts: list[tuple[int, int, int]] = []
    for border, span in sorted(borders.items()):
        high = min(start + border - first, end) if border < max(borders) else end
        if start < high or (not cuts and border == max(borders)):
            cuts.append((start, high, span))
            first += high - start
            start = high
    return cuts


def check_trainable(number: int, place: Place, scope: TrainScope, chosen: bool) -> None:
    """Refuse a trained answer that is not there or does not end in a stop token. Raises Unproven."""
    trained = flags_of(place.turn, place.pieces[-1][2], chosen, scope)[0]
    if place.turn.role != "assistant" or not trained or not scope.train_on_eos:
        return
    if place.stop == place.pieces[-1][1]:
        what = "no stop token follows the answer" if place.pieces[0][0] < place.stop else "nothing is left of the answer"
        raise Unproven(f"{what} in turn {number}")
