"""Records and tokens as text for a terminal: coloured where there is one, marked with brackets where the output is a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from sftdata.views.visible import Marked, mark, mark_change, one_line, visible

if TYPE_CHECKING:
    from sftdata.views.decoding import Run
    from sftdata.views.why import Event

STYLES: dict[str, dict[str, Any]] = {
    "context": {"dim": True},
    "trained": {"fg": "green"},
    "control": {"fg": "yellow", "dim": True},
    "trained control": {"fg": "green", "bold": True},
}
HEAD, TAIL = 400, 120
"""Characters of a long text that a preview shows, of its beginning and of its end."""


def _is_coloured() -> bool:
    return sys.stdout.isatty()


def legend() -> str:
    """Return what the colours, or the brackets in their place, mean."""
    if not _is_coloured():
        return "⟦trained⟧ context"
    return "  ".join(click.style(kind, **style) for kind, style in STYLES.items())


def painted(runs: Sequence[Run]) -> str:
    """Return runs of tokens by their kinds, with a sign at the end of each line, and without the last newline."""
    shown = [(run.kind, visible(run.text).replace("\n", "⏎\n")) for run in runs]
    if shown:
        shown[-1] = (shown[-1][0], shown[-1][1].removesuffix("\n"))
    if _is_coloured():
        return "".join(click.style(text, **STYLES[kind]) for kind, text in shown)
    groups = groupby(shown, lambda run: run[0].startswith("trained"))
    texts = [(trained, "".join(text for _, text in group)) for trained, group in groups]
    return "".join(f"⟦{text}⟧" if trained else text for trained, text in texts if text)


def shortened(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without the middle of a long text."""
    length = sum(len(run.text) for run in runs)
    if length <= HEAD + TAIL + 80:
        return list(runs)
    left_out = f" … {length - HEAD - TAIL:,} characters … "
    kept: list[Run] = []
    position = 0
    for run in runs:
        head, tail = max(HEAD - position, 0), max(position + len(run.text) - (length - TAIL), 0)
        text = run.text[:head]
        if position < HEAD <= position + len(run.text):
            text += left_out
        text += run.text[len(run.text) - min(tail, len(run.text)) :] if tail else ""
        position += len(run.text)
        if text:
            kept.append(run._replace(text=text))
    return kept


def event_lines(event: Event) -> Iterator[str]:
    """Yield what happened to a record at one place: what and why, then the text, with the place that matters in colour."""
    rule = f" ({one_line(event.rule)})" if event.rule else ""
    turn = f" in turn {event.turn}" if event.turn >= 0 else ""
    line = f"{event.stage} {one_line(event.step)}{rule}: {event.action}{turn}, {one_line(event.reason)}"
    yield f"{line}: {one_line(event.evidence)}" if event.evidence else line
    if event.after:
        before, after = mark_change(event.before, event.after)
        yield f"  before: {_highlighted(before, 'red')}"
        yield f"  after:  {_highlighted(after, 'green')}"
    elif event.before:
        yield f"  text: {_highlighted(mark(event.before, event.evidence), 'red')}"


def _highlighted(text: Marked, colour: str) -> str:
    middle = click.style(one_line(text.middle), fg=colour) if text.middle else ""
    return one_line(text.before) + middle + one_line(text.after)
