"""`sftdata tokenizer train` and `extend`: folders that open, the same bytes, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from build_support import write_small_recipe
from click.testing import CliRunner
from tokenizing_fixture import CORPUS, write_family
from transformers import PreTrainedTokenizerFast

import sftdata
from sftdata.cli import main
from sftdata.tokenizer_building import train_tokenizer

OPTIONS = {
    "train": [
        "--algorithm", "--allow-code", "--chat-template", "--field", "--json", "--out", "--vocab-size", "--work-dir",
        "--workers",
    ],
    "extend": ["--add-parts", "--chat-template", "--field", "--json", "--out", "--pieces", "--text"],
}  # fmt: skip


def run(*arguments: object, code: int = 0) -> tuple[dict[str, Any], str]:
    """Run `sftdata tokenizer` and return what `--json` printed, and what it said."""
    result = CliRunner().invoke(main, ["tokenizer", *map(str, arguments)])
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout or "{}"), result.stderr


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_commands_and_options_are_the_listed_ones() -> None:
    group: Any = main.commands["tokenizer"]
    assert group.commands.keys() == OPTIONS.keys()
    for name, made in group.commands.items():
        assert sorted(option for one in made.params for option in one.opts if option[0] == "-") == OPTIONS[name]


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_files_give_the_same_tokenizer_each_time_with_specials_and_template(tmp_path: Path, algorithm: str) -> None:
    (tmp_path / "a.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    rows = [json.dumps({"story": text, "id": 7}, ensure_ascii=False) for text in CORPUS]
    (tmp_path / "b.jsonl").write_text("\n".join(rows), encoding="utf-8")
    options = ["--vocab-size", 400, "--algorithm", algorithm, "--chat-template", "chatml", "--field", "story", "--json"]
    for name in ("one", "two"):
        facts, said = run("train", tmp_path / "a.txt", tmp_path / "b.jsonl", "--out", tmp_path / name, *options)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert facts["vocab_size"] <= 400 and facts["learned"] and "encoded by" in said
    opened = PreTrainedTokenizerFast.from_pretrained(tmp_path / "one")
    assert opened.eos_token == "<|im_end|>" and opened.chat_template
    ids = opened.apply_chat_template([{"role": "user", "content": "The gate"}], tokenize=True, return_dict=False)
    assert ids.count(opened.convert_tokens_to_ids("<|im_start|>")) == 1


def test_a_recipe_gives_the_tokenizer_that_its_build_learns_and_the_build_reuses_the_work(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    work = tmp_path / "work"
    made = train_tokenizer([recipe], tmp_path / "tokenizer", vocab_size=400, work_dir=work)
    built = sftdata.build(recipe, out=tmp_path / "out", work_dir=work)
    assert files_of(tmp_path / "tokenizer") == files_of(tmp_path / "out" / "tokenizer")
    assert built.num_reused == 5 < built.num_tasks  # three parts, resolve, tokenizer
    assert made.facts["vocab_size"] == built.manifest["tokenizer"]["vocab_size"] > 300


def test_a_recipe_with_a_tokenizer_of_its_own_can_learn_another(tmp_path: Path) -> None:
    write_family(tmp_path / "own", "byte_level")
    (tmp_path / "terms.jsonl").write_text('{"piece": "娘娘"}', encoding="utf-8")
    recipe = write_small_recipe(tmp_path, tokenizer={"path": "own", "extend": {"pieces": "terms.jsonl"}})
    facts, _ = run("train", recipe, "--vocab-size", 300, "--out", tmp_path / "made", "--work-dir", tmp_path / "work", "--json")
    assert facts["learned"] and facts["vocab_size"] == 300 and facts["extension"] is None


def test_extend_reports_pieces_and_rates_and_says_what_tokens_were_made_of(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "sentencepiece")
    lines = ['{"piece": " old palace"}', '{"piece": "dawn, and"}', '{"piece": "e"}']
    (tmp_path / "terms.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "text.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    arguments = ["extend", source, "--pieces", tmp_path / "terms.jsonl", "--text", tmp_path / "text.txt"]
    dead, said = run(*arguments, "--out", tmp_path / "dead", "--json")
    assert dead["extension"]["dead"] and "pieces are dead, no text is encoded to them" in said
    facts, said = run(*arguments, "--out", tmp_path / "made", "--add-parts", "--json")
    assert "pieces: 3 given, 0 doubles, 1 known, 2 added," in said and "0 dead" in said
    before, after = (facts["extension"][name]["characters_per_token"] for name in ("before", "after"))
    assert before < after and f"characters per token: {before} before, {after} after (15 texts)" in said
    tokens = json.loads((tmp_path / "made" / "new_tokens.json").read_text(encoding="utf-8"))["tokens"]
    assert {"▁old▁palace", "dawn,▁and"} <= {token["piece"] for token in tokens} and all(token["made_of"] for token in tokens)
    opened = PreTrainedTokenizerFast.from_pretrained(tmp_path / "made")
    assert opened.convert_tokens_to_ids("dawn,▁and") in opened("at dawn, and the")["input_ids"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.txt", "--vocab-size", 300, "--out", "new"], "none.txt: no such file"),
        (["train", "recipe.yaml", "a.txt", "--vocab-size", 300, "--out", "new"], "from one recipe, or from files"),
        (["train", "a.txt", "--vocab-size", 300, "--out", "full"], "exists and is not empty; name a new folder with --out"),
        (["train", "gbk.txt", "--vocab-size", 300, "--out", "new"], "gbk.txt:2: is not UTF-8"),
        (["train", "b.jsonl", "--vocab-size", 300, "--out", "new"], "b.jsonl:1: has no text in the field 'text'; name another"),
        (["train", "broken.jsonl", "--vocab-size", 300, "--out", "new"], "broken.jsonl:1: is no JSON"),
        (["train", "empty.txt", "--vocab-size", 300, "--out", "new"], "there is no text"),
        (["extend", "none", "--pieces", "a.txt", "--out", "new"], "tokenizer none: no such file or folder"),
        (["extend", "full", "--pieces", "a.txt", "--out", "new"], "a.txt:1 is no JSON"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_family(tmp_path / "full", "byte_level")
    files = {"a.txt": "text\n", "b.jsonl": '{"id": 1}\n', "broken.jsonl": "{\n", "empty.txt": "", "recipe.yaml": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "gbk.txt").write_bytes(b"text\n" + "宫女".encode("gb18030"))
    _, said = run(*arguments, code=1)
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "new").exists()
