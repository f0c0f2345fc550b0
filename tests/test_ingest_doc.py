"""docs/ingest.md: every example is run as it stands; limits and links are real."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from build_support import REPOSITORY

from sftdata import strict_yaml
from sftdata.ingestors import _csv_cells, _csv_rows, _json_keys, _sql_text
from sftdata.records import Bad, Record
from sftdata.registry import check_options, find_step
from sftdata.sources import EXPANSION_GRACE, MAX_EXPANSION, InputFile

TEXT = (REPOSITORY / "docs" / "ingest.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """What a recipe says under `ingest`, the file that stands last before it, and what comes of both."""

    file: str
    data: str
    step: Any
    shown: list[str]


def examples() -> list[Example]:
    found = []
    file = data = ""
    for (language, name, text), following in zip(BLOCKS, [*BLOCKS[1:], ("", "", "")], strict=True):
        if language == "yaml" and not name:
            assert following[0] == "text"
            found.append(Example(file, data, strict_yaml.parse(text, "docs/ingest.md").value, following[2].splitlines()))
        elif name and language != "yaml":
            file, data = name, text
    return found


def described(file: InputFile, row: Record | Bad) -> str:
    """Return a row as the document shows it."""
    told = f"{row.reason}: {row.place}" if isinstance(row, Bad) else json.dumps(row.fields, ensure_ascii=False)
    return f"{file.name}#{row.key} {told}"


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.file)
def test_example_gives_what_is_shown(example: Example, tmp_path: Path) -> None:
    path = tmp_path / example.file
    path.write_text(example.data, encoding="utf-8")
    name, options = next(iter(example.step.items())) if isinstance(example.step, dict) else (example.step, {})
    step = find_step("ingestor", name)
    file = InputFile(path, path.name)
    assert [described(file, row) for row in step.function(file, **check_options(step, options))] == example.shown


def test_sources_in_the_text_name_real_steps_and_options() -> None:
    recipes = [strict_yaml.parse(text, "docs/ingest.md").value for language, name, text in BLOCKS if name == "recipe"]
    assert len(examples()) == 5 and len(recipes) == 2
    for source in recipes:
        [(name, options)] = source["ingest"].items()
        step = find_step("ingestor", name)
        assert check_options(step, options) == options and source["path"].startswith(step.addresses)


def test_limits_are_those_of_the_code() -> None:
    assert _json_keys.MAX_BYTES == _csv_rows.MAX_ROW_CHARS == _sql_text.MAX_CHARS == 64 << 20
    assert (_csv_cells.MAX_FIELD_CHARS, _csv_cells.MAX_FIELD_LINES) == (8 << 20, 1000)
    assert (_json_keys.MAX_DEPTH, MAX_EXPANSION, EXPANSION_GRACE) == (256, 200, 64 << 20)
    for words in ("| 64 Mi |", "| 8 Mi, 1,000 |", "| 256 |", "first 64 MiB | 200 |"):
        assert words in TEXT


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([\w.]+\.md)", TEXT)
    assert len(links) > 1 and all((REPOSITORY / "docs" / link).is_file() for link in links)
