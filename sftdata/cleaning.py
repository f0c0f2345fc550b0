"""Running cleaners over the spans of a batch of records: what a step answers becomes drops, edits and marks in the ledger.

Counting, ledger and errors live here, around the step, never in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from sftdata import ledger, registry
from sftdata.errors import SftdataError
from sftdata.records import Drop, Edit, Example, Mark, Path
from sftdata.rounds import has_answer, round_of
from sftdata.schemas import SPANS

Answer = str | None | Drop | Edit | Mark


class BoundStep(NamedTuple):
    """A cleaner with its options, ready to run."""

    name: str
    batched: bool
    function: Callable[..., Any]
    options: dict[str, Any]


def bind(steps: Sequence[tuple[str, dict[str, Any]]], *, allow_code: bool) -> list[BoundStep]:
    """Find the cleaners of (name, options) pairs."""
    bound = []
    for name, options in steps:
        step = registry.find_step("cleaner", name, allow_code=allow_code)
        bound.append(BoundStep(name, step.batched, step.function, options))
    return bound


@dataclass
class SpanTable:
    """The texts of a batch of records, as parallel lists."""

    rows: list[int] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    structures: dict[int, tuple[Any, dict[int, Any]]] = field(default_factory=dict)
    """Row → its tools, and by turn tool calls and the like: never cleaned, but records that differ in them are no copies."""
    dialogues: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Row → the roles of its turns, for rows of which single turns can be dropped."""

    def add(self, row: int, example: Example, *, whole: bool = False) -> None:
        """Add the spans of one example; text that the formatter itself supplied is not cleaned.

        `whole`: the row is dropped as a whole where a step drops a turn, as a row that is no dialogue always is.
        """
        if example.tools or any(turn.fields for turn in example.turns):
            self.structures[row] = example.tools, {number: turn.fields for number, turn in enumerate(example.turns)}
        if example.chat and not whole:
            self.dialogues[row] = tuple(turn.role for turn in example.turns)
        for number, turn in enumerate(example.turns):
            spans = turn.spans if turn.reasoning is None else (turn.reasoning, *turn.spans)
            for path, text in spans:
                if path:
                    self.rows.append(row)
                    self.paths.append(path)
                    self.turns.append(number)
                    self.roles.append(turn.role)
                    self.texts.append(text)

    def remove(self, dropped: Collection[int], turns: Mapping[int, Collection[int]]) -> None:
        """Remove the spans of the rows in `dropped`, and of each row those of its `turns`."""
        for row, gone in turns.items():
            if row in self.structures:
                tools, fields = self.structures.pop(row)
                left = {turn: value for turn, value in fields.items() if turn not in gone}
                if tools or any(left.values()):
                    self.structures[row] = tools, left
        places = enumerate(zip(self.rows, self.turns, strict=True))
        wanted = [index for index, (row, turn) in places if row not in dropped and turn not in turns.get(row, ())]
        if len(wanted) < len(self.rows):
            for name in ("rows", "paths", "turns", "roles", "texts"):
                values = getattr(self, name)
                setattr(self, name, [values[index] for index in wanted])

    def to_arrow(self) -> pa.Table:
        """Return the table that a batched cleaner receives, as `schemas.SPANS`."""
        fields = [".".join(map(str, path)) for path in self.paths]
        return pa.table([self.rows, fields, self.turns, self.roles, self.texts], schema=SPANS)


@dataclass
class Cleaned:
    """What cleaning did to a batch."""

    dropped: dict[int, str] = field(default_factory=dict)
    """Row → the `step:reason` that dropped it."""
    edited: dict[int, dict[Path, str]] = field(default_factory=dict)
    """Row → new text by path."""
    turns: dict[int, set[int]] = field(default_factory=dict)
    """Row → the turns that were dropped from it."""
    marks: dict[int, list[list[Any]]] = field(default_factory=dict)
    """Row → marks as [path, kind, value]; `drop_turn` has no path, its value is the turn."""
    entries: list[tuple[int, int, str, str, str, str, str, str, str]] = field(default_factory=list)
    """(row, turn, step, rule, action, reason, evidence, before, after)."""


ACTION_FIELD = 4
"""Where the action stands in an entry of `Cleaned`."""


def clean(spans: SpanTable, steps: Sequence[BoundStep]) -> Cleaned:
    """Run the steps in order over the spans of some records; a dropped row or turn is not seen by later steps."""
    done = Cleaned()
    for step in steps:
        before = len(done.entries)
        _apply(step, _answers(step, spans), spans, done)
        if any(entry[ACTION_FIELD] in ("drop", "drop_turn") for entry in done.entries[before:]):
            spans.remove(done.dropped, done.turns)
    for row, turns in done.turns.items():
        done.marks.setdefault(row, []).extend([[], "drop_turn", turn] for turn in sorted(turns))
    return done


def _answers(step: BoundStep, spans: SpanTable) -> Sequence[Answer]:
    if not spans.texts:
        return []
    try:
        if not step.batched:
            function, options = step.function, step.options
            return [function(text, **options) for text in spans.texts]
        answers: Sequence[Answer] = step.function(spans.to_arrow(), **step.options)
    except (SftdataError, MemoryError):
        raise
    except Exception as error:
        raise SftdataError(f"cleaner {step.name!r} raised {type(error).__name__}: {error}") from error
    if len(answers) != len(spans.texts):
        raise SftdataError(f"cleaner {step.name!r} returned {len(answers)} answers for {len(spans.texts)} spans")
    return answers


def _apply(step: BoundStep, answers: Sequence[Answer], spans: SpanTable, done: Cleaned) -> None:
    for index, answer in enumerate(answers):
        text = spans.texts[index]
        if answer is text or answer == text or spans.turns[index] in done.turns.get(spans.rows[index], ()):
            continue
        if isinstance(answer, str | Edit):
            _apply_edit(step, answer, index, spans, done)
        elif answer is None or isinstance(answer, Drop):
            _apply_drop(step, answer or Drop("dropped"), index, spans, done)
        elif isinstance(answer, Mark):
            _apply_mark(step, answer, index, spans, done)
        else:
            raise SftdataError(f"cleaner {step.name!r} answered {answer!r}; it may answer text, None, Drop, Edit or Mark")


def _apply_edit(step: BoundStep, answer: str | Edit, index: int, spans: SpanTable, done: Cleaned) -> None:
    edit = answer if isinstance(answer, Edit) else Edit(answer, step.name)
    row, before = spans.rows[index], spans.texts[index]
    if edit.text == before:
        return
    spans.texts[index] = edit.text
    done.edited.setdefault(row, {})[spans.paths[index]] = edit.text
    old, new = ("", "") if edit.private else ledger.change(before, edit.text)
    done.entries.append((row, spans.turns[index], step.name, edit.rule, "edit", edit.reason, edit.evidence, old, new))


def _apply_drop(step: BoundStep, drop: Drop, index: int, spans: SpanTable, done: Cleaned) -> None:
    row = spans.rows[index]
    if row in done.dropped:
        return
    turn, before = spans.turns[index], ledger.around(spans.texts[index], drop.evidence)
    if drop.turn and row in spans.dialogues:
        roles = spans.dialogues[row]
        gone = round_of(roles, turn)
        dropped = done.turns.get(row, set()) | gone
        if has_answer(roles, dropped):
            done.turns[row] = dropped
            told = (step.name, drop.rule, "drop_turn")
            done.entries.append((row, turn, *told, drop.reason, drop.evidence, before, ""))
            done.entries.extend((row, other, *told, "round", f"turn {turn}", "", "") for other in sorted(gone - {turn}))
            return
    done.dropped[row] = f"{step.name}:{drop.reason}"
    done.entries.append((row, turn, step.name, drop.rule, "drop", drop.reason, drop.evidence, before, ""))


MARK_ACTIONS = {"mask_loss": "mask", "weight": "weight", "flag": "flag"}


def _apply_mark(step: BoundStep, mark: Mark, index: int, spans: SpanTable, done: Cleaned) -> None:
    if mark.kind not in MARK_ACTIONS:
        raise SftdataError(f"cleaner {step.name!r} answered mark {mark.kind!r}; known: {', '.join(MARK_ACTIONS)}")
    row = spans.rows[index]
    if mark.kind != "flag":
        done.marks.setdefault(row, []).append([list(spans.paths[index]), mark.kind, mark.value])
    before = ledger.around(spans.texts[index], mark.evidence)
    action = MARK_ACTIONS[mark.kind]
    done.entries.append((row, spans.turns[index], step.name, mark.rule, action, mark.reason, mark.evidence, before, ""))


def write_back(record: dict[str, Any], edits: dict[Path, str]) -> None:
    """Put edited texts back into the record at their paths."""
    for path, text in edits.items():
        place: Any = record
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = text
