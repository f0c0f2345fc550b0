"""`sftdata init`: a recipe is written from what lies in a folder, it builds, and nothing is overwritten."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import sftdata
from sftdata.errors import DataError
from sftdata.initializing import init

STORY = "".join(f"<p>Sentence number {n} of a story, which goes on with more words.</p>" for n in range(20))


def mixed_folder(folder: Path) -> Path:
    """Write a folder with something of every format, in several encodings and shapes, and with files that nothing reads."""
    raw = folder / "my data"
    (raw / "pages" / "more").mkdir(parents=True)
    for name in ("a.html", "more/b.html", "more/c.html"):
        (raw / "pages" / name).write_text(f"<title>{name}</title><article>{STORY}{name} ends here.</article>")
    turns = [[{"from": "human", "value": f"问{n}？"}, {"from": "gpt", "value": f"答{n}。"}] for n in range(30)]
    chats = [{"conversations": pair} for pair in turns]
    (raw / "chats.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, chats)).encode()))
    lines = "".join(json.dumps({"instruction": f"Say {n}", "input": "", "output": f"It is {n}."}) + "\n" for n in range(30))
    (raw / "tasks.jsonl").write_text(lines)
    cells = "".join(f"第{n}个问题？;这是第{n}个答案。\n" for n in range(30))
    (raw / "faq.csv").write_bytes(("问题;答案\n" + cells).encode("gb18030"))
    rows = ",".join(f"({n},'Note {n}, which is longer than its title.','T{n}')" for n in range(30))
    dump = f"CREATE TABLE notes (id int, remark text, name text);\nINSERT INTO notes VALUES {rows};\n"
    (raw / "dump.sql").write_text(dump + "CREATE TABLE pairs (q text, a text);\nINSERT INTO pairs VALUES ('Why?','So.');\n")
    (raw / "README").write_text("notes")
    (raw / "numbers.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    return raw


def test_init_recipe_of_a_mixed_folder_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = mixed_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = init(raw)
    assert done.recipe == Path("my_data.yaml") and done.skipped == ["README"]
    formats = {source.name: source.format for source in done.sources}
    pair = {"source_target": {"source": "问题", "target": "答案", "chat": True}}
    assert formats["faq"] == pair and formats["notes"] == {"text": {"text": "remark"}} and formats["numbers"] is None
    assert formats["chats"] == {"messages": {"messages": "conversations"}} and formats["pages"] == "text"
    assert "gb18030" in done.recipe.read_text(encoding="utf-8")
    built = sftdata.build(done.recipe, workers=1)
    assert built.manifest["counts"]["prepare"]["records"] == 3 + 30 + 30 + 30 + 30 + 1
    assert built.manifest["counts"]["prepare"]["quarantined"] == 0


def test_init_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    recipe = tmp_path / "r.yaml"
    init(tmp_path / "a.jsonl", out=recipe)
    before = recipe.read_bytes()
    with pytest.raises(DataError, match="exists"):
        init(tmp_path / "a.jsonl", out=recipe)
    assert recipe.read_bytes() == before


def test_init_says_where_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match="is empty"):
        init(tmp_path / "raw", out=tmp_path / "r.yaml")
    (tmp_path / "raw" / "a.bin").write_bytes(b"\0")
    with pytest.raises(DataError, match="holds no file with text"):
        init(tmp_path / "raw", out=tmp_path / "r.yaml")
    assert not (tmp_path / "r.yaml").exists()


def test_init_recipe_of_the_bundled_files_builds(tmp_path: Path) -> None:
    raw = Path(__file__).resolve().parents[1] / "recipes" / "data" / "zhenhuan"
    done = init(raw, out=tmp_path / "z.yaml")
    assert {source.name for source in done.sources} == {"chats", "staff", "dialogue", "faq", "pages"}
    built = sftdata.build(done.recipe, out=tmp_path / "out", workers=1)
    assert built.manifest["counts"]["prepare"]["kept"] > 500


def test_sources_that_chatml_cannot_write_are_comments_that_say_so(tmp_path: Path) -> None:
    plain = {"messages": [{"role": "user", "content": "Who lit the lamp?"}, {"role": "assistant", "content": "The keeper."}]}
    offered = [{"type": "function", "function": {"name": "light", "parameters": {"type": "object", "properties": {}}}}]
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, tools in (("without", "[]"), ("with", offered)):
        rows = [{**plain, "tools": tools, "n": number} for number in range(3)]
        (raw / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = init(raw, out=tmp_path / "recipe.yaml")
    assert [(source.name, bool(source.obstacle)) for source in done.sources] == [("with", True), ("without", False)]
    text = done.recipe.read_text(encoding="utf-8")
    assert "#   - name: with\n" in text and "take the # away" in text
    built = sftdata.build(done.recipe, out=tmp_path / "out", overrides=["clean=[]"])
    assert built.manifest["counts"]["tokenize"]["kept"] == 3


def test_a_null_or_a_date_does_not_change_what_the_text_is(tmp_path: Path) -> None:
    rows = [{"instruction": f"Ask {number}", "output": None if number == 7 else f"Answer {number}"} for number in range(40)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dated = [{"text": None if number == 3 else "Dawn.", "d": "2026-11-21T10:00:00 and more"} for number in range(20)]
    (tmp_path / "dated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dated), encoding="utf-8")
    sources = {source.name: source for source in init(tmp_path, out=tmp_path / "r.yaml").sources}
    assert sources["asked"].format == {"instruction": {"instruction": "instruction", "output": "output"}}
    assert sources["dated"].format == "text"
    assert "have no output" in sources["asked"].notes[-1]
