"""A whole training run on tiny shards: steps, curves, the folder it leaves, and all that must stop it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_fixture import TINY_LLAMA, Build, Document, counting, counting_rows, silent, tiny_settings, write_build
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftdata import storage
from sftdata.errors import DamagedError, DataError, LockedError, RecipeError, SftdataError, TokenizerError, TrainingError
from sftdata.sealing import sealed
from sftdata.shards import MANIFEST, open_shards
from sftdata.trainer import TrainResult, plan_training, run
from sftdata.trainer.model import Precision, make_model

SPLITS = {"train": counting_rows(20), "validation": counting_rows(4, first=5)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_build(tmp_path_factory.mktemp("shards") / "build", Build(SPLITS))


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def trained(shards: Path, lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Eight epochs of five steps."""
    return run(shards, tmp_path_factory.mktemp("models") / "tiny", tiny_settings(num_epochs=8, eval_steps=10), lines.append)


def curve(result: TrainResult) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.curves.read_text("utf-8"))
    return found


def losses(result: TrainResult) -> list[float]:
    return [point["train_loss"] for point in curve(result)]


def sealed_again(build: Path) -> None:
    """Write the manifest anew after a file of the build was changed on purpose."""
    manifest = json.loads((build / MANIFEST).read_text("utf-8"))
    for entry in manifest["files"]:
        path = build / entry["path"]
        entry.update(bytes=path.stat().st_size, xxh3=storage.file_digest(path))
    storage.write_bytes(build / MANIFEST, sealed(manifest))


def test_curves_start_at_step_zero_and_end_at_the_last(trained: TrainResult) -> None:
    points = curve(trained)
    assert [point["step"] for point in points] == list(range(41))
    assert [point["step"] for point in points if point["validation_loss"] is not None] == [0, 10, 20, 30, 40]
    assert all(point["train_loss"] > 0 for point in points)
    assert points[-1]["validation_loss"] == trained.validation_loss
    assert points[0]["validation_loss"] == trained.initial_validation_loss == pytest.approx(3.8, abs=0.1)


def test_validation_loss_falls(trained: TrainResult) -> None:
    assert trained.validation_loss is not None and trained.initial_validation_loss is not None
    assert trained.validation_loss < 0.6 * trained.initial_validation_loss


def test_steps_are_announced_before_the_first(lines: list[str], trained: TrainResult) -> None:
    announced = next(place for place, line in enumerate(lines) if "40 = 8.00 epochs of 5" in line)
    assert announced < next(place for place, line in enumerate(lines) if line.startswith("step "))
    assert trained.steps == 40
    assert any("20 rows, 420 tokens, 360 of them trained" in line for line in lines)
    assert any("parameters" in line and "of them trained" in line for line in lines)


def test_folder_opens_with_transformers_and_tells_its_origin(trained: TrainResult, shards: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained.out)
    assert (model.config.vocab_size, model.config.eos_token_id, model.config.use_cache) == (44, 1, True)
    assert AutoTokenizer.from_pretrained(trained.out).encode("w3 w4", add_special_tokens=False) == [7, 8]
    record = json.loads((trained.out / "train.json").read_text("utf-8"))
    assert record["shards"]["xxh3"] == open_shards(shards).manifest["xxh3"]
    assert record["counts"]["trained_tokens"] == 360 and record["steps"] == 40 and record["settings"]["num_epochs"] == 8
    assert (trained.out / "README.md").read_text("utf-8").startswith("---\nlibrary_name: transformers")
    assert "training, " in (trained.out / "curves.svg").read_text("utf-8")
    assert trained.picture.stat().st_size > 1000
    assert [path.name for path in trained.out.parent.iterdir() if path != trained.out] == [".tiny.lock"]


def test_samples_before_and_after_are_kept(trained: TrainResult) -> None:
    assert [sample.step for sample in trained.samples] == [0, 40]
    assert trained.samples[0].prompt == trained.samples[1].prompt != ""
    found = json.loads((trained.out / "samples.json").read_text("utf-8"))
    assert [(entry["step"], entry["text"]) for entry in found] == [(s.step, s.text) for s in trained.samples]


def test_same_seed_gives_the_same_losses_and_weights(shards: Path, tmp_path: Path) -> None:
    first, again, other = (
        run(shards, tmp_path / name, tiny_settings(max_steps=7, seed=seed), silent)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert losses(first) == losses(again) != losses(other)
    weights = [load_file(result.out / "model.safetensors") for result in (first, again)]
    assert len(weights[0]) > 10 and all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(("length", "steps"), [({"max_steps": 4}, 4), ({"num_epochs": 2}, 6), ({"num_epochs": 1.5}, 5)])
def test_steps_are_exact_with_accumulation(shards: Path, tmp_path: Path, length: dict[str, Any], steps: int) -> None:
    settings = tiny_settings(gradient_accumulation_steps=2, **length)
    result = run(shards, tmp_path / "model", settings, silent)
    assert result.steps == steps and curve(result)[-1]["step"] == steps


def test_accumulated_gradients_equal_one_large_batch(shards: Path, tmp_path: Path) -> None:
    whole, cut = (
        run(shards, tmp_path / str(micro), tiny_settings(num_epochs=2, micro_batch_size=micro, **more), silent)
        for micro, more in ((6, {}), (2, {"gradient_accumulation_steps": 3}))
    )
    assert len(losses(whole)) == 9
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)


def test_packed_and_unpacked_rows_train_alike(tmp_path: Path) -> None:
    documents = [row[0] for row in counting_rows(12)]
    packed = write_build(tmp_path / "packed", Build({"train": [documents[start : start + 3] for start in range(0, 12, 3)]}))
    alone = write_build(tmp_path / "alone", Build({"train": [[document] for document in documents]}, packed=False))
    model = {**TINY_LLAMA, "max_position_embeddings": 64}
    found = [
        run(build, tmp_path / f"{size}", tiny_settings(model=model, num_epochs=1, micro_batch_size=size), silent)
        for build, size in ((packed, 1), (alone, 3))
    ]
    assert len(losses(found[0])) == 5
    assert losses(found[0]) == pytest.approx(losses(found[1]), abs=1e-4)


def test_nan_stops_and_names_step_and_rows(tmp_path: Path) -> None:
    rows = counting_rows(8)
    rows[5][1] = replace(rows[5][1], weight=float("inf"))
    build = write_build(tmp_path / "build", Build({"train": rows}, weighted=True))
    with pytest.raises(TrainingError, match=r"step 3: the loss is (nan|inf).*nothing was saved") as caught:
        run(build, tmp_path / "model", tiny_settings(num_epochs=1, micro_batch_size=2), silent)
    assert "row 4 (count count.jsonl#12, " in str(caught.value) and "row 5 (count count.jsonl#15" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "build"]


def test_diverging_run_stops_and_keeps_the_last_good_snapshot(shards: Path, tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=9, learning_rate=1e38, warmup_ratio=0.5, save_steps=1, lr_scheduler="linear")
    with pytest.raises(TrainingError, match=r"loss is nan after step 2; .* good weights are in .*step-00000001"):
        run(shards, tmp_path / "model", settings, silent)
    assert [path.name for path in (tmp_path / "model.checkpoints").iterdir()] == ["step-00000001"]
    assert not (tmp_path / "model").exists()


def test_last_update_that_breaks_the_weights_is_not_published(tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build({"train": counting_rows(4)}))
    for rate, decay, words in ((1e38, 10.0, r"step 1: the update broke .*"), (2e37, 0.0, "loss is nan after the last step")):
        settings = tiny_settings(max_steps=1, learning_rate=rate, lr_scheduler="constant", weight_decay=decay)
        with pytest.raises(TrainingError, match=f"{words}.*nothing was saved"):
            run(build, tmp_path / "model", settings, silent)


def test_snapshots_are_models_and_only_the_newest_are_kept(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "model", tiny_settings(max_steps=6, save_steps=2), silent)
    folder = tmp_path / "model.checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000006"]
    assert AutoModelForCausalLM.from_pretrained(folder / "step-00000004").config.use_cache is True


def test_flipped_bit_is_found_before_training(tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build(SPLITS))
    shard = next(build.glob("train/*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match=r"train/data-00000.*does not match its checksum"):
        run(build, tmp_path / "model", tiny_settings(), silent)


def test_a_shard_without_a_checksum_and_a_folder_without_a_build_are_refused(tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build(SPLITS))
    manifest = json.loads((build / MANIFEST).read_text("utf-8"))
    assert any(entry["path"].startswith("train/data-") for entry in manifest["files"])
    manifest["files"] = [entry for entry in manifest["files"] if not entry["path"].startswith("train/data-")]
    storage.write_bytes(build / MANIFEST, sealed(manifest))
    with pytest.raises(DamagedError, match=r"train/data-.*arrow: has no checksum in manifest.json"):
        run(build, tmp_path / "model", tiny_settings(), silent)
    storage.make_folder(tmp_path / "empty")
    for folder, words in (("empty", "holds no finished build"), ("nowhere", "no such folder")):
        with pytest.raises(DataError, match=words) as caught:
            run(tmp_path / folder, tmp_path / "model", tiny_settings(), silent)
        assert "\n" not in str(caught.value)


def test_without_validation_the_curve_has_none(tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build({"train": counting_rows(4), "validation": []}))
    reported: list[str] = []
    result = run(build, tmp_path / "model", tiny_settings(max_steps=2), reported.append)
    assert [point["validation_loss"] for point in curve(result)] == [None, None, None]
    assert result.validation_loss is None and any(line.startswith("no row fell into the validation split") for line in reported)


@pytest.mark.parametrize(
    ("rows", "settings", "error", "words"),
    [
        ([], {}, TrainingError, "train split has no rows"),
        ([[counting(0, 5, 5)]], {}, TrainingError, "no token of the train split is trained"),
        ([[counting(0, 9)]], {"model": {**TINY_LLAMA, "max_position_embeddings": 8}}, TrainingError, "window is 8"),
        ([[counting(0, 9)]], {"model": {**TINY_LLAMA, "hiden_size": 3}}, RecipeError, "did you mean 'hidden_size'"),
        ([[counting(0, 9)]], {"model": {"model_type": "lama"}}, RecipeError, "did you mean 'llama'"),
        ([[counting(0, 9)]], {"model": {**TINY_LLAMA, "vocab_size": 9}}, RecipeError, "below the tokenizer's 44"),
        ([[counting(0, 9)]], {"model": {**TINY_LLAMA, "num_attention_heads": 5}}, RecipeError, "refuses these values"),
        ([[counting(0, 9)]], {"model": None, "base_model": "absent"}, TrainingError, "hub models|hub are written hub:org/name"),
        ([[counting(0, 9)]], {"attn_implementation": "flash_attention_2"}, TrainingError, "train.attn_implementation"),
        ([[counting(0, 9)]], {"bf16": True}, TrainingError, "no CUDA device with bf16"),
        ([[counting(0, 9)]], {"fp16": True}, TrainingError, "no CUDA device; leave fp16 out"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    tmp_path: Path, rows: list[Any], settings: dict[str, Any], error: type[SftdataError], words: str
) -> None:
    build = write_build(tmp_path / "build", Build({"train": rows}))
    with pytest.raises(error, match=words) as caught:
        run(build, tmp_path / "model", tiny_settings(**settings), silent)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists() and not list(tmp_path.glob(".model.tmp*"))


def test_token_outside_the_vocabulary_of_a_base_model_is_refused(trained: TrainResult, tmp_path: Path) -> None:
    row = counting(0, 9)
    build = write_build(tmp_path / "build", Build({"train": [[replace(row, ids=(*row.ids[:-1], 44))]]}))
    with pytest.raises(TrainingError, match="token id 44 is outside the model's vocabulary of 44"):
        run(build, tmp_path / "model", tiny_settings(model=None, base_model=str(trained.out)), silent)


def test_shards_of_another_vocabulary_than_the_base_are_refused(trained: TrainResult, tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build({"train": counting_rows(4)}))
    path = build / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["model"]["vocab"] |= {"w10": content["model"]["vocab"]["w11"], "w11": content["model"]["vocab"]["w10"]}
    path.write_text(json.dumps(content), "utf-8")
    sealed_again(build)
    settings = tiny_settings(model=None, base_model=str(trained.out), max_steps=1)
    words = r"another vocabulary than .*: 2 of 44 ids differ \(id 14 is 'w11' here, 'w10' there\); build with tokenizer: {path:"
    for refuses in (lambda: run(build, tmp_path / "model", settings, silent), lambda: plan_training(build, settings)):
        with pytest.raises(TrainingError, match=words) as caught:
            refuses()
        assert "\n" not in str(caught.value)


def test_labels_that_were_shifted_already_are_refused(tmp_path: Path) -> None:
    class Shifted(Document):
        @property
        def labels(self) -> list[int]:
            return [*self.ids[1:], -100]

    build = write_build(tmp_path / "build", Build({"train": [[Shifted(counting(0, 9).ids)]]}))
    with pytest.raises(TrainingError, match="8 labels are neither -100 nor the token in their place, as if shifted already"):
        run(build, tmp_path / "model", tiny_settings(), silent)


def test_masks_are_looked_at_before_the_first_step(tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build({"train": [*counting_rows(3), [counting(0, 9, 9)], [counting(1, 8, 0)]]}))
    manifest = json.loads((build / MANIFEST).read_text("utf-8"))
    lint = {"rows": 9, "trained_turns": 7, "untrained_rows": 0, "unstopped_turns": 2, "double_bos_rows": 0, "cut_answers": 0}
    storage.write_bytes(build / MANIFEST, sealed({**manifest, "sources": {"chats": {"mask_lint": lint}}}))
    lines: list[str] = []
    run(build, tmp_path / "model", tiny_settings(max_steps=1), lines.append)
    assert [line for line in lines if line.startswith("masks: ")] == [
        "masks: chats: 2 of 7 trained turns do not end in a stop token",
        "masks: the first token of 1 documents is trained",
        "masks: 1 of 5 rows have no trained token and teach nothing",
    ]


def test_damaged_tokenizer_and_base_model_are_refused(trained: TrainResult, tmp_path: Path) -> None:
    build = write_build(tmp_path / "build", Build({"train": counting_rows(2)}))
    base = tmp_path / "base"
    storage.make_folder(base)
    (base / "config.json").write_bytes((trained.out / "config.json").read_bytes())
    (base / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(TrainingError, match=r"base_model: .*is damaged|cannot be loaded"):
        run(build, tmp_path / "model", tiny_settings(model=None, base_model=str(base)), silent)
    (build / "tokenizer" / "tokenizer.json").write_text("{", "utf-8")
    sealed_again(build)
    with pytest.raises(TokenizerError, match="cannot be loaded"):
        run(build, tmp_path / "model", tiny_settings(), silent)


def test_out_folder_with_other_things_or_a_lock_is_left_alone(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no trained model"):
        run(shards, shards, tiny_settings(), silent)
    with storage.lock(tmp_path / "model"), pytest.raises(LockedError):
        run(shards, tmp_path / "model", tiny_settings(), silent)


def test_full_fine_tuning_goes_on_from_the_base(trained: TrainResult, shards: Path, tmp_path: Path) -> None:
    settings = tiny_settings(model=None, base_model=str(trained.out), max_steps=2, learning_rate=1e-5)
    result = run(shards, tmp_path / "model", settings, silent)
    assert result.initial_validation_loss == pytest.approx(trained.validation_loss, abs=1e-5)


def test_llama_of_the_tinystories_article_has_its_number_of_parameters() -> None:
    class Tokens:
        bos_token_id, eos_token_id, pad_token_id = 1, 2, None

        def __len__(self) -> int:
            return 32_000

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 8}
    settings = tiny_settings(model={"model_type": "llama", **sizes})
    tokens: Any = Tokens()
    with torch.device("meta"):
        model = make_model(settings, tokens, 2048, Precision(bf16=False, fp16=False))
    assert sum(parameter.numel() for parameter in model.parameters()) == 19_532_032
    assert len(list(model.parameters())) == 39
