"""What every exporter takes and gives, and the files beside the data that several of them write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sftdata import storage
from sftdata.errors import DataError
from sftdata.recipe import Recipe
from sftdata.shards import Shards

TOKENIZER = "tokenizer"


class Job(NamedTuple):
    """One export."""

    shards: Shards
    folder: Path
    """The empty folder to fill."""
    recipe: Recipe
    """The resolved recipe of the build."""
    form: str
    """How JSON Lines write dialogues: `openai` or `sharegpt`."""
    work_folder: Path
    """Where the results lie that the build was made from."""
    allow_code: bool


class Outcome(NamedTuple):
    """What an exporter wrote."""

    counts: dict[str, dict[str, int]]
    """Split → what was written and what was left out, as numbers."""
    notes: list[str]
    """What the user has to know or do."""


def refuse_weights(job: Job, consumer: str) -> None:
    """Raise DataError for shards whose tokens carry weights, which the consumer would train alike."""
    if any("loss_weights" in split.columns for split in job.shards.splits.values()):
        raise DataError(
            f"{job.shards.folder}: holds loss weights, which {consumer} does not read; train it with `sftdata train`, "
            "or build it without weights"
        )


def copy_tokenizer(job: Job) -> None:
    """Copy the tokenizer that made the tokens."""
    target = storage.make_folder(job.folder / TOKENIZER)
    for path in sorted(job.shards.tokenizer_folder.iterdir()):
        storage.write_bytes(target / path.name, path.read_bytes())


def data_files(job: Job, pattern: str) -> dict[str, Any]:
    """Return the front matter of a dataset card that tells `datasets.load_dataset` the files of every split with rows.

    It opens no empty split, nor a folder that names one. `pattern` has `{}` for the split's name.
    """
    splits = job.shards.splits.values()
    files = [{"split": split.name, "path": pattern.format(split.name)} for split in splits if split.num_rows]
    return {"configs": [{"config_name": "default", "data_files": files}]}


def write_yaml(path: Path, values: Mapping[str, Any], comments: Sequence[str] = ()) -> None:
    """Write a configuration, with comment lines before it."""
    head = "".join(f"# {line}\n" for line in comments)
    text = yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False, width=120)
    storage.write_bytes(path, f"{head}{text}".encode())


def write_readme(folder: Path, title: str, text: str, front: Mapping[str, Any] | None = None) -> None:
    """Write a README.md; `front` is the front matter that makes it a dataset card."""
    head = f"---\n{yaml.safe_dump(dict(front), sort_keys=False)}---\n\n" if front else ""
    storage.write_bytes(folder / "README.md", f"{head}# {title}\n\n{text.strip()}\n".encode())
