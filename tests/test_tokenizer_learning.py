"""Learning a tokenizer: the same for the same texts, with the special tokens asked for, and without losing text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from build_support import file_bytes, write_small_recipe
from hypothesis import given, settings
from tokenizing_fixture import CORPUS, texts

import sftdata
from sftdata.errors import TokenizerError
from sftdata.tokenizers import files as tokenizer_files
from sftdata.tokenizers.learn import END_OF_TEXT, learn

ALGORITHMS = ("bpe", "unigram")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learning_gives_the_same_tokenizer_for_the_same_texts(algorithm: str) -> None:
    learned = [learn(algorithm, iter(CORPUS), vocab_size=400, special_tokens=["<|im_end|>"]) for _ in range(2)]
    assert json.dumps(learned[0].tokenizer) == json.dumps(learned[1].tokenizer)
    assert [token for token in learned[0].added_tokens if token != "<unk>"] == [END_OF_TEXT, "<|im_end|>"]
    assert 300 < len(learned[0].tokenizer["model"]["vocab"]) <= 400


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_learned_tokenizer_gives_every_text_back(algorithm: str) -> None:
    learned = learn(algorithm, iter(CORPUS), vocab_size=400, special_tokens=[])
    tokenizer = tokenizer_files.load(json.dumps(learned.tokenizer), "test")
    assert len(tokenizer.encode("The gate of the old palace").ids) < 20

    @settings(max_examples=150, deadline=None)
    @given(text=texts)
    def comes_back(text: str) -> None:
        text = text.replace("<unk>", "").replace("▁", "")
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text

    comes_back()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_is_learned_from_nothing(algorithm: str) -> None:
    with pytest.raises(TokenizerError, match="there is no text"):
        learn(algorithm, ["", ""], vocab_size=400, special_tokens=[])


def test_a_vocabulary_smaller_than_the_bytes_is_one_line() -> None:
    with pytest.raises(TokenizerError, match=r"a unigram tokenizer of 100 entries cannot be learned: ") as caught:
        learn("unigram", CORPUS, vocab_size=100, special_tokens=[])
    assert "\n" not in str(caught.value)


def test_a_recipe_learns_a_unigram_tokenizer_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    tokenizer = {"train": {"algorithm": "unigram", "vocab_size": 400}, "chat_template": "chatml"}
    recipe = write_small_recipe(tmp_path, tokenizer=tokenizer)
    built = [sftdata.build(recipe, out=tmp_path / str(n), work_dir=tmp_path / f"work{n}") for n in range(2)]
    assert built[0].manifest["tokenizer"]["learned"] and built[0].manifest["splits"]["train"]["rows"]
    assert file_bytes(tmp_path / "0") == file_bytes(tmp_path / "1")
