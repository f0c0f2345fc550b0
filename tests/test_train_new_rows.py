"""New tokens of an extended vocabulary begin as the mean of what their pieces were made of, in a tiny Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from train_fixture import TINY_LLAMA, WORDS, save_tokenizer, tiny_settings
from transformers import PreTrainedTokenizerFast

from sftdata.errors import TokenizerError
from sftdata.tokenizers.files import NewToken
from sftdata.trainer.model import Precision, load_tokenizer, make_model, quiet_transformers
from sftdata.trainer.new_rows import mean_rows, unknown_to

FLOAT32 = Precision(bf16=False, fp16=False)
NUM_OLD = 4 + len(WORDS)
NEW = [NewToken(NUM_OLD, "w1w2", [5, 6]), NewToken(NUM_OLD + 1, "w1w2w3", [5, 6, 7]), NewToken(NUM_OLD + 2, "nothing", [])]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with its tokenizer of 44 tokens."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = save_tokenizer(folder, bos_token="<s>", eos_token="</s>")
    make_model(tiny_settings(), tokenizer, 64, FLOAT32).save_pretrained(folder)
    return folder


def extended(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer with the new pieces."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([token.piece for token in NEW])
    return tokenizer


def load(base: Path, folder: Path, new_tokens: list[NewToken], **changes: Any) -> Any:
    """Return the model of a run from the base with the extended tokenizer."""
    settings = tiny_settings(model=None, base_model=str(folder), **changes)
    return make_model(settings, extended(base), 64, FLOAT32, new_tokens)


def test_means_are_those_of_the_named_rows() -> None:
    weight = torch.tensor([[0.0, 2.0], [4.0, 4.0], [8.0, 0.0]])
    means = mean_rows(weight, [[1], [0, 2], [], [1, 1, 2, 0]])
    assert means.tolist() == [[4.0, 4.0], [4.0, 1.0], [4.0, 2.0], [4.0, 2.5]]
    assert mean_rows(weight.bfloat16(), [[0]]).dtype == torch.bfloat16
    assert mean_rows(weight, []).shape == (0, 2)
    with pytest.raises(TokenizerError, match="names token 3, the model has 3 rows"):
        mean_rows(weight, [[3]])


@pytest.mark.parametrize("tied", [False, True])
def test_input_and_output_rows_begin_as_means_and_old_rows_stay(base: Path, tmp_path: Path, tied: bool) -> None:
    folder = base
    if tied:
        folder = tmp_path
        tokenizer = save_tokenizer(folder, bos_token="<s>", eos_token="</s>")
        settings = tiny_settings(model={**TINY_LLAMA, "tie_word_embeddings": True})
        make_model(settings, tokenizer, 64, FLOAT32).save_pretrained(folder)
    before = load(base, folder, [])
    model = load(base, folder, NEW)
    pairs = [(model.get_input_embeddings(), before.get_input_embeddings())]
    pairs.append((model.get_output_embeddings(), before.get_output_embeddings()))
    assert (pairs[0][0].weight is pairs[1][0].weight) == tied
    for now, old in pairs:
        assert torch.equal(now.weight[:NUM_OLD], old.weight[:NUM_OLD])
        for token in NEW:
            rows = old.weight[token.made_of] if token.made_of else old.weight[:NUM_OLD]
            assert torch.allclose(now.weight[token.id], rows.mean(dim=0), atol=1e-6)
        assert not torch.allclose(now.weight[NEW[0].id], old.weight[NEW[0].id])


def test_a_base_that_was_trained_with_the_new_tokens_keeps_its_rows(base: Path, tmp_path: Path) -> None:
    model = load(base, base, NEW)
    with torch.no_grad():
        model.get_input_embeddings().weight[NEW[0].id] = 7.0
    model.save_pretrained(tmp_path)
    extended(base).save_pretrained(str(tmp_path))
    again = load(base, tmp_path, NEW)
    assert again.get_input_embeddings().weight[NEW[0].id].tolist() == [7.0] * 32


def test_without_a_tokenizer_beside_it_a_base_lacks_the_rows_that_it_has_not(tmp_path: Path) -> None:
    assert unknown_to(str(tmp_path), NEW, NUM_OLD + 1) == NEW[1:]
    assert unknown_to(str(tmp_path), [], NUM_OLD) == []


def test_adapters_train_the_new_rows_too(base: Path) -> None:
    with quiet_transformers():
        model = load(base, base, NEW, adapter="lora")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_" not in name}
    assert any("embed_tokens" in name for name in trained) and any("lm_head" in name for name in trained)
