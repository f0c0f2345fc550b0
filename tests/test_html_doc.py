"""docs/html.md: every example gives the rows that it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from sftdata.ingestors.html import html
from sftdata.records import Record
from sftdata.sources import InputFile

DOC = Path(__file__).resolve().parents[1] / "docs" / "html.md"


def test_html_doc_examples_give_what_they_show(tmp_path: Path) -> None:
    text = DOC.read_text(encoding="utf-8")
    page = re.findall(r"```html\n(.*?)```", text, re.DOTALL)
    examples = re.findall(r"```yaml\n(.*?)```\n\n```json\n(.*?)```", text, re.DOTALL)
    assert len(page) == 1 and len(examples) == 4
    (tmp_path / "a.html").write_text(page[0], encoding="utf-8")
    for options, shown in examples:
        rows = list(html(InputFile(tmp_path / "a.html", "a.html"), **yaml.safe_load(options)))
        wanted = json.loads(shown)
        assert len(rows) == len(wanted)
        for row, fields in zip(rows, wanted, strict=True):
            found = row.fields if isinstance(row, Record) else {"quarantined": row.reason}
            assert {name: found.get(name) for name in fields} == fields
