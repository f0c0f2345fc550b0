"""The usual controls: what is trained, how it starts, when it stops, what is kept, and what is told of it."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from build_support import needs_shared
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from train_fixture import Build, counting_rows, silent, tiny_settings, write_build
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from sftdata.errors import RecipeError, TrainingError
from sftdata.trainer import TrainResult, checkpoints, probe, run, shard_trainer
from sftdata.trainer.data import PackedBatches, PlannedUpdates
from sftdata.trainer.job import prepare
from sftdata.trainer.model import Precision, load_tokenizer, make_model
from sftdata.trainer.progress import Meter, duration, flops_per_token, speed_words
from sftdata.trainer.shard_trainer import ShardTrainer

SPLITS = {"train": counting_rows(12), "validation": counting_rows(3, first=5)}
TINY_GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_build(tmp_path_factory.mktemp("shards") / "build", Build(SPLITS))


@pytest.fixture(scope="module")
def base(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(shards, tmp_path_factory.mktemp("base") / "base", tiny_settings(max_steps=3), silent)


def curve(result: TrainResult) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = json.loads(result.curves.read_text("utf-8"))
    return points


def made(shards: Path, **changes: Any) -> Any:
    torch.manual_seed(1)
    return make_model(tiny_settings(**changes), load_tokenizer(shards / "tokenizer"), 64, Precision(bf16=False, fp16=False))


def test_kaiming_is_uniform_by_fan_in_and_leaves_gains(shards: Path) -> None:
    for name, weight in made(shards, init="kaiming").named_parameters():
        if weight.dim() > 1:
            bound = math.sqrt(6 / weight.shape[1])
            assert 0.9 * bound < float(weight.detach().abs().max()) <= bound, name
        else:
            assert bool((weight == 1).all()), name


def test_normal_has_its_deviation(shards: Path) -> None:
    weight = made(shards, init="normal").get_input_embeddings().weight
    assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_kaiming_begins_worse_as_the_reference_says(shards: Path, tmp_path: Path) -> None:
    losses = [
        run(shards, tmp_path / init, tiny_settings(init=init, max_steps=1), silent).initial_validation_loss
        for init in ("default", "kaiming")
    ]
    assert losses[0] is not None and losses[1] is not None and losses[1] > losses[0] > 3.5


def test_llama_of_the_article_has_every_tensor_of_the_reference() -> None:
    expected = json.loads(needs_shared("parity/tinystories/model_parameters.json").read_text("utf-8"))

    class Tokens:
        bos_token_id, eos_token_id, pad_token_id = 1, 2, None

        def __len__(self) -> int:
            return 32_000

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 8}
    tokens: Any = Tokens()
    with torch.device("meta"):
        model = make_model(
            tiny_settings(model={"model_type": "llama", **sizes}), tokens, 2048, Precision(bf16=False, fp16=False)
        )
    shapes = {name: list(weight.shape) for name, weight in model.named_parameters()}
    assert shapes == {tensor["name"]: tensor["shape"] for tensor in expected["tensors"]} and len(shapes) == 39
    assert sum(weight.numel() for weight in model.parameters()) == expected["total_parameters"] == 19_532_032


def test_dropout_is_set_where_the_model_has_one_and_refused_elsewhere(shards: Path) -> None:
    assert made(shards, dropout=0.2).config.attention_dropout == 0.2
    config = made(shards, model=TINY_GPT2, dropout=0.3).config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.3, 0.3, 0.3)
    with pytest.raises(RecipeError, match="models of type mamba have no dropout"):
        made(shards, model={"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1}, dropout=0.1)


@pytest.mark.parametrize("packed", [True, False])
def test_gpt2_learns_on_either_layout(tmp_path: Path, packed: bool) -> None:
    rows = {name: rows if packed else [[row[0]] for row in rows] for name, rows in SPLITS.items()}
    build = write_build(tmp_path / "build", Build(rows, packed=packed))
    result = run(build, tmp_path / "model", tiny_settings(model=TINY_GPT2, num_epochs=4), silent)
    assert result.initial_validation_loss is not None and result.validation_loss is not None
    assert min(point["validation_loss"] or 9 for point in curve(result)) < result.initial_validation_loss - 0.1


def test_lora_on_gpt2_trains_its_transposed_layers(shards: Path, tmp_path: Path) -> None:
    base = run(shards, tmp_path / "base", tiny_settings(model=TINY_GPT2, max_steps=1), silent)
    lora = tiny_settings(model=None, base_model=str(base.out), adapter="lora", max_steps=2, lora_target_modules=("c_attn",))
    names = load_file(run(shards, tmp_path / "lora", lora, silent).out / "adapter_model.safetensors")
    assert len(names) == 4 and all("c_attn" in name for name in names)


def test_embeddings_alone_are_trained_where_asked(shards: Path, base: TrainResult, tmp_path: Path) -> None:
    settings = tiny_settings(model=None, base_model=str(base.out), trainable="embeddings", max_steps=2)
    found = run(shards, tmp_path / "model", settings, silent)
    before, after = (load_file(result.out / "model.safetensors") for result in (base, found))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"} and len(before) > 10


def test_neftune_changes_the_training_loss_and_not_the_validation_of_the_start(shards: Path, tmp_path: Path) -> None:
    quiet, noisy = (
        run(shards, tmp_path / str(alpha), tiny_settings(max_steps=2, neftune_noise_alpha=alpha), silent) for alpha in (0, 20)
    )
    assert quiet.initial_validation_loss == noisy.initial_validation_loss
    assert curve(quiet)[1]["train_loss"] != curve(noisy)[1]["train_loss"]


def test_gradient_checkpointing_changes_no_loss(shards: Path, tmp_path: Path) -> None:
    found = [
        run(shards, tmp_path / str(on), tiny_settings(max_steps=3, gradient_checkpointing=on), silent) for on in (False, True)
    ]
    losses = [[point["train_loss"] for point in curve(result)] for result in found]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_early_stopping_stops_and_the_best_model_is_published(shards: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    settings = tiny_settings(
        max_steps=60, eval_steps=2, learning_rate=0.03, lr_scheduler="constant", warmup_ratio=0.0,
        early_stopping_patience=3, load_best_model_at_end=True,
    )
    result = run(shards, tmp_path / "model", settings, lines.append)
    record = json.loads((result.out / "train.json").read_text("utf-8"))
    losses = {point["step"]: point["validation_loss"] for point in curve(result) if point["validation_loss"] is not None}
    best = min(losses, key=lambda step: losses[step])
    assert result.steps < 60 and record["stopped_early"] and record["best_step"] == best < result.steps - 4
    assert any("stopped early: validation was best" in line for line in lines)
    by_source = record["validation_by_source"]["count"]
    assert by_source["loss"] == pytest.approx(losses[best], abs=1e-4), "the weights are those of the best step"
    assert (checkpoints.folder_of(result.out) / "best" / "model.safetensors").is_file()


def test_best_model_and_early_stopping_need_validation(tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build({"train": counting_rows(4)}))
    with pytest.raises(TrainingError, match=r"early_stopping_patience: .*no validation split"):
        run(build, tmp_path / "model", tiny_settings(early_stopping_patience=2), silent)


def rates(lines: Sequence[str]) -> list[float]:
    return [float(line.split("lr ")[1].split()[0]) for line in lines if "  lr " in line]


def test_warmup_rises_and_cosine_ends_at_its_floor(shards: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    settings = tiny_settings(max_steps=10, warmup_steps=4, learning_rate=1e-2, min_lr_ratio=0.1)
    run(shards, tmp_path / "model", settings, lines.append)
    found = rates(lines)
    assert found[:5] == pytest.approx([0, 2.5e-3, 5e-3, 7.5e-3, 1e-2])
    assert found[4:] == sorted(found[4:], reverse=True) and 1e-3 < found[-1] < 2e-3


def test_samples_are_written_during_training(shards: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    settings = tiny_settings(max_steps=6, sample_steps=2, sample_prompts=("w3",))
    result = run(shards, tmp_path / "model", settings, lines.append)
    assert [sample.step for sample in result.samples] == [0, 2, 4, 6]
    assert any(line.startswith("sample after step 2: 'w3'") for line in lines)


def test_losses_by_source_and_the_hardest_samples_have_their_origin(shards: Path, base: TrainResult) -> None:
    record = json.loads((base.out / "train.json").read_text("utf-8"))
    assert record["validation_by_source"]["count"]["documents"] == 9
    assert record["validation_by_source"]["count"]["loss"] == pytest.approx(base.validation_loss, abs=1e-6)
    found = json.loads((base.out / "hardest.json").read_text("utf-8"))
    assert [entry["loss"] for entry in found] == sorted((entry["loss"] for entry in found), reverse=True)
    assert {entry["split"] for entry in found} == {"train", "validation"}
    first = next(entry for entry in found if entry["split"] == "validation")
    assert first["source"] == "count" and first["id"] == f"count.jsonl#{3 * first['row'] + first['segment']}"


def test_model_card_tells_diagnosis_and_losses_by_source(base: TrainResult) -> None:
    card = (base.out / "README.md").read_text("utf-8")
    assert base.diagnosis and base.diagnosis[0] in card
    assert "| count |" in card


def test_running_out_of_memory_halves_the_micro_batch_and_keeps_the_batches(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(shards, tmp_path / "expected", tiny_settings(max_steps=4), silent)
    loss = ShardTrainer._loss

    def too_large(self: Any, model: Any, batch: Any, mass: Any) -> Any:
        if len(batch["rows"]) > 1:
            raise torch.OutOfMemoryError
        return loss(self, model, batch, mass)

    monkeypatch.setattr(ShardTrainer, "_loss", too_large)
    lines: list[str] = []
    found = run(shards, tmp_path / "found", tiny_settings(max_steps=4), lines.append)
    assert [line.split(":")[0] for line in lines if "out of memory" in line] == [
        "out of memory with 4 rows at a time", "out of memory with 2 rows at a time"
    ]
    assert [point["train_loss"] for point in curve(found)] == pytest.approx(
        [point["train_loss"] for point in curve(expected)], abs=1e-5
    )

    ahead: list[Any] = []

    def read_ahead(updates: PlannedUpdates, first: int, num_workers: int = 0) -> Any:
        ahead.extend(updates[step] for step in range(first, len(updates)))
        return DataLoader(ahead, batch_size=None)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_trainer, "update_loader", read_ahead)
    lines.clear()
    again = run(shards, tmp_path / "again", tiny_settings(max_steps=4), lines.append)
    assert len(ahead) == 4 and {len(batch["rows"]) for update in ahead for batch in update["batches"]} == {4}
    assert sum("out of memory" in line for line in lines) == 2, "those that were read ahead are cut before they are tried"
    assert curve(again) == curve(found)

    def always(self: Any, model: Any, batch: Any, mass: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ShardTrainer, "_loss", always)
    with pytest.raises(TrainingError, match="out of memory with one row at a time"):
        run(shards, tmp_path / "never", tiny_settings(max_steps=4), silent)


def test_a_step_at_the_longest_rows_halves_the_micro_batch_before_the_first_step(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    job = prepare(shards, tiny_settings(), lines.append)
    model = made(shards)
    updates = PlannedUpdates(job.train, job.plan, 1, PackedBatches(0))
    tried: list[list[int]] = []
    forward_backward = probe._forward_backward

    def too_large(model: Any, batch: Any, job: Any) -> None:
        tried.append(batch["rows"])
        if len(batch["rows"]) > 1:
            raise torch.OutOfMemoryError
        forward_backward(model, batch, job)

    monkeypatch.setattr(probe, "_forward_backward", too_large)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    probe.find_room(model, updates, job)
    assert [len(rows) for rows in tried] == [4, 2, 1] and updates.micro_batch_size == 1
    assert job.train.lengths()[tried[-1][0]] == job.facts.longest_row
    assert all(weight.grad is None for weight in model.parameters()), "nothing of the probe is left for the first update"
    assert sum("longest rows do not fit" in line for line in lines) == 2


def test_chained_stage_goes_on_from_the_model_of_another_recipe(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = run(shards, Path("models/first"), tiny_settings(max_steps=2), silent)
    second = run(shards, Path("models/second"), tiny_settings(model=None, from_="first", max_steps=1), silent)
    assert second.initial_validation_loss == pytest.approx(first.validation_loss, abs=1e-5)
    with pytest.raises(TrainingError, match="models/third holds no model"):
        run(shards, Path("models/x"), tiny_settings(model=None, from_="third"), silent)


def test_qlora_needs_cuda_and_says_what_to_do(shards: Path, base: TrainResult, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(TrainingError, match=r"qlora needs a CUDA device; adapter: lora trains"):
        run(shards, tmp_path / "model", tiny_settings(model=None, base_model=str(base.out), adapter="qlora"), silent)


@pytest.mark.parametrize("name", ["wandb", "trackio", "swanlab"])
def test_trackers_are_known_and_refused_where_they_are_not_installed(shards: Path, tmp_path: Path, name: str) -> None:
    assert name in INTEGRATION_TO_CALLBACK
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(TrainingError, match=f"the package {name} is not installed: pip install {name}"):
        run(shards, tmp_path / "model", tiny_settings(report_to=name), silent)


@pytest.mark.parametrize("report_to", ["tensorboard", "auto"])
def test_tensorboard_gets_losses_and_speed_beside_the_model(shards: Path, tmp_path: Path, report_to: str) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run(shards, tmp_path / "model", tiny_settings(max_steps=2, report_to=report_to), silent)
    (events,) = (tmp_path / "model.runs").glob("events.*")
    data = events.read_bytes()
    assert all(name in data for name in (b"train/loss", b"eval/loss", b"train/tokens_per_second"))


def test_speed_knows_tokens_peak_and_time_left(shards: Path) -> None:
    model = made(shards)
    embedding = model.get_input_embeddings().weight.numel()
    matrices = sum(weight.numel() for weight in model.parameters() if weight.dim() > 1) - embedding
    assert flops_per_token(model, 10.0) == 6 * matrices + 6 * 2 * 32 * 10.0
    meter = Meter(10, flops_per_token=2.0, peak=1e12)
    meter.start(0)
    meter.add(1000, 400)
    speed = meter.lap(5)
    assert speed["trained_tokens_per_second"] == pytest.approx(0.4 * speed["tokens_per_second"])
    assert speed["mfu"] == pytest.approx(speed["tokens_per_second"] * 2 / 1e12)
    assert "MFU" in speed_words(speed) and speed_words(speed).endswith("left")
    assert (duration(59.6), duration(3725)) == ("1:00", "1:02:05")


def test_a_base_that_only_gets_worse_is_published_as_it_was(shards: Path, base: TrainResult, tmp_path: Path) -> None:
    worse = {"learning_rate": 5.0, "warmup_ratio": 0.0, "max_steps": 2, "eval_steps": 1, "load_best_model_at_end": True}
    found = run(shards, tmp_path / "model", tiny_settings(model=None, base_model=str(base.out), **worse), silent)
    before, after = (load_file(result.out / "model.safetensors") for result in (base, found))
    assert len(before) > 10 and all(torch.equal(before[name], after[name]) for name in before)
