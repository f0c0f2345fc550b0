"""`train --plan`: steps, tokens, memory and learning rate before anything is paid for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from build_support import needs_shared
from click.testing import CliRunner
from train_fixture import TINY_LLAMA, Build, counting, counting_rows, silent, tiny_settings, write_build
from transformers import AutoConfig, AutoModelForCausalLM

from sftdata.cli import main
from sftdata.errors import TrainingError
from sftdata.trainer import TrainResult, estimate, plan_training, run
from sftdata.trainer.advice import dominant_source
from sftdata.trainer.plan import plan_run, scaled_learning_rate


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": counting_rows(20), "validation": counting_rows(4, first=5)}
    return write_build(tmp_path_factory.mktemp("shards") / "build", Build(splits))


@pytest.fixture(scope="module")
def base(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(shards, tmp_path_factory.mktemp("base") / "base", tiny_settings(max_steps=2), silent)


def test_learning_rate_of_the_guide_is_the_worked_example() -> None:
    expected = json.loads(needs_shared("parity/requirements_004/expected.json").read_text("utf-8"))["learning_rate"]
    given = expected["inputs"]
    per_step = given["supervised_tokens"] / (given["steps"] / given["epochs"])
    found = scaled_learning_rate(given["base_lr"], per_step, given["pretrain_batch_tokens"])
    assert found == pytest.approx(expected["result"], rel=1e-12) and f"{found:.8f}" == expected["seed_prints"]


def test_learning_rate_example_without_the_reference() -> None:
    assert scaled_learning_rate(5e-5, 2_000_000 / 350, 4_000_000) == pytest.approx(1.8898e-6, rel=1e-4)


def test_max_steps_of_the_atom_recipe_are_514_9_full_epochs() -> None:
    found = plan_run(3729, tiny_settings(micro_batch_size=16, max_steps=120_000))
    assert found.num_full_epochs == pytest.approx(514.9, abs=0.05)
    assert found.num_epochs == pytest.approx(512.82, abs=0.01), "the last step of an epoch is smaller, so it takes 234 of them"


def test_plan_counts_what_the_run_then_does(shards: Path, tmp_path: Path) -> None:
    settings = tiny_settings(num_epochs=3)
    found, lines = plan_training(shards, settings), []
    result = run(shards, tmp_path / "model", settings, lines.append)
    record = json.loads((result.out / "train.json").read_text("utf-8"))
    assert (found.steps, found.epochs) == (result.steps, record["epochs"]) == (15, 3.0)
    assert found.tokens == 3 * record["counts"]["tokens"] and found.trained_tokens == 3 * record["counts"]["trained_tokens"]
    assert found.parameters == record["counts"]["parameters"] == found.trained_parameters
    assert set(found.lines) & set(lines) >= {"train: 20 rows, 420 tokens, 360 of them trained"}


def test_plan_of_an_adapter_knows_its_base_without_loading_it(shards: Path, base: TrainResult, tmp_path: Path) -> None:
    lora = tiny_settings(model=None, base_model=str(base.out), adapter="lora", learning_rate="auto", lora_r=4)
    found = plan_training(shards, lora)
    result = run(shards, tmp_path / "model", replace(lora, max_steps=1), silent)
    counts = json.loads((result.out / "train.json").read_text("utf-8"))["counts"]
    assert (found.parameters, found.trained_parameters) == (counts["parameters"], counts["trained_parameters"])
    assert found.learning_rate == found.suggested_learning_rate == pytest.approx(3e-4 * (360 / 5 / 4e6) ** 0.5)


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("llama", {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 344}),
        ("gpt2", {"n_embd": 128, "n_layer": 3, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    ],
)
def test_activations_counted_on_shapes_are_those_of_a_real_forward_pass(model_type: str, options: dict[str, Any]) -> None:
    rows, length = 3, 200
    config = AutoConfig.for_model(model_type, vocab_size=500, bos_token_id=0, eos_token_id=1, **options)
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(config)
    job: Any = SimpleNamespace(
        facts=SimpleNamespace(longest_row=length, num_rows=99), precision=SimpleNamespace(name="float32"),
        settings=SimpleNamespace(gradient_checkpointing=False),
    )
    estimated = estimate.activation_bytes(shape, job, rows)
    model = AutoModelForCausalLM.from_config(config).train()
    weights = {weight.data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=torch.ones((rows, length), dtype=torch.long), use_cache=False).logits
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) + 8 * logits.numel()
    assert measured > 1_000_000
    assert estimated == pytest.approx(measured, rel=0.2)


def test_too_little_memory_says_by_how_much_and_suggests_a_split(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(micro_batch_size=8)
    whole = plan_training(shards, settings).memory
    half = plan_training(shards, tiny_settings(micro_batch_size=4)).memory
    assert half.activations == pytest.approx(whole.activations / 2, rel=0.1)
    monkeypatch.setattr(estimate, "available_memory", lambda: half.total + 1)
    (line,) = (line for line in plan_training(shards, settings).lines if line.startswith("memory:"))
    assert "too little by" in line and "micro_batch_size: 4 and gradient_accumulation_steps: 2 make the same batches" in line
    monkeypatch.setattr(estimate, "available_memory", lambda: 1)
    assert any("even one row is too many" in line for line in plan_training(shards, settings).lines)


def test_padding_is_counted_after_grouping_by_length(tmp_path: Path) -> None:
    rows = [[counting(0, length)] for length in (4, 12, 4, 12)]
    build = write_build(tmp_path / "build", Build({"train": rows}, packed=False))
    assert plan_training(build, tiny_settings(micro_batch_size=2, gradient_accumulation_steps=2)).padding == 0.0
    assert plan_training(build, tiny_settings(micro_batch_size=2)).padding == pytest.approx(1 - 32 / 48)


def test_advice_names_what_experience_warns_of(shards: Path, base: TrainResult) -> None:
    full = tiny_settings(model=None, base_model=str(base.out), num_epochs=20)
    lines = [line for line in plan_training(shards, full).lines if line.startswith("advice:")]
    assert any("10 MB are the least" in line for line in lines)
    assert any("trained 20.0 times" in line for line in lines)
    assert not any("10 MB" in line for line in plan_training(shards, replace(full, adapter="lora")).lines)
    assert any("only 5 steps" in line for line in plan_training(shards, tiny_settings()).lines)
    counts = {"book": {"tokenize": {"tokens": 90}}, "chat": {"tokenize": {"tokens": 10}}}
    assert dominant_source({"sources": counts}) == ("book", 0.9)
    assert dominant_source({"sources": {"book": {"tokenize": {"tokens": 90}}}}) == ("", 0.0)


def test_command_prints_the_plan_and_writes_nothing(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    model = json.dumps(TINY_LLAMA)
    source = "sources: [{name: a, path: a.jsonl, ingest: jsonl, format: text}]"
    recipe.write_text(f"name: a\ntokenizer: {{train: {{vocab_size: 300}}}}\n{source}\ntrain: {{model: {model}}}\n", "utf-8")
    found = CliRunner().invoke(main, ["train", str(shards), "--recipe", str(recipe), "--plan", "--json"])
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["steps"] == 3
    assert any(line.startswith("memory:") for line in found.stderr.splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_plan_refuses_what_training_would(tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build({"train": [[counting(0, 9)]]}))
    with pytest.raises(TrainingError, match="window is 8"):
        plan_training(build, tiny_settings(model={**TINY_LLAMA, "max_position_embeddings": 8}))
