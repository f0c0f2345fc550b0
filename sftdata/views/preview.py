"""A sample of every source through every step of a recipe. Nothing is left behind on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sftdata.pipeline import build
from sftdata.recipe import Recipe, Source
from sftdata.recipe_loader import load_recipe
from sftdata.shards import Shards, open_shards
from sftdata.views.decoding import Decoder, Run
from sftdata.views.tables import LEDGER_TABLE, LINEAGE_TABLE, read_rows
from sftdata.views.why import Event, Life, life_of


class PreviewedRecord(NamedTuple):
    """One record: what happened to it, and its tokens where it was kept."""

    id: str
    outcome: str
    events: list[Event]
    raw: str
    runs: list[Run]


class PreviewedSource(NamedTuple):
    """The first records of one source."""

    name: str
    num_records: int
    steps: list[str]
    """What a record goes through, by name: ingestor, cleaners, formatter."""
    records: list[PreviewedRecord]


class Preview(NamedTuple):
    """A sample of every source."""

    sources: list[PreviewedSource]


UNLIMITED = ("limits.max_bad=1.0", "limits.max_drop=1.0")
"""A few rows say nothing about shares, and what is dropped is what a preview is for."""


def preview(recipe: str | Path, *, rows: int = 5, overrides: Sequence[str] = (), allow_code: bool = False) -> Preview:
    """Build the first `rows` records of each source in a temporary folder and return what happened to each."""
    loaded = load_recipe(recipe, overrides=(*overrides, *UNLIMITED), allow_code=allow_code)
    with tempfile.TemporaryDirectory(prefix="sftdata-preview-") as folder:
        result = build(loaded, out=Path(folder) / "preview", work_dir=Path(folder) / "work", limit=rows, workers=1)
        shards = open_shards(result.folder)
        decoder = Decoder(shards)
        return Preview([_source(shards, source, loaded.recipe, decoder) for source in loaded.recipe.sources])


def _source(shards: Shards, source: Source, recipe: Recipe, decoder: Decoder) -> PreviewedSource:
    name = source.name
    mine = [("source", "=", name)]
    found = {row["id"]: None for table in (LEDGER_TABLE, LINEAGE_TABLE) for row in read_rows(shards, table, mine)}
    lives = sorted((life_of(shards, (name, row_id), decoder) for row_id in found), key=_file_order(shards, name))
    records = [PreviewedRecord(life.id, life.outcome, life.events, life.raw, _runs(shards, life, decoder)) for life in lives]
    steps = [source.ingest, *source.clean, *recipe.clean, source.format]
    num_records = shards.manifest["sources"][name]["prepare"].get("records", 0)
    return PreviewedSource(name, num_records, [step.name for step in steps], records)


def _file_order(shards: Shards, name: str) -> Callable[[Life], tuple[int, int]]:
    files = {file["name"]: number for number, file in enumerate(shards.manifest["sources"][name]["files"])}

    def key(life: Life) -> tuple[int, int]:
        file, _, record = life.id.rpartition("#")
        number = record.rpartition("/")[2]
        return files.get(file, len(files)), int(number) if number.isdecimal() else 0

    return key


def _runs(shards: Shards, life: Life, decoder: Decoder) -> list[Run]:
    runs: list[Run] = []
    for place in life.placements:
        columns = shards.splits[place.split].row(place.row)
        lengths = columns["seq_lengths"] if "seq_lengths" in columns else [len(columns["input_ids"])]
        first = int(sum(lengths[: place.segment]))
        piece = slice(first, first + place.length)
        runs.extend(decoder.runs(columns["input_ids"][piece], columns["labels"][piece]))
    return runs
