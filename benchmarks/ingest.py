"""The ingestors beside the libraries that read the same formats, on the same generated files, as a table of ratios.

    python benchmarks/ingest.py [--megabytes 60] [--rounds 5] [--flat 128] [--full]

Each side runs in turn in this process and is timed in CPU seconds; the table shows the median speeds and the median of each
round's ratio. Our side yields every record with its id and puts broken ones aside; the other side only parses:

- HTML: trafilatura's default, on the pages of `html_pages.py`, with the F1 of both; left out where the pages are not there.
- JSON Lines: orjson, line by line, on a file of chat records.
- CSV: pandas' C engine, all cells text (`dtype=str, keep_default_na=False`), in chunks of 20,000 rows, its fastest way.
- SQL dumps: sqlparse, on the first part of the same dump, since it needs seconds a megabyte.

Then it prints how the same files pass through a whole `sftdata ingest`, and the peak memory of reading a dump of --flat MB
(1,024 with --full) whose lines have 16 MB, beside that of reading one of 32 MB.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import html_pages

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("orjson", "pandas", "pyarrow", "sqlparse", "trafilatura", "turbohtml")
WORDS = tuple(
    str.split(
        "the palace keeper asked who had lit the lamps before dawn and nobody in the long hall would answer her plainly "
        "臣妾 明白 皇上 的 心意 今日 御花园 里 梅花 开 得 正 好 娘娘 且 宽心 这 件 事 还 需 从长计议 本宫 自有 分寸"
    )
)
MB = 1 << 20


class Side(NamedTuple):
    """One reader of one file: what it is called, and a function that reads everything and returns the bytes it went through."""

    name: str
    read: Callable[[], int]


def text(draw: random.Random, num_words: int) -> str:
    """Return words of two languages, now and then with a quote, a comma or a line break."""
    joints = draw.choices((" ", ", ", "\n", ' "', "” "), (90, 6, 2, 1, 1), k=num_words)
    return "".join(word + joint for word, joint in zip(draw.choices(WORDS, k=num_words), joints, strict=True))


def chat_lines(path: Path, size: int) -> None:
    """Write JSON Lines of chat records, about 900 bytes each; one in 10,000 is cut off."""
    draw = random.Random(1)
    with open(path, "w", encoding="utf-8") as file:
        number = 0
        while file.tell() < size:
            turns = [{"role": role, "content": text(draw, draw.randint(10, 120))} for role in ("user", "assistant")]
            line = json.dumps({"id": f"chat-{number}", "messages": turns, "score": number % 7}, ensure_ascii=False)
            file.write((line[:-4] if number % 10_000 == 9_999 else line) + "\n")
            number += 1


def table_rows(num_words: int) -> Iterator[list[str]]:
    """Yield rows of six text cells without end, the question and the answer with up to `num_words` words."""
    draw = random.Random(2)
    number = 0
    while True:
        answer = text(draw, draw.randint(5, num_words))
        yield [str(number), text(draw, 12).replace("\n", " "), answer, "NA", f"00{number % 9}", draw.choice(("zh", "en"))]
        number += 1


def quoted_table(path: Path, size: int) -> None:
    """Write CSV with quotes and embedded line breaks, about 500 bytes a row; one row in 10,000 lacks a field."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "question", "answer", "note", "code", "language"])
        for number, row in enumerate(table_rows(120)):
            writer.writerow(row[:-1] if number % 10_000 == 9_999 else row)
            if file.tell() > size:
                return


def whole_table(path: Path, source: Path) -> None:
    """Write the rows of a CSV file that pandas reads: those with all their fields."""
    with open(source, encoding="utf-8", newline="") as rows, open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(row for row in csv.reader(rows) if len(row) == 6)


def dump(path: Path, size: int, rows_a_statement: int) -> None:
    """Write a mysqldump of one table with so many rows in each INSERT."""
    escapes = str.maketrans({"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n"})
    with open(path, "w", encoding="utf-8") as file:
        file.write("-- MySQL dump 10.13\nCREATE TABLE `faq` (`id` int, `question` text, `answer` text, `note` text,")
        file.write(" `code` varchar(9), `language` text) ENGINE=InnoDB;\n")
        rows = table_rows(120)
        while file.tell() < size:
            values = [
                f"({row[0]}," + ",".join(f"'{cell.translate(escapes)}'" for cell in row[1:]) + ")"
                for row, _ in zip(rows, range(rows_a_statement), strict=False)
            ]
            file.write(f"INSERT INTO `faq` VALUES {','.join(values)};\n")


def copy_dump(path: Path, size: int) -> None:
    """Write a pg_dump of one table as COPY … FROM stdin."""
    escapes = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t"})
    with open(path, "w", encoding="utf-8") as file:
        file.write("-- PostgreSQL database dump\nSET standard_conforming_strings = on;\n")
        file.write("CREATE TABLE public.faq (id integer, question text, answer text, note text, code text, language text);\n")
        file.write("COPY public.faq (id, question, answer, note, code, language) FROM stdin;\n")
        for row in table_rows(120):
            file.write("\t".join(cell.translate(escapes) for cell in row) + "\n")
            if file.tell() > size:
                break
        file.write("\\.\n")


def ours(format: str, path: Path) -> Side:
    """Return the ingestor of a format as a side: it yields every record with its number."""
    from sftdata import registry
    from sftdata.records import Bad
    from sftdata.sources import InputFile

    function = registry.find_step("ingestor", format).function

    def read() -> int:
        num_bad = sum(map(isinstance, function(InputFile(path, path.name)), repeat(Bad)))
        assert num_bad < 100, num_bad
        return path.stat().st_size

    return Side(f"sftdata {format}", read)


def orjson_lines(path: Path) -> Side:
    """Return orjson over the lines of a file; broken lines are skipped."""
    import orjson

    def read() -> int:
        with open(path, "rb") as file:
            for line in file:
                try:
                    orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
        return path.stat().st_size

    return Side("orjson", read)


def pandas_chunks(path: Path) -> Side:
    """Return pandas' C engine over a file, every cell as text."""
    import pandas as pd

    def read() -> int:
        for frame in pd.read_csv(path, dtype=str, keep_default_na=False, engine="c", chunksize=20_000):
            assert len(frame)
        return path.stat().st_size

    return Side("pandas", read)


def sqlparse_statements(path: Path, size: int) -> Side:
    """Return sqlparse over the first statements of a dump, its limit on tokens lifted."""
    import sqlparse

    with open(path, encoding="utf-8") as file:
        head = file.read(size)
    head = head[: head.rindex(";\n") + 2]

    def read() -> int:
        sqlparse.engine.grouping.MAX_GROUPING_TOKENS = None
        assert len(sqlparse.parse(head)) > 1
        return len(head.encode())

    return Side("sqlparse", read)


def speed(side: Side) -> float:
    """Return MB per CPU second of one reading."""
    begin = time.process_time()
    size = side.read()
    return size / MB / (time.process_time() - begin)


def compare(name: str, mine: Side, other: Side, num_rounds: int) -> None:
    """Let both sides read in turn and print one line of the table."""
    speeds = [(speed(mine), speed(other)) for _ in range(num_rounds)]
    ratio = statistics.median(mine / other for mine, other in speeds)
    fast, slow = (statistics.median(column) for column in zip(*speeds, strict=True))
    print(f"| {name} | {fast:,.0f} MB | {other.name} | {slow:,.2f} MB | {ratio:,.2f} |", flush=True)


def compare_pages(num_rounds: int) -> None:
    """Print the lines of the table for HTML: F1 and pages a second."""
    if not (html_pages.FOLDER / "ground-truth.json").is_file():
        print("| HTML | the pages are not here | | | |")
        return
    modes = {f"HTML, {mode}": f"sftdata mode: {mode}" for mode in ("main", "main_fast")}
    measured = html_pages.measure(html_pages.FOLDER, ["trafilatura", *modes.values()], num_rounds)
    cells = {name: f"{found.pages_per_second:,.0f} pages, F1 {found.f1:.4f}" for name, found in measured.items()}
    slow = measured["trafilatura"].pages_per_second
    for label, name in modes.items():
        ratio = measured[name].pages_per_second / slow
        print(f"| {label} | {cells[name]} | trafilatura | {cells['trafilatura']} | {ratio:,.2f} |", flush=True)


def whole_ingest(format: str, path: Path, folder: Path) -> None:
    """Print how fast a whole `sftdata ingest` of a file is, by the clock."""
    command = [sys.executable, "-m", "sftdata", "ingest", str(path), "--format", format, "--out", str(folder / format)]
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    print(f"sftdata ingest --format {format}: {path.stat().st_size / MB / seconds:,.0f} MB/s with start and all writing")


def peak_memory(path: Path) -> float:
    """Return the peak memory in MB of a process that reads a dump."""
    script = (
        "import resource, sys; from pathlib import Path; from sftdata.sources import InputFile\n"
        "from sftdata.ingestors.sql import sql; import sqlparse\n"
        "path = Path(sys.argv[1]); count = sum(1 for _ in sql(InputFile(path, path.name))); assert count > 1\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    """Write the files, print versions and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=60, help="size of each file (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="readings of each side (default: %(default)s)")
    parser.add_argument("--flat", type=int, default=128, help="megabytes of the dump whose memory is measured (default: 128)")
    parser.add_argument("--full", action="store_true", help="measure memory on a dump of 1 GB")
    arguments = parser.parse_args()
    versions: Any = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; {versions}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = arguments.megabytes * MB
        chat_lines(folder / "chat.jsonl", size)
        quoted_table(folder / "faq.csv", size)
        whole_table(folder / "whole.csv", folder / "faq.csv")
        dump(folder / "faq.sql", size, 50)
        copy_dump(folder / "copy.sql", size)
        print("| Format | sftdata, per CPU second | beside | per CPU second | ratio |")
        print("| --- | ---: | --- | ---: | ---: |")
        rounds = arguments.rounds
        compare_pages(rounds)
        compare("JSON Lines", ours("jsonl", folder / "chat.jsonl"), orjson_lines(folder / "chat.jsonl"), rounds)
        compare("CSV", ours("csv", folder / "faq.csv"), pandas_chunks(folder / "whole.csv"), rounds)
        beside = sqlparse_statements(folder / "faq.sql", MB // 2)
        compare("SQL, mysqldump", ours("sql", folder / "faq.sql"), beside, rounds)
        compare("SQL, pg_dump COPY", ours("sql", folder / "copy.sql"), beside, rounds)
        print()
        for format, file in (("jsonl", "chat.jsonl"), ("csv", "faq.csv"), ("sql", "faq.sql")):
            whole_ingest(format, folder / file, folder)
        num_megabytes = 1024 if arguments.full else arguments.flat
        dump(folder / "small.sql", 32 * MB, 32_000)
        dump(folder / "large.sql", num_megabytes * MB, 32_000)
        small, large = peak_memory(folder / "small.sql"), peak_memory(folder / "large.sql")
        print(f"\npeak memory, lines of 16 MB: {small:,.0f} MB on a dump of 32 MB, {large:,.0f} on {num_megabytes} MB")


if __name__ == "__main__":
    main()
