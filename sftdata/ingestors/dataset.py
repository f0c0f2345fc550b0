"""Datasets that the `datasets` library opens: `hub:org/name`, and folders on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from sftdata.errors import DataError, RecipeError
from sftdata.ingestors._arrow_rows import records
from sftdata.ingestors._json_paths import picked
from sftdata.records import Bad, Record
from sftdata.registry import ingestor
from sftdata.sources import InputFile

HUB = "hub:"
_BATCH_ROWS = 1000


def fetch(
    address: str, folder: Path, *, split: str = "train", name: str | None = None, revision: str | None = None, **_: Any
) -> None:
    """Write the rows of a split of a dataset into `folder` as one Arrow stream."""
    try:
        import datasets
    except ImportError as error:
        raise RecipeError('reading a dataset needs the library datasets: pip install "sftdata[hub]"') from error

    if address == HUB:
        raise RecipeError(f"{address}: names no dataset; write hub:org/name")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is one line of ours
    try:
        opened = _opened(address, folder / "cache", split, name, revision)
    except Exception as error:  # whatever a loader, the network or the library raises
        raise DataError(f"{address}: cannot be opened as a dataset: {' '.join(str(error).split())[:300]}") from error
    _write(opened.with_format("arrow"), folder / f"{Path(address.removeprefix(HUB)).name}.arrow")


def _opened(address: str, cache: Path, split: str, name: str | None, revision: str | None) -> Any:
    import datasets

    if address.startswith(HUB):
        return datasets.load_dataset(address.removeprefix(HUB), name, split=split, revision=revision)
    if not any((Path(address) / found).is_file() for found in ("dataset_dict.json", "state.json")):
        return datasets.load_dataset(address, name, split=split, cache_dir=str(cache))
    saved = datasets.load_from_disk(address)
    splits = {"train": saved} if isinstance(saved, datasets.Dataset) else dict(saved)
    asked = datasets.ReadInstruction.from_spec(split)
    ranges = asked.to_absolute({name: len(rows) for name, rows in splits.items()})
    chosen = [splits[part.splitname].select(range(part.from_ or 0, part.to or 0)) for part in ranges]
    return datasets.concatenate_datasets(chosen)


def _write(rows: Any, path: Path) -> None:
    schema: pa.Schema = rows.features.arrow_schema
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for table in rows.iter(_BATCH_ROWS):
            stream.write_table(table.cast(schema))


@ingestor(libraries=("datasets", "pyarrow"), fetch=fetch, addresses=(HUB,))
def dataset(
    file: InputFile,
    *,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    columns: list[str] | None = None,
    fields: dict[str, str] | None = None,
) -> Iterator[Record | Bad]:
    """Read a dataset with the library `datasets`: `hub:org/name`, or a folder that it opens or has saved.

    `split`: a split, a slice of one (`train[:10%]`, `train[100:200]`) or several joined by +. `name`: the configuration.
    `revision`: branch, tag or commit on the hub. `columns`: the ones to keep. No code of a dataset is ever run. What the split
    holds is copied once, before the build, so that what was read can be told by its digest. Values and `fields` as
    in Parquet files.
    """
    del split, name, revision  # `fetch` has heeded them
    with pa.OSFile(str(file.path)) as stream:
        yield from picked(records(file.place, pa.ipc.open_stream(stream), columns), fields)
