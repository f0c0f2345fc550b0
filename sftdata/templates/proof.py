"""The proof of a mask: where a foreign template put each text of the dialogue.

The dialogue is rendered twice: with plain strings, and with strings that know where they came from (`traced.py`). Where both
renders are equal byte for byte, and the second says of every text that has to be there that it is there once, unchanged and in
order, its places are proven. What cannot be proven is refused, never guessed. A template may

- trim a content, and leave out or write anew the reasoning of an answer: only what is really there is trained;
- write a system prompt anywhere, and names, ids and tool definitions as often and as it likes;
- write a call's arguments as JSON between quotes, value by value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sftdata.records import Turn
from sftdata.templates.dialogue import CALL, CONTENT, OTHER, REASONING, Leaf
from sftdata.templates.traced import CHANGED, ESCAPED, UNKNOWN, Run, runs_of

REASONING_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)
"""What stands around the reasoning in an answer's content, and in what templates write."""

_REASONING_END = re.compile("|".join(re.escape(end) for _, end in REASONING_TAGS))
EMPTY_REASONING = re.compile(r"\s*(?:" + "|".join(rf"{re.escape(a)}\s*{re.escape(b)}" for a, b in REASONING_TAGS) + r")\s*")
_MARKUP = re.compile(_REASONING_END.pattern + r"|</?(?:think|tool_call|tool_response)>")

_PRIVATE_USE = re.compile("[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
_BLOCKS = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD), (0xE000, 0xF8FF))
"""The private-use areas, the one that fonts and data use most last."""


class Unproven(Exception):
    """The render does not prove where the texts stand; the text says why."""


class Found(NamedTuple):
    """What of a render came from the record. Positions are characters of the render."""

    pieces: dict[int, list[Run]]
    """Turn → its content, reasoning and calls, in order; a run is empty where nothing is left of the text."""
    texts: list[tuple[int, int, int]]
    """(start, end, turn) of everything that came from the record, in order; tools count as the first turn's."""


def free_block(texts: Sequence[str], size: int) -> int:
    """Return the first of `size` neighbouring private-use characters that none of the texts holds. Raises Unproven."""
    used = sorted({ord(character) for text in texts for character in _PRIVATE_USE.findall(text)})
    for first, last in _BLOCKS:
        start = first
        for code in (*(code for code in used if first <= code <= last), last + 1):
            if code - start >= size:
                return start
            start = code + 1
    raise Unproven(f"no {size} private-use characters are free to mark the texts with")


def has_markup(content: str) -> bool:
    """Say whether a content holds tags that templates look for: what they do to it cannot be known from another content."""
    return ("<" in content or "[/" in content) and _MARKUP.search(content) is not None


def reasoning_end(content: str) -> int:
    """Return where the reasoning in an answer's content ends, its tag and the whitespace after it included; 0 without one."""
    ends = [match.end() for match in _REASONING_END.finditer(content)]
    return len(content) - len(content[ends[-1] :].lstrip()) if ends else 0


def find_texts(plain: str, traced: str, turns: Sequence[Turn], leaves: Sequence[Leaf]) -> Found:
    """Return where the texts of a dialogue stand in its render. Raises Unproven."""
    if plain != traced:
        raise Unproven("the template tells traced texts from plain ones")
    runs: dict[int, list[Run]] = {}
    texts = []
    for run in runs_of(traced):
        if run.leaf == UNKNOWN:
            raise Unproven("the template mixes texts of the dialogue beyond recognition")
        runs.setdefault(run.leaf, []).append(run)
        if run.start < run.end:
            texts.append((run.start, run.end, max(leaves[run.leaf].turn, 0)))
    pieces: dict[int, list[Run]] = {}
    for number, leaf in enumerate(leaves):
        checked = _checked(leaf, turns, plain, runs.get(number, ()))
        if [run.first for run in checked] != sorted(run.first for run in checked):
            raise Unproven(f"the template changes the order of the {leaf.kind} of turn {leaf.turn}")
        if checked:
            pieces.setdefault(leaf.turn, []).extend(checked)
    pieces = {turn: _near(sorted(found), turn, texts) for turn, found in pieces.items()}
    _check_order(pieces, turns)
    return Found(pieces, texts)


def _near(found: list[Run], turn: int, texts: Sequence[tuple[int, int, int]]) -> list[Run]:
    """Return a turn's runs without empty ones that another turn's text parts from its others: an empty content is anywhere."""
    solid = [run for run in found if run.start < run.end]
    if not solid or len(solid) == len(found):
        return found[:1] if not solid else found
    others = [low for low, _, owner in texts if owner != turn]

    def parted(run: Run) -> bool:
        first, last = sorted((run.start, solid[-1].end if run.start >= solid[-1].end else solid[0].start))
        return any(first <= low < last for low in others)

    return [run for run in found if run.start < run.end or not parted(run)]


def _checked(leaf: Leaf, turns: Sequence[Turn], plain: str, runs: Iterable[Run]) -> list[Run]:
    """Return the runs of a text that say where its turn is, if all of the text is there that has to be. Raises Unproven."""
    if leaf.kind == OTHER:
        return []
    what = f"turn {leaf.turn} ({turns[leaf.turn].role})"
    solid = [run for run in runs if run.start < run.end]
    once: list[Run] = []
    covered: list[tuple[int, int]] = []
    for run in solid:
        if run.first == CHANGED or (run.first == ESCAPED and not _may_be_escaped(leaf, turns)):
            raise Unproven(f"the template changes the {leaf.kind} of {what}")
        escaped = run.first == ESCAPED
        low, high = (0, len(leaf.text)) if escaped else (run.first, run.first + run.end - run.start)
        if not escaped and plain[run.start : run.end] != leaf.text[low:high]:
            raise Unproven(f"the template changes the {leaf.kind} of {what}")
        if any(low < other_high and other_low < high for other_low, other_high in covered):
            if leaf.kind == CALL:
                continue  # a later turn may name the call that it answers
            raise Unproven(f"the template writes the {leaf.kind} of {what} twice")
        covered.append((low, high))
        once.append(run)
    _check_covered(leaf, turns, covered, what)
    return once or [run for run in runs if run.start == run.end][:1]


def _may_be_escaped(leaf: Leaf, turns: Sequence[Turn]) -> bool:
    """Say whether a text may be written as JSON writes it: arguments, if they are no JSON yet, and what a tool answers."""
    return not leaf.plain_arguments if leaf.kind == CALL else leaf.kind == CONTENT and turns[leaf.turn].role == "tool"


def _check_covered(leaf: Leaf, turns: Sequence[Turn], covered: Sequence[tuple[int, int]], what: str) -> None:
    """Refuse a render without a part of a text, whitespace at its ends and reasoning aside. Raises Unproven."""
    if leaf.kind == REASONING:
        return
    text = leaf.text
    position = 0
    if leaf.kind == CONTENT and turns[leaf.turn].role == "assistant":
        position = reasoning_end(text)
    position = max(position, len(text) - len(text.lstrip()))
    end = len(text.rstrip())
    if position < end and not covered:
        raise Unproven(f"the template leaves out the {leaf.kind} of {what}")
    for low, high in [*sorted(covered), (end, end)]:
        if low > position and position < end:
            raise Unproven(f"the template leaves out a part of the {leaf.kind} of {what}")
        position = max(position, high)


def _check_order(pieces: Mapping[int, Sequence[Run]], turns: Sequence[Turn]) -> None:
    """Refuse a render whose turns are in another order; only a system prompt may stand elsewhere. Raises Unproven."""
    position = 0
    for number in sorted(pieces):
        if turns[number].role == "system":
            continue
        if pieces[number][0].start < position:
            raise Unproven(f"the template moves the content of turn {number} before an earlier one")
        position = pieces[number][-1].end
