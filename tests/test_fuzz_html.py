"""Hostile pages: seeded markup soup, damaged bytes, sizes past the limits; each gives its rows, none crashes or hangs."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from sftdata.ingestors.html import html
from sftdata.records import Bad, Record
from sftdata.schemas import QUARANTINE_REASONS
from sftdata.sources import InputFile

NUM_PAGES = int(os.environ.get("SFTDATA_FUZZ_PAGES", "250"))
MAX_SECONDS = 60
"""CPU seconds for one small page: a hang, whatever the machine."""
OPTIONS: list[dict[str, object]] = [
    {"mode": "text"},
    {"mode": "main"},
    {"mode": "main_fast"},
    {"select": "p, td, div > b"},
    {"select": "div", "per": "page", "fields": {"head": "h1"}},
    {"fields": {"cells": "td"}},
]
NAMES = str.split(
    "html head body title meta link base p div span a b i font table tr td th tbody caption ul ol li dl dt dd pre code br hr "
    "img form button select option textarea input script style template noscript iframe svg math foreignObject mi x-y "
    "frameset frame plaintext xmp noframes article main nav footer h1 h2 ruby rt object video dialog details summary "
    "annotation-xml"
)
ATTRIBUTES = str.split("class id style hidden aria-hidden role href content charset property name open itemprop lang x")
VALUES = ["article-body", "comment", "display:none", "true", "", "é你", "a'b", 'a"b', "<p>", ">", "&amp", "\0", "x" * 300]
TEXTS = [
    *("word ", "A sentence, with commas. " * 8, "你好，世界。" * 30, "&#x0;", "&#xD800;", "&notanentity;"),
    *("\r\n", "\ufeff", "\0"),
    *("<", ">", "&", "<!--", "-->", "--!>", "<![CDATA[", "]]>", "<?php ", "</", "</ p>"),
]


def hostile_page(rng: random.Random) -> bytes:
    """Return markup soup: known names in any order, often left open or closed twice, sometimes cut, in some encoding."""
    pieces: list[str] = []
    for _ in range(rng.randint(0, 60)):
        kind = rng.random()
        name = rng.choice(NAMES)
        if kind < 0.4:
            attributes = "".join(
                f" {rng.choice(ATTRIBUTES)}={quote}{rng.choice(VALUES)}{quote}"
                for quote in rng.choices(['"', "'", "", '"'], k=rng.randint(0, 3))
            )
            pieces.append(f"<{name}{attributes}{rng.choice(['>', '>', '>', '/>', '', ' '])}" * rng.choice([1, 1, 1, 1, 40]))
        elif kind < 0.65:
            pieces.append(f"</{name}>")
        else:
            pieces.append(rng.choice(TEXTS))
    page = "".join(pieces).encode(rng.choice(["utf-8", "utf-8", "gb18030", "utf-16", "utf-8-sig"]), "replace")
    if rng.random() < 0.2:
        page = bytes(byte if rng.random() > 0.02 else rng.randrange(256) for byte in page)
    return page[: rng.randint(0, len(page))] if rng.random() < 0.2 else page


def rows_of(path: Path, options: dict[str, object]) -> list[Record | Bad]:
    """Ingest a page and check what holds of every one: rows numbered from 0, known reasons, text that can be written."""
    begin = time.process_time()
    rows = list(html(InputFile(path, path.name), **options))  # type: ignore[arg-type]
    assert time.process_time() - begin < MAX_SECONDS
    assert rows and [row.key for row in rows] == [str(number) for number in range(len(rows))]
    for row in rows:
        if isinstance(row, Bad):
            assert row.reason in QUARANTINE_REASONS
        else:
            assert row.fields["text"].strip()
            assert all("\0" not in value and value.encode("utf-8") is not None for value in row.fields.values())
    return rows


def test_html_fuzzed_pages_always_give_their_rows(tmp_path: Path) -> None:
    path, num_records, num_bad = tmp_path / "a.html", 0, 0
    for seed in range(NUM_PAGES):
        rng = random.Random(seed)
        path.write_bytes(hostile_page(rng))
        for options in rng.sample(OPTIONS, 2):
            rows = rows_of(path, options)
            num_bad += sum(isinstance(row, Bad) for row in rows)
            num_records += sum(isinstance(row, Record) for row in rows)
    assert num_records > NUM_PAGES / 4 and num_bad > NUM_PAGES / 20


HOSTILE = {
    "divs": "<div>" * 20_000 + "MARK",
    "bold": "<b>x" * 20_000 + "MARK",
    "anchors": "<a><p>" * 10_000 + "MARK",
    "misnested": "<font><b><i></p>" * 5_000 + "MARK",
    "tables": "<table><tr><td>" * 10_000 + "MARK",
    "attributes": "<p " + " ".join(f"a{n}=1" for n in range(50_000)) + ">MARK</p>",
    "quotes": "<p a='" * 20_000 + "'>MARK",
    "open tags": "<a" * 50_000 + ">MARK",
    "references": "&bogus" * 50_000 + ";MARK",
    "comment": "MARK<!--" + "-" * 100_000,
    "scripts": "MARK" + "<script>" * 20_000,
    "angles": "<" * 100_000 + " MARK",
    "headings": "<h1>MARK</h1>" * 5_000,
    "lists": "<ul><li>" * 10_000 + "MARK",
    "long text": "MARK " * 1_000_000,
    "unclosed soup": "<table><td><li><ul><h1><p>" * 2_000 + "MARK",
    "plaintext": "MARK<noframes>x</noframes><plaintext></plaintext><p>",
    "forms": "<form>" * 20_000 + "<input>" * 20_000 + "MARK",
    "templates": "<template>" * 10_000 + "</template>" * 10_000 + "MARK",
    "svg": "<svg><g>" * 5_000 + "</g></svg>" * 5_000 + "MARK",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("mode", ["text", "main", "main_fast"])
def test_html_hostile_page_is_read_or_quarantined(tmp_path: Path, name: str, mode: str) -> None:
    (tmp_path / "a.html").write_text(HOSTILE[name], encoding="utf-8")
    (row,) = rows_of(tmp_path / "a.html", {"mode": mode})
    assert isinstance(row, Bad) or "MARK" in row.fields["text"]
