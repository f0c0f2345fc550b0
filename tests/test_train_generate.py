"""`generate`: plain and chat prompts, stop tokens, seeds, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from train_fixture import ASSISTANT, BOS, EOS, USER, Build, counting_rows, silent, tiny_settings, write_build

from sftdata.errors import RecipeError, TrainingError
from sftdata.shards import open_shards
from sftdata.trainer import TrainResult, generate, run
from sftdata.trainer.model import load_tokenizer
from sftdata.trainer.sampling import encode_prompt, prompt_of_split


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_build(tmp_path_factory.mktemp("shards") / "build", Build({"train": counting_rows(40)}))


@pytest.fixture(scope="module")
def model(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    settings = tiny_settings(num_epochs=20, sample_prompts=("w3",), logging_steps=100)
    return run(shards, tmp_path_factory.mktemp("model") / "model", settings, silent)


def test_generate_continues_plain_text_and_stops_at_eos(model: TrainResult) -> None:
    text = generate(model.out, "w3 w4", temperature=0, max_new_tokens=20, chat=False).split()
    assert text[0] == "w5"
    assert 0 < len(text) < 20, "the model has learnt to stop, and generation stops with it"


def test_generate_depends_on_the_seed_and_leaves_the_global_one_alone(model: TrainResult) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    texts = [generate(model.out, "w3", temperature=3.0, top_k=0, top_p=1.0, seed=seed, chat=False) for seed in (1, 1, 2)]
    assert torch.rand(1) == expected
    assert texts[0] == texts[1] != texts[2]


def test_prompt_is_a_turn_where_the_tokenizer_has_a_template(shards: Path) -> None:
    tokenizer = load_tokenizer(shards / "tokenizer")
    assert encode_prompt(tokenizer, "w3 w4").ids == [USER, 7, 8, EOS, ASSISTANT]
    assert encode_prompt(tokenizer, "w3 w4", chat=False).ids == [BOS, 7, 8]
    tokenizer.chat_template = None
    assert encode_prompt(tokenizer, "w3 w4").ids == [BOS, 7, 8]
    with pytest.raises(TrainingError, match="no chat template"):
        encode_prompt(tokenizer, "w3", chat=True)


def test_prompt_of_the_data_is_its_untrained_beginning(shards: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(shards / "tokenizer")
    half = write_build(tmp_path / "half", Build({"train": [[counting_rows(1)[0][0]]]}, packed=False))
    assert prompt_of_split(tokenizer, open_shards(half).splits["train"]).ids == [BOS, 4]
    prompted = counting_rows(1)[0]
    prompted[0] = type(prompted[0])(prompted[0].ids, 3)
    build = write_build(tmp_path / "prompted", Build({"train": [prompted]}))
    prompt = prompt_of_split(tokenizer, open_shards(build).splits["train"])
    assert prompt.ids == [BOS, 4, 5] and prompt.text == "<s> w0 w1"


def test_settings_prompts_are_sampled_before_and_after(model: TrainResult) -> None:
    assert [(sample.step, sample.prompt) for sample in model.samples] == [(0, "w3"), (200, "w3")]


def test_generate_refuses_nonsense(model: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no model"):
        generate(tmp_path, "w3")
    with pytest.raises(TrainingError, match="the model's window"):
        generate(model.out, "w3 " * 200)
    wrong: dict[str, Any] = {"max_new_tokens": 0, "temperature": -1.0, "top_k": -1, "top_p": 0.0}
    for name, value in wrong.items():
        with pytest.raises(RecipeError, match=name):
            generate(model.out, "w3", **{name: value})
