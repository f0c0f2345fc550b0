"""The commands that make data, or show how it would be made: `init`, `ingest`, `build`, `run-task`, `preview` and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sftdata import screen
from sftdata.commands.options import PLACE, code_option, json_option, out_option, set_option, work_dir_option, workers_option

if TYPE_CHECKING:
    from sftdata.recipe_loader import Loaded


FORMAT_HELP = "How the files are read: html, csv, sql, jsonl, parquet, arrow, dataset, or module:function."


@click.command()
@click.argument("raw", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The recipe to write; by default RAW's name and .yaml.")
@json_option
def init(raw: Path, out: Path | None, as_json: bool) -> None:
    """Look at raw files and write a commented recipe that builds."""
    from sftdata.initializing import init as run

    done = run(raw, out=out)
    if as_json:
        names = [source.name for source in done.sources]
        screen.show_json({"recipe": str(done.recipe), "sources": names, "skipped": done.skipped})
    waiting = sum(bool(source.obstacle) for source in done.sources)
    some = f", {waiting} of them as comments that say what is missing" if waiting else ""
    screen.note(f"{done.recipe}: {len(done.sources)} sources{some}; next: sftdata preview {done.recipe}")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PLACE)
@click.option("--format", "format_name", required=True, metavar="FORMAT", help=FORMAT_HELP)
@click.option("-o", "options", multiple=True, metavar="KEY=VALUE", help="An option of the format, as select=article.")
@out_option
@workers_option
@work_dir_option
@code_option
@json_option
def ingest(
    paths: Sequence[str | Path],
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
    screen.note_damaged(counts)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@out_option
@set_option
@workers_option
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where tasks run.")
@click.option("--ray-address", metavar="auto|HOST:PORT", help="The Ray cluster; by default Ray is started on this machine.")
@work_dir_option
@click.option("--limit", type=click.IntRange(1), help="Read only the first N records of each source.")
@click.option("--without", type=click.Path(path_type=Path), help="A file of record ids, one a line: these are left out.")
@click.option("--plan", "only_plan", is_flag=True, help="Print what would run or be reused, and why, and stop.")
@click.option("--write-tasks", type=click.Path(path_type=Path), help="Write the next stage's tasks to a file for run-task.")
@code_option
@json_option
def build(
    recipe: Path,
    out: Path | None,
    overrides: Sequence[str],
    workers: int | None,
    executor: str,
    ray_address: str | None,
    work_dir: Path | None,
    limit: int | None,
    without: Path | None,
    only_plan: bool,
    write_tasks: Path | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Build the token shards of a recipe."""
    from sftdata.pipeline import build as run
    from sftdata.pipeline import plan_build
    from sftdata.recipe_loader import load_recipe
    from sftdata.removing import read_ids

    loaded = load_recipe(recipe, overrides=overrides, allow_code=allow_code)
    ids = read_ids(without) if without else []
    if only_plan:
        tasks = plan_build(loaded, out=out, work_dir=work_dir, limit=limit, without=ids)
        screen.show_json([task._asdict() for task in tasks]) if as_json else screen.show_plan(tasks)
        return
    if write_tasks is not None:
        _write_tasks(loaded, write_tasks, as_json, out=out, work_dir=work_dir, limit=limit, without=ids)
        return
    with screen.show_progress():
        result = run(
            loaded, out=out, workers=workers, executor=executor, ray_address=ray_address, work_dir=work_dir, limit=limit,
            without=ids,
        )  # fmt: skip
    if as_json:
        screen.show_json({"folder": str(result.folder), "unchanged": result.unchanged, "counts": result.manifest["counts"]})
    screen.note_build(result)


def _write_tasks(loaded: Loaded, file: Path, as_json: bool, **options: Any) -> None:
    from sftdata.task_files import write_tasks

    with screen.show_progress():
        written = write_tasks(loaded, file, **options)
    if as_json:
        screen.show_json(written._asdict())
    what = f"{written.num_tasks:,} tasks of {written.stage}" if written.num_tasks else "no task is left; run the build"
    screen.note(f"{written.file}: {what}")


@click.command()
@click.argument("tasks", type=click.Path(path_type=Path))
@click.option("--index", required=True, type=click.IntRange(0), help="The task, from 0.")
@click.option("--of", type=click.IntRange(1), help="Run every OF-th task from there on: process INDEX of OF.")
@code_option
def run_task(tasks: Path, index: int, of: int | None, allow_code: bool) -> None:
    """Run one task, or one process's share, of a file that `build --write-tasks` wrote."""
    from sftdata.task_files import run_written_tasks

    with screen.show_progress():
        done = run_written_tasks(tasks, index, of=of, allow_code=allow_code)
    for task in done:
        screen.note(f"{task.stage} {task.name}: done")


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
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--rule", "rules", multiple=True, metavar="RULE", help="Switch off this rule; by default each that fired.")
@click.option("--rows", type=click.IntRange(1), help="Records of each source; by default all.")
@set_option
@workers_option
@code_option
@json_option
def ablate(
    recipe: Path,
    rules: Sequence[str],
    rows: int | None,
    overrides: Sequence[str],
    workers: int | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Show what each slop rule does: the records that would stay without it."""
    from sftdata.ablation import ablate as run
    from sftdata.views.decoding import as_json as jsonable

    with screen.show_progress():
        found = run(recipe, rules=rules, rows=rows, overrides=overrides, workers=workers, allow_code=allow_code)
    screen.show_json(jsonable(found)) if as_json else screen.show_ablation(found)


@click.command()
def schema() -> None:
    """Print the recipe's JSON Schema, for editors."""
    from sftdata.recipe import json_schema

    screen.show_json(json_schema())
