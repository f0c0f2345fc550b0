"""What the command line shows: progress on stderr, and views as text on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from sftdata.views import terminal
from sftdata.views.visible import one_line, visible

if TYPE_CHECKING:
    from sftdata.ablation import Ablation
    from sftdata.garbage import Collected
    from sftdata.pipeline import BuildResult
    from sftdata.runner import TaskPlan
    from sftdata.views.inspect import InspectedRow
    from sftdata.views.preview import Preview
    from sftdata.views.why import Event, Life

PLAIN_SECONDS = 5.0
"""Seconds between two lines of progress where there is no terminal."""

MAX_FINDINGS = 8
"""Findings of the mask lint that a build prints; the report has all."""

OUTCOME_COLOURS = {"dropped": "yellow", "quarantined": "red"}
MAX_RAW = 400
"""Characters of a quarantined record that a preview shows."""


def note(text: str) -> None:
    """Say something to the user, on stderr."""
    click.echo(text, err=True)


def show_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=1))


class _Lines:
    """Progress as plain lines: one when a stage begins after a while, and one every few seconds."""

    def __init__(self) -> None:
        self._stage = ""
        self._num_rows = 0
        self._last = time.monotonic()

    def stage(self, name: str, num_tasks: int) -> None:
        """Begin a stage."""
        self._stage, self._num_rows = f"{name} ({num_tasks} tasks)" if num_tasks > 1 else name, 0

    def rows(self, count: int) -> None:
        """Count rows, and say so every few seconds."""
        self._num_rows += count
        if time.monotonic() - self._last >= PLAIN_SECONDS:
            note(f"{self._stage}: {self._num_rows:,} rows")
            self._last = time.monotonic()


class _Bar:
    """Progress as one line of a terminal that is written over."""

    def __init__(self) -> None:
        self._stage = ""
        self._num_rows = 0
        self._last = 0.0

    def stage(self, name: str, num_tasks: int) -> None:
        """Begin a stage."""
        self._stage, self._num_rows, self._last = f"{name} ({num_tasks} tasks)" if num_tasks > 1 else name, 0, 0.0
        self._draw()

    def rows(self, count: int) -> None:
        """Count rows, and draw the line anew ten times a second."""
        self._num_rows += count
        self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self._last >= 0.1:
            click.echo(f"\r\x1b[2K{self._stage}: {self._num_rows:,} rows", err=True, nl=False)
            self._last = now

    def clear(self) -> None:
        """Take the line away."""
        click.echo("\r\x1b[2K", err=True, nl=False)


@contextmanager
def show_progress() -> Iterator[None]:
    """Show the progress of what runs in the block: a moving line on a terminal, plain lines elsewhere."""
    from sftdata import progress

    shown = _Bar() if sys.stderr.isatty() else _Lines()
    try:
        with progress.listen(shown.rows, shown.stage):
            yield
    finally:
        if isinstance(shown, _Bar):
            shown.clear()


def note_damaged(counts: dict[str, int]) -> None:
    """Say how many input files could not be read to their end: each is one row of the quarantine, whatever it held."""
    num = sum(counts.get(f"quarantine:{reason}", 0) for reason in ("file_damaged", "file_expands"))
    if num:
        files, them = ("files", "them") if num > 1 else ("file", "it")
        note(f"  warning: {num:,} damaged {files} not read to the end; the quarantine names {them}")


def note_build(result: BuildResult) -> None:
    """Say what a build made, on stderr."""
    from sftdata.mask_lint import findings

    counts = result.manifest["counts"]
    stages = [counts[stage] for stage in ("prepare", "resolve", "tokenize", "plan")]
    dropped, quarantined = (sum(stage[name] for stage in stages) for name in ("dropped", "quarantined"))
    splits = ", ".join(
        f"{name} {split['rows']:,} rows of {split['tokens']:,} tokens" for name, split in result.manifest["splits"].items()
    )
    state = "is up to date" if result.unchanged else f"built; {result.num_reused} of {result.num_tasks} tasks reused"
    records = counts["prepare"]["records"]
    note(f"{result.folder}: {state}")
    note(f"  {records:,} records: {counts['plan']['kept']:,} kept, {dropped:,} dropped, {quarantined:,} quarantined")
    note_damaged(counts["prepare"])
    removed = counts["prepare"].get("drop:without:removed", 0)
    if removed:
        note(f"  removed by name: {removed:,} of those dropped; `sftdata gc` takes their texts out of the work folder too")
    note(f"  {splits}")
    if not counts["plan"]["kept"]:
        note("  warning: no record is left; the report and `sftdata why` say what became of them")
    for warning in result.manifest["warnings"]:
        note(click.style("  warning: ", fg="yellow") + warning)
    if result.damaged:
        note(f"  made again, since the kept result was damaged: {', '.join(result.damaged)}")
    if not result.manifest["reproducible"]:
        note("  not reproducible: workers were lost on some records, which are left out as `environment` (see the ledger)")
    note(f"  report: {result.folder / 'report.html'}")
    _note_findings(list(findings(result.manifest)))


def _note_findings(found: Sequence[str]) -> None:
    """Say what the mask lint found, on stderr; nothing where all is well."""
    if found:
        note(click.style("labels to look at:", fg="yellow"))
    for finding in found[:MAX_FINDINGS]:
        note(f"  {finding}")
    if len(found) > MAX_FINDINGS:
        note(f"  and {len(found) - MAX_FINDINGS} more, all in the report")


def show_plan(tasks: list[TaskPlan]) -> None:
    """Print what a build would run or reuse, stage by stage; tasks of a stage with the same fate share a line."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for task in tasks:
        groups.setdefault((task.stage, task.action, task.why), []).append(task.name)
    for (stage, action, why), names in groups.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
        click.echo(f"{stage:<10} {action:<13} {shown}  ({why})")


def show_row(row: InspectedRow) -> None:
    """Print one row in colours."""
    num_segments = len(row.segments)
    documents = f"{num_segments:,} documents" if num_segments != 1 else "1 document"
    counts = f"{row.num_tokens:,} tokens, {row.num_trained:,} trained, {documents}"
    click.echo(f"{row.split} row {row.row:,} of {row.num_rows:,}: {counts}")
    click.echo(terminal.legend())
    for number, segment in enumerate(row.segments):
        copy = f", copy {segment.copy}" if segment.copy else ""
        begin = f", from its token {segment.start:,}" if segment.start else ""
        counts = f"{segment.num_tokens:,} tokens, {segment.num_trained:,} trained"
        click.secho(f"── segment {number}: {segment.source} {one_line(segment.id)}{copy}{begin}: {counts}", bold=True)
        click.echo(terminal.painted(segment.runs))


def show_lives(lives: list[Life]) -> None:
    """Print the lives of records."""
    for life in lives:
        click.secho(f"{life.source} {one_line(life.id)}: {life.outcome}", bold=True)
        click.echo(f"  read from {one_line(life.file)}")
        _show_events(life.events)
        if life.raw:
            click.echo(f"  raw: {one_line(life.raw)}")
        for place in life.placements:
            copy = f", copy {place.copy}" if place.copy else ""
            click.echo(
                f"  stands in {place.split} row {place.row}, segment {place.segment}{copy}: {place.length} tokens "
                f"from its token {place.start}"
            )
        for duplicate in life.duplicates:
            click.echo(f"  {one_line(duplicate)} was dropped as a copy of it")
        if life.text:
            click.echo(f"  text: {visible(life.text)}")


def _show_events(events: list[Event]) -> None:
    for event in events:
        for line in terminal.event_lines(event):
            click.echo(f"  {line}")


def show_preview(preview: Preview) -> None:
    """Print a sample of every source on its way to tokens."""
    click.echo(terminal.legend())
    for source in preview.sources:
        outcomes = Counter(record.outcome for record in source.records)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        click.echo()
        click.secho(f"━━ {source.name}: {source.num_records} records read, {counts}", bold=True)
        click.echo(f"   {' → '.join(source.steps)}")
        for record in source.records:
            click.secho(f"{one_line(record.id)}: {record.outcome}", bold=True, fg=OUTCOME_COLOURS.get(record.outcome))
            _show_events(record.events)
            if record.raw:
                click.echo(f"  raw: {one_line(record.raw[:MAX_RAW])}{' …' if len(record.raw) > MAX_RAW else ''}")
            if record.runs:
                click.echo(terminal.painted(terminal.shortened(record.runs)))


def show_ablation(found: Ablation) -> None:
    """Print what each rule does."""
    click.echo(f"{found.num_records:,} records, {found.num_dropped:,} of them dropped")
    click.echo(f"{'rule':<28} {'category':<20} {'drops':>8} {'alone':>8}  lines in the ledger; records that only it drops")
    for effect in found.rules:
        lines = ", ".join(f"{action} {count:,}" for action, count in effect.actions.items()) or "did not fire"
        examples = f"; {one_line(', '.join(effect.examples))}" if effect.examples else ""
        counts = f"{effect.num_dropped:>8,} {effect.num_returned:>8,}"
        click.echo(f"{effect.rule:<28} {effect.category:<20} {counts}  {lines}{examples}")


def show_collected(found: Collected) -> None:
    """Print the size of a work folder by stage, and what of it was not used."""
    click.echo(f"{'stage':<10} {'results':>12} {'bytes':>18} {'unused':>12} {'bytes freed':>18}")
    for size in found.stages:
        kept = f"{size.stage:<10} {size.num_entries:>12,} {size.num_bytes:>18,}"
        click.echo(f"{kept} {size.num_unused:>12,} {size.unused_bytes:>18,}")
    num_unused = sum(stage.num_unused for stage in found.stages)
    what = "would be removed" if found.dry_run else "removed"
    note(f"{found.work_folder}: {num_unused:,} results {what}")
