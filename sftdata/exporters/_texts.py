"""The texts of a build's samples, from the work folder: tokens alone do not say for certain what they were made from.

A template writes text around contents and may strip them, a tokenizer may normalize, and its merges reach across borders: texts
cut out of decoded tokens would be a guess. The prepared documents are the texts themselves. They lie in the work folder under
fingerprints that the build remembers, with checksums, and the build's own plan says which document each segment holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from sftdata import progress
from sftdata.entries import DOCUMENTS_FILE, TOKENIZED_FILE, plan_name
from sftdata.errors import DataError
from sftdata.exporters._job import Job
from sftdata.formatting import Format, apply_marks, open_format
from sftdata.origins import read_origins
from sftdata.record_json import parse
from sftdata.records import Example
from sftdata.shards import Split
from sftdata.tables import read_batches
from sftdata.tasks import StepOrigin
from sftdata.work import read_entry

PLAN_ROWS = 1 << 14
"""Segments of the plan that are held at once."""
DIVIDING = ("packed", "splice")
"""Packing strategies that let a sample go on in the next row."""


class Segment(NamedTuple):
    """One segment of a row: a tokenized sample, or a piece of one."""

    part: int
    item: int
    copy: int
    runs: list[tuple[int, int]]
    """(start, end) of its runs of tokens in the sample: several where tokens were cut out of it."""


class Sample(NamedTuple):
    """One tokenized sample with the document that it was made from."""

    source: str
    record: str
    marks: str | None
    is_chat: bool
    num_tokens: int
    turn_ends: list[int]


class _Part:
    """The documents and the tokenized samples of one input part, mapped into memory."""

    def __init__(self, documents: Path, tokenized: Path) -> None:
        self._documents = _Rows(documents / DOCUMENTS_FILE)
        self._tokenized = _Rows(tokenized / TOKENIZED_FILE)

    def sample(self, item: int) -> Sample:
        """Return a tokenized sample by its number in the part."""
        batch, row = self._tokenized.find(item)
        document, place = self._documents.find(batch.column("row")[row].as_py())
        record, marks = (document.column(name)[place].as_py() for name in ("record", "marks"))
        source, is_chat = (batch.column(name)[row].as_py() for name in ("source", "chat"))
        offsets = batch.column("input_ids").offsets
        num_tokens = offsets[row + 1].as_py() - offsets[row].as_py()
        return Sample(source, record, marks, is_chat, num_tokens, batch.column("turn_ends")[row].as_py())


class _Rows:
    """Rows of an Arrow stream by number."""

    def __init__(self, path: Path) -> None:
        self._batches = list(read_batches(path))
        self._ends = np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)

    def find(self, row: int) -> tuple[pa.RecordBatch, int]:
        """Return a row's record batch and its number there."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self._batches[number], row - (int(self._ends[number - 1]) if number else 0)


class Texts:
    """Reads the samples of a build as examples. Raises DataError where the work folder lacks a result that is needed."""

    def __init__(self, job: Job) -> None:
        if job.recipe.tokenize.compat:
            raise DataError(
                f"{job.shards.folder}: tokenize.compat {job.recipe.tokenize.compat} cuts texts while it tokenizes, so that "
                "nobody can say which are whole; export another form"
            )
        self._job = job
        self._origins = read_origins(job.shards.folder)
        self._parts: dict[int, _Part] = {}
        self._formats: dict[str, Format] = {}

    def read(self, split: Split) -> Iterator[Example | None]:
        """Yield the samples of a split in the order of its rows; None for one that the build cut inside a turn.

        One that was cut at the end of a turn comes with the turns that are left, one that goes on in other rows where it ends.
        """
        divides = self._job.shards.manifest["splits"][split.name]["strategy"] in DIVIDING
        splits_text = self._job.recipe.tokenize.excess_length == "split"
        begun: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
        for part, item, copy, runs in _segments(self._job.shards.folder / ".sftdata" / "plan" / plan_name(split.name)):
            sample = self._part(part).sample(item)
            runs = [*begun.pop((part, item, copy), []), *runs]
            may_go_on = divides or (splits_text and not sample.is_chat)
            if may_go_on and sum(end - start for start, end in runs) < sample.num_tokens:
                begun[part, item, copy] = runs
            else:
                yield self._example(sample, runs)
        for (part, item, _), runs in begun.items():
            yield self._example(self._part(part).sample(item), runs)

    def _example(self, sample: Sample, runs: list[tuple[int, int]]) -> Example | None:
        """Return the turns of a sample that the runs of tokens hold, whole from the first on; None where they hold others."""
        end = 0
        for start, run_end in sorted(runs):
            if start != end:
                return None
            end = run_end
        if end != sample.num_tokens and end not in sample.turn_ends:
            return None
        example = self._format(sample.source)(parse(sample.record))
        if sample.marks is not None:
            example = apply_marks(example, orjson.loads(sample.marks))
        if end == sample.num_tokens:
            return example
        if len(example.turns) != len(sample.turn_ends):
            raise DataError(f"source {sample.source!r}: its formatter gives other turns now than in the build; build it again")
        return example._replace(turns=example.turns[: bisect_right(sample.turn_ends, end)])

    def _format(self, source: str) -> Format:
        if source not in self._formats:
            spec = next(found.format for found in self._job.recipe.sources if found.name == source)
            name, options = StepOrigin(self._job.shards.folder, self._job.allow_code).named("formatter", spec)
            self._formats[source] = open_format(name, options, allow_code=self._job.allow_code)
        return self._formats[source]

    def _part(self, number: int) -> _Part:
        if number not in self._parts:
            self._parts[number] = _Part(*(self._entry(stage, number) for stage in ("prepare", "tokenize")))
        return self._parts[number]

    def _entry(self, stage: str, number: int) -> Path:
        entry = self._job.work_folder / stage / self._origins[stage][number]
        if read_entry(entry) is None:
            raise DataError(
                f"{self._job.work_folder}: does not hold the texts of {self._job.shards.folder} (any more); "
                "name its work folder with --work-dir, or build its recipe again"
            )
        return entry


def _segments(path: Path) -> Iterator[Segment]:
    """Yield the segments of a plan; runs that are joined are one segment."""
    waiting: Segment | None = None
    for batch in read_batches(path):
        for first in range(0, len(batch), PLAN_ROWS):
            rows = batch.slice(first, PLAN_ROWS)
            columns = [rows.column(name).to_pylist() for name in ("part", "item", "start", "length", "joined")]
            copies = rows.column("copy").to_pylist() if "copy" in batch.schema.names else [0] * len(rows)
            for copy, part, item, start, length, joined in zip(copies, *columns, strict=True):
                if joined and waiting is not None:
                    waiting.runs.append((start, start + length))
                    continue
                if waiting is not None:
                    yield waiting
                waiting = Segment(part, item, copy, [(start, start + length)])
            progress.tick(len(rows))
    if waiting is not None:
        yield waiting
