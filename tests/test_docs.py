"""The tables in docs/: every key, default, choice and code that they list is that of the code."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from sftdata import registry, strict_yaml
from sftdata.cleaners._rules import CATEGORIES
from sftdata.recipe import (
    Limits,
    Mix,
    Pack,
    Recipe,
    ShardOptions,
    Source,
    Split,
    Tokenize,
    Tokenizer,
    TokenizerExtend,
    TokenizerTrain,
)
from sftdata.recipe_dedup import Dedup
from sftdata.schemas import ACTIONS, LEDGER, QUARANTINE, QUARANTINE_REASONS, STAGES
from sftdata.templates import built_in_names
from sftdata.trainer import TrainSettings
from sftdata.trainer.settings import ADAPTERS, ATTENTION, SCHEDULERS

DOCS = Path(__file__).resolve().parents[1] / "docs"

SECTIONS: dict[str, type[BaseModel]] = {
    "The recipe itself": Recipe,
    "tokenizer": Tokenizer,
    "tokenizer.extend": TokenizerExtend,
    "tokenizer.train": TokenizerTrain,
    "sources": Source,
    "clean: dedup": Dedup,
    "tokenize": Tokenize,
    "split": Split,
    "mix": Mix,
    "pack": Pack,
    "shards": ShardOptions,
    "limits": Limits,
}
STEPS = [step for kind in registry.KINDS for step in registry.known_steps(kind).values()]
REQUIRED, SECTION = object(), object()


def tables(name: str) -> dict[str, list[list[str]]]:
    """Return heading → the rows of the table under it, each a list of cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (DOCS / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    return {heading: rows[2:] for heading, rows in found.items()}


RECIPE = tables("recipe.md")
REASONS = tables("reasons.md")


def names_in(rows: list[list[str]]) -> list[str]:
    return [row[0].strip("`") for row in rows]


def default_in(cell: str) -> Any:
    """Return the default that a cell states."""
    words = {"required": REQUIRED, "none": None, "see below": SECTION}
    return words[cell] if cell in words else strict_yaml.parse(cell.strip("`"), "docs").value


def choices(kind: Any) -> list[str]:
    """Return the texts that an annotation allows, however deep they stand in it."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [choice for part in get_args(kind) for choice in choices(part)]


def assert_rows(rows: list[list[str]], expected: dict[str, tuple[Any, Any]]) -> None:
    """Assert that a table has the expected names, defaults and choices, and says something of each."""
    assert names_in(rows) == list(expected) and rows
    for (name, default, meaning), (kind, value) in zip(rows, expected.values(), strict=True):
        assert default_in(default) == value, name
        assert len(meaning) > 5, name
        assert [choice for choice in choices(kind) if f"`{choice}`" not in f"{default} {meaning}"] == [], name


def test_tables_are_those_of_the_recipe_and_of_all_steps() -> None:
    steps = [f"{step.kind} {step.name}" for step in STEPS]
    assert len(steps) > 10
    assert sorted(RECIPE) == sorted([*SECTIONS, "train", *steps])


@pytest.mark.parametrize("heading", SECTIONS)
def test_section_lists_its_keys_with_defaults(heading: str) -> None:
    expected = {}
    for name, field in SECTIONS[heading].model_fields.items():
        default = REQUIRED if field.is_required() else field.default
        expected[name] = (field.annotation, SECTION if isinstance(default, BaseModel) else default)
    assert_rows(RECIPE[heading], expected)


def test_train_lists_its_keys_with_defaults() -> None:
    defaults = {field.name.rstrip("_"): () if field.default is MISSING else field.default for field in fields(TrainSettings)}
    rows = {row[0].strip("`"): row for row in RECIPE["train"]}
    assert rows.pop("seed")[1] == "the recipe's" and defaults.pop("seed") == Recipe.model_fields["seed"].default
    assert_rows(list(rows.values()), {name: (None, list(value) if value == () else value) for name, value in defaults.items()})
    for name, known in (("lr_scheduler", SCHEDULERS), ("adapter", ADAPTERS), ("attn_implementation", ATTENTION)):
        assert all(f"`{value}`" in " ".join(rows[name]) for value in known), name


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_step_lists_its_options_with_defaults(step: registry.Step) -> None:
    expected = {
        name: (kind, REQUIRED if default is ... else default) for name, (kind, default) in registry.option_fields(step).items()
    }
    assert_rows(RECIPE[f"{step.kind} {step.name}"], expected)


def test_built_in_templates_are_listed() -> None:
    row = next(row for row in RECIPE["tokenizer"] if row[0] == "`chat_template`")
    assert len(built_in_names()) > 3
    assert all(f"`{name}`" in row[2] for name in built_in_names())


def test_quarantine_reasons_are_listed_with_their_meanings() -> None:
    rows = REASONS["Quarantine"]
    assert {row[0].strip("`"): row[1] for row in rows} == QUARANTINE_REASONS
    assert names_in(rows) == sorted(QUARANTINE_REASONS) and all(row[2] for row in rows)


def test_actions_and_columns_are_listed() -> None:
    assert names_in(REASONS["Ledger"]) == list(ACTIONS)
    text = (DOCS / "reasons.md").read_text(encoding="utf-8")
    for schema in (LEDGER, QUARANTINE):
        assert all(f"`{name}`" in text for name in schema.names)
    assert all(f"`{stage}`" in text for stage in STAGES)


def test_reasons_of_the_ledger_are_listed_and_occur_in_the_code() -> None:
    rows = REASONS["Reasons in the ledger"]
    assert [row[1].strip("`") for row in rows if row[0] == "`slop`"] == list(CATEGORIES)
    code = "".join(path.read_text(encoding="utf-8") for path in (DOCS.parent / "sftdata").rglob("*.py"))
    for _, reason, meaning in rows:
        stem = reason.strip("`").removesuffix("_escaped")  # the code joins the two
        assert f'"{stem}"' in code and meaning, reason
