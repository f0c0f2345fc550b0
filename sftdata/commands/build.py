"""The commands that make data: `ingest`, `build`, `preview` and `schema`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from sftdata import screen
from sftdata.commands.options import code_option, json_option, out_option, set_option, work_dir_option, workers_option


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "format_name", required=True, metavar="html|csv|sql|jsonl", help="How the files are read.")
@click.option("-o", "options", multiple=True, metavar="KEY=VALUE", help="An option of the format, as select=article.")
@out_option
@workers_option
@work_dir_option
@code_option
@json_option
def ingest(
    paths: Sequence[Path],
    format_name: str,
    options: Sequence[str],
    out: Path | None,
    workers: int | None,
    work_dir: Path | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Read raw files into documents, with a quarantine and a manifest."""
    from sftdata.ingesting import ingest as run
    from sftdata.ingesting import read_options

    with screen.show_progress():
        result = run(
            list(paths),
            format=format_name,
            out=out,
            options=read_options(format_name, options, allow_code=allow_code),
            workers=workers,
            work_dir=work_dir,
            allow_code=allow_code,
        )
    counts = result.manifest["counts"]["prepare"]
    if as_json:
        screen.show_json({"folder": str(result.folder), "counts": counts})
    bad = f", {counts['quarantined']:,} quarantined (see quarantine.parquet)" if counts["quarantined"] else ""
    screen.note(f"{result.folder}: {counts['kept']:,} documents{bad}")


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@out_option
@set_option
@workers_option
@click.option("--executor", type=click.Choice(["local"]), default="local", show_default=True, help="Where tasks run.")
@work_dir_option
@click.option("--limit", type=click.IntRange(1), help="Read only the first N records of each source.")
@click.option("--plan", "only_plan", is_flag=True, help="Print what would run or be reused, and why, and stop.")
@code_option
@json_option
def build(
    recipe: Path,
    out: Path | None,
    overrides: Sequence[str],
    workers: int | None,
    executor: str,
    work_dir: Path | None,
    limit: int | None,
    only_plan: bool,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Build the token shards of a recipe."""
    from sftdata.pipeline import build as run
    from sftdata.pipeline import plan_build
    from sftdata.recipe_loader import load_recipe

    loaded = load_recipe(recipe, overrides=overrides, allow_code=allow_code)
    if only_plan:
        tasks = plan_build(loaded, out=out, work_dir=work_dir, limit=limit)
        screen.show_json([task._asdict() for task in tasks]) if as_json else screen.show_plan(tasks)
        return
    with screen.show_progress():
        result = run(loaded, out=out, workers=workers, work_dir=work_dir, limit=limit)
    if as_json:
        screen.show_json({"folder": str(result.folder), "unchanged": result.unchanged, "counts": result.manifest["counts"]})
    screen.note_build(result)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(1), default=5, show_default=True, help="Records of each source.")
@set_option
@code_option
@json_option
def preview(recipe: Path, rows: int, overrides: Sequence[str], allow_code: bool, as_json: bool) -> None:
    """Show a sample of every source through every step; writes nothing."""
    from sftdata.views.decoding import as_json as jsonable
    from sftdata.views.preview import preview as run

    with screen.show_progress():
        shown = run(recipe, rows=rows, overrides=overrides, allow_code=allow_code)
    screen.show_json(jsonable(shown)) if as_json else screen.show_preview(shown)


@click.command()
def schema() -> None:
    """Print the recipe's JSON Schema, for editors."""
    from sftdata.recipe import json_schema

    screen.show_json(json_schema())
