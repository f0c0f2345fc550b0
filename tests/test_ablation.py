"""Switching slop rules off one by one: which records depend on which rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from build_support import write_small_recipe
from click.testing import CliRunner

from sftdata.ablation import Ablation, ablate
from sftdata.cli import main
from sftdata.errors import RecipeError

ANSWERS = [
    "As an AI language model, I cannot say.",
    "I was trained by OpenAI. Let me know if you have any questions.",
    "I was trained by OpenAI, and my knowledge cutoff is September 2021.",
    "The lamp is lit at dusk. Let me know if you have any questions.",
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablate")
    recipe = write_small_recipe(folder)
    lines = [json.dumps({"instruction": f"Question {n}", "output": answer}) for n, answer in enumerate(ANSWERS)]
    (folder / "talk" / "b.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return recipe


@pytest.fixture(scope="module")
def found(recipe: Path) -> Ablation:
    return ablate(recipe)


def test_a_rule_is_told_by_the_records_that_only_it_drops(found: Ablation) -> None:
    effects = {effect.rule: effect for effect in found.rules}
    assert effects["en.as_an_ai"].num_dropped == 1
    made = effects["en.made_by_vendor"]
    assert (made.num_dropped, made.num_returned, made.examples) == (2, 1, ["talk b.jsonl#1"])
    assert made.category == "ai_identity", "the third answer states a cutoff too, and stays dropped"


def test_a_rule_that_only_flags_drops_nothing(found: Ablation) -> None:
    [flag] = [effect for effect in found.rules if effect.rule == "en.service_closing"]
    assert (flag.actions, flag.num_dropped, flag.num_returned) == ({"flag": 1}, 0, 0)
    assert found.num_records == 20 + 4 + 31 and found.num_dropped == 3


def test_named_rules_are_switched_off_whether_they_fired_or_not(recipe: Path) -> None:
    found = ablate(recipe, rules=["zh.as_an_ai", "en.made_by_vendor"], rows=3)
    assert {effect.rule: effect.num_dropped for effect in found.rules} == {"zh.as_an_ai": 0, "en.made_by_vendor": 0}
    with pytest.raises(RecipeError, match=r"did you mean 'en\.as_an_ai'"):
        ablate(recipe, rules=["en.as_an_ia"])


def test_a_recipe_without_the_step_is_refused(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="no source is cleaned by slop"):
        ablate(recipe, overrides=["sources.talk.clean=[unicode]"])


def test_command_prints_a_line_a_rule(recipe: Path) -> None:
    shown = CliRunner().invoke(main, ["ablate", str(recipe)])
    assert shown.exit_code == 0 and "55 records, 3 of them dropped" in shown.stdout
    assert "talk b.jsonl#1" in next(line for line in shown.stdout.splitlines() if line.startswith("en.made_by_vendor"))
    printed = json.loads(CliRunner().invoke(main, ["ablate", str(recipe), "--json"]).stdout)
    assert printed["num_records"] == 55 and {"rule", "num_returned"} <= set(printed["rules"][0])
