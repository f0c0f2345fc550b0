"""What each rule of the slop step does to a recipe's records: each that fired is switched off once, all else being equal."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sftdata.entries import LEDGER_FILE
from sftdata.errors import RecipeError
from sftdata.executors.choice import choose_executor
from sftdata.pipeline import prepare_parts, task_runner
from sftdata.places import input_files
from sftdata.recipe import StepSpec
from sftdata.recipe_loader import Loaded, load_recipe
from sftdata.scanning import Part, num_bytes, scan
from sftdata.tables import read_batches
from sftdata.tasks import Prepared, TaskMaker

STEP = "slop"
NUM_EXAMPLES = 3

Row = tuple[str, str]
Prepare = Callable[[Loaded, Sequence[Part]], list[Prepared]]
"""Prepares parts as a recipe says."""


class RuleEffect(NamedTuple):
    """What one rule does."""

    rule: str
    category: str
    """Empty for a rule that did not fire."""
    actions: dict[str, int]
    """Ledger action → lines that name the rule."""
    num_dropped: int
    """Records that it drops."""
    num_returned: int
    """Of these, the records that stay where it is switched off: no other rule or step drops them."""
    examples: list[str]
    """`source id` of the first of these."""


class Ablation(NamedTuple):
    """All rules that fired, those first on which most records depend."""

    num_records: int
    num_dropped: int
    """Records that any step drops."""
    rules: list[RuleEffect]


def ablate(
    recipe: str | Path,
    *,
    rules: Sequence[str] = (),
    rows: int | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    allow_code: bool = False,
) -> Ablation:
    """Prepare the records of a recipe, and again without each rule of `rules`, by default all that fired.

    `rows` reads only the first records of each source. Nothing is left on the disk. Raises RecipeError for a recipe without
    the slop step, and for an unknown rule.
    """
    loaded = load_recipe(recipe, overrides=overrides, allow_code=allow_code)
    if not any(step.name == STEP for step in _steps(loaded)):
        raise RecipeError(f"{recipe}: no source is cleaned by {STEP}, so no rule can be switched off")
    with tempfile.TemporaryDirectory(prefix="sftdata-ablate-") as folder:
        listed = input_files(loaded, Path(folder), Path(folder))
        with closing(choose_executor(workers, num_bytes(listed))) as executor:
            parts, runner = scan(listed, executor), task_runner(executor)

            def prepare(of: Loaded, some: Sequence[Part]) -> list[Prepared]:
                sources = {source.name: source for source in of.recipe.sources}
                mine = [replace(part, source=sources[part.source.name]) for part in some]
                return prepare_parts(TaskMaker(of, Path(folder)), runner, mine, rows)

            return _compare(loaded, prepare(loaded, parts), rules, prepare)


def _compare(loaded: Loaded, base: Sequence[Prepared], rules: Sequence[str], prepare: Prepare) -> Ablation:
    lines = {number: _Lines(item) for number, item in enumerate(base)}
    fired = dict.fromkeys(rule for found in lines.values() for rule in sorted(found.actions))
    effects = []
    for rule in rules or fired:
        touched = [number for number, found in lines.items() if rule in found.actions] or [0]
        again = [_Lines(item) for item in prepare(_without(loaded, rule), [base[number].part for number in touched])]
        before = [lines[number] for number in touched]
        effects.append(_effect(rule, before, set().union(*(found.dropped for found in again))))
    return Ablation(
        sum(item.summary["counts"].get("records", 0) for item in base),
        sum(item.summary["counts"].get("dropped", 0) for item in base),
        sorted(effects, key=lambda effect: (-effect.num_returned, -effect.num_dropped, effect.rule)),
    )


class _Lines:
    """What the ledger of a prepared part says: of the slop step by rule, and which rows any step drops."""

    def __init__(self, item: Prepared) -> None:
        self.actions: dict[str, Counter[str]] = defaultdict(Counter)
        self.categories: dict[str, str] = {}
        self.dropped_by: dict[str, dict[Row, None]] = defaultdict(dict)
        self.dropped: set[Row] = set()
        for batch in read_batches(item.task.entry / LEDGER_FILE):
            for line in batch.select(["source", "id", "step", "rule", "action", "reason"]).to_pylist():
                row = line["source"], line["id"]
                if line["action"] == "drop":
                    self.dropped.add(row)
                if line["step"] == STEP and line["rule"]:
                    self.actions[line["rule"]][line["action"]] += 1
                    self.categories.setdefault(line["rule"], line["reason"])
                    if line["action"] == "drop":
                        self.dropped_by[line["rule"]][row] = None


def _effect(rule: str, before: Sequence[_Lines], still_dropped: set[Row]) -> RuleEffect:
    actions: Counter[str] = Counter()
    for found in before:
        actions.update(found.actions.get(rule, {}))
    dropped = [row for found in before for row in found.dropped_by.get(rule, {})]
    returned = [row for row in dropped if row not in still_dropped]
    category = next((found.categories[rule] for found in before if rule in found.categories), "")
    examples = [" ".join(row) for row in returned[:NUM_EXAMPLES]]
    return RuleEffect(rule, category, dict(sorted(actions.items())), len(dropped), len(returned), examples)


def _steps(loaded: Loaded) -> list[StepSpec]:
    recipe = loaded.recipe
    return [*recipe.clean, *(step for source in recipe.sources for step in source.clean)]


def _without(loaded: Loaded, rule: str) -> Loaded:
    """Return the recipe with one more rule switched off in every slop step."""

    def changed(steps: Iterable[StepSpec]) -> list[StepSpec]:
        return [step.model_copy(update={"options": _disabling(step, rule)}) if step.name == STEP else step for step in steps]

    recipe = loaded.recipe
    sources = [source.model_copy(update={"clean": changed(source.clean)}) for source in recipe.sources]
    recipe = recipe.model_copy(update={"sources": sources, "clean": changed(recipe.clean)})
    return Loaded(recipe, loaded.folder, loaded.name, allow_code=loaded.allow_code)


def _disabling(step: StepSpec, rule: str) -> dict[str, object]:
    return {**step.options, "disable": [*step.options.get("disable", []), rule]}
