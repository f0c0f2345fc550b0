"""Main parts of real pages: F1 and pages per CPU second, beside trafilatura and Resiliparse in the same run.

Usage: python benchmarks/html_pages.py [FOLDER]

FOLDER holds pages/*.html.gz and ground-truth.json, {"page": {"articleBody": "text"}}: the layout of the public article
extraction benchmark. The measure is that benchmark's: precision and recall on multisets of 4-word shingles, each page counting
the same. Engines take turns over five rounds, each round all pages; the median round counts. CPU time: other programs do not
change it much, a busy neighbour core does.
"""

from __future__ import annotations

import gzip
import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from sftdata.ingestors.html import html
from sftdata.records import Record
from sftdata.sources import InputFile

ROUNDS = 5
FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "html"
Engine = Callable[[Path], str]


def ingest(mode: str) -> Engine:
    """Return this project's ingestor, metadata and checks included, as a function from a file to its text."""

    def run(path: Path) -> str:
        row = next(html(InputFile(path, path.name), mode=mode))  # type: ignore[arg-type]
        return str(row.fields["text"]) if isinstance(row, Record) else ""

    return run


def trafilatura_default(path: Path) -> str:
    """Return what trafilatura extracts by default."""
    import trafilatura

    return trafilatura.extract(path.read_bytes()) or ""


def trafilatura_fast(path: Path) -> str:
    """Return what trafilatura extracts without its fallbacks."""
    import trafilatura

    return trafilatura.extract(path.read_bytes(), fast=True) or ""


def resiliparse_main(path: Path) -> str:
    """Return Resiliparse's main content, by its best options for this measure."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    data = path.read_bytes()
    text = bytes_to_str(data, detect_encoding(data) or "utf-8")
    without = dict.fromkeys(("comments", "post_meta", "alt_texts", "list_bullets"), False)
    return str(extract_plain_text(text, main_content=True, **without))


ENGINES: dict[str, Engine] = {
    "trafilatura": trafilatura_default,
    "trafilatura fast=True": trafilatura_fast,
    "resiliparse main_content=True": resiliparse_main,
    "sftdata mode: main": ingest("main"),
    "sftdata mode: main_fast": ingest("main_fast"),
}


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Return the multiset of a text's runs of four words, or its fewer words."""
    words = re.findall(r"\w+", text)
    grams = [tuple(words[start : start + 4]) for start in range(max(1, len(words) - 3))]
    return Counter(gram for gram in grams if gram)


def score(truth: dict[str, str], found: dict[str, str]) -> tuple[float, float, float]:
    """Return mean precision, mean recall and their F1."""
    precisions, recalls = [], []
    for page, text in truth.items():
        want, got = shingles(text), shingles(found[page])
        hits = sum((want & got).values())
        precisions.append(hits / sum(got.values()) if got else float(not want))
        recalls.append(hits / sum(want.values()) if want else float(not got))
    precision, recall = statistics.mean(precisions), statistics.mean(recalls)
    return precision, recall, 2 * precision * recall / (precision + recall)


class Measured(NamedTuple):
    """What an engine makes of the pages."""

    precision: float
    recall: float
    f1: float
    pages_per_second: float
    """Of processor time."""


def measure(folder: Path, names: Sequence[str], num_rounds: int) -> dict[str, Measured]:
    """Let engines read all pages in turn; return each one's scores and its speed in the median round."""
    entries = json.loads((folder / "ground-truth.json").read_text("utf-8"))
    truth = {page: entry["articleBody"] for page, entry in entries.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as place:
        paths = {page: Path(place) / f"{page}.html" for page in truth}
        for page, path in paths.items():
            path.write_bytes(gzip.decompress((folder / "pages" / f"{page}.html.gz").read_bytes()))
        for _ in range(num_rounds):
            for name in names:
                begin = time.process_time()
                found[name] = {page: ENGINES[name](path) for page, path in paths.items()}
                seconds[name].append(time.process_time() - begin)
    speeds = {name: len(truth) / statistics.median(values) for name, values in seconds.items()}
    return {name: Measured(*score(truth, found[name]), speeds[name]) for name in names}


def main(folder: Path) -> None:
    """Print the table."""
    names = ("trafilatura", "Resiliparse", "turbohtml", "lxml", "beautifulsoup4")
    print(", ".join(f"{name} {version(name)}" for name in names), f"; {ROUNDS} rounds")
    measured = measure(folder, list(ENGINES), ROUNDS)
    print(f"{'engine':30} {'precision':>9} {'recall':>7} {'F1':>7} {'pages/s':>8} {'x trafilatura':>14}")
    for name, (precision, recall, f1, speed) in measured.items():
        ratio = speed / measured["trafilatura"].pages_per_second
        print(f"{name:30} {precision:9.4f} {recall:7.4f} {f1:7.4f} {speed:8.0f} {ratio:14.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
