"""The proof of a mask: where a foreign template put each text of the dialogue.

Every text is wrapped in two private-use characters of its own that occur nowhere else (sentinels), and the dialogue is
rendered a second time. Where the second render without its sentinels equals the first one byte for byte, and every pair stands
in it exactly once around the unchanged text, the sentinels' positions are proven to be the texts' places. What cannot be proven
is refused, never guessed. Two placements are tried:

- `whole_pieces`: around each content as it stands;
- `inner_pieces`: inside, with outer whitespace left outside and the content cut at reasoning and tool tags, for templates that
  trim contents or take the reasoning of earlier turns away. Only reasoning may be missing from the render. Turns that were
  not touched are then tried whole once more (`wider_pieces`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from sftdata.records import Turn

TAGS = re.compile(r"</?(?:think|tool_call|tool_response)>")
"""Tags that templates look for in a content, so that no sentinel may stand between content and tag."""
THINK_END = "</think>"

_PRIVATE_USE = re.compile("[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
_BLOCKS = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD), (0xE000, 0xF8FF))
"""The private-use areas, the one that fonts and data use most last."""


class Unproven(Exception):
    """The render does not prove where the texts stand; the text says why."""


class Piece(NamedTuple):
    """A stretch of a turn's content that is wrapped in sentinels."""

    turn: int
    span: int
    """The number of the span whose flags hold; 0 for a turn whose flags are its own."""
    start: int
    """First character, in the turn's content."""
    end: int
    optional: bool
    """Reasoning, which a template may leave out."""


def whole_pieces(turns: Sequence[Turn]) -> list[Piece]:
    """Return a piece for every content, or for every span of it where spans carry their own flags."""
    pieces = []
    for number, turn in enumerate(turns):
        if not turn.parts:
            pieces.append(Piece(number, 0, 0, len(turn.content), False))
            continue
        position = 0
        for span, (_, text) in enumerate(turn.spans):
            pieces.append(Piece(number, span, position, position + len(text), False))
            position += len(text) + len(turn.joint)
    return pieces


def inner_pieces(turns: Sequence[Turn]) -> list[Piece]:
    """Return the pieces between tags, without outer whitespace; empty ones are left out, but for a blank answer."""
    pieces = []
    for piece in whole_pieces(turns):
        turn = turns[piece.turn]
        content = turn.content
        if turn.role == "assistant" and piece.span == 0 and (not content or content.isspace()):
            pieces.append(Piece(piece.turn, 0, 0, 0, False))  # a blank answer still wants its place: its stop token is trained
        thinking_ends = content.rfind(THINK_END) if turn.role == "assistant" else -1
        tags = list(TAGS.finditer(content, piece.start, piece.end))
        starts = [piece.start, *(tag.end() for tag in tags)]
        ends = [*(tag.start() for tag in tags), piece.end]
        for start, end in zip(starts, ends, strict=True):
            text = content[start:end]
            if text and not text.isspace():
                start += len(text) - len(text.lstrip())
                end -= len(text) - len(text.rstrip())
                pieces.append(Piece(piece.turn, piece.span, start, end, end <= thinking_ends))
    return pieces


def wider_pieces(
    plain: str, turns: Sequence[Turn], pieces: Sequence[Piece], starts: Sequence[int | None]
) -> list[Piece] | None:
    """Return the pieces with those turns' taken whole that stand whole in the render; None where there is no such turn.

    `starts` are the proven places of the inner `pieces`; the result is no proof and wants its own.
    """
    by_turn: dict[int, list[Piece]] = {}
    whole: dict[int, list[Piece]] = {}
    for piece, start in zip(pieces, starts, strict=True):
        by_turn.setdefault(piece.turn, []).append(piece)
        content = turns[piece.turn].content
        if start is not None and start >= piece.start and plain.startswith(content, start - piece.start):
            whole[piece.turn] = []
    for piece in whole_pieces(turns):
        if piece.turn in whole:
            whole[piece.turn].append(piece)
    if not any(own != by_turn[turn] for turn, own in whole.items()):
        return None
    return [piece for turn in range(len(turns)) for piece in whole.get(turn, by_turn.get(turn, []))]


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


def mark(turns: Sequence[Turn], pieces: Sequence[Piece], base: int) -> list[str]:
    """Return the turns' contents with piece k between the characters base + 2k and base + 2k + 1."""
    cut: list[list[str]] = [[] for _ in turns]
    done = [0] * len(turns)
    for number, piece in enumerate(pieces):
        content = turns[piece.turn].content
        opening, closing = chr(base + 2 * number), chr(base + 2 * number + 1)
        cut[piece.turn] += (content[done[piece.turn] : piece.start], opening, content[piece.start : piece.end], closing)
        done[piece.turn] = piece.end
    return ["".join((*texts, turn.content[end:])) for texts, end, turn in zip(cut, done, turns, strict=True)]


def locate(plain: str, marked: str, turns: Sequence[Turn], pieces: Sequence[Piece], base: int) -> list[int | None]:
    """Return where in `plain` each piece begins; None for reasoning that was left out. Raises Unproven."""
    found: dict[int, int] = {}
    kept = []
    after = removed = 0
    for match in _PRIVATE_USE.finditer(marked):
        sentinel = ord(match[0]) - base
        if not 0 <= sentinel < 2 * len(pieces):
            continue
        if sentinel in found:
            raise Unproven(f"the template writes the content of turn {pieces[sentinel // 2].turn} twice")
        found[sentinel] = match.start() - removed
        kept.append(marked[after : match.start()])
        after = match.end()
        removed += 1
    kept.append(marked[after:])
    if "".join(kept) != plain:
        raise Unproven("the template changes the texts, or reads more of them than their borders")
    places = ((piece, found.get(2 * number), found.get(2 * number + 1)) for number, piece in enumerate(pieces))
    starts = [_start(plain, turns, piece, start, end) for piece, start, end in places]
    _check_order(starts, turns, pieces)
    return starts


def _start(plain: str, turns: Sequence[Turn], piece: Piece, start: int | None, end: int | None) -> int | None:
    if start is None and end is None and piece.optional:
        return None
    if start is None or end is None:
        raise Unproven(f"the template leaves out content of turn {piece.turn} ({turns[piece.turn].role})")
    if plain[start:end] != turns[piece.turn].content[piece.start : piece.end]:
        raise Unproven(f"the template changes the content of turn {piece.turn} ({turns[piece.turn].role})")
    return start


def _check_order(starts: Sequence[int | None], turns: Sequence[Turn], pieces: Sequence[Piece]) -> None:
    """Refuse a render whose texts are in another order; only a system prompt may stand elsewhere."""
    position = 0
    for start, piece in zip(starts, pieces, strict=True):
        if start is None or turns[piece.turn].role == "system":
            continue
        if start < position:
            raise Unproven(f"the template moves the content of turn {piece.turn} before an earlier one")
        position = start + piece.end - piece.start
