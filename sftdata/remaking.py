"""Tokenize all parts, and again with the reference where the fast engine was found to be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sftdata.runner import Runner
from sftdata.tasks import Planned, Prepared, TaskMaker
from sftdata.work import Task


def tokenize_parts(
    maker: TaskMaker, runner: Runner, prepared: Sequence[Prepared], decided: tuple[Task, Task], kept: Sequence[str]
) -> tuple[list[Planned], list[dict[str, Any]]]:
    """Tokenize all parts; where the fast engine gave one wrong id, all that it made is made again by `tokenizers`.

    decided: the finished tasks of resolve and of the tokenizer. kept: a digest of the rows of each part that stay.
    """
    resolved, tokenizer = decided

    def plan_part(number: int, engine: str) -> Planned:
        return maker.tokenize(number, prepared[number], resolved, kept[number], tokenizer, engine=engine)

    planned = [plan_part(number, "auto") for number in range(len(prepared))]
    summaries = runner.map(planned)
    if any(summary["difference"] for summary in summaries):
        again = [number for number, summary in enumerate(summaries) if summary["engine"] != "tokenizers"]
        for number in again:
            planned[number] = plan_part(number, "tokenizers")
        for number, summary in zip(again, runner.map([planned[number] for number in again]), strict=True):
            summaries[number] = summary
    return planned, summaries
