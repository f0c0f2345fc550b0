"""Mixtures through a whole build: what the manifest says of shares is what the shards hold, and nothing is lost unseen."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from build_support import REPOSITORY, write_small_recipe

import sftdata
from sftdata.errors import DataError, RecipeError
from sftdata.pipeline import STAGES, plan_build
from sftdata.recipe_mixing import Mix, Pack
from sftdata.views.report import funnel_lines
from sftdata.views.tables import LEDGER_TABLE, read_rows

WEIGHTED = ["mix={strategy: weighted, budget: 6000}", "sources.talk.weight=3", "sources.faq.weight=1"]
NO_VALIDATION = ["split.validation=0"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe that is built already: another mix or packing re-runs its plan alone."""
    folder = tmp_path_factory.mktemp("mixture")
    path = write_small_recipe(folder, mix={"strategy": "concat"}, tokenize={"sequence_len": 128}, limits={"max_drop": 0.9})
    rows = [{"instruction": f"第{n}题", "output": "答" * (n % 7 + 1), "level": f"{n * 7 % 20}"} for n in range(40)]
    (folder / "levels.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    sftdata.build(path, out=folder / "out")
    return path


def build(recipe: Path, *overrides: str) -> Any:
    return sftdata.build(recipe, out=recipe.parent / "out", overrides=overrides)


def lineage(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return [row for row in pq.read_table(folder / ".sftdata" / "lineage.parquet").to_pylist() if row["split"] == split]


def tokens_by_source(folder: Path) -> Counter[str]:
    totals: Counter[str] = Counter()
    for row in lineage(folder):
        totals[row["source"]] += row["length"]
    return totals


def ledger(folder: Path, action: str) -> list[dict[str, Any]]:
    return list(read_rows(sftdata.open_shards(folder), LEDGER_TABLE, [("action", "=", action)]))


def test_shares_of_the_manifest_are_those_of_the_shards(recipe: Path) -> None:
    result = build(recipe, *WEIGHTED)
    mixture = result.manifest["splits"]["train"]["mixture"]["sources"]
    found = tokens_by_source(result.folder)
    longest = max(row["length"] for row in lineage(result.folder))
    assert abs(sum(found.values()) - 6000) <= longest
    assert {name: each["asked"] for name, each in mixture.items()} == {"talk": 0.75, "faq": 0.25}
    for name, share in (("talk", 4500), ("faq", 1500)):
        assert mixture[name]["tokens"] == found[name] and abs(found[name] - share) < longest
        assert mixture[name]["realised"] == found[name] / sum(found.values())
    assert mixture["talk"]["epochs"] > 1
    assert sftdata.verify(result.folder).problems == []


def test_the_report_shows_shares_asked_and_realised(recipe: Path) -> None:
    result = build(recipe, *WEIGHTED)
    lines = [line for line in funnel_lines(result.manifest) if "asked" in line]
    assert len(lines) == 2 and lines[0].startswith("talk: 75.00% of the tokens asked, 7") and lines[0].endswith(" epochs")
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "<th>Asked</th>" in page and "75.0" in page


def test_trained_tokens_are_counted_as_the_labels_have_them(recipe: Path) -> None:
    result = build(recipe, *WEIGHTED, "mix.by=trained_tokens", "mix.budget=2000", "sources.faq.weight=2.5")
    split = result.manifest["splits"]["train"]
    longest = max(row["length"] for row in lineage(result.folder))
    assert split["trained_tokens"] == sum(each["trained_tokens"] for each in split["mixture"]["sources"].values())
    assert abs(split["trained_tokens"] - 2000) <= longest


def test_repeats_never_share_a_row_and_are_numbered(recipe: Path) -> None:
    for strategy in ("best_fit", "packed", "splice"):
        result = build(recipe, *WEIGHTED, f"pack.strategy={strategy}", "mix.budget=15000")
        copies: dict[tuple[str, str], set[int]] = {}
        in_row: dict[tuple[int, str, str], set[int]] = {}
        for row in lineage(result.folder):
            copies.setdefault((row["source"], row["id"]), set()).add(row["copy"])
            in_row.setdefault((row["row"], row["source"], row["id"]), set()).add(row["copy"])
        assert max(map(len, copies.values())) >= 3
        assert all(numbers == set(range(len(numbers))) for numbers in copies.values())
        assert all(len(numbers) == 1 for numbers in in_row.values()), strategy
        repeats = {(row["source"], row["id"]): row["evidence"] for row in ledger(result.folder, "repeat")}
        assert repeats == {key: f"{len(numbers)} copies" for key, numbers in copies.items() if len(numbers) > 1}
        assert sftdata.verify(result.folder).problems == []


def test_what_a_mixture_leaves_out_is_in_the_ledger_and_stops_no_build(recipe: Path) -> None:
    result = build(recipe, *WEIGHTED, "mix.budget=400", "limits.max_drop=0.05")
    left_out = [row for row in ledger(result.folder, "drop") if row["reason"] == "left_out"]
    counts = result.manifest["counts"]["plan"]
    assert len(left_out) == counts["drop:left_out"] > 40
    [life] = sftdata.why(result.folder, f"{left_out[0]['source']} {left_out[0]['id']}")
    assert life.outcome == "dropped" and life.events[-1].reason == "left_out"


def test_validation_is_unweighted_and_unrepeated(recipe: Path) -> None:
    plain, weighted = (build(recipe, *options).folder for options in (["mix.strategy=concat"], [*WEIGHTED, "mix.budget=15000"]))
    keys = [sorted((row["source"], row["id"], row["copy"]) for row in lineage(plain, "validation"))]
    keys += [sorted((row["source"], row["id"], row["copy"]) for row in lineage(weighted, "validation"))]
    assert len(keys[0]) > 2 and keys[0] == keys[1]


def test_epochs_train_each_source_so_often(recipe: Path) -> None:
    result = build(recipe, "mix={strategy: weighted, by: rows}", "sources.talk.epochs=2", "sources.faq.epochs=0.5")
    mixture = result.manifest["splits"]["train"]["mixture"]["sources"]
    assert mixture["talk"]["epochs"] == 2 and abs(mixture["faq"]["epochs"] - 0.5) < 0.05
    assert all(len(numbers) == 2 for numbers in _copies(result.folder, "talk").values())


def _copies(folder: Path, source: str) -> dict[str, set[int]]:
    copies: dict[str, set[int]] = {}
    for row in lineage(folder):
        if row["source"] == source:
            copies.setdefault(row["id"], set()).add(row["copy"])
    return copies


def test_a_mixture_that_cannot_be_met_says_why(recipe: Path) -> None:
    caps = ("sources.talk.max_epochs=1", "sources.faq.max_epochs=2")
    with pytest.raises(DataError, match=r"mix\.budget: 6,000 tokens, but max_epochs allows only \d"):
        build(recipe, *WEIGHTED, *caps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sources.talk.weight=2"], r"sources\[0\]\.weight: has no meaning under mix\.strategy concat, only under weighted"),
        (["mix.budget=5"], r"mix\.budget: has no meaning under strategy concat, only under weighted"),
        (["mix={strategy: weighted, bins: 5}"], r"mix\.bins: has no meaning under strategy weighted"),
        (["mix={strategy: weighted, budget: 5, stop: all_exhausted}"], r"mix\.stop: has no meaning beside budget"),
        ([*WEIGHTED, "sources.faq.epochs=1"], r"sources\[1\]\.weight: has no meaning beside epochs"),
        (["mix={strategy: weighted, stop: all_exhausted}", "sources.talk.epochs=1", "sources.faq.epochs=1"],
         r"mix\.stop: has no meaning where every source has its epochs"),
        (["mix={strategy: concat, compat: percent}"], r"mix\.compat: has no meaning under strategy concat, only under buckets"),
        (["mix={group_by_length: 4}"], r"mix\.group_by_length: has no meaning under pack\.strategy best_fit"),
        (["pack={strategy: best_fit, compat: original}"], r"pack\.compat: has no meaning under strategy best_fit"),
        (["pack={strategy: splice, num_packed_sequences: 3}"], r"pack\.num_packed_sequences: has no meaning under no compat"),
        ([*WEIGHTED, "pack={strategy: splice, compat: original}"], r"pack\.compat: has no meaning under mix\.strategy"),
    ],
)  # fmt: skip
def test_options_without_meaning_are_errors(recipe: Path, options: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_build(recipe, out=recipe.parent / "out", overrides=options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["mix={strategy: weighted, budget: 6001}"], "changed: mix"),
        (["mix.strategy=weighted", "sources.talk.weight=9"], "changed: weights, mix"),
        (["mix={strategy: curriculum, bins: 3}"], "changed: mix"),
        (["mix.shuffle=false", "pack.strategy=concat"], "changed: mix, pack"),
        (["tokenize.sequence_len=97"], "changed: tokenize"),
    ],
)
def test_another_mix_length_or_packing_runs_plan_and_gather_alone(recipe: Path, options: list[str], why: str) -> None:
    build(recipe, "mix.strategy=concat")
    tasks = plan_build(recipe, out=recipe.parent / "out", overrides=options)
    actions = {task.stage: (task.action, task.why) for task in tasks}
    assert {stage for stage, (action, _) in actions.items() if action == "reuse"} == set(STAGES) - {"sign", "plan", "gather"}
    action, reason = actions["plan"]
    assert (action, re.sub(r" \([^)]*\)", "", reason)) == ("run", why)
    assert actions["gather"] == ("run or reuse", "depends on plan")


def test_published_splicing_counts_and_names_what_it_loses(recipe: Path) -> None:
    mix = "mix={strategy: buckets, bins: 1, compat: percent}"
    result = build(recipe, mix, "pack={strategy: splice, compat: original, num_packed_sequences: 2}")
    packing = result.manifest["splits"]["train"]["packing"]
    dropped = [row for row in ledger(result.folder, "drop") if row["reason"] == "spliced_out"]
    assert packing["num_samples_lost"] == len(dropped) == result.manifest["counts"]["plan"]["drop:spliced_out"] > 0
    assert packing["num_tokens_lost"] == result.manifest["counts"]["plan"]["drop_tokens:spliced_out"]
    assert result.manifest["splits"]["validation"]["packing"]["num_tokens_lost"] == 0
    assert sftdata.verify(result.folder).problems == []
    assert build(recipe, "pack={strategy: splice}").manifest["splits"]["train"]["packing"]["num_tokens_lost"] == 0


def test_published_splicing_cuts_long_rows_itself(recipe: Path) -> None:
    options = ["pack={strategy: splice, compat: original, num_packed_sequences: 9999}", "tokenize.sequence_len=30"]
    result = build(recipe, *options)
    cuts = [row for row in ledger(result.folder, "cut") if row["reason"] == "cut_off"]
    counts = result.manifest["counts"]["plan"]
    assert len(cuts) == counts["cut_rows"] > 5
    lost = result.manifest["splits"]["train"]["packing"]["num_tokens_lost"]
    assert lost == counts["drop_tokens:spliced_out"] + counts["cut_tokens"]
    assert max(row["length"] for row in lineage(result.folder)) == 30
    assert sftdata.verify(result.folder).problems == []


def test_validation_left_unpacked_is_the_same_for_every_strategy(recipe: Path) -> None:
    rows = []
    for strategy in ("packed", "best_fit", "padding"):
        pack = f"pack={{strategy: {strategy}, validation: padding}}"
        folder = build(recipe, pack, "tokenize.sequence_len=45").folder
        split = sftdata.open_shards(folder).splits["validation"]
        rows.append([split.row(index)["input_ids"].tolist() for index in range(split.num_rows)])
        assert sftdata.verify(folder).problems == []
    assert len(rows[0]) > 1 and rows[0] == rows[1] == rows[2]


def test_curriculum_follows_a_field_of_the_records(recipe: Path) -> None:
    source = ["sources.talk.path=levels.jsonl", "sources.talk.clean=[]", "split.validation=0", "pack.strategy=padding"]
    changes = [change.replace("levels", str(recipe.parent / "levels")) for change in source]
    order = "mix={strategy: curriculum, bins: 5, order_by: %s, shuffle: false}"
    with pytest.raises(DataError, match=r"faq faq\.csv#0: field 'level' is None, not a number to order by"):
        build(recipe, *changes, order % "level")
    raw = json.loads(recipe.read_text(encoding="utf-8"))
    alone = recipe.with_name("alone.yaml")
    alone.write_text(json.dumps({**raw, "sources": raw["sources"][:1]}, ensure_ascii=False), encoding="utf-8")
    folder = build(alone, *changes, order % "level").folder
    numbers = [int(row["id"].partition("#")[2]) for row in lineage(folder)]
    levels = [number * 7 % 20 for number in numbers]
    assert len(levels) == 40 and levels == sorted(levels) and numbers != sorted(numbers)


def test_samples_of_similar_length_stand_together_where_asked(recipe: Path) -> None:
    folder = build(recipe, "pack.strategy=padding", "mix={group_by_length: 4}").folder
    lengths = [row["length"] for row in lineage(folder)]
    spread = [max(lengths[place : place + 4]) - min(lengths[place : place + 4]) for place in range(0, len(lengths), 4)]
    assert len(lengths) > 40 and sum(spread) <= max(lengths) - min(lengths)
    assert lengths != sorted(lengths)


def test_every_strategy_reports_realised_shares(recipe: Path) -> None:
    for strategy in ("concat", "buckets", "curriculum"):
        result = build(recipe, f"mix.strategy={strategy}")
        mixture = result.manifest["splits"]["train"]["mixture"]
        found = tokens_by_source(result.folder)
        assert mixture["by"] == "tokens"
        for name, each in mixture["sources"].items():
            assert each["tokens"] == found[name] > 0 and each["epochs"] == 1 and "asked" not in each


def test_example_of_the_documentation_has_the_shares_that_it_shows(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "mixing.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^sftdata build .*$", text, re.MULTILINE)
    _, _, path, *options = shlex.split(command)
    assert options[::2] == ["--set"] * 5
    result = sftdata.build(REPOSITORY / path, out=tmp_path / "out", overrides=options[1::2])
    split = result.manifest["splits"]["train"]
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [name for name, *_ in rows] == list(split["mixture"]["sources"])
    for name, asked, realised, epochs in rows:
        found = split["mixture"]["sources"][name]
        assert float(asked) == 100 * found["asked"]
        assert abs(float(realised) - 100 * found["realised"]) < 1 and abs(float(epochs) - found["epochs"]) < 0.2
    assert abs(split["tokens"] - 60_000) < 1024


def test_documentation_lists_the_strategies() -> None:
    text = (REPOSITORY / "docs" / "mixing.md").read_text(encoding="utf-8")
    for section in (Mix, Pack):
        names = get_args(section.model_fields["strategy"].annotation)
        assert len(names) > 3 and all(f"| `{name}` |" in text for name in names)
