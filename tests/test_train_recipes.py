"""Every bundled recipe, at a small size, from raw files to a trained model; chained ones after those they go on from."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest
from build_support import RECIPES

import sftdata
from sftdata.training import plan, train

SMALL = ["max_steps=2", "micro_batch_size=1", "gradient_accumulation_steps=1", "max_new_tokens=2", "eval_steps=2"]
TINY = "model={model_type: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 2048}"
CHAINED = {"zhenhuan-lora": "zhenhuan-base", "colossal-sft": "colossal-pretrain", "vocab-extend": "zhenhuan-base"}
ALONE = ["tinystories", "alpaca-modes", "colossal-pretrain", "zhenhuan-base", "web-sft"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipes and their data, in which shards and models are written."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(RECIPES, folder / "recipes")
    return folder


def build_and_train(name: str, *changes: str) -> dict[str, object]:
    """Build a recipe and train two steps, unless that was done; returns its record."""
    out = Path("models", name)
    if not out.exists():
        sftdata.build(Path("recipes", f"{name}.yaml"), limit=30, workers=1, work_dir="work")
        train(Path("shards", name), overrides=[*SMALL, *changes])
    record: dict[str, object] = json.loads((out / "train.json").read_text("utf-8"))
    return record


@pytest.mark.parametrize("name", ALONE)
def test_recipe_trains_from_raw_files(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    record = build_and_train(name, *([] if name == "alpaca-modes" else [TINY]))
    assert record["steps"] == 2
    manifest = sftdata.open_shards(Path("shards", name)).manifest
    assert manifest["splits"]["train"]["rows"] > 5 and manifest["splits"]["validation"]["rows"] > 0
    assert Path("models", name, "model.safetensors").is_file()


@pytest.mark.parametrize("name", list(CHAINED))
def test_chained_recipe_goes_on_from_the_stage_before(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    build_and_train(CHAINED[name], TINY)
    record = build_and_train(name)
    assert record["settings"]["base_model"] == f"models/{CHAINED[name]}"  # type: ignore[index]
    assert Path("models", name, "adapter_model.safetensors" if name == "zhenhuan-lora" else "model.safetensors").is_file()
    if name == "vocab-extend":
        counts = record["counts"]
        assert counts["trained_parameters"] < counts["parameters"]  # type: ignore[index]
        assert Path("models", name, "new_tokens.json").is_file()


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_is_listed_here(name: str) -> None:
    assert name in {*ALONE, *CHAINED, "zhenhuan"}, "zhenhuan is built and trained by other tests"


def test_small_data_is_what_its_script_makes(tmp_path: Path) -> None:
    make = runpy.run_path(str(RECIPES / "data" / "make_small.py"))["main"]
    make(tmp_path)
    found = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(found) > 10
    assert all((RECIPES / "data" / path).read_bytes() == (tmp_path / path).read_bytes() for path in found)


def test_tinystories_at_its_own_size_has_the_layers_of_the_article(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    build_and_train("tinystories", TINY)
    tokenizer = json.loads(Path("shards/tinystories/tokenizer/tokenizer.json").read_text("utf-8"))
    num_tokens = len({*tokenizer["model"]["vocab"], *(token["content"] for token in tokenizer["added_tokens"])})
    assert plan(Path("shards/tinystories")).parameters == 19_532_032 - 2 * 256 * (32_000 - num_tokens)
