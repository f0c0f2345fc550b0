"""The commands that look into a build: `inspect`, `why`, `diff`, `verify` and `report`."""

from __future__ import annotations

from pathlib import Path

import click

from sftdata import screen
from sftdata.commands.options import PLACE, json_option


@click.command()
@click.argument("shards", type=PLACE)
@click.option("--split", default="train", show_default=True, help="The split.")
@click.option("--row", type=int, default=0, show_default=True, help="The row, from 0.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write the row as a page to this file.")
@json_option
def inspect(shards: str | Path, split: str, row: int, page: Path | None, as_json: bool) -> None:
    """Show one row: what is trained, where documents begin, and where each came from."""
    from sftdata.shards import open_shards
    from sftdata.views.decoding import as_json as jsonable
    from sftdata.views.inspect import inspect as run
    from sftdata.views.inspect import write_page

    opened = open_shards(shards)
    shown = run(opened, split=split, row=row)
    if page is not None:
        write_page(shown, opened.manifest["name"], page)
        screen.note(f"page: {page}")
    if as_json:
        screen.show_json(jsonable(shown))
    elif page is None:
        screen.show_row(shown)


@click.command()
@click.argument("shards", type=PLACE)
@click.argument("id_or_text")
@json_option
def why(shards: str | Path, id_or_text: str, as_json: bool) -> None:
    """Tell the life of one raw record: read, edited, dropped or packed, and why."""
    from sftdata.views.decoding import as_json as jsonable
    from sftdata.views.why import why as run

    lives = run(shards, id_or_text)
    screen.show_json(jsonable(lives)) if as_json else screen.show_lives(lives)


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@json_option
def diff(before: Path, after: Path, as_json: bool) -> None:
    """Compare two builds: what became of the same records, by stage and row."""
    from sftdata.views.decoding import as_json as jsonable
    from sftdata.views.diff import diff as run
    from sftdata.views.diff import told
    from sftdata.views.visible import one_line

    found = run(before, after)
    if as_json:
        screen.show_json(jsonable(found))
        return
    for line in told(found):
        click.echo(one_line(line))


@click.command()
@click.argument("shards", type=PLACE)
@json_option
@click.pass_context
def verify(ctx: click.Context, shards: str | Path, as_json: bool) -> None:
    """Check every file, every count and every mask of a build; exit 1 where something is wrong."""
    from sftdata.views.verify import verify as run

    found = run(shards)
    if as_json:
        screen.show_json({**found._asdict(), "sound": found.sound})
    for problem in found.problems:
        screen.note(click.style("wrong: ", fg="red") + problem)
    if found.sound:
        screen.note(
            f"{found.folder}: sound; {found.num_files} files, {found.num_rows:,} rows, {found.num_tokens:,} tokens, "
            f"{found.num_trained:,} trained"
        )
    ctx.exit(0 if found.sound else 1)


@click.command()
@click.argument("shards", type=PLACE)
@click.option("--out", type=click.Path(path_type=Path), help="Write the page to this file.")
@json_option
def report(shards: str | Path, out: Path | None, as_json: bool) -> None:
    """Show where every record of a build went, and where its report page lies."""
    from sftdata.views.report import funnel_lines, write_report

    manifest, page = write_report(shards, out)
    if as_json:
        screen.show_json({"report": str(page), "counts": manifest["counts"], "splits": manifest["splits"]})
        return
    for line in funnel_lines(manifest):
        click.echo(line)
    screen.note(f"report: {page}")
