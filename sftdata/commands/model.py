"""The commands that make and use a model: `train` and `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sftdata import screen
from sftdata.commands.options import PLACE, code_option, json_option, out_option


@click.command()
@click.argument("shards", type=PLACE)
@out_option
@click.option("--set", "overrides", multiple=True, metavar="A=B", help="Override a key of the recipe's train section.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Take the train section from this recipe.")
@click.option("--resume", is_flag=True, help="Go on from the newest whole checkpoint of a run that was stopped.")
@click.option("--plan", "plan_only", is_flag=True, help="Print steps, tokens, memory, time and learning rate, and stop.")
@code_option
@json_option
def train(
    shards: str | Path, *, out: Path | None, recipe: Path | None, resume: bool, plan_only: bool, as_json: bool, **options: Any
) -> None:
    """Train a model on shards: model, curves, samples."""
    from sftdata.training import plan
    from sftdata.training import train as run

    if plan_only and (resume or out is not None):
        raise click.UsageError("--plan writes nothing; leave out --resume and --out")
    if plan_only:
        found = plan(shards, recipe=recipe, **options)
        for line in found.lines:
            screen.note(line)
        if as_json:
            screen.show_json(found.as_json())
        return
    result = run(shards, out=out, recipe=recipe, resume=resume, report=screen.note, **options)
    if as_json:
        screen.show_json(
            {
                "folder": str(result.out),
                "steps": result.steps,
                "train_loss": result.train_loss,
                "initial_validation_loss": result.initial_validation_loss,
                "validation_loss": result.validation_loss,
                "diagnosis": list(result.diagnosis),
            }
        )
    screen.note(f"{result.out}: model, curves.png, curves.json and samples.json, after {result.steps:,} steps")


@click.command()
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


@click.command(name="merge-lora")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write; by default ADAPTER-merged.")
def merge_lora(adapter: Path, out: Path | None) -> None:
    """Merge a LoRA adapter into its base: a whole model."""
    from sftdata.trainer import merge_lora as run

    screen.note(f"{run(adapter, out or adapter.with_name(f'{adapter.name}-merged'))}: the whole model")
