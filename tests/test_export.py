"""Every export is read back: by the program that it is for, or by a reader that follows the definition of its format."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from build_support import write_small_recipe

import sftdata
from sftdata import storage
from sftdata.commands.keep import CONSUMERS
from sftdata.errors import DamagedError, DataError, RecipeError
from sftdata.exporters import EXPORTERS
from sftdata.exporting import EXPORT_FILE, export
from sftdata.sealing import read_sealed
from sftdata.views.decoding import Decoder

IGNORE = -100


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe with one sample a row."""
    folder = tmp_path_factory.mktemp("unpacked")
    return sftdata.build(write_small_recipe(folder / "raw", pack={"strategy": "padding"}), out=folder / "shards").folder


def documents(shards: Path, split: str) -> list[tuple[list[int], list[int]]]:
    """Return (input_ids, labels) of every document of a split, in order."""
    found = sftdata.open_shards(shards).splits[split]
    rows = []
    for number in range(found.num_rows):
        row = found.row(number)
        ends = np.cumsum(row["seq_lengths"] if found.packed else [len(row["input_ids"])])
        pieces = [np.split(row[name], ends[:-1]) for name in ("input_ids", "labels")]
        rows += [(ids.tolist(), labels.tolist()) for ids, labels in zip(*pieces, strict=True)]
    return rows


@pytest.mark.parametrize("to", EXPORTERS)
def test_export_is_whole_and_the_same_each_time(small: Path, tmp_path: Path, to: str) -> None:
    first = export(small, to=to, out=tmp_path / "a")
    export(small, to=to, out=tmp_path / "b" / "c")
    listed = read_sealed(tmp_path / "a" / EXPORT_FILE)["files"]
    on_disk = {path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert {entry["path"] for entry in listed} | {EXPORT_FILE} == on_disk and len(listed) > 3
    assert listed == first.files
    for name in on_disk:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / "c" / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.lock", "a", "b"]


def test_consumers_are_the_listed_ones() -> None:
    assert sorted(CONSUMERS.split("|")) == sorted(EXPORTERS)


def tiny_model(vocab_size: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes))


@pytest.mark.filterwarnings("ignore")  # of the consumer's own libraries
@pytest.mark.parametrize("layout", ["small", "unpacked"])
def test_trl_trains_the_rows_as_they_are(
    layout: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trl = pytest.importorskip("trl")
    from datasets import load_dataset
    from transformers import AutoTokenizer

    shards = request.getfixturevalue(layout)
    export(shards, to="trl", out=tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    parser = trl.TrlParser((trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, trl.DatasetMixtureConfig))
    here = ["--config", "trl.yaml", "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    script, config, model, _ = parser.parse_args_and_config(here, fail_with_unknown_args=True)
    assert (config.max_length, config.packing, config.padding_free) == (None, False, layout == "small")
    assert model.attn_implementation == ("flash_attention_2" if layout == "small" else None)
    dataset = load_dataset(script.dataset_name, cache_dir=str(tmp_path / "cache"))
    tokenizer = AutoTokenizer.from_pretrained("tokenizer")
    trainer = trl.SFTTrainer(
        model=tiny_model(len(tokenizer)),
        args=config,
        train_dataset=dataset[script.dataset_train_split],
        eval_dataset=dataset[script.dataset_test_split],
        processing_class=tokenizer,
    )
    expected = documents(shards, "train")
    assert len(expected) > 50
    assert trl_documents(trainer.get_train_dataloader(), padding_free=config.padding_free) == expected


def trl_documents(batches: Any, padding_free: bool) -> list[tuple[list[int], list[int]]]:
    """Return the documents as the model is given them: position 0 begins one, or every row is one."""
    found = []
    for batch in batches:
        for number, ids in enumerate(batch["input_ids"]):
            labels = batch["labels"][number]
            if padding_free:
                starts = (batch["position_ids"][number] == 0).nonzero().flatten().tolist()
            else:
                length = int(batch["attention_mask"][number].sum())
                ids, labels, starts = ids[:length], labels[:length], [0]
            for first, end in zip(starts, [*starts[1:], len(ids)], strict=True):
                found.append((ids[first:end].tolist(), labels[first:end].tolist()))
    return found


@pytest.mark.parametrize("to", ["axolotl", "llamafactory"])
@pytest.mark.parametrize("layout", ["small", "unpacked"])
def test_tokenized_documents_open_with_exactly_three_columns(
    to: str, layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from datasets import load_from_disk

    shards = request.getfixturevalue(layout)
    export(shards, to=to, out=tmp_path / "out")
    dataset = load_from_disk(str(tmp_path / "out" / "data"))
    assert set(dataset) == {"train", "validation"}
    for split, rows in dataset.items():
        assert set(rows.column_names) == {"input_ids", "labels", "attention_mask"}
        assert {str(rows.features[name].feature.dtype) for name in ("input_ids", "labels")} == {"int32"}
        assert [(row["input_ids"], row["labels"]) for row in rows] == documents(shards, split)
        assert all(row["attention_mask"] == [1] * len(row["input_ids"]) for row in rows)
    assert dataset["train"].num_rows > 50
    assert set(load_from_disk(str(tmp_path / "out" / "data" / "train")).column_names) == set(rows.column_names)


def test_unpacked_shards_are_handed_on_without_a_copy(unpacked: Path, tmp_path: Path) -> None:
    export(unpacked, to="axolotl", out=tmp_path / "out")
    name = "train/data-00000-of-00001.arrow"
    assert (tmp_path / "out" / "data" / name).samefile(unpacked / name)


def test_configurations_take_over_what_the_recipe_trains_with(tmp_path: Path) -> None:
    train = {"base_model": "hub:org/name", "adapter": "lora", "lora_r": 4, "learning_rate": 0.002, "lr_scheduler": "constant"}
    shards = sftdata.build(write_small_recipe(tmp_path / "raw", train=train), out=tmp_path / "shards").folder
    configs = {}
    for to in ("trl", "axolotl", "llamafactory"):
        assert export(shards, to=to, out=tmp_path / to).notes == []
        configs[to] = yaml.safe_load((tmp_path / to / f"{to}.yaml").read_text())
    assert [configs[to]["learning_rate"] for to in configs] == [0.002] * 3
    assert configs["trl"]["model_name_or_path"] == configs["axolotl"]["base_model"] == "org/name"
    assert (configs["trl"]["lora_r"], configs["axolotl"]["lora_r"], configs["llamafactory"]["lora_rank"]) == (4, 4, 4)
    assert configs["llamafactory"]["lr_scheduler_type"] == configs["trl"]["lr_scheduler_type"] == "constant_with_warmup"
    assert (configs["trl"]["train_sampling_strategy"], configs["axolotl"]["curriculum_sampling"]) == ("sequential", True)
    assert configs["llamafactory"]["disable_shuffling"] and configs["llamafactory"]["tokenized_path"] == "data"
    assert configs["axolotl"]["datasets"] == [{"path": "data/train", "type": None}] and configs["axolotl"]["sample_packing"]


def test_model_that_the_recipe_does_not_name_is_asked_for(small: Path, tmp_path: Path) -> None:
    [note] = export(small, to="trl", out=tmp_path / "out").notes
    assert "model_name_or_path is empty" in note


def test_parquet_is_read_by_duckdb_and_datasets(small: Path, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    from datasets import load_dataset

    export(small, to="parquet", out=tmp_path / "out")
    question = f"SELECT count(*), sum(len(input_ids)), sum(len(seq_lengths)) FROM '{tmp_path}/out/data/train-*.parquet'"
    entry = sftdata.open_shards(small).manifest["splits"]["train"]
    with duckdb.connect() as connection:
        assert connection.execute(question).fetchone() == (entry["rows"], entry["tokens"], entry["segments"])
    dataset = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    split = sftdata.open_shards(small).splits["train"]
    assert dataset["train"].num_rows == split.num_rows > 3
    for number, row in enumerate(dataset["train"]):
        assert {name: values.tolist() for name, values in split.row(number).items()} == row


@pytest.mark.parametrize("to", ["trl", "parquet", "jsonl", "megatron", "axolotl"])
def test_empty_validation_keeps_nobody_from_the_rest(tmp_path: Path, to: str) -> None:
    from datasets import load_dataset

    recipe = write_small_recipe(tmp_path / "raw", split={"validation": 1e-9})
    shards = sftdata.build(recipe, out=tmp_path / "shards").folder
    assert sftdata.open_shards(shards).splits["validation"].num_rows == 0
    export(shards, to=to, out=tmp_path / "out")
    if to in ("parquet", "jsonl", "trl"):
        home = tmp_path / "out" / "data" if to == "trl" else tmp_path / "out"
        assert load_dataset(str(home), cache_dir=str(tmp_path / "cache"))["train"].num_rows > 3
    if to == "megatron":
        assert read_megatron(tmp_path / "out" / "validation_document") == []
    if to in ("trl", "axolotl"):
        assert "validation" not in (tmp_path / "out" / f"{to}.yaml").read_text()


def test_parquet_page_with_a_flipped_bit_is_refused(small: Path, tmp_path: Path) -> None:
    export(small, to="parquet", out=tmp_path / "out")
    path = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    good = pq.read_table(path, page_checksum_verification=True)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    assert good.num_rows > 3
    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt"):
        pq.read_table(path, page_checksum_verification=True)


CODES = {1: np.uint8, 4: np.int32, 8: np.uint16}


def read_megatron(prefix: Path) -> list[list[int]]:
    """Read an indexed dataset by the definition of its format: see sftdata/exporters/megatron.py."""
    index = prefix.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, num_sequences, num_borders = struct.unpack_from("<QBQQ", index, 9)
    lengths = np.frombuffer(index, "<i4", num_sequences, 34)
    pointers = np.frombuffer(index, "<i8", num_sequences, 34 + lengths.nbytes)
    borders = np.frombuffer(index, "<i8", num_borders, 34 + lengths.nbytes + pointers.nbytes)
    assert version == 1 and len(index) == 34 + lengths.nbytes + pointers.nbytes + borders.nbytes
    assert borders.tolist() == list(range(num_sequences + 1))
    data = prefix.with_suffix(".bin").read_bytes()
    assert len(data) == lengths.sum() * np.dtype(CODES[code]).itemsize
    return [
        np.frombuffer(data, CODES[code], length, pointer).tolist() for length, pointer in zip(lengths, pointers, strict=True)
    ]


@pytest.mark.parametrize("layout", ["small", "unpacked"])
def test_megatron_holds_all_documents_and_their_masks(layout: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    shards = request.getfixturevalue(layout)
    done = export(shards, to="megatron", out=tmp_path / "out")
    for split in ("train", "validation"):
        expected = documents(shards, split)
        assert read_megatron(tmp_path / "out" / f"{split}_document") == [ids for ids, _ in expected]
        masks = [[int(label != IGNORE) for label in labels] for _, labels in expected]
        assert read_megatron(tmp_path / "out" / f"{split}_loss_mask") == masks and sum(map(sum, masks)) > 50
        untrained = sum(len(mask) - sum(mask) - 1 for mask in masks)
        assert done.counts[split]["untrained_tokens"] == untrained > 0
    paths = json.loads((tmp_path / "out" / "data_args.json").read_text())
    assert paths == {"train": ["1.0", "train_document"], "valid": ["1.0", "validation_document"]}


def test_out_that_is_not_empty_is_refused(small: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="is not empty"):
        export(small, to="parquet", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_unknown_names_are_refused_with_the_known_ones(small: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'axolotl'"):
        export(small, to="axolotle", out=tmp_path / "out")
    for to, form in (("trl", "sharegpt"), ("jsonl", "alpaca")):
        with pytest.raises(RecipeError, match="openai or sharegpt"):
            export(small, to=to, out=tmp_path / "out", form=form)


def test_damaged_build_is_not_exported(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    shard = folder / "train" / "data-00000-of-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match="sftdata repair"):
        export(folder, to="trl", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failed_export_leaves_nothing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise DataError("no")

    monkeypatch.setattr(storage, "publish", fail)
    with pytest.raises(DataError, match="no"):
        export(small, to="trl", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_weights_are_not_lost_without_a_word(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path / "raw")
    rows = [{"messages": [{"role": "user", "content": f"第{n}夜"}, {"role": "assistant", "content": "有雨", "weight": 0.5}]}
            for n in range(30)]  # fmt: skip
    (tmp_path / "raw" / "w.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    value = json.loads(recipe.read_text())
    value["sources"] = [{"name": "w", "path": "w.jsonl", "ingest": "jsonl", "format": "messages"}]
    recipe.write_text(json.dumps(value))
    shards = sftdata.build(recipe, out=tmp_path / "shards").folder
    for to in ("trl", "axolotl", "llamafactory"):
        with pytest.raises(DataError, match="holds loss weights"):
            export(shards, to=to, out=tmp_path / "out")
    export(shards, to="parquet", out=tmp_path / "parquet")
    [file] = (tmp_path / "parquet" / "data").glob("train-*.parquet")
    assert 0.5 in pq.read_table(file)["loss_weights"].combine_chunks().values.to_pylist()
    done = export(shards, to="jsonl", out=tmp_path / "jsonl")
    assert done.counts["train"]["unsaid_flags"] == done.counts["train"]["dialogues"] > 20
    assert any("loss flags or weights" in note for note in done.notes)


def test_decoder_reads_the_exported_tokenizer(small: Path, tmp_path: Path) -> None:
    export(small, to="megatron", out=tmp_path / "out")
    opened = sftdata.open_shards(small)
    moved = opened.__class__(tmp_path / "out", opened.manifest, opened.splits)
    ids = opened.splits["train"].row(0)["input_ids"]
    assert Decoder(moved).text(ids) == Decoder(opened).text(ids) and len(ids) > 10
