"""The report page: everything in it is text, its numbers are those of the build, and a browser opens it without a word."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_support import write_small_recipe
from hypothesis import given
from hypothesis import strategies as st

import sftdata
from sftdata.sealing import read_sealed
from sftdata.shards import Shards
from sftdata.views import composition, figures, reasons, report
from sftdata.views.page import percent

HOSTILE = "<script>document.title = 'forged'</script>"


class Page(HTMLParser):
    """The elements of a page, and its text without the style sheet."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: set[tuple[str, str | None]] = set()
        self.text = ""
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes.update(attrs)
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._in_style else data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of records that would like to be HTML: in texts, in a file's name, and in a reason."""
    folder = tmp_path_factory.mktemp("hostile")
    name = f"{HOSTILE.replace('/', '∕')}\"'.jsonl"
    rows = [{"question": f"第{n}盏灯{HOSTILE}?", "answer": f"{n} 盏\u202e&amp;{HOSTILE}"} for n in range(20)]
    lines = [*(json.dumps(row, ensure_ascii=False) for row in [*rows, rows[0]]), f'{{"question": "{HOSTILE}\x1b[31m']
    rows = [{"question": f"{HOSTILE} {n}?", "answer": f"作为一个AI语言模型，我{HOSTILE}"} for n in range(3)]
    folder.joinpath(name).write_text("\n".join([*lines, *map(json.dumps, rows)]), encoding="utf-8")
    form = {"source_target": {"source": "question", "target": "answer", "chat": True}}
    source = {"name": "灯", "path": name, "ingest": "jsonl", "clean": ["unicode", "slop"], "format": form}
    (folder / "recipe").mkdir()
    shutil.move(folder / name, folder / "recipe" / name)
    return sftdata.build(write_small_recipe(folder / "recipe", sources=[source]), out=folder / "out").folder


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_hostile_texts_and_file_names_stay_text(hostile: Path) -> None:
    page = Page(page_of(hostile))
    assert page.elements["script"] == 0 and page.elements["details"] == page.elements["summary"] >= 4
    assert "3 盏⟨U+202E⟩&amp;<script>document" in page.text and "我<script>document" in page.text
    assert f"{HOSTILE.replace('/', '∕')}\"'.jsonl#21" in page.text
    assert "⟨U+001B⟩[31m" in page.text and "⟨U+202E⟩" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page_of(hostile))


def test_page_asks_nothing_of_the_network(hostile: Path) -> None:
    text = page_of(hostile)
    page = Page(text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert not page.elements.keys() & {"img", "link", "iframe", "object", "embed", "base", "form"}
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action") and value]
    assert links and all(value.startswith("#") for value in links)
    assert "url(http" not in text and "@import" not in text


def test_chinese_names_stay_text_in_figures(hostile: Path) -> None:
    drawn = re.findall(r"<svg.*?</svg>", page_of(hostile), re.DOTALL)
    assert len(drawn) == 3 and any(">灯</text>" in figure for figure in drawn)
    assert not any("DejaVu" in figure or "#0001" in figure for figure in drawn)


def test_every_reason_that_was_counted_opens_its_samples(bundled: Path) -> None:
    shards = sftdata.open_shards(bundled)
    found = reasons.reasons(reasons.read_ledger(shards))
    assert {row.reason for row in found} >= {"ai_identity", "duplicate", "json_syntax", "control_token_escaped", "unicode"}
    counts = shards.manifest["counts"]
    for action, name in (("drop", "dropped"), ("quarantine", "quarantined")):
        total = sum(counts[stage][name] for stage in report.STAGES)
        assert sum(row.num_lines for row in found if row.action == action) == total > 0
    assert all(len(row.samples) == min(row.num_lines, reasons.NUM_SAMPLES) for row in found)
    page = Page(page_of(bundled))
    assert page.elements["details"] == len(found)
    for row in found:
        assert all(f"{sample.source} {sample.id}" in page.text for sample in row.samples)
        assert row.action != "quarantine" or all(sample.raw for sample in row.samples)


def test_samples_come_from_all_rules_and_sources(bundled: Path) -> None:
    [row] = [row for row in reasons.reasons(reasons.read_ledger(sftdata.open_shards(bundled))) if row.reason == "ai_identity"]
    assert len({sample.source for sample in row.samples}) == 3 and len({sample.rule for sample in row.samples}) == 3


def test_reasons_without_number_are_lumped(bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reasons.read_ledger(sftdata.open_shards(bundled))
    monkeypatch.setattr(reasons, "MAX_KINDS", 3)
    part = reasons.read_ledger(sftdata.open_shards(bundled))
    assert len(part.counts) == 3 and whole.num_other == 0 < part.num_other
    assert part.counts.total() + part.num_other == whole.counts.total()


def test_composition_adds_up_to_the_manifest(bundled: Path) -> None:
    shards = sftdata.open_shards(bundled)
    found = composition.read_composition(shards)
    for name, split in shards.manifest["splits"].items():
        assert sum(count for (of, _), count in found.tokens.items() if of == name) == split["tokens"] > 0
        assert sum(count for (of, _), count in found.segments.items() if of == name) == split["segments"] > 0
        assert found.row_tokens[name].total() == split["rows"]
        assert Counter(shards.splits[name].lengths().tolist()) == found.row_tokens[name]
    buckets = np.sum(list(found.bucket_tokens.values()), axis=0)
    rows = shards.splits["train"].lengths()
    ends = np.cumsum(shards.splits["train"].bucket_rows)
    assert len(ends) == 10 and buckets.tolist() == [part.sum() for part in np.split(rows, ends[:-1])]


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), max_size=6), st.integers(1, 7))
def test_rows_that_go_on_in_the_next_batch_are_counted_once(rows: list[list[int]], size: int) -> None:
    counts: dict[str, Counter[int]] = {}
    adder = composition._RowTokens(counts)
    flat = [(number, length) for number, lengths in enumerate(rows) for length in lengths]
    for first in range(0, len(flat), size):
        row, length = np.array(flat[first : first + size], dtype=np.int64).T
        adder.add("train", row, length)
    adder.close()
    assert counts.get("train", Counter()) == Counter(map(sum, rows))


def test_fill_curve_falls_and_its_area_is_the_fill() -> None:
    share, fill = composition.fill_curve(Counter({100: 50, 80: 25, 20: 25}), 100)
    assert share[0] == 0 and share[-1] == 1 and fill == sorted(fill, reverse=True)
    assert np.trapezoid(fill, share) == pytest.approx(0.75, abs=0.01)
    assert composition.fill_curve(Counter(), 100) == ([], [])


def test_many_sources_share_the_last_panel() -> None:
    lengths = {f"source-{number}": {"64": number + 1, "4096": 1} for number in range(30)}
    figure = figures.length_figure(lengths, 1024)
    assert ">19 others</text>" in figure and ">source-29</text>" in figure and ">source-1</text>" not in figure
    assert figure.count("var(--dropped)") >= figures.MAX_PANELS  # each has a bar beyond the cut


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "–"), (0, 9, "0.0 %"), (1, 10**6, "< 0.1 %"), (9999, 10**4, "99.99 %"), (5, 5, "100.0 %"), (1, 3, "33.3 %")],
)
def test_percent_shows_neither_nothing_nor_all_where_it_is_neither(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


def test_findings_stand_in_the_report_and_its_text(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path, pack={"strategy": "packed"}, tokenize={"sequence_len": 20}, mix={})
    folder = sftdata.build(recipe, out=tmp_path / "out").folder
    finding = "trained turns do not stand whole in one row"
    assert finding in Page(page_of(folder)).text and "Labels to look at" in page_of(folder)
    assert finding in report.funnel_lines(sftdata.open_shards(folder).manifest)[-1]


def test_mixture_shows_what_was_asked_and_what_came_of_it(tmp_path: Path) -> None:
    path = write_small_recipe(tmp_path, mix={"strategy": "weighted", "stop": "all_exhausted"})
    recipe = json.loads(path.read_text(encoding="utf-8"))
    for source, weight in zip(recipe["sources"], (3, 1), strict=True):
        source["weight"] = weight
    path.write_text(json.dumps(recipe), encoding="utf-8")
    folder = sftdata.build(path, out=tmp_path / "out").folder
    shares = list(report._mixture(sftdata.open_shards(folder).manifest))
    assert [(share.name, share.asked) for share in shares] == [("talk", 0.75), ("faq", 0.25)]
    assert all(abs(share.realised - (share.asked or 0)) < 0.05 for share in shares)
    page = page_of(folder)
    assert "75.0 %" in page and page.count('<div class="asked">') == 2 and '<b style="left:75.00%">' in page


def test_report_written_anew_is_the_one_of_the_build(small: Path, tmp_path: Path) -> None:
    report.write_report(small, tmp_path / "again" / "page.html")
    assert (tmp_path / "again" / "page.html").read_bytes() == (small / "report.html").read_bytes()


def test_build_without_rows_to_train_has_a_report(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path, tokenize={"sequence_len": 2}, limits={"max_drop": 1.0}, mix={})
    folder = sftdata.build(recipe, out=tmp_path / "out").folder
    assert sftdata.open_shards(folder).splits["train"].num_rows == 0
    page = Page(page_of(folder))
    assert "excess_length" in page.text and page.elements["svg"] == 1


def test_damaged_tables_are_named(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "copy")
    for name in ("ledger", "lineage"):
        path = tmp_path / "copy" / ".sftdata" / f"{name}.parquet"
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        with pytest.raises(sftdata.DamagedError, match=name):
            report.write_report(tmp_path / "copy", tmp_path / "page.html")
        path.write_bytes(good)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[str, list[str]]]:
    """Return a function that opens a page in Chromium and returns (the DOM, the lines of the console)."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    profile = tmp_path_factory.mktemp("chromium")

    def open_page(path: Path) -> tuple[str, list[str]]:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={profile}"]
        done = subprocess.run([chromium, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]

    return open_page


def test_chromium_opens_the_page_without_a_word(
    hostile: Path, tmp_path: Path, console: Callable[[Path], tuple[str, list[str]]]
) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<script>undefined_name()</script>")
    assert console(broken)[1], "an error would be seen"
    dom, lines = console(hostile / "report.html")
    assert lines == [] and "<title>small: build report</title>" in dom and dom.count("<svg") == 3


def test_record_of_another_kind_is_refused(small: Path) -> None:
    shards: Shards = sftdata.open_shards(small)
    run: dict[str, Any] = read_sealed(small / ".sftdata" / "run.json")
    assert "Time" in report.report_page(shards, run)
    with pytest.raises(sftdata.DamagedError, match=r"run\.json"):
        report.report_page(shards, {"seconds": 1.0})


def test_many_buckets_share_bars() -> None:
    tokens = [np.arange(1, 1002), np.full(1001, 7)]
    page = figures.bucket_figure(tokens)
    assert "6 to a bar" in page and page.count("<path") < 1000
    assert "to a bar" not in figures.bucket_figure([column[:200] for column in tokens])
