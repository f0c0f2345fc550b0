"""docs/ingest.md: every example is run as it stands; limits and links are real."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from build_support import REPOSITORY

from sftdata import strict_yaml
from sftdata.ingesting import ingest
from sftdata.ingestors import _csv_cells, _csv_rows, _html_scan, _json_keys, _sql_text
from sftdata.records import Bad, Record
from sftdata.registry import check_options, find_step, known_steps, option_fields
from sftdata.shards import shard_name
from sftdata.sources import EXPANSION_GRACE, MAX_EXPANSION, InputFile

TEXT = (REPOSITORY / "docs" / "ingest.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """What a recipe says under `ingest`, the file that stands last before it, and what comes of both."""

    file: str
    data: str
    step: Any
    shown: list[str]


DATA = {name: (language, text) for language, name, text in BLOCKS if name and language != "yaml"}
RUNS = [
    (strict_yaml.parse(text, "docs/ingest.md").value, following[2].splitlines())
    for (language, name, text), following in zip(BLOCKS, [*BLOCKS[1:], ("", "", "")], strict=True)
    if (language, name) == ("yaml", "run")
]
"""A source of a recipe, and what `sftdata ingest` makes of it."""


def examples() -> list[Example]:
    found = []
    file = data = ""
    for (language, name, text), following in zip(BLOCKS, [*BLOCKS[1:], ("", "", "")], strict=True):
        if language == "yaml" and not name:
            assert following[0] == "text"
            found.append(Example(file, data, strict_yaml.parse(text, "docs/ingest.md").value, following[2].splitlines()))
        elif name and language not in ("yaml", "sqlite", "folder", "parquet", "arrow"):
            file, data = name, text
    return found


def described(file: InputFile, row: Record | Bad) -> str:
    """Return a row as the document shows it."""
    told = f"{row.reason}: {row.place}" if isinstance(row, Bad) else json.dumps(row.fields, ensure_ascii=False)
    return f"{file.name}#{row.key} {told}"


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.file)
def test_example_gives_what_is_shown(example: Example, tmp_path: Path) -> None:
    path = tmp_path / example.file
    name, options = next(iter(example.step.items())) if isinstance(example.step, dict) else (example.step, {})
    path.write_text(example.data, encoding=options.get("encoding", "utf-8"))
    step = find_step("ingestor", name)
    file = InputFile(path, path.name)
    assert [described(file, row) for row in step.function(file, **check_options(step, options))] == example.shown


def write_data(folder: Path) -> None:
    """Write the files of the examples: tables of JSON Lines as Parquet and Arrow, statements as a database."""
    for name, (language, text) in DATA.items():
        if language == "sqlite":
            with closing(sqlite3.connect(folder / name)) as connection:
                connection.executescript(text)
        elif language == "folder":
            (folder / name).parent.mkdir()
            (folder / name).write_text(text, encoding="utf-8")
        elif language in ("parquet", "arrow"):
            table = pa.Table.from_pylist([json.loads(line) for line in text.splitlines()])
            if language == "parquet":
                pq.write_table(table, folder / name)
            else:
                with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(table)


@pytest.mark.parametrize(("source", "shown"), RUNS, ids=lambda value: value["path"] if isinstance(value, dict) else "")
def test_source_gives_what_is_shown(
    source: dict[str, Any], shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    [(name, options)] = source["ingest"].items()
    result = ingest(source["path"], format=name, options=options, out="out", workers=1)
    table = pa.ipc.open_stream((result.folder / "documents" / shard_name(0, 1)).read_bytes()).read_all()
    rows = table.drop(["source"]).to_pylist()
    assert [f"{row.pop('id')} {json.dumps(row, ensure_ascii=False)}" for row in rows] == shown


def test_every_option_is_shown() -> None:
    steps = [example.step for example in examples()] + [source["ingest"] for source, _ in RUNS] + [
        strict_yaml.parse(text, "docs/ingest.md").value["ingest"] for _, name, text in BLOCKS if name == "recipe"
    ]  # fmt: skip
    shown = {(name, option) for step in steps if isinstance(step, dict) for name in step for option in step[name]}
    names = [name for name in known_steps("ingestor") if name != "html" and ":" not in name]
    assert shown == {(name, option) for name in names for option in option_fields(find_step("ingestor", name))}


def test_sources_in_the_text_name_real_steps_and_options() -> None:
    recipes = [strict_yaml.parse(text, "docs/ingest.md").value for language, name, text in BLOCKS if name == "recipe"]
    assert len(examples()) == 8 and len(recipes) == 2 and len(RUNS) == 4
    for source in recipes:
        [(name, options)] = source["ingest"].items()
        step = find_step("ingestor", name)
        assert check_options(step, options) == options and source["path"].startswith(step.addresses)


def test_limits_are_those_of_the_code() -> None:
    assert _json_keys.MAX_BYTES == _csv_rows.MAX_ROW_CHARS == _sql_text.MAX_CHARS == 64 << 20
    assert (_csv_cells.MAX_FIELD_CHARS, _csv_cells.MAX_FIELD_LINES) == (8 << 20, 1000)
    assert (_json_keys.MAX_DEPTH, MAX_EXPANSION, EXPANSION_GRACE) == (256, 200, 64 << 20)
    assert (_html_scan.MAX_BYTES, _html_scan.MAX_ELEMENTS) == (16 << 20, 200_000)
    assert (_html_scan.MAX_DEPTH, _html_scan.MAX_ATTRIBUTES) == (512, 10_000)
    for words in ("| 64 Mi |", "| 16 Mi, 200,000, 512, 10,000 |", "| 8 Mi, 1,000 |", "| 256 |", "first 64 MiB | 200 |"):
        assert words in TEXT


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([\w.]+\.md)", TEXT)
    assert len(links) > 1 and all((REPOSITORY / "docs" / link).is_file() for link in links)
