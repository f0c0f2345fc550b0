"""LoRA: only adapters are trained, they reload with their base, and targets are checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from train_fixture import TINY_LLAMA, Build, Document, counting_rows, save_tokenizer, silent, tiny_settings, write_build

from sftdata import storage
from sftdata.cli import main
from sftdata.errors import RecipeError, TrainingError
from sftdata.sealing import sealed
from sftdata.trainer import TrainResult, TrainSettings, generate, merge_lora, run
from sftdata.trainer.sampling import load_trained


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": counting_rows(20), "validation": counting_rows(4, first=5)}
    return write_build(tmp_path_factory.mktemp("shards") / "build", Build(splits))


@pytest.fixture(scope="module")
def base(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(shards, tmp_path_factory.mktemp("base") / "base", tiny_settings(max_steps=10), silent)


def lora(base: TrainResult, **changes: Any) -> TrainSettings:
    return tiny_settings(model=None, base_model=str(base.out), adapter="lora", max_steps=10, lora_alpha=32, **changes)


@pytest.fixture(scope="module")
def adapted(base: TrainResult, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(shards, tmp_path_factory.mktemp("adapter") / "adapter", lora(base), silent)


def tensor_names(folder: Path) -> list[str]:
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return list(file.keys())


def test_lora_trains_and_saves_adapters_only(adapted: TrainResult) -> None:
    assert adapted.validation_loss is not None and adapted.initial_validation_loss is not None
    assert adapted.validation_loss < adapted.initial_validation_loss - 0.03
    names = tensor_names(adapted.out)
    assert len(names) == 2 * 7 * 2 and all("lora_" in name for name in names)
    assert not (adapted.out / "model.safetensors").exists()
    counts = json.loads((adapted.out / "train.json").read_text("utf-8"))["counts"]
    assert 0 < counts["trained_parameters"] < counts["parameters"] / 2


def test_lora_starts_as_its_base(adapted: TrainResult, base: TrainResult) -> None:
    assert adapted.initial_validation_loss == pytest.approx(base.validation_loss, abs=1e-5)


def test_adapter_reloads_with_its_base_and_writes_what_it_wrote(adapted: TrainResult) -> None:
    model, tokenizer = load_trained(adapted.out)
    assert type(model).__name__ == "PeftModelForCausalLM" and len(tokenizer) == 44
    with_adapter = generate(adapted.out, "w3 w4 w5", temperature=0, max_new_tokens=8, chat=False)
    assert with_adapter == generate(adapted.out, "w3 w4 w5", temperature=0, max_new_tokens=8, chat=False) != ""


def test_lora_targets_by_name(base: TrainResult, shards: Path, tmp_path: Path) -> None:
    result = run(shards, tmp_path / "model", lora(base, lora_target_modules=("q_proj", "down_proj")), silent)
    found = {name.split(".")[-3] for name in tensor_names(result.out)}
    assert found == {"q_proj", "down_proj"}


def test_lora_target_that_matches_nothing_is_refused_with_the_names(base: TrainResult, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'W_pack' matches no module; this model has .*q_proj"):
        run(shards, tmp_path / "model", lora(base, lora_target_modules=("q_proj", "W_pack")), silent)


def test_lora_on_a_tokenizer_with_new_tokens_trains_the_embeddings(base: TrainResult, tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build({"train": counting_rows(4)}))
    tokenizer = save_tokenizer(tmp_path / "grown", bos_token="<s>", eos_token="</s>")
    tokenizer.add_tokens(["new1", "new2"])
    tokenizer.save_pretrained(str(build / "tokenizer"))
    manifest = json.loads((build / "manifest.json").read_text("utf-8"))
    manifest["files"] = [entry for entry in manifest["files"] if not entry["path"].startswith("tokenizer")]
    storage.write_bytes(build / "manifest.json", sealed(manifest))
    result = run(build, tmp_path / "model", lora(base), silent)
    assert any("embed_tokens" in name for name in tensor_names(result.out))
    model, loaded = load_trained(result.out)
    assert len(loaded) == 46 and model.get_input_embeddings().weight.shape[0] == 64
    assert Document((0, 1)).labels == [-100, 1]


def test_adapter_as_base_model_is_refused(adapted: TrainResult, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="it is an adapter"):
        run(shards, tmp_path / "model", tiny_settings(model=None, base_model=str(adapted.out)), silent)


def test_training_goes_on_from_an_adapter(adapted: TrainResult, base: TrainResult, shards: Path, tmp_path: Path) -> None:
    settings = tiny_settings(
        model=None, base_model=str(base.out), adapter="lora", lora_model_dir=str(adapted.out), max_steps=3
    )
    found = run(shards, tmp_path / "model", settings, silent)
    assert found.initial_validation_loss == pytest.approx(adapted.validation_loss, abs=1e-5)
    assert json.loads((found.out / "adapter_config.json").read_text("utf-8"))["lora_alpha"] == 32, "the adapter's own"
    assert tensor_names(found.out) == tensor_names(adapted.out)


def test_adapter_of_another_model_is_refused(adapted: TrainResult, shards: Path, tmp_path: Path) -> None:
    wide = {**TINY_LLAMA, "hidden_size": 16}
    other = run(shards, tmp_path / "other", tiny_settings(model=wide, max_steps=1), silent)
    settings = tiny_settings(model=None, base_model=str(other.out), adapter="lora", lora_model_dir=str(adapted.out))
    with pytest.raises(TrainingError, match="the adapter does not fit its base") as caught:
        run(shards, tmp_path / "model", settings, silent)
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainingError, match="holds no adapter"):
        run(shards, tmp_path / "model", replace(settings, lora_model_dir=str(other.out)), silent)


def test_an_adapter_that_goes_on_with_another_base_is_said(
    adapted: TrainResult, base: TrainResult, shards: Path, tmp_path: Path
) -> None:
    other = run(shards, tmp_path / "other", tiny_settings(max_steps=1), silent)
    for folder, said in ((base.out, 0), (other.out, 1)):
        lines: list[str] = []
        settings = tiny_settings(
            model=None, base_model=str(folder), adapter="lora", lora_model_dir=str(adapted.out), max_steps=1
        )
        run(shards, tmp_path / "model", settings, lines.append)
        assert sum(f"was trained on {base.out} and goes on with" in line for line in lines) == said


def test_merged_adapter_is_a_whole_model_that_writes_the_same(adapted: TrainResult, base: TrainResult, tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["merge-lora", str(adapted.out), "--out", str(tmp_path / "merged")])
    assert found.exit_code == 0, found.stderr
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    ids = torch.tensor([[0, 5, 6, 7, 8]])
    with torch.no_grad():
        folders = (adapted.out, tmp_path / "merged", base.out)
        adapter, merged, plain = (load_trained(folder)[0](ids).logits for folder in folders)
    assert torch.allclose(adapter, merged, atol=1e-5) and not torch.allclose(adapter, plain, atol=1e-3)
    with pytest.raises(TrainingError, match="holds no adapter"):
        merge_lora(tmp_path / "merged", tmp_path / "again")
