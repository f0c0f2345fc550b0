"""Ingest: raw files to documents, without a recipe: read, number, quarantine, and write as a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from sftdata import __version__, registry, storage, strict_yaml
from sftdata.accounting import add_counts, check_some_kept, check_sources
from sftdata.assembling import list_files, write_parquet
from sftdata.entries import DOCUMENTS_FILE, QUARANTINE_FILE
from sftdata.environment import is_pinned, with_pins
from sftdata.errors import ConservationError, DataError, RecipeError
from sftdata.executors.choice import choose_executor
from sftdata.pipeline import task_runner
from sftdata.places import REMOTE, WORK_FOLDER
from sftdata.recipe import Source, StepSpec
from sftdata.record_json import canonical, parse
from sftdata.scanning import Listed, Part, check_unchanged, describe_files, list_inputs, num_bytes, scan
from sftdata.schemas import FORMAT_VERSION, QUARANTINE
from sftdata.sealing import sealed
from sftdata.shards import MANIFEST, shard_name, write_dataset_state
from sftdata.step_origin import StepOrigin
from sftdata.tables import read_batches
from sftdata.tasks import prepare_task
from sftdata.work import Task, fingerprint, without_leftovers

DOCUMENTS = "documents"
"""The one split of an ingested folder."""

STEP_TEXT = (str, str | None)
"""Types of options that are text as it stands: a CSS selector may begin with what YAML takes for a comment or a list."""

OWN_COLUMNS = ("id", "source")


@dataclass(frozen=True)
class IngestResult:
    """A finished ingest."""

    folder: Path
    manifest: dict[str, Any]


def ingest(
    paths: str | Path | Sequence[str | Path],
    *,
    format: str,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    workers: int | None = None,
    work_dir: str | Path | None = None,
    allow_code: bool = False,
) -> IngestResult:
    """Read raw files into a folder that opens with `datasets.load_from_disk(folder)["documents"]`.

    `format` names the ingestor, `options` are its options. Rows that cannot be read are in `quarantine.parquet`. Raises
    RecipeError for a wrong format or option, DataError where a path holds nothing or nothing in it can be read.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise DataError("ingest: no path given")
    source = _source(given, format, dict(options or {}), allow_code)
    output = Path(out or Path(DOCUMENTS) / source.name).resolve()
    work = Path(work_dir).absolute() if work_dir else output.parent / WORK_FOLDER
    _check_output(output)
    with storage.lock(output), storage.in_use(storage.make_folder(work)):
        storage.recover(output)
        storage.remove_staged(output)
        listed = list_inputs([source], Path(), exclude=(output, work), remote=work / REMOTE, allow_code=allow_code)
        parts, tasks, summaries = _read(listed, work, workers, allow_code)
        check_sources([part.source.name for part in parts], summaries)
        check_some_kept(add_counts(summaries), [task.entry / QUARANTINE_FILE for task in tasks])
        check_unchanged(parts)
        return IngestResult(output, _publish(output, source, parts, tasks, summaries))


def read_options(format: str, given: Sequence[str], *, allow_code: bool = False) -> dict[str, Any]:
    """Return the options of an ingestor from `key=value` texts: a text option as it stands, any other as YAML.

    A value in quotes is YAML too. Raises RecipeError.
    """
    fields = registry.option_fields(registry.find_step("ingestor", format, allow_code=allow_code))
    options: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise RecipeError(f"-o {text}: write it as key=value")
        plain = key in fields and fields[key][0] in STEP_TEXT and value[:1] not in ("'", '"')
        options[key] = value if plain else strict_yaml.parse(value, f"-o {key}").value
    return options


def _source(given: Sequence[str | Path], format: str, options: dict[str, Any], allow_code: bool) -> Source:
    """Return the paths as a source; its name is that of the first path, which need not be a name as recipes allow it."""
    step = registry.find_step("ingestor", format, allow_code=allow_code)
    spec = StepSpec(name=format, options=registry.check_options(step, options))
    name = Path(str(given[0]).partition("?")[0]).resolve().name or "root"
    paths = [str(path) for path in given]
    return Source.model_construct(name=name, path=paths, ingest=spec, clean=[], format=None, category=None, licence="")


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / MANIFEST).is_file())):
        raise DataError(f"{output}: holds other files; name another folder with --out")


def _read(
    listed: Sequence[Listed], work: Path, workers: int | None, allow_code: bool
) -> tuple[list[Part], list[Task], list[dict[str, Any]]]:
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise RecipeError(f"workers: {workers!r}; give a whole number, at least 1")
    executor = choose_executor(workers, num_bytes(listed))
    with without_leftovers(work), closing(executor):
        parts = scan(listed, executor)
        return parts, *with_pins(lambda: _attempt(parts, work, StepOrigin(Path(), allow_code), executor))


def _attempt(
    parts: Sequence[Part], work: Path, origin: StepOrigin, executor: Any
) -> tuple[list[Task], list[dict[str, Any]]]:
    planned = [prepare_task(part, work, origin) for part in parts]
    return [item.task for item in planned], task_runner(executor).map(planned)


def _publish(
    output: Path, source: Source, parts: Sequence[Part], tasks: Sequence[Task], summaries: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write the folder beside its place and swap it in."""
    identity = fingerprint([FORMAT_VERSION, [task.fingerprint for task in tasks]])
    counts = add_counts(summaries)
    with storage.staged(output, identity) as folder:
        return _write_folder(folder, source, describe_files(parts, summaries), (tasks, counts), identity)


def _write_folder(
    folder: Path,
    source: Source,
    inputs: list[dict[str, Any]],
    read: tuple[Sequence[Task], dict[str, int]],
    identity: str,
) -> dict[str, Any]:
    """Write all files of an ingest; return the manifest. read: the tasks that read the inputs, and their counts."""
    tasks, counts = read
    documents = [task.entry / DOCUMENTS_FILE for task in tasks]
    storage.make_folder(folder / DOCUMENTS)
    num_rows = _write_documents(folder / DOCUMENTS, documents, identity)
    if num_rows != counts["kept"] or counts["kept"] + counts["quarantined"] != counts["records"]:
        raise ConservationError(f"{counts['records']:,} records in, {num_rows:,} rows out; nothing is published")
    write_parquet(folder / "quarantine.parquet", QUARANTINE, (task.entry / QUARANTINE_FILE for task in tasks))
    storage.write_json(folder / "dataset_dict.json", {"splits": [DOCUMENTS]})
    body = {
        "format_version": FORMAT_VERSION,
        "name": source.name,
        "sftdata": __version__,
        "fingerprint": identity,
        "reproducible": not is_pinned(tasks),
        "ingest": {source.ingest.name: source.ingest.options},
        "counts": {"prepare": counts},
        "inputs": inputs,
        "files": list(list_files(folder)),
    }
    storage.write_bytes(folder / MANIFEST, sealed(body))
    return body


def _write_documents(folder: Path, streams: Sequence[Path], identity: str) -> int:
    """Write all documents as one Arrow stream with a column for each field; return the number of rows."""
    fields = _fields(streams)
    columns = _column_names(list(fields))
    schema = pa.schema([(name, pa.string()) for name in (*OWN_COLUMNS, *columns.values())])
    name = shard_name(0, 1)
    num_rows = 0
    with storage.create(folder / name) as file, pa.ipc.new_stream(pa.PythonFile(file, mode="w"), schema) as writer:
        for batch in _batches(streams):
            records = [parse(text) for text in batch.column("record").to_pylist()]
            arrays = [pa.array(_cells(records, field, fields[field]), type=pa.string()) for field in fields]
            own = [batch.column(column) for column in OWN_COLUMNS]
            writer.write_batch(pa.RecordBatch.from_arrays([*own, *arrays], schema=schema))
            num_rows += len(batch)
    features = {name: {"dtype": "string", "_type": "Value"} for name in schema.names}
    write_dataset_state(folder, features, [name], identity[:16])
    return num_rows


def _batches(streams: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for stream in streams:
        yield from read_batches(stream)


def _fields(streams: Sequence[Path]) -> dict[str, bool]:
    """Return the fields of all records in the order they are first seen, and whether every value of them is text."""
    fields: dict[str, bool] = {}
    for batch in _batches(streams):
        for text in batch.column("record").to_pylist():
            for name, value in parse(text).items():
                fields[name] = fields.get(name, True) and (value is None or isinstance(value, str))
    return fields


def _column_names(fields: Sequence[str]) -> dict[str, str]:
    """Return the column of every field: its name, or, where that is taken, the name below `record.`."""
    columns: dict[str, str] = {}
    taken = {*OWN_COLUMNS, *fields}
    for name in fields:
        column = name
        while column in taken and (column != name or name in OWN_COLUMNS):
            column = f"record.{column}"
        taken.add(column)
        columns[name] = column
    return columns


def _cells(records: Sequence[dict[str, Any]], field: str, is_text: bool) -> list[str | None]:
    """Return one column: text as it is; where some value is not text, every value as JSON. A missing field is null."""
    if is_text:
        return [record.get(field) for record in records]
    return [canonical(record[field]) if field in record else None for record in records]
