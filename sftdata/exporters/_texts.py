"""The texts of a build's samples, from the work folder: tokens alone do not say for certain what they were made from.

A template writes text around contents and may strip them, a tokenizer may normalize, and its merges reach across borders: texts
cut out of decoded tokens would be a guess. The prepared documents are the texts themselves. They lie in the work folder under
fingerprints that the build remembers, with checksums, and the build's own plan says which document each segment holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from sftdata import progress
from sftdata.entries import DOCUMENTS_FILE, TOKENIZED_FILE, plan_name, read_marks
from sftdata.errors import DataError
from sftdata.exporters._job import Job
from sftdata.formatting import Format, apply_marks, join_marks, open_format
from sftdata.origins import read_origins
from sftdata.record_json import parse
from sftdata.records import Example
from sftdata.shards import Split
from sftdata.step_origin import StepOrigin
from sftdata.tables import read_batches
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


class _Tokenized(NamedTuple):
    """A record batch of tokenized samples, as views into the memory map: asking Arrow for each value takes twice as long."""

    source: str
    documents: npt.NDArray[np.int32]
    is_chat: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int32]
    end_offsets: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]


def _view(batch: pa.RecordBatch) -> _Tokenized:
    ends = batch.column("turn_ends")
    return _Tokenized(
        source=batch.column("source")[0].as_py() if len(batch) else "",
        documents=batch.column("row").to_numpy(),
        is_chat=batch.column("chat").to_numpy(zero_copy_only=False),
        offsets=batch.column("input_ids").offsets.to_numpy(),
        end_offsets=ends.offsets.to_numpy(),
        ends=ends.values.to_numpy(),
    )


def _texts(batch: pa.RecordBatch) -> tuple[pa.StringArray, pa.StringArray]:
    return batch.column("record"), batch.column("marks")


View = TypeVar("View")


class _Rows(Generic[View]):
    """Rows of an Arrow stream by number."""

    def __init__(self, path: Path, view: Callable[[pa.RecordBatch], View]) -> None:
        batches = list(read_batches(path))
        self._views = [view(batch) for batch in batches]
        self._ends = list(accumulate(len(batch) for batch in batches))

    def find(self, row: int) -> tuple[View, int]:
        """Return the view of a row's record batch, and the row's number there."""
        number = bisect_right(self._ends, row)
        return self._views[number], row - (self._ends[number - 1] if number else 0)


class _Part:
    """The documents and the tokenized samples of one input part, mapped into memory."""

    def __init__(self, documents: Path, tokenized: Path, marks: pa.ChunkedArray) -> None:
        self._documents = _Rows(documents / DOCUMENTS_FILE, _texts)
        self._marks = marks
        """Of every document, by the decisions over all rows."""
        self._tokenized = _Rows(tokenized / TOKENIZED_FILE, _view)

    def sample(self, item: int) -> Sample:
        """Return a tokenized sample by its number in the part."""
        found, row = self._tokenized.find(item)
        (records, marks), place = self._documents.find(int(found.documents[row]))
        turn_ends = found.ends[found.end_offsets[row] : found.end_offsets[row + 1]].tolist()
        num_tokens = int(found.offsets[row + 1] - found.offsets[row])
        is_chat = bool(found.is_chat[row])
        [joined] = join_marks(marks.slice(place, 1), self._marks.slice(int(found.documents[row]), 1)).to_pylist()
        return Sample(found.source, records[place].as_py(), joined, is_chat, num_tokens, turn_ends)


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
            documents, tokenized = (self._entry(stage, number) for stage in ("prepare", "tokenize"))
            self._parts[number] = _Part(documents, tokenized, read_marks(self._entry("resolve", 0), number))
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
