"""The command line: it parses, calls one function of the library, and prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from sftdata import __version__, screen
from sftdata.errors import RecipeError, SftdataError, StorageError

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class _Commands(click.Group):
    """Shows every error as one line, with the exit code of its kind; a traceback only where SFTDATA_DEBUG is set."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - whoever read us has gone; there is nobody to tell
            ctx.exit(0)
        except Exception as error:
            if os.environ.get("SFTDATA_DEBUG"):
                raise
            screen.note(click.style("error: ", fg="red") + _one_line(error))
            ctx.exit(error.exit_code if isinstance(error, SftdataError) else _exit_code(error))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, SftdataError | OSError):
        return text
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"a defect of sftdata, {type(error).__name__}: {text} (set SFTDATA_DEBUG=1 for the traceback, and please report it)"


def _exit_code(error: Exception) -> int:
    return StorageError.exit_code if isinstance(error, OSError) else 1


@click.group(cls=_Commands, context_settings=SETTINGS)
@click.version_option(__version__)
def main() -> None:
    """Turn raw files into training data that can be trusted, and train on it."""


json_option = click.option("--json", "as_json", is_flag=True, help="Print machine output on stdout.")


def _allow_code(ctx: click.Context, parameter: click.Parameter, allowed: bool) -> bool:
    """Make modules in the current folder importable, as `python -m` does, where outside code is allowed."""
    if allowed and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return allowed


code_option = click.option(
    "--allow-code", is_flag=True, callback=_allow_code, help="Allow steps written module:function, which run code."
)
set_option = click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a key of the recipe.")
out_option = click.option("--out", type=click.Path(path_type=Path), help="The folder to write.")
workers_option = click.option("--workers", type=click.IntRange(1), help="Worker processes; by default one a processor.")
work_dir_option = click.option("--work-dir", type=click.Path(path_type=Path), help="Where results are kept for the next build.")


@main.command()
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

    with screen.show_progress():
        result = run(
            list(paths),
            format=format_name,
            out=out,
            options=_options(options),
            workers=workers,
            work_dir=work_dir,
            allow_code=allow_code,
        )
    counts = result.manifest["counts"]["prepare"]
    if as_json:
        screen.show_json({"folder": str(result.folder), "counts": counts})
    bad = f", {counts['quarantined']:,} quarantined (see quarantine.parquet)" if counts["quarantined"] else ""
    screen.note(f"{result.folder}: {counts['kept']:,} documents{bad}")


def _options(given: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` texts; values are YAML, as in a recipe."""
    from sftdata import strict_yaml

    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise RecipeError(f"-o {text}: write it as key=value")
        options[key] = strict_yaml.parse(value, f"-o {key}").value
    return options


@main.command()
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


@main.command()
@click.argument("shards", type=click.Path(path_type=Path))
@out_option
@click.option("--set", "overrides", multiple=True, metavar="A=B", help="Override a key of the recipe's train section.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Take the train section from this recipe.")
@code_option
@json_option
def train(
    shards: Path, out: Path | None, overrides: Sequence[str], recipe: Path | None, allow_code: bool, as_json: bool
) -> None:
    """Train a model on shards: model, curves, samples."""
    from sftdata.training import train as run

    result = run(shards, out=out, recipe=recipe, overrides=overrides, allow_code=allow_code, report=screen.note)
    if as_json:
        screen.show_json(
            {
                "folder": str(result.out),
                "steps": result.steps,
                "train_loss": result.train_loss,
                "initial_validation_loss": result.initial_validation_loss,
                "validation_loss": result.validation_loss,
            }
        )


@main.command()
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


@main.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--split", default="train", show_default=True, help="The split.")
@click.option("--row", type=int, default=0, show_default=True, help="The row, from 0.")
@json_option
def inspect(shards: Path, split: str, row: int, as_json: bool) -> None:
    """Show one row: what is trained, where documents begin, and where each came from."""
    from sftdata.views.decoding import as_json as jsonable
    from sftdata.views.inspect import inspect as run

    shown = run(shards, split=split, row=row)
    screen.show_json(jsonable(shown)) if as_json else screen.show_row(shown)


@main.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.argument("id_or_text")
@json_option
def why(shards: Path, id_or_text: str, as_json: bool) -> None:
    """Tell the life of one raw record: read, edited, dropped or packed, and why."""
    from sftdata.views.decoding import as_json as jsonable
    from sftdata.views.why import why as run

    lives = run(shards, id_or_text)
    screen.show_json(jsonable(lives)) if as_json else screen.show_lives(lives)


@main.command()
@click.argument("shards", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def verify(ctx: click.Context, shards: Path, as_json: bool) -> None:
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


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="What to answer or continue.")
@click.option("--max-new-tokens", type=int, default=256, show_default=True, help="Tokens to write at most.")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", type=int, default=40, show_default=True, help="Choose among so many tokens; 0: all.")
@click.option("--top-p", type=float, default=0.95, show_default=True, help="Choose among the tokens of this probability.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of the choice.")
@click.option("--chat/--no-chat", default=None, help="Use the chat template; by default where there is one.")
@json_option
def generate(model: Path, prompt: str, chat: bool | None, as_json: bool, **sampling: Any) -> None:
    """Let a trained model answer or continue a text."""
    from sftdata.trainer import generate as run

    text = run(model, prompt, chat=chat, **sampling)
    screen.show_json({"prompt": prompt, "text": text}) if as_json else click.echo(text)
    if not text:
        screen.note("the model ended its answer at once")


@main.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write the page to this file.")
@json_option
def report(shards: Path, out: Path | None, as_json: bool) -> None:
    """Show where every record of a build went, and where its report page lies."""
    from sftdata.views.report import funnel_lines, write_report

    manifest, page = write_report(shards, out)
    if as_json:
        screen.show_json({"report": str(page), "counts": manifest["counts"], "splits": manifest["splits"]})
        return
    for line in funnel_lines(manifest):
        click.echo(line)
    screen.note(f"report: {page}")


@main.command()
def schema() -> None:
    """Print the recipe's JSON Schema, for editors."""
    from sftdata.recipe import json_schema

    screen.show_json(json_schema())
