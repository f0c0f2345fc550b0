"""Values that pass between the engine and a step inside one process: what a step takes and what it may answer.

Between phases only Arrow files travel (`schemas.py`); these tuples never leave the task that made them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Path = tuple[str | int, ...]
"""Where a text stands in a record: `("messages", 3, "content")` is `record["messages"][3]["content"]`."""


class Record(NamedTuple):
    """One raw record as an ingestor yields it."""

    key: str
    """What follows `#` in the row's id: the record's number in its file from 0, or `table/number`."""
    fields: dict[str, Any]
    """JSON values by field name."""


class Bad(NamedTuple):
    """One raw record that cannot be read; it is counted, numbered like any other and kept in the quarantine."""

    key: str
    """As in `Record`: a broken record uses up its number."""
    reason: str
    """A code from `schemas.QUARANTINE_REASONS`."""
    place: str
    """Where in the file, as the user would look for it: `line 17`, `byte 2048`."""
    raw: bytes
    """The raw bytes; the engine keeps the first 4 KiB."""


class Span(NamedTuple):
    """One text of a record."""

    path: Path
    """Where the text stands in the record; `()` for text that the formatter itself supplies (never cleaned)."""
    text: str


class Turn(NamedTuple):
    """One turn of an example: its spans joined by `joint` are the turn's content; no spans are a content that is null."""

    role: str
    """`system`, `user`, `assistant`, `tool`; for plain text `source`, `target`, `text`."""
    spans: tuple[Span, ...]
    joint: str = ""
    train: bool | None = None
    """True or False where the record itself says so; None leaves it to `roles_to_train`."""
    weight: float = 1.0
    parts: tuple[tuple[bool | None, float], ...] = ()
    """(train, weight) of each span, in place of the turn's own, where parts of a content carry their own; else empty."""
    reasoning: Span | None = None
    """What the model thinks before it answers, where the record keeps it apart from the content."""
    reasoning_flags: tuple[bool | None, float] | None = None
    """(train, weight) of the reasoning, where they are not the turn's own."""
    fields: dict[str, Any] | None = None
    """Further fields of the message for the chat template: `tool_calls`, `tool_call_id`, `name`. They are never cleaned."""

    @property
    def content(self) -> str:
        """The turn's text."""
        return self.spans[0].text if len(self.spans) == 1 else self.joint.join(span.text for span in self.spans)


class Example(NamedTuple):
    """What a formatter makes of a record."""

    turns: tuple[Turn, ...]
    chat: bool
    """True: rendered with the chat template. False: [BOS] texts EOS, without a template."""
    shape: str
    """The record shape that was recognised, counted per source: `instruction`, `messages:role/content` …"""
    tools: list[dict[str, Any]] | None = None
    """Definitions of the tools that are on offer, for the chat template; never cleaned."""
    variables: dict[str, Any] | None = None
    """Further variables for the chat template, as `enable_thinking`."""
    verbatim: bool = False
    """True, without `chat`: the texts are all there is, without BOS and EOS, and control tokens written in them act."""


class Drop(NamedTuple):
    """A cleaner's answer: drop the sample, or one turn of it. `reason` is a short stable code."""

    reason: str
    rule: str = ""
    """The id of the rule that fired, where a step has several."""
    evidence: str = ""
    """What it matched; nothing for personal data."""
    turn: bool = False
    """True: drop the turn with the rest of its round (`rounds.py`); the sample too, where no other answer is left."""


class Edit(NamedTuple):
    """A cleaner's answer: replace the text, naming the rule; a bare `str` does the same without one."""

    text: str
    reason: str
    rule: str = ""
    evidence: str = ""
    private: bool = False
    """True where the ledger may not show what was there before."""


class Mark(NamedTuple):
    """A cleaner's answer: keep the text, but let a mark travel with it to the labels."""

    kind: str
    """`mask_loss` (keep as context, never train), `weight` (a factor on the loss) or `flag` (only recorded)."""
    value: float
    """The factor for `weight`; 0 for `mask_loss`; ignored for `flag`."""
    reason: str
    rule: str = ""
    evidence: str = ""


class InvalidRecord(Exception):
    """Raised by a formatter for a record that it cannot read; the engine quarantines the row with this reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        """A code from `schemas.QUARANTINE_REASONS`."""
        self.detail = detail
        """One line: the field, the value, what was expected."""

    @classmethod
    def for_field(cls, record: dict[str, Any], name: str) -> InvalidRecord:
        """Return the error for a field that should be a string: `field_missing` or `field_type`."""
        if name in record:
            return cls("field_type", f"field {name!r} is {type(record[name]).__name__}, not a string")
        return cls("field_missing", f"no field {name!r}; the record has {', '.join(map(repr, record)) or 'no fields'}")
