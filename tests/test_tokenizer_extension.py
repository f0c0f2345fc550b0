"""Extending a vocabulary: what is added, what is dead, what new tokens were made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from build_support import needs_shared, write_small_recipe
from sentencepiece_fixture import write_model
from tokenizing_fixture import CORPUS, family_json, write_family

import sftdata
from sftdata.errors import DataError, TokenizerError
from sftdata.tokenizers import files as tokenizer_files
from sftdata.tokenizers.encoder import Encoder, concatenate
from sftdata.tokenizers.extend import Extension, dead_pieces, extend, measure, read_pieces, report
from sftdata.tokenizers.files import TokenizerFiles

EXTENDABLE = ("byte_level", "sentencepiece", "unigram")


def family(name: str) -> TokenizerFiles:
    """Return the tokenizer of a family."""
    return TokenizerFiles(json.loads(family_json(name)))


def tokens(extension: Extension, text: str) -> list[str]:
    """Return the tokens of a text."""
    tokenizer = tokenizer_files.load(json.dumps(extension.files.tokenizer), "test")
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


def test_pieces_come_from_json_lines_and_from_a_second_model(tmp_path: Path) -> None:
    lines = tmp_path / "terms.jsonl"
    lines.write_bytes('\ufeff{"piece": "宫女"}\n\n{"piece": "灯笼", "from": "x"}\r\n{"piece": "a\u2028b"}'.encode())
    assert read_pieces(lines) == ["宫女", "灯笼", "a\u2028b"]
    pieces = read_pieces(write_model(tmp_path / "second.model"))
    assert " the" in pieces and "<s>" not in pieces and "<0x41>" not in pieces


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r":2 is no JSON"),
        ('"宫女"', r":2 holds no piece; write it as \{\"piece\""),
        ('{"piece": ""}', ":2 holds no piece"),
    ],
)
def test_a_line_without_a_piece_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "terms.jsonl"
    path.write_text(f'{{"piece": "a"}}\n{text}\n', encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_pieces(path)
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        read_pieces(tmp_path / "none.jsonl")


@pytest.mark.parametrize("name", EXTENDABLE)
def test_old_ids_stay_and_new_ones_follow(name: str) -> None:
    files = family(name)
    old = tokenizer_files.load(json.dumps(files.tokenizer), "test")
    old.add_special_tokens(["<|im_start|>"])
    files.tokenizer = json.loads(old.to_str())
    extension = extend(files, ["palace", "宫灯", "宫灯", "ate"])
    new = tokenizer_files.load(json.dumps(extension.files.tokenizer), "test")
    assert extension.num_doubles == 1 and extension.num_added >= 2
    before, after = old.get_vocab(), new.get_vocab()
    assert all(after[piece] == number for piece, number in before.items())
    assert sorted(after.values()) == list(range(len(after))) and len(after) > len(before)
    assert [token.id for token in extension.files.new_tokens] == list(range(len(before), len(after)))


@pytest.mark.parametrize("name", EXTENDABLE)
def test_a_new_piece_is_one_token_and_was_made_of_the_old_ones(name: str) -> None:
    extension = extend(family(name), ["palace"], add_parts=True)
    assert extension.dead == []
    [token] = [token for token in extension.files.new_tokens if token.piece == "palace"]
    assert token.id in ids_of(extension, "xpalacex")
    old = tokenizer_files.load(family_json(name), "test")
    assert len(token.made_of) >= 2 and "".join(map(old.id_to_token, token.made_of)) == "palace"


def ids_of(extension: Extension, text: str) -> list[int]:
    """Return the ids of a text."""
    return list(tokenizer_files.load(json.dumps(extension.files.tokenizer), "test").encode(text, add_special_tokens=False).ids)


def test_pieces_are_as_colossal_llama_adds_them() -> None:
    cases = json.loads(needs_shared("parity", "requirements_003", "vocab_expansion.json").read_text(encoding="utf-8"))["cases"]
    files = tokenizer_files.read(needs_shared("parity", "tokenizer-llama2"))
    chosen = [case for case in cases if case["new_pieces"] not in (["你好"], ["嬛"], ["嬛", "甄", "甄嬛"], ["ing"])]
    assert len(cases) == 10 and len(chosen) == 6
    for case in chosen:
        extension = extend(files, case["new_pieces"])
        assert tokens(extension, case["text"]) == case["after"]
        # a character without a piece of its own is added, since merges of `tokenizers` know no other characters
        assert 32000 + len(extension.files.new_tokens) == case["vocab_size"] + len(extension.parts)
        assert extension.parts == (["甄", "嬛"] if case["new_pieces"] == ["甄嬛"] else [])
        assert bool(extension.dead) == (case["new_pieces"] in (["人工智能"], ["▁你好"]))


def test_a_piece_without_its_parts_is_dead_until_they_are_added() -> None:
    files = family("byte_level")
    dead = extend(files, ["宫殿门"])
    assert dead.dead == ["宫殿门"] and dead_pieces(dead)[0].startswith("1 of 1 added pieces are dead")
    assert len(tokens(dead, "宫殿门")) > 1
    alive = extend(files, ["宫殿门"], add_parts=True)
    assert alive.dead == [] and alive.parts and len(tokens(alive, "宫殿门")) == 1


def test_parts_are_not_added_for_a_piece_that_they_do_not_help() -> None:
    extension = extend(family("byte_level"), ["gate opens now"], add_parts=True)  # words are cut before they are joined
    assert extension.dead == ["gate opens now"] and extension.parts == []


def test_a_tokenizer_extended_twice_names_only_first_tokens() -> None:
    first = extend(family("byte_level"), ["宫殿"], add_parts=True)
    second = extend(first.files, ["宫殿宫殿"], add_parts=True)
    numbers = [token.id for token in second.files.new_tokens]
    assert len(numbers) > len(first.files.new_tokens) >= 1 and numbers == sorted(numbers)
    assert all(number < min(numbers) for token in second.files.new_tokens for number in token.made_of)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(TokenizerError, match="a WordPiece tokenizer cannot be extended"):
        extend(family("wordpiece"), ["x"])


@pytest.mark.parametrize("name", EXTENDABLE)
def test_an_extended_tokenizer_is_encoded_with_the_ids_of_tokenizers(tmp_path: Path, name: str) -> None:
    extension = extend(family(name), ["灯笼", "宫女们", "palace at"], add_parts=True)
    tokenizer_files.write(extension.files, tmp_path)
    encoder = Encoder(tmp_path)
    lines = [*CORPUS, "</s>灯笼<s>宫女们 palace at"]
    expected = [number for row in encoder.tokenizer.encode_batch(lines, add_special_tokens=False) for number in row.ids]
    assert encoder.encode(concatenate(lines)).ids.tolist() == expected
    assert tokenizer_files.read(tmp_path).new_tokens == extension.files.new_tokens != []


def test_the_report_counts_characters_per_token_before_and_after() -> None:
    files = family("sentencepiece")
    found = report(files, extend(files, [" old palace", " old palace", "e"], add_parts=True), CORPUS)
    assert (found["given"], found["doubles"], found["known"], found["added"]) == (3, 1, 1, 1)
    assert found["before"]["characters"] == found["after"]["characters"] == sum(map(len, CORPUS))
    assert found["before"]["characters_per_token"] < found["after"]["characters_per_token"]
    empty = measure(tokenizer_files.load(family_json("byte_level"), "test"), [])
    assert empty == {"texts": 0, "characters": 0, "tokens": 0, "characters_per_token": 0.0, "tokens_per_text": 0.0}


def test_a_recipe_extends_its_tokenizer_and_keeps_what_new_tokens_were_made_of(tmp_path: Path) -> None:
    write_family(tmp_path / "own", "byte_level")
    (tmp_path / "terms.jsonl").write_text('{"piece": "娘娘"}\n{"piece": "窗外有雨"}\n', encoding="utf-8")
    tokenizer = {"path": "own", "extend": {"pieces": "terms.jsonl"}, "chat_template": "chatml"}
    recipe = write_small_recipe(tmp_path, tokenizer=tokenizer)
    built = [sftdata.build(recipe, out=tmp_path / "out", work_dir=tmp_path / "work") for _ in range(2)]
    found = built[0].manifest["tokenizer"]["extension"]
    assert found["dead"] == ["娘娘", "窗外有雨"] and len(built[0].manifest["warnings"]) == 1
    added = sftdata.build(
        recipe, out=tmp_path / "out", work_dir=tmp_path / "work", overrides=["tokenizer.extend.add_parts=true"]
    )
    assert built[1].unchanged and not added.unchanged and added.manifest["tokenizer"]["extension"]["dead"] == []
    new = tokenizer_files.read_new_tokens(tmp_path / "out" / "tokenizer")
    assert {token.id for token in new} & set(sftdata.open_shards(tmp_path / "out").splits["train"].row(0)["input_ids"].tolist())
