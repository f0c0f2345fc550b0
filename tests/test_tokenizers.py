"""Encoding: the fast paths give what `tokenizers` gives, and escaped control tokens are ordinary text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizing_fixture import CORPUS, FAMILIES, LLAMA2, PROVEN_BY_BYTES, Phase, family_json, texts, write_family
from transformers import PreTrainedTokenizerFast

from sftdata.errors import TokenizerError
from sftdata.tokenizer_making import make_tokenizer
from sftdata.tokenizers import files as tokenizer_files
from sftdata.tokenizers.encoder import Encoder, _placed, concatenate, open_encoder

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module", params=[*FAMILIES, "llama2"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """An encoder of every family, with the special tokens of two templates."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "llama2" and not LLAMA2.is_dir():
        pytest.skip("the LLaMA-2 tokenizer of the shared folder is not here")
    source = LLAMA2 if request.param == "llama2" else write_family(folder / "source", request.param)
    (folder / "made").mkdir()
    make_tokenizer(folder / "made", {"path": str(source), "train": None, "template": "chatml"})
    return Encoder(folder / "made")


def borders(encoder: Encoder, text: str) -> list[tuple[int, int, int]]:
    """Return (id, start, end) of every token of a text in characters, by the offsets of `tokenizers`."""
    encoding = encoder.tokenizer.encode(text, add_special_tokens=False)
    return [(number, start, end) for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)]


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(texts, max_size=5))
def test_encoding_gives_the_ids_of_tokenizers(encoder: Encoder, batch: list[str]) -> None:
    encoded = encoder.encode(concatenate(batch))
    for row, text in enumerate(batch):
        ids = encoded.ids[encoded.row_offsets[row] : encoded.row_offsets[row + 1]].tolist()
        assert ids == [number for number, _, _ in borders(encoder, text)]


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(texts, max_size=5))
def test_borders_lie_within_the_characters_of_tokenizers_offsets(encoder: Encoder, batch: list[str]) -> None:
    joined = concatenate(batch)
    encoded = encoder.encode(joined)
    assert (np.diff(encoded.starts) >= 0).all() and (np.diff(encoded.ends) >= 0).all()
    for row, text in enumerate(batch):
        tokens = slice(encoded.row_offsets[row], encoded.row_offsets[row + 1])
        given = borders(encoder, text)
        if given != sorted(given, key=lambda token: token[1]) or given != sorted(given, key=lambda token: token[2]):
            continue  # a normaliser has reordered characters
        for start, end, (_, low, high) in zip(encoded.starts[tokens], encoded.ends[tokens], given, strict=True):
            first, last = joined.char_bytes[np.array([low, max(high, low + 1)]) + joined.row_chars[row]]
            assert first <= start < end <= last


def test_families_take_the_path_that_they_shall(encoder: Encoder, request: pytest.FixtureRequest) -> None:
    batch = concatenate(CORPUS)
    family = request.node.callspec.params["encoder"]
    table = encoder._token_bytes
    assert (table is not None) == (family in (*PROVEN_BY_BYTES, "llama2"))
    if table is None:
        return
    ids, row_offsets = encoder._ids(batch.texts, 0)
    proven = table.borders(ids, row_offsets, batch.data, batch.row_bytes)[2]
    if family in ("byte_level", "sentencepiece", "llama2"):
        assert proven.all() and encoder.engine == "fastokens"
    if family == "byte_level_lowercase":
        assert proven[1] and not proven[0] and not proven[2]  # a capital letter, a wide comma


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.one_of(texts, st.sampled_from(SPECIAL)), max_size=6))
def test_escaping_changes_nothing_where_all_control_tokens_are_wanted(encoder: Encoder, pieces: list[str]) -> None:
    text = "".join(pieces)
    wanted = [match.span() for match in encoder.control.pattern.finditer(text)]
    ids, offsets = encoder.encode_escaped(text, wanted, 0xF0000)
    expected = encoder.tokenizer.encode(text, add_special_tokens=False)
    assert ids == expected.ids
    assert offsets == expected.offsets


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.one_of(texts, st.sampled_from((*SPECIAL, "<unk>"))), min_size=1, max_size=6))
def test_escaping_makes_no_control_token_of_unwanted_text(encoder: Encoder, pieces: list[str]) -> None:
    text = "".join(pieces)
    ids, offsets = encoder.encode_escaped(text, [], 0xF0000)
    found = [encoder.control.texts[number] for number in ids if encoder.is_control[number]]
    assert set(found) <= {encoder.control.unknown}
    if not found and encoder.engine == "fastokens":
        decoded = encoder.tokenizer.decode(ids, skip_special_tokens=False)
        is_space = encoder.tokenizer.token_to_id("▁") is not None  # as to SentencePiece
        same = [(part.replace("▁", " ") if is_space else part).removeprefix(" ") for part in (decoded, text)]
        assert same[0] == same[1]
    assert all(0 <= start <= end <= len(text) for start, end in offsets)


def test_escaping_cannot_reach_a_control_token_by_merges(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "sentencepiece")
    plain = json.loads(family_json("sentencepiece"))
    without_added = Tokenizer.from_str(json.dumps({**plain, "added_tokens": []}))
    encoder = Encoder(folder)
    assert encoder.control.ids["</s>"] in without_added.encode("x</s>").ids  # the vocabulary's own merges lead there
    assert encoder.control.ids["</s>"] not in encoder.encode_escaped("x</s>", [], 0xF0000)[0]


def test_vocabulary_among_the_added_tokens_is_no_control_token(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(family_json("byte_level"))
    tokenizer.add_tokens(["  ", "人工智能", "<think>"])
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    encoder = Encoder(tmp_path)
    assert list(encoder.control.ids) == ["<s>", "</s>", "<think>"]
    assert encoder.encode_escaped("x  人工智能<think>", [], 0xF0000)[0][1:3] == [
        tokenizer.token_to_id("  "), tokenizer.token_to_id("人工智能"),
    ]  # fmt: skip


def test_a_space_before_a_special_token_stays_with_the_text(tmp_path: Path) -> None:
    value = json.loads(family_json("byte_level"))
    value["added_tokens"][1]["lstrip"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    batch = concatenate(["gate  </s> x"])
    encoded = Encoder(tmp_path).encode(batch)
    place = encoded.ids.tolist().index(1)
    assert (encoded.starts[place], encoded.ends[place]) == (4, 10)


def test_offsets_that_are_empty_or_fall_are_widened() -> None:
    batch = concatenate(["ab", "", "cdéf"])
    rows = {0: ([7, 8, 9], [(0, 0), (0, 2), (2, 2)]), 1: ([], []), 2: ([1, 2, 3, 4], [(0, 1), (2, 3), (1, 2), (3, 4)])}
    encoded = _placed(batch, list(rows), list(rows.values()))
    assert encoded.row_offsets.tolist() == [0, 3, 3, 7]
    assert list(zip(encoded.starts.tolist(), encoded.ends.tolist(), strict=True)) == [
        (0, 1), (0, 2), (2, 2),  # nothing is left in the row to lend
        (2, 3), (3, 6), (3, 6), (6, 7),
    ]  # fmt: skip


def test_tasks_of_a_process_share_an_encoder_until_the_file_changes(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "byte_level")
    first = open_encoder(folder)
    assert open_encoder(folder) is first
    write_family(tmp_path, "sentencepiece")
    assert open_encoder(folder).vocab_size != first.vocab_size


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("{", "tokenizer.json: is no JSON"),
        ("[]", "is no JSON object"),
        ('{"version": "1.0"}', "has no model"),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}', "cannot be loaded"),
        ('{"model": {"type": "Nonsense"}}', "cannot be loaded"),
    ],
)
def test_a_broken_tokenizer_is_one_line(tmp_path: Path, broken: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(broken, encoding="utf-8")
    with pytest.raises(TokenizerError, match=message) as caught:
        make_tokenizer(tmp_path / "made", {"path": str(tmp_path), "train": None, "template": "chatml"})
    assert "\n" not in str(caught.value) and "tokenizer.json" in str(caught.value)


def test_a_missing_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"a tokenizer folder needs a tokenizer\.json"):
        tokenizer_files.read(tmp_path)
    with pytest.raises(TokenizerError, match="no such file or folder"):
        tokenizer_files.read(tmp_path / "nothing")


def test_the_written_folder_opens_in_transformers_with_the_template_and_the_stop(tmp_path: Path) -> None:
    phase = Phase(tmp_path, write_family(tmp_path / "source", "sentencepiece"), "chatml")
    assert phase.made["added_tokens"] == ["<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(phase.tokenizer_folder)
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<s>")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"


def test_a_token_that_the_tokenizer_does_not_recognise_in_text_is_refused(tmp_path: Path) -> None:
    value = json.loads(family_json("byte_level"))
    value["added_tokens"][1].update(single_word=True)
    source = write_family(tmp_path / "source", "byte_level")
    (source / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"does not recognise the template's token '</s>' in .*single_word"):
        Phase(tmp_path / "phase", source, "vicuna")
    assert Phase(tmp_path / "other", source, "chatml").made["added_tokens"]  # which does not write it


def test_a_tokenizer_that_drops_merges_at_random_is_made_to_stop(tmp_path: Path) -> None:
    value = json.loads(family_json("byte_level"))
    value["model"]["dropout"] = 0.5
    source = write_family(tmp_path / "source", "byte_level")
    (source / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    phase = Phase(tmp_path / "phase", source, "chatml")
    written = json.loads((phase.tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert value["model"]["dropout"] and written["model"]["dropout"] is None
