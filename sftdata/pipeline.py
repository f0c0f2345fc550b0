"""The story of a build, from raw files to shards.

1. scan       the recipe's sources → input parts, each a file with the digest of its bytes
2. prepare    every part, in parallel → cleaned documents, their digests, the ledger, the quarantine
3. sign       every part, in parallel, where rows are compared → signatures of their texts
4. resolve    all rows together → which stay (duplicates) and on which side of the split
5. tokenizer  loaded, or learned from the training rows that stay
6. tokenize   every part, in parallel → token ids and loss masks, untruncated
7. plan       all rows together → truncation, order, packs: integers only
8. gather     every shard, in parallel → tokens copied to their places, labels, lineage
9. assemble   shards, tokenizer, side tables, card and manifest → one folder, swapped in by a rename

A task whose result lies in the work folder is not run again. Between stages only files travel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftdata import storage
from sftdata.accounting import add_counts, check_conservation, check_limits, check_sources
from sftdata.assembling import Built, assemble
from sftdata.environment import with_pins
from sftdata.errors import DamagedError, DataError, RecipeError
from sftdata.executors.choice import choose_executor, scan_here
from sftdata.executors.jobs import available_cores
from sftdata.executors.local import run_alone
from sftdata.gathering import gather_shard
from sftdata.places import begun, folders, input_files, load
from sftdata.planning import plan
from sftdata.preparing import prepare_part
from sftdata.recipe_loader import Loaded
from sftdata.remaking import tokenize_parts
from sftdata.removing import Removals, removed_rows
from sftdata.resolving import resolve
from sftdata.run_record import damaged_record, describe_run, origin_of, write_run_record
from sftdata.runner import NotYetKnown, Rehearsal, Runner, TaskPlan, TaskRunner, read_history, write_history
from sftdata.scanning import Part, check_unchanged, num_bytes, scan
from sftdata.shards import open_shards
from sftdata.signing import sign_part
from sftdata.tasks import Prepared, TaskMaker
from sftdata.tokenizer_making import make_tokenizer
from sftdata.tokenizing import tokenize_part
from sftdata.views.report import report_page
from sftdata.work import Task, run_task, without_leftovers

STAGES = {
    "prepare": prepare_part,
    "sign": sign_part,
    "resolve": resolve,
    "tokenizer": make_tokenizer,
    "tokenize": tokenize_part,
    "plan": plan,
    "gather": gather_shard,
}
"""Stage → the function that carries out one of its tasks."""

Accept = Callable[[dict[str, Any]], None]
"""Sees a manifest before its folder is published, and raises where it should not be."""


@dataclass(frozen=True)
class BuildResult:
    """A finished build."""

    folder: Path
    manifest: dict[str, Any]
    num_tasks: int
    num_reused: int
    """Tasks whose result existed."""
    damaged: list[str]
    """Tasks whose result existed and was damaged: it was made again."""
    unchanged: bool
    """True where the folder held this very build already."""


def perform(task: Task) -> dict[str, Any]:
    """Carry out one task: what every worker does."""
    return run_task(task, STAGES[task.stage])


def build(
    recipe: str | Path | Loaded,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    executor: str = "local",
    ray_address: str | None = None,
    work_dir: str | Path | None = None,
    limit: int | None = None,
    without: Sequence[str] = (),
    allow_code: bool = False,
    accept: Accept | None = None,
) -> BuildResult:
    """Build the shards of a recipe.

    `overrides` are `a.b=value` texts as `--set` takes them; `workers` None uses all processors; `executor` is `local` or `ray`,
    which starts Ray on this machine, or uses the cluster at `ray_address`, whose nodes share input and work folder; `limit`
    reads only the first records of each source; `without` are ids (or `source id`) of records to leave out; `accept` sees the
    new manifest before the folder is swapped in, and may raise. Raises the errors of `sftdata.errors`; the output is then as it
    was before.
    """
    loaded = load(recipe, overrides, allow_code)
    _check_counts(workers, limit)
    begin = time.time()
    with begun(loaded, out, work_dir) as (output, work, listed):
        workplace = choose_executor(workers, num_bytes(listed), executor, ray_address)
        with without_leftovers(work), closing(workplace):
            parts = scan(listed, workplace)
            maker = TaskMaker(loaded, work, Removals(without, parts))
            built, runner = with_pins(lambda: _attempt(maker, workplace, parts, limit))
        check_unchanged(parts)
        manifest = _finished(output, built.fingerprint)
        unchanged = manifest is not None
        if manifest is None:
            origin = origin_of(loaded, work, limit, without)
            run = describe_run(begin, origin, workers=workplace.num_workers, stage_seconds=runner.seconds,
                               tasks=len(runner.planned), reused=runner.num_reused, damaged=runner.damaged)  # fmt: skip
            manifest = _publish(output, built, run, accept)
        write_history(work, loaded.recipe.name, runner.planned)
    return BuildResult(output, manifest, len(runner.planned), runner.num_reused, runner.damaged, unchanged)


def _attempt(maker: TaskMaker, executor: Any, parts: Sequence[Part], limit: int | None) -> tuple[Built, TaskRunner]:
    runner = task_runner(executor)
    return tell(maker, runner, parts, limit), runner


def task_runner(executor: Any) -> TaskRunner:
    """Return what runs the tasks of any stage with an executor."""
    return TaskRunner(perform, executor, run_alone)


def plan_build(
    recipe: str | Path | Loaded,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    work_dir: str | Path | None = None,
    limit: int | None = None,
    without: Sequence[str] = (),
    allow_code: bool = False,
) -> list[TaskPlan]:
    """Return which tasks a build would run or reuse, and why, up to where the plan depends on a result that is missing."""
    loaded = load(recipe, overrides, allow_code)
    output, work = folders(loaded, out, work_dir)
    _check_counts(None, limit)
    rehearsal = Rehearsal(read_history(work, loaded.recipe.name), available_cores())
    parts = scan_here(input_files(loaded, output, work))
    maker = TaskMaker(loaded, work, Removals(without, parts))
    try:
        tell(maker, rehearsal, parts, limit)
    except NotYetKnown:
        known = {task.stage for task in rehearsal.tasks}
        later = [stage for stage in STAGES if stage not in known and (stage != "sign" or maker.signing)]
        why = f"depends on {rehearsal.tasks[-1].stage}"
        rehearsal.tasks.extend(TaskPlan(stage, "all", "run or reuse", why) for stage in later)
    return rehearsal.tasks


def tell(maker: TaskMaker, runner: Runner, parts: Sequence[Part], limit: int | None) -> Built:
    """Carry out the stages, each on the results of those before it."""
    limits = maker.recipe.limits

    prepared = prepare_parts(maker, runner, parts, limit)
    if limit is None:
        maker.removals.check(row for item in prepared for row in removed_rows(item.part, item.summary))
    counts: dict[str, Any] = {"prepare": add_counts(item.summary for item in prepared)}
    check_sources([item.part.source.name for item in prepared], [item.summary for item in prepared])
    check_limits("prepare", counts["prepare"], limits, [item.task.entry for item in prepared])

    signed = maker.sign(prepared)
    if signed:
        runner.map(signed)

    resolved = maker.resolve(prepared, signed)
    [decisions] = runner.map([resolved])
    counts["resolve"] = add_counts([decisions])
    check_limits("resolve", counts["resolve"], limits, [resolved.task.entry])
    kept = decisions["kept_digests"]

    tokenizer = maker.tokenizer(prepared, resolved.task, kept)
    [tokenizer_summary] = runner.map([tokenizer])

    planned, tokenized_summaries = tokenize_parts(maker, runner, prepared, (resolved.task, tokenizer.task), kept)
    tokenized = [(item, task.task) for item, task in zip(prepared, planned, strict=True)]
    counts["tokenize"] = add_counts(tokenized_summaries)
    check_limits("tokenize", counts["tokenize"], limits, [task.entry for _, task in tokenized])

    packs = maker.plan(tokenized, resolved.task)
    [plan_summary] = runner.map([packs])
    counts["plan"] = add_counts([plan_summary])
    check_limits("plan", counts["plan"], limits, [packs.task.entry])

    shards = maker.gather(packs.task, plan_summary)
    shard_summaries = runner.map(shards)
    counts["gather"] = {split: _sum_split(split, shards, shard_summaries) for split in plan_summary["splits"]}
    check_conservation(counts)
    return Built(
        loaded=maker.loaded,
        prepared=prepared,
        signed=[item.task for item in signed],
        resolved=resolved.task,
        tokenizer=tokenizer.task,
        tokenizer_summary=tokenizer_summary,
        tokenized=tokenized,
        tokenized_summaries=tokenized_summaries,
        plan=packs.task,
        plan_summary=plan_summary,
        gathered=shards,
        gathered_summaries=shard_summaries,
        counts=counts,
    )


def prepare_parts(maker: TaskMaker, runner: Runner, parts: Sequence[Part], limit: int | None) -> list[Prepared]:
    """Prepare all parts; under a limit one after the other, since what a source may still give depends on the parts before."""
    if limit is None:
        planned = [maker.prepare(part, None) for part in parts]
        summaries = runner.map(planned)
        return [Prepared(part, item.task, summary) for part, item, summary in zip(parts, planned, summaries, strict=True)]
    left = {part.source.name: limit for part in parts}
    prepared = []
    for part in parts:
        if left[part.source.name]:
            item = maker.prepare(part, left[part.source.name])
            [summary] = runner.map([item])
            left[part.source.name] -= summary["counts"].get("records", 0)
            prepared.append(Prepared(part, item.task, summary))
    return prepared


def _sum_split(split: str, shards: Sequence[Any], summaries: Sequence[dict[str, Any]]) -> dict[str, int]:
    mine = [summary for item, summary in zip(shards, summaries, strict=True) if item.task.spec["split"] == split]
    return {name: sum(summary["counts"][name] for summary in mine) for name in mine[0]["counts"]}


def _check_counts(workers: int | None, limit: int | None) -> None:
    for name, value in (("workers", workers), ("limit", limit)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise RecipeError(f"{name}: {value!r}; give a whole number, at least 1")


def _finished(output: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the manifest of the folder where it holds this very build, undamaged."""
    try:
        shards = open_shards(output)
    except (DataError, DamagedError):
        return None
    same = shards.manifest["fingerprint"] == fingerprint
    whole = same and not any(shards.damaged_files()) and not any(damaged_record(output))
    return shards.manifest if whole else None


def _publish(output: Path, built: Built, run: dict[str, Any], accept: Accept | None) -> dict[str, Any]:
    """Assemble the folder beside its place and swap it in."""
    with storage.staged(output, built.fingerprint) as folder:
        manifest = assemble(folder, built)
        if accept is not None:
            accept(manifest)
        write_run_record(folder, run, report_page(open_shards(folder), run))
    return manifest
