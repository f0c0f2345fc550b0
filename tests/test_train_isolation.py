"""Packed = unpacked: proven on every backend, and found out when it is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from train_fixture import Build, counting, counting_rows, silent, tiny_settings, write_build

from sftdata.errors import TrainingError
from sftdata.shards import Split, open_shards
from sftdata.trainer import isolation, run, varlen
from sftdata.trainer.data import Batch, Collator, OneRowBatches, PackedBatches, PaddedBatches, Row, choose_collator
from sftdata.trainer.isolation import documents, ensure_isolation, find_probe, learns, measure
from sftdata.trainer.model import Precision, load_tokenizer, make_model

FLOAT32 = Precision(bf16=False, fp16=False)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("shards") / "build"
    return open_shards(write_build(folder, Build({"train": counting_rows(4)}))).splits["train"]


def model_like(split: Split, sharp: bool) -> Any:
    """Return a tiny Llama; a sharp one attends strongly, as trained models do."""
    torch.manual_seed(3)
    model = make_model(tiny_settings(), load_tokenizer(split.folder.parent / "tokenizer"), 64, FLOAT32)
    for name, parameter in model.named_parameters():
        if sharp and ("proj" in name or "lm_head" in name):
            parameter.data *= 10
    return model


def all_ones(rows: Sequence[Row]) -> Batch:
    """Collate as most collators do: positions restart, and a mask of ones undoes the isolation."""
    batch = PackedBatches(0)(rows)
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def no_positions(rows: Sequence[Row]) -> Batch:
    batch = PackedBatches(0)(rows)
    del batch["position_ids"]
    return batch


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("collator", [PackedBatches(0), OneRowBatches()])
@pytest.mark.parametrize("sharp", [True, False])
def test_packed_row_gives_each_document_its_own_loss(split: Split, backend: str, collator: Collator, sharp: bool) -> None:
    model, row = model_like(split, sharp), find_probe(split)
    assert row is not None and len(documents(row)) == 3
    model.set_attn_implementation(backend)
    found = measure(model, row, collator, FLOAT32)
    assert abs(found.packed_loss - found.alone_loss) < 1e-4
    assert found.leak > 100 * found.moved
    assert found.holds(torch.float32)


@pytest.mark.parametrize("broken", [all_ones, no_positions])
@pytest.mark.parametrize("sharp", [True, False])
def test_broken_isolation_is_found_even_on_an_untrained_model(split: Split, broken: Collator, sharp: bool) -> None:
    model, row = model_like(split, sharp), find_probe(split)
    assert row is not None
    found = measure(model, row, broken, FLOAT32)
    assert not found.holds(torch.float32)
    if sharp:
        assert abs(found.packed_loss - found.alone_loss) > 1e-2


def test_two_rows_of_unequal_length_are_as_isolated_as_one(split: Split) -> None:
    model = model_like(split, sharp=True).eval()
    rows: list[Row] = [{**split.row(index), "row": index} for index in (0, 1)]
    assert len(rows[0]["input_ids"]) != len(rows[1]["input_ids"])
    collate = PackedBatches(0)
    with torch.no_grad():
        both = model(**{k: v for k, v in collate(rows).items() if k not in ("rows", "labels")}, use_cache=False).logits
        for place, row in enumerate(rows):
            batch = {k: v for k, v in collate([row]).items() if k not in ("rows", "labels")}
            alone = model(**batch, use_cache=False).logits[0]
            assert torch.allclose(both[place, : len(alone)], alone, atol=1e-4)


def chosen(
    split: Split, collators: Sequence[tuple[str, Collator]], report: Callable[[str], None] = silent, dropout: float = 0.0
) -> str:
    """Return the backend that a model with sharp attention, and dropout on it, is left set to."""
    model, row = model_like(split, sharp=True), find_probe(split)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    assert row is not None
    name = ensure_isolation(model, row, collators, FLOAT32, report)
    assert model.config._attn_implementation == name
    assert all(weight.grad is None for weight in model.parameters()), "the probe leaves no gradient for the first update"
    return name


def test_a_backend_that_leaks_or_does_not_run_here_is_passed_over_and_named(split: Split) -> None:
    lines: list[str] = []
    backends = [("flash_attention_2", OneRowBatches()), ("sdpa", all_ones), ("eager", PackedBatches(0))]
    assert chosen(split, backends, lines.append) == "eager"
    assert lines[0].startswith("attention passed over: flash_attention_2: ")
    assert lines[1].startswith("attention passed over: sdpa: documents read each other, loss ") and len(lines) == 2


def test_a_backend_without_gradients_is_passed_over(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(split, [("sdpa", PackedBatches(0)), ("eager", PackedBatches(0))]) == "sdpa"
    answers = iter([False, True])
    monkeypatch.setattr(isolation, "learns", lambda *arguments: next(answers))
    assert chosen(split, [("sdpa", PackedBatches(0)), ("eager", PackedBatches(0))]) == "eager"


def test_training_is_refused_where_no_backend_isolates(split: Split) -> None:
    with pytest.raises(TrainingError, match=r"this machine: sdpa: documents read each other.*strategy: padding") as caught:
        chosen(split, [("sdpa", all_ones), ("eager", all_ones)])
    assert "\n" not in str(caught.value)


def one_document_after_another(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, longest: int, scale: float
) -> torch.Tensor:
    """Compute what torch's kernel computes on a GPU."""
    assert query.shape == key.shape == value.shape and borders.dtype == torch.int32
    assert longest == int(borders.diff().max()) and int(borders[-1]) == len(query)
    parts = []
    for start, end in pairwise(borders.tolist()):
        q, k, v = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        parts.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)[0].transpose(0, 1))
    return torch.cat(parts)


def test_the_kernel_of_torch_is_given_each_document_with_its_borders(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    varlen.register()
    monkeypatch.setattr(varlen, "kernel", one_document_after_another)
    model, row = model_like(split, sharp=True), find_probe(split)
    assert row is not None and model.config.num_key_value_heads < model.config.num_attention_heads
    model.set_attn_implementation("varlen")
    assert isinstance(choose_collator(split, "varlen", 0), OneRowBatches)
    found = measure(model, row, OneRowBatches(), FLOAT32)
    assert abs(found.packed_loss - found.alone_loss) < 1e-4 and found.leak > 100 * found.moved
    assert learns(model, row, OneRowBatches(), FLOAT32)


def test_the_kernel_of_torch_is_passed_over_where_attention_has_dropout(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    varlen.register()
    monkeypatch.setattr(varlen, "kernel", one_document_after_another)
    backends: list[tuple[str, Collator]] = [("varlen", OneRowBatches()), ("sdpa", PackedBatches(0))]
    assert chosen(split, backends) == "varlen"
    lines: list[str] = []
    assert chosen(split, backends, lines.append, dropout=0.1) == "sdpa"
    assert lines == ["attention passed over: varlen: it has no attention dropout"]


def test_batches_without_borders_go_through_sdpa_and_its_mask(split: Split) -> None:
    varlen.register()
    model = model_like(split, sharp=True)
    rows = [{**split.row(0), "row": 0}, {**split.row(1), "row": 1}]
    batch = {name: value for name, value in PaddedBatches(0)(rows).items() if name not in ("rows", "labels")}
    logits = []
    for name in ("sdpa", "varlen"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            logits.append(model(**batch, use_cache=False).logits)
    real = batch["attention_mask"].bool()
    assert not real.all() and torch.equal(logits[0][real], logits[1][real])


@pytest.mark.parametrize(
    ("parameters", "options", "scaled"),
    [
        ({"is_causal"}, {"is_causal": True}, 3.0),
        ({"window_size", "scale"}, {"window_size": (-1, 0), "scale": 1.5}, 1.0),
    ],
)
def test_the_kernel_is_called_as_its_version_wants(
    monkeypatch: pytest.MonkeyPatch, parameters: set[str], options: dict[str, Any], scaled: float
) -> None:
    given: dict[str, Any] = {}
    module = pytest.importorskip("torch.nn.attention.varlen", reason="this torch has no such kernel")
    monkeypatch.setattr(module, "varlen_attn", lambda q, *rest, **more: (given.update(more), q)[1])
    monkeypatch.setattr(varlen, "_parameters", lambda: frozenset(parameters))
    ones = torch.ones((5, 2, 4))
    found = varlen.kernel(ones, ones, ones, torch.tensor([0, 5], dtype=torch.int32), 5, 1.5)
    assert given == options and torch.equal(found, scaled * ones)


def test_a_model_without_position_ids_is_refused(split: Split, tmp_path: Path) -> None:
    bloom = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4}
    with pytest.raises(TrainingError, match="take a model that heeds position_ids"):
        run(split.folder.parent, tmp_path / "model", tiny_settings(model=bloom), silent)
    gpt2 = {**bloom, "model_type": "gpt2"}
    assert run(split.folder.parent, tmp_path / "model", tiny_settings(model=gpt2, max_steps=1), silent).steps == 1


def test_probe_is_the_first_row_of_two_documents_however_late(tmp_path: Path) -> None:
    rows = [[counting(row, 8)] for row in range(1500)] + [[counting(0, 5), counting(1, 6)]]
    row = find_probe(open_shards(write_build(tmp_path / "build", Build({"train": rows}))).splits["train"])
    assert row is not None and row["row"] == 1500


def test_rows_of_one_document_need_no_probe(tmp_path: Path) -> None:
    build = Build({"train": [[counting(0, 8)], [counting(1, 9)]]})
    assert find_probe(open_shards(write_build(tmp_path / "build", build)).splits["train"]) is None
