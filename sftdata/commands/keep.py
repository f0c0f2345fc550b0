"""The commands that keep and hand on what was built: `export`, `publish`, `repair` and `gc`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from sftdata import screen
from sftdata.commands.options import PLACE, code_option, json_option, set_option, work_dir_option, workers_option

CONSUMERS = "trl|axolotl|llamafactory|parquet|megatron|jsonl"


@click.command()
@click.argument("shards", type=PLACE)
@click.option("--to", required=True, metavar=CONSUMERS, help="The program or format.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write; must be new or empty.")
@click.option("--form", default="openai", show_default=True, metavar="openai|sharegpt", help="How jsonl writes dialogues.")
@work_dir_option
@code_option
@json_option
def export(
    shards: str | Path, to: str, out: Path, form: str, work_dir: Path | None, allow_code: bool, as_json: bool
) -> None:
    """Write a build's data, with a ready configuration, for another program."""
    from sftdata.exporting import export as run

    with screen.show_progress():
        done = run(shards, to=to, out=out, form=form, work_dir=work_dir, allow_code=allow_code)
    if as_json:
        screen.show_json(done._asdict())
    for split, counts in done.counts.items():
        shown = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count)
        screen.note(f"{split}: {shown or 'nothing'}")
    for line in done.notes:
        screen.note(click.style("note: ", fg="yellow") + line)
    screen.note(f"{done.folder}: {len(done.files)} files for {done.to}; README.md says how to use them")


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.argument("url")
@click.option("--prune", is_flag=True, help="Remove what was published there before.")
@json_option
def publish(shards: Path, url: str, prune: bool, as_json: bool) -> None:
    """Copy a build to an object store, where inspect, verify and train read it by its URL."""
    from sftdata.publishing import publish as run

    done = run(shards, url, prune=prune)
    if as_json:
        screen.show_json(done._asdict())
    for name in done.removed:
        screen.note(f"removed: {done.url}/{name}")
    screen.note(f"{done.url}: published, {done.num_uploaded:,} of {done.num_files:,} files copied")


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--recipe", type=click.Path(path_type=Path), help="The recipe, where it is not where the build found it.")
@set_option
@workers_option
@work_dir_option
@code_option
@json_option
def repair(
    shards: Path,
    recipe: Path | None,
    overrides: Sequence[str],
    workers: int | None,
    work_dir: Path | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Make the damaged files of a build anew, byte for byte as they were."""
    from sftdata.repairing import repair as run

    with screen.show_progress():
        done = run(
            shards, recipe=recipe, overrides=overrides, workers=workers, work_dir=work_dir, allow_code=allow_code
        )
    if as_json:
        screen.show_json(done._asdict())
    for name in done.damaged:
        screen.note(f"repaired: {name}")
    what = f"whole again; {done.num_reused} of {done.num_tasks} tasks reused" if done.damaged else "nothing is damaged"
    screen.note(f"{done.folder}: {what}")


@click.command()
@click.argument("recipes", nargs=-1, type=click.Path(path_type=Path))
@click.option("--work-dir", type=click.Path(path_type=Path), help="The work folder; by default that beside the output.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@code_option
@json_option
def gc(recipes: Sequence[Path], work_dir: Path | None, dry_run: bool, allow_code: bool, as_json: bool) -> None:
    """Remove from the work folder what no build, or none of the named recipes, uses."""
    from sftdata.garbage import collect

    found = collect(work_dir, recipes, dry_run=dry_run, allow_code=allow_code)
    if as_json:
        screen.show_json({**found._asdict(), "stages": [stage._asdict() for stage in found.stages]})
        return
    screen.show_collected(found)
