"""Putting the folder of a build together from the results of its tasks: shards, tokenizer, side tables, card and manifest.

Everything in the folder but the report and `run.json` is a function of recipe, inputs, code and libraries: no clock, no machine
path, no number of workers.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sftdata import registry, storage
from sftdata.card import dataset_card
from sftdata.entries import LEDGER_FILE, LINEAGE_FILE, QUARANTINE_FILE, SHARD_FILE, plan_name
from sftdata.environment import is_pinned
from sftdata.origins import write_origins
from sftdata.recipe_loader import Loaded
from sftdata.run_record import REPORT_FILE, RUN_FILE
from sftdata.scanning import describe_files
from sftdata.schemas import FORMAT_VERSION, LEDGER, LINEAGE, QUARANTINE
from sftdata.sealing import sealed
from sftdata.shards import MANIFEST, shard_name, write_split_metadata
from sftdata.tables import read_batches
from sftdata.tasks import Planned, Prepared, category_of, shard_columns
from sftdata.work import ENTRY, Task, code_fingerprint, fingerprint

SIDE_FOLDER = ".sftdata"
OUTSIDE_THE_MANIFEST = (MANIFEST, RUN_FILE, REPORT_FILE)
"""Files that hold the checksums, or depend on clock or machine: `run.json` seals itself and the report."""

STAGE_MODULES = tuple(
    f"sftdata.{name}"
    for name in ("preparing", "signing", "resolving", "tokenizer_making", "tokenizing", "planning", "gathering")
)
"""Where the stages' code begins."""

SOURCE_COUNTS = ("prepare", "tokenize", "mask_lint", "lengths")
"""What the manifest counts of every source."""

ROW_GROUP = 1 << 16
"""Rows of a Parquet row group: fixed, since the bytes depend on it."""


@dataclass(frozen=True)
class Built:
    """The finished tasks of a build, with what they returned."""

    loaded: Loaded
    prepared: list[Prepared]
    signed: list[Task]
    """Of every part, or none where nothing was to be signed."""
    resolved: Task
    tokenizer: Task
    tokenizer_summary: dict[str, Any]
    tokenized: list[tuple[Prepared, Task]]
    tokenized_summaries: list[dict[str, Any]]
    plan: Task
    plan_summary: dict[str, Any]
    gathered: list[Planned]
    gathered_summaries: list[dict[str, Any]]
    counts: dict[str, Any]
    """Stage name → counts, checked for conservation."""

    @property
    def read_tasks(self) -> list[Task]:
        """The tasks that handle records: those of Prepare and of Tokenize."""
        return [*(item.task for item in self.prepared), *(task for _, task in self.tokenized)]

    @property
    def fingerprint(self) -> str:
        """One digest of all that the folder depends on."""
        tasks = [*self.read_tasks, self.resolved, self.tokenizer, self.plan, *(item.task for item in self.gathered)]
        return fingerprint([FORMAT_VERSION, [task.fingerprint for task in tasks], resolved_recipe(self.loaded)])


def assemble(folder: Path, built: Built) -> dict[str, Any]:
    """Write all files of a build but its report and run record into an empty folder; return the manifest."""
    splits = built.plan_summary["splits"]
    columns = shard_columns(splits)
    shards = _place_shards(folder, built, columns)
    _copy_files(built.tokenizer.entry, folder / "tokenizer")
    storage.write_json(folder / "dataset_dict.json", {"splits": list(splits)})
    storage.write_bytes(folder / "recipe.yaml", resolved_recipe(built.loaded).encode("utf-8"))
    side = storage.make_folder(folder / SIDE_FOLDER)
    _write_side_tables(side, built)
    plans = storage.make_folder(side / "plan")
    for split in splits:
        storage.copy(built.plan.entry / plan_name(split), plans / plan_name(split))
    write_origins(folder, _origins(built))
    body = manifest_body(built, shards, columns)
    storage.write_bytes(folder / "README.md", dataset_card(body).encode("utf-8"))
    body["files"] = list(list_files(folder))
    storage.write_bytes(folder / MANIFEST, sealed(body))
    return body


def _origins(built: Built) -> dict[str, list[str]]:
    single = {"resolve": built.resolved, "tokenizer": built.tokenizer, "plan": built.plan}
    return {
        "prepare": [item.task.fingerprint for item in built.prepared],
        **({"sign": [task.fingerprint for task in built.signed]} if built.signed else {}),
        "tokenize": [task.fingerprint for _, task in built.tokenized],
        "gather": [item.task.fingerprint for item in built.gathered],
        **{stage: [task.fingerprint] for stage, task in single.items()},
    }


def resolved_recipe(loaded: Loaded) -> str:
    """Return the recipe with all defaults, as YAML that loads again; without `output`, which names a place of this machine."""
    value = loaded.recipe.model_dump(exclude={"output"}, exclude_none=True)
    tokenize = value["tokenize"]
    if loaded.recipe.pack.strategy == "packed":
        del tokenize["excess_length"]  # what has no meaning may not be written
    if loaded.recipe.tokenize.compat:
        written = ("control_tokens",) if tokenize["control_tokens"] == "allow" else ()
        value["tokenize"] = {name: tokenize[name] for name in ("sequence_len", "compat", *written)}
    text: str = yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=120)
    return text


def _place_shards(folder: Path, built: Built, columns: Sequence[str]) -> dict[str, list[str]]:
    """Put the gathered shards in their split folders; return the file names of each split."""
    names: dict[str, list[str]] = {}
    for split, found in built.plan_summary["splits"].items():
        target = storage.make_folder(folder / split)
        mine = [item.task for item in built.gathered if item.task.spec["split"] == split]
        names[split] = [shard_name(number, len(mine)) for number in range(len(mine))]
        for task, name in zip(mine, names[split], strict=True):
            storage.link_or_copy(task.entry / SHARD_FILE, target / name)
        identity = fingerprint([built.plan.fingerprint, split, found["rows"]])[:16]
        write_split_metadata(target, columns, names[split], identity)
        storage.sync_folder(target)
    return names


def _copy_files(source: Path, target: Path) -> None:
    storage.make_folder(target)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != ENTRY:
            storage.copy(path, target / path.name)


def _write_side_tables(folder: Path, built: Built) -> None:
    """Write lineage, ledger and quarantine as Parquet, each in the order of sources, files and rows."""
    prepared = [item.task.entry for item in built.prepared]
    tokenized = [task.entry for _, task in built.tokenized]
    ledgers = [*prepared, built.resolved.entry, *tokenized, built.plan.entry]
    write_parquet(folder / "lineage.parquet", LINEAGE, (item.task.entry / LINEAGE_FILE for item in built.gathered))
    write_parquet(folder / "ledger.parquet", LEDGER, (entry / LEDGER_FILE for entry in ledgers))
    write_parquet(folder / "quarantine.parquet", QUARANTINE, (entry / QUARANTINE_FILE for entry in [*prepared, *tokenized]))


def write_parquet(path: Path, schema: pa.Schema, streams: Iterable[Path]) -> None:
    """Write the rows of Arrow streams, one after the other, as one Parquet file with row groups of fixed size."""
    with storage.create(path) as file, pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema, compression="zstd") as writer:
        for table in _row_groups(schema, streams):
            writer.write_table(table, row_group_size=ROW_GROUP)


def _row_groups(schema: pa.Schema, streams: Iterable[Path]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    num_rows = 0
    for stream in streams:
        for batch in read_batches(stream):
            waiting.append(batch)
            num_rows += len(batch)
            while num_rows >= ROW_GROUP:
                table = pa.Table.from_batches(waiting, schema)
                yield table.slice(0, ROW_GROUP)
                waiting = table.slice(ROW_GROUP).to_batches()
                num_rows -= ROW_GROUP
    yield pa.Table.from_batches(waiting, schema)


def list_files(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield path, rows (0 where a file is no table), size and checksum of every file that the manifest vouches for, by path.

    Files are hashed beside each other, on all processors.
    """

    def describe(path: Path) -> dict[str, Any]:
        name, size, digest = path.relative_to(folder).as_posix(), path.stat().st_size, storage.file_digest(path)
        return {"path": name, "rows": _num_rows(path), "bytes": size, "xxh3": digest}

    paths = sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix().encode())
    listed = [path for path in paths if path.is_file() and path.relative_to(folder).as_posix() not in OUTSIDE_THE_MANIFEST]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(describe, listed)


def _num_rows(path: Path) -> int:
    if path.suffix == ".parquet":
        num_rows: int = pq.read_metadata(path).num_rows
        return num_rows
    return sum(map(len, read_batches(path))) if path.suffix == ".arrow" else 0


def manifest_body(built: Built, shards: dict[str, list[str]], columns: Sequence[str]) -> dict[str, Any]:
    """Return the manifest without its list of files: what was built, from what, and all counts."""
    recipe = built.loaded.recipe
    splits = {
        name: {
            "columns": list(columns),
            "rows": found["rows"],
            "files": shards[name],
            "file_rows": found["shard_rows"],
            "bucket_rows": found["bucket_rows"],
            "group_rows": found["group_rows"],
            "strategy": found["strategy"],
            "samples": found["samples"],
            **built.counts["gather"][name],
            "packing": found["packing"],
            **({"mixture": found["mixture"]} if "mixture" in found else {}),
        }
        for name, found in built.plan_summary["splits"].items()
    }
    return {
        "format_version": FORMAT_VERSION,
        "name": recipe.name,
        "fingerprint": built.fingerprint,
        "reproducible": not is_pinned(built.read_tasks),
        "seed": recipe.seed,
        "sequence_len": recipe.tokenize.sequence_len,
        "compat": recipe.tokenize.compat,
        "splits": splits,
        "counts": built.counts,
        "sources": _sources(built),
        "tokenizer": _tokenizer(built),
        "chat_template": recipe.tokenizer.chat_template,
        "warnings": _warnings(built),
        "fingerprints": {
            "recipe": fingerprint(resolved_recipe(built.loaded)),
            "inputs": fingerprint([item.part.digest for item in built.prepared]),
            "code": _code(built.loaded),
            "tasks": fingerprint([item.task.fingerprint for item in built.gathered]),
        },
    }


def _code(loaded: Loaded) -> str:
    """Return one digest of the code that a build of this recipe runs: that of every stage and of every step."""
    recipe = loaded.recipe
    steps = [("cleaner", step) for step in recipe.cleaners]
    for source in recipe.sources:
        steps += [("ingestor", source.ingest), ("formatter", source.format), *(("cleaner", step) for step in source.clean)]
    found = (registry.find_step(kind, step.name, allow_code=loaded.allow_code) for kind, step in steps)
    modules = {*STAGE_MODULES, *(step.module for step in found)}
    return fingerprint({module: code_fingerprint(module) for module in modules})


def _tokenizer(built: Built) -> dict[str, Any]:
    """Return what is known of the tokenizer, with the number of parts that each engine encoded."""
    engines = Counter(summary["engine"] for summary in built.tokenized_summaries)
    found = {name: value for name, value in built.tokenizer_summary.items() if name != "warnings"}
    return {**found, "engines": dict(sorted(engines.items()))}


def _warnings(built: Built) -> list[str]:
    """Return what the user must know although the build went on, one line each, with its cure."""
    differences = [summary["difference"] for summary in built.tokenized_summaries if summary["difference"]]
    cure = "all parts were encoded by tokenizers, which is right but slower"
    return [
        *built.tokenizer_summary["warnings"],
        *(f"the fast engine gave other ids than tokenizers for {place}; {cure}" for place in differences),
    ]


def _sources(built: Built) -> dict[str, Any]:
    """Return category, licence, files and counts of every source; `lengths`: lower edge of a length bin → samples."""
    sources: dict[str, Any] = {}
    for item, summary in zip(built.prepared, built.tokenized_summaries, strict=True):
        source = item.part.source
        empty = {"category": category_of(source), "licence": source.licence, "files": []}
        entry = sources.setdefault(source.name, {**empty, **{kind: {} for kind in SOURCE_COUNTS}})
        found = (item.summary["counts"], summary["counts"], summary["mask_lint"], summary["lengths"])
        for kind, counts in zip(SOURCE_COUNTS, found, strict=True):
            for name, count in counts.items():
                entry[kind][name] = entry[kind].get(name, 0) + count
    for name, entry in sources.items():
        mine = [item for item in built.prepared if item.part.source.name == name]
        entry["mask_lint"]["cut_answers"] = sum(found["cut_answers"].get(name, 0) for found in built.gathered_summaries)
        entry["files"] = describe_files([item.part for item in mine], [item.summary for item in mine])
    return sources
