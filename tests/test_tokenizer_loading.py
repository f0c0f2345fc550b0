"""Where a tokenizer comes from: folder, file, hub or SentencePiece model; and the traps that are found when it is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from build_support import needs_shared, write_small_recipe
from hypothesis import given, settings
from sentencepiece_fixture import model_bytes, write_model
from tokenizers import Tokenizer, processors
from tokenizing_fixture import CORPUS, family_json, texts, write_family
from transformers import PreTrainedTokenizerFast

import sftdata
from sftdata.errors import TokenizerError
from sftdata.tokenizer_making import make_tokenizer
from sftdata.tokenizers import files as tokenizer_files
from sftdata.tokenizers import sentencepiece_model
from sftdata.tokenizers.self_check import MAX_LOSSY, find_traps

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("bpe", {}),
    ("unigram", {}),
    ("bpe", {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}),
    ("unigram", {"normalization_rule_name": "nfkc", "add_dummy_prefix": False}),
]


def traps(path: Path, found_in: list[str] | None = None) -> list[str]:
    """Return the traps of a tokenizer, looked for in texts."""
    files = tokenizer_files.read(path)
    folder = path if path.is_dir() else path.parent
    tokenizer = tokenizer_files.load(json.dumps(files.tokenizer), "test")
    return find_traps(files, tokenizer, folder, CORPUS if found_in is None else found_in)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_converted_model_gives_the_ids_of_sentencepiece(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    path = write_model(tmp_path / "x.model", kind, **options)
    tokenizer = tokenizer_files.load(json.dumps(tokenizer_files.read(path).tokenizer), "test")
    reference = sentencepiece_model.open_library(path)

    @settings(max_examples=150, deadline=None)
    @given(text=texts)
    def same(text: str) -> None:
        spelled = ["<0x41>"] if kind == "unigram" else []  # in so small a vocabulary its characters are unknown
        for control in ("<s>", "</s>", "<unk>", "\x00", *spelled):
            text = text.replace(control, "")
        assert tokenizer.encode(text, add_special_tokens=False).ids == reference.encode(text)

    if options.get("normalization_rule_name", "identity") == "identity":
        same()
    lines = [*CORPUS, "  two  spaces ", "", " ", "哈" * 50, "gate\tgate", "a\nb"]
    rows = tokenizer.encode_batch_fast(lines, add_special_tokens=False)
    assert [row.ids for row in rows] == reference.encode(lines) and sum(len(row.ids) for row in rows) > 300


def test_merges_follow_the_scores_and_not_the_order_of_the_pieces() -> None:
    pieces = tuple((text, score, 1) for text, score in (("a", -3), ("b", -4), ("c", -5), ("ab", -9), ("bc", -8)))
    model = sentencepiece_model.SentencePiece(pieces, sentencepiece_model.BPE, b"", False, False, {})
    assert sentencepiece_model.merges(model) == [("b", "c"), ("a", "b")]


def test_a_model_file_is_a_tokenizer_and_brings_its_special_tokens(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    path = write_model(tmp_path / "model" / "tokenizer.model")
    (path.parent / "tokenizer_config.json").write_text('{"add_bos_token": true}', encoding="utf-8")
    for given_path in (path, path.parent):
        result = make_tokenizer(made, {"path": str(given_path), "train": None, "template": "chatml"})
        assert result["warnings"] == [] and result["around_every_text"] == ["<s>"]
        opened = PreTrainedTokenizerFast.from_pretrained(made)
        assert (opened.bos_token, opened.eos_token, opened.unk_token) == ("<s>", "<|im_end|>", "<unk>")
        assert opened("")["input_ids"] == [1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no SentencePiece model"),
        (b"\x0a\xff\xff", "is no SentencePiece model"),
        (b"{}", "is no SentencePiece model"),
        (model_bytes("bpe")[:500], "is no SentencePiece model"),
        (model_bytes("char", byte_fallback=False), "is a word or character model; only bpe and unigram"),
    ],
)
def test_a_model_that_cannot_be_read_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(TokenizerError, match=message) as caught:
        tokenizer_files.read(tmp_path)
    assert "\n" not in str(caught.value) and "tokenizer.model" in str(caught.value)


def test_a_conversion_that_loses_ids_is_refused_with_a_count(tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.model", "bpe", user_defined_symbols="lamp")
    assert traps(path, [text for text in CORPUS if "lamp" not in text]) == []
    assert MAX_LOSSY < 0.25
    with pytest.raises(TokenizerError, match=r"3 of 3 texts of the data get other ids, as 'The gate"):
        find_on_symbols(path)


def find_on_symbols(path: Path) -> None:
    """Look for traps in texts in which a symbol stands that the model does not cut off as an added token is."""
    files = tokenizer_files.read(path)
    files.tokenizer["added_tokens"] = files.tokenizer["added_tokens"][:3]  # lamp is now spelled out
    tokenizer = tokenizer_files.load(json.dumps(files.tokenizer), "test")
    find_traps(files, tokenizer, path.parent, [text for text in CORPUS if "lamp" in text])


def test_a_folder_whose_two_files_disagree_is_named(tmp_path: Path) -> None:
    files = tokenizer_files.read(write_model(tmp_path / "tokenizer.model"))
    files.tokenizer["model"]["merges"].reverse()  # as a conversion does that does not know the scores
    tokenizer_files.write(files, tmp_path)
    [line] = traps(tmp_path)
    assert "6 of 12 texts of the data get other ids from tokenizer.json than from tokenizer.model, as 'user asks" in line


def test_bos_that_is_added_though_the_flag_says_no_is_named(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(family_json("byte_level"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = write_family(tmp_path, "byte_level")
    assert traps(folder) == []
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    [line] = traps(folder)
    assert "puts <s> before every text although add_bos_token does not say so" in line
    config = {"bos_token": "<s>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert traps(folder) == []


def test_special_tokens_that_text_hides_are_named() -> None:
    [line] = traps(needs_shared("parity", "tokenizer-llama2-normtrue"))
    assert line.startswith("<unk>, <s>, </s>: not recognised beside other text, as in")
    assert traps(needs_shared("parity", "tokenizer-llama2")) == []


def test_a_class_that_rebuilds_the_tokenizer_is_named_with_a_count(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "sentencepiece")
    for name, expected in (("PreTrainedTokenizerFast", ""), ("LlamaTokenizer", "3 of 12"), ("GPT2Tokenizer", "12 of 12")):
        config = {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        found = traps(folder)
        assert bool(found) == bool(expected)
        assert all(f"the class {name} " in line and f"gives other ids, for {expected} texts" in line for line in found)


def test_a_class_that_differs_only_after_control_tokens_is_named_too(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "sentencepiece")
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    [line] = traps(folder, ["The gate"])
    assert "for 0 of 1 texts of the data and for 4 of 5 texts as templates make them, as '  x'" in line


def test_a_class_that_cannot_open_the_tokenizer_is_named_and_no_code_of_the_folder_runs(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "byte_level")
    config = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "own.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    [line] = traps(folder)
    assert "the class OwnTokenizer that tokenizer_config.json names cannot open it" in line


def test_texts_that_are_not_written_back_are_counted(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "byte_level_lowercase")
    [line] = traps(folder)
    assert line.startswith("9 of 12 texts of the data are not what their ids decode to, as 'The gate of")
    assert traps(folder, ["the gate"]) == []


def test_warnings_of_a_build_are_in_its_manifest(tmp_path: Path) -> None:
    folder = write_family(tmp_path / "lower", "byte_level_lowercase")
    recipe = write_small_recipe(tmp_path, tokenizer={"path": str(folder), "chat_template": "chatml"})
    built = sftdata.build(recipe, out=tmp_path / "out", work_dir=tmp_path / "work")
    [line] = built.manifest["warnings"]
    assert "80 of 140 texts of the data are not what their ids decode to" in line


HUB = """
import sys
from pathlib import Path
from sftdata.tokenizers.files import locate, read
files = read(locate("hub:palace/gates", Path(".")))
print(len(files.tokenizer["model"]["vocab"]), files.special("eos_token"))
"""


def test_a_tokenizer_of_the_hub_is_taken_from_its_cache(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--palace--gates"
    commit = "0123456789abcdef0123456789abcdef01234567"
    write_family(repository / "snapshots" / commit, "byte_level")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["420", "</s>"], found.stderr
    missing = HUB.replace("palace/gates", "palace/other")
    found = subprocess.run([sys.executable, "-c", missing], env=environment, capture_output=True, text=True, check=False)
    assert "TokenizerError: tokenizer 'hub:palace/other' cannot be fetched:" in found.stderr.splitlines()[-1]
