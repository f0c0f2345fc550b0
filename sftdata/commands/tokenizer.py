"""The group `tokenizer`: learn one, or extend one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sftdata import screen
from sftdata.commands.options import code_option, json_option, work_dir_option, workers_option

if TYPE_CHECKING:
    from sftdata.tokenizer_building import MadeTokenizer

out_option = click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder to write.")
template_option = click.option("--chat-template", metavar="NAME|FILE", help="A built-in template or a .jinja file.")
field_option = click.option("--field", default="text", show_default=True, help="The field of .jsonl files that holds text.")


@click.group()
def tokenizer() -> None:
    """Learn a tokenizer, or add pieces to one."""


@tokenizer.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@out_option
@click.option("--vocab-size", type=click.IntRange(260), required=True, help="Entries at most, special tokens counted.")
@click.option("--algorithm", type=click.Choice(["bpe", "unigram"]), default="bpe", show_default=True, help="Kind of tokenizer.")
@template_option
@field_option
@workers_option
@work_dir_option
@code_option
@json_option
def train(inputs: Sequence[Path], out: Path, as_json: bool, **options: Any) -> None:
    """Learn a tokenizer from the cleaned training text of a recipe (.yaml), or from files."""
    from sftdata.tokenizer_building import train_tokenizer

    with screen.show_progress():
        made = train_tokenizer(inputs, out, **options)
    _show(made, as_json)


@tokenizer.command()
@click.argument("source", metavar="TOKENIZER")
@click.option("--pieces", type=click.Path(path_type=Path), required=True, help='Lines of {"piece": ...}, or a .model file.')
@out_option
@click.option("--add-parts", is_flag=True, help="Also add the parts without which pieces would be dead.")
@click.option("--text", "texts", multiple=True, type=click.Path(path_type=Path), help="Measure characters per token on it.")
@template_option
@field_option
@json_option
def extend(source: str, pieces: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Add pieces to TOKENIZER: a folder, tokenizer.json, .model or hub:org/name."""
    from sftdata.tokenizer_building import extend_tokenizer

    _show(extend_tokenizer(source, pieces, out, **options), as_json)


def _show(made: MadeTokenizer, as_json: bool) -> None:
    if as_json:
        screen.show_json({"folder": str(made.folder), **made.facts})
    facts = made.facts
    screen.note(f"{made.folder}: {facts['vocab_size']:,} tokens, encoded by {facts['engine']}")
    extension = facts["extension"]
    if extension:
        counts = ", ".join(f"{extension[name]:,} {name}" for name in ("given", "doubles", "known", "added"))
        screen.note(f"  pieces: {counts}, {len(extension['parts']):,} parts, {len(extension['dead']):,} dead")
        before, after = extension["before"], extension["after"]
        if before["texts"]:
            rates = f"{before['characters_per_token']} before, {after['characters_per_token']} after"
            screen.note(f"  characters per token: {rates} ({before['texts']:,} texts)")
    for warning in facts["warnings"]:
        screen.note(click.style("  warning: ", fg="yellow") + warning)
