"""The command line: what it prints, its exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from build_support import RECIPES, REPOSITORY, copy_recipes, needs_shared, run_command, write_small_recipe
from click.testing import CliRunner

from sftdata.cli import main

COMMANDS = {
    "ablate": ["--allow-code", "--help", "--json", "--rows", "--rule", "--set", "--workers"],
    "build": [
        "--allow-code", "--executor", "--help", "--json", "--limit", "--out", "--plan", "--ray-address", "--set", "--without",
        "--work-dir", "--workers", "--write-tasks",
    ],
    "run-task": ["--allow-code", "--help", "--index", "--of"],
    "generate": [
        "--chat", "--help", "--json", "--max-new-tokens", "--prompt", "--seed", "--temperature", "--top-k", "--top-p",
    ],
    "ingest": ["--allow-code", "--format", "--help", "--json", "--out", "--work-dir", "--workers", "-o"],
    "inspect": ["--help", "--html", "--json", "--row", "--split"],
    "preview": ["--allow-code", "--help", "--json", "--rows", "--set"],
    "report": ["--help", "--json", "--out"],
    "init": ["--help", "--json", "--out"],
    "schema": ["--help"],
    "merge-lora": ["--help", "--out"],
    "train": ["--allow-code", "--help", "--json", "--out", "--plan", "--recipe", "--resume", "--set"],
    "verify": ["--help", "--json"],
    "why": ["--help", "--json"],
    "diff": ["--help", "--json"],
    "export": ["--allow-code", "--form", "--help", "--json", "--out", "--to", "--work-dir"],
    "publish": ["--help", "--json", "--prune"],
    "repair": ["--allow-code", "--help", "--json", "--recipe", "--set", "--work-dir", "--workers"],
    "tokenizer": ["--help"],
    "gc": ["--allow-code", "--dry-run", "--help", "--json", "--work-dir"],
}


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_commands_and_options_are_the_listed_ones() -> None:
    found = {
        name: sorted({option for parameter in command.params for option in parameter.opts if option[0] == "-"} | {"--help"})
        for name, command in main.commands.items()
    }
    assert found == COMMANDS


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "datasets", "pandas", "pyarrow", "numpy", "pydantic", "ray")
    code = (
        "import sys; from click.testing import CliRunner; from sftdata.cli import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_build_imports_no_torch(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    code = (
        f"import sys, sftdata; sftdata.build({str(recipe)!r}, out='out'); "
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_json_is_alone_on_stdout(small: Path, tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    for arguments in (
        ["build", recipe, "--out", tmp_path / "out", "--json"],
        ["build", recipe, "--out", tmp_path / "out", "--plan", "--json"],
        ["inspect", small, "--json"],
        ["why", small, "a.jsonl#3", "--json"],
        ["verify", small, "--json"],
        ["report", small, "--json"],
        ["preview", recipe, "--rows", "2", "--json"],
        ["schema"],
    ):
        code, out, err = run(*arguments)
        assert code == 0, err
        assert json.loads(out)


def test_preview_shows_drops_and_tokens_and_writes_nothing(tmp_path: Path) -> None:
    recipe = copy_recipes(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    code, out, err = run("preview", recipe, "--rows", 30)
    assert code == 0, err
    assert "dialogue.jsonl#29: dropped" in out and "zh.as_an_ai" in out and "<|im_start|>assistant" in out
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_ingest_writes_documents_that_datasets_opens(tmp_path: Path) -> None:
    import datasets

    out = tmp_path / "pages"
    code, _, err = run("ingest", RECIPES / "data/zhenhuan/pages", "--format", "html", "-o", "select=article", "--out", out)
    assert code == 0 and "12 documents, 1 quarantined" in err
    documents = datasets.load_from_disk(str(out))["documents"]
    assert documents.num_rows == 12 and documents.column_names[:3] == ["id", "source", "text"]
    assert documents[0]["id"] == "essay-01.html#0" and len(documents[0]["text"]) > 300
    assert (out / "quarantine.parquet").is_file()


def test_ingest_keeps_own_id_fields_and_writes_other_types_as_json(tmp_path: Path) -> None:
    import datasets

    rows = [{"id": 7, "source": "web", "tags": ["a"], "text": "x"}, {"id": 8, "source": "web", "text": "007"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = run("ingest", tmp_path / "rows.jsonl", "--format", "jsonl", "--out", tmp_path / "out")
    assert code == 0, err
    documents = datasets.load_from_disk(str(tmp_path / "out"))["documents"]
    assert documents[:] == {
        "id": ["rows.jsonl#0", "rows.jsonl#1"], "source": ["rows.jsonl"] * 2, "record.id": ["7", "8"],
        "record.source": ["web", "web"], "tags": ['["a"]', None], "text": ["x", "007"],
    }  # fmt: skip


def test_ingest_gives_every_field_a_column_of_its_own(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "rows.csv").write_text("record.id,id,record.record.id\n1,2,3\n")
    code, _, err = run("ingest", tmp_path / "rows.csv", "--format", "csv", "--out", tmp_path / "out")
    assert code == 0, err
    [row] = datasets.load_from_disk(str(tmp_path / "out"))["documents"]
    own = {"id": "rows.csv#0", "source": "rows.csv"}
    assert row == {**own, "record.id": "1", "record.record.record.id": "2", "record.record.id": "3"}


@pytest.mark.parametrize("selector", ["#body", "[itemprop=text]", "*[itemprop]", '"p > i"'])
def test_selector_of_ingest_is_text_though_yaml_takes_it_for_something_else(tmp_path: Path, selector: str) -> None:
    (tmp_path / "a.html").write_text('<main id="body" itemprop="text"><p><i>Rain over the court.</i></p></main>')
    options = ["--format", "html", "-o", f"select={selector}", "--out", tmp_path / "out", "--json"]
    code, out, err = run("ingest", tmp_path / "a.html", *options)
    assert code == 0, err
    assert json.loads(out)["counts"]["kept"] == 1


def test_train_ends_by_saying_where_the_model_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    from sftdata import training
    from sftdata.trainer.result import TrainResult

    out = Path("models/palace")
    result = TrainResult(out, out / "curves.json", out / "curves.png", 7, None, 1.5, None, ())
    monkeypatch.setattr(training, "train", lambda *arguments, **options: result)
    code, shown, err = run("train", "shards/palace")
    assert (code, shown) == (0, "") and err.splitlines()[-1].startswith("models/palace: model") and "7 steps" in err


MISTAKES = [
    (["build", "missing.yaml"], 1, "missing.yaml: cannot be read"),
    (["build", "recipe.yaml", "--set", "tokenise.sequence_len=4"], 1, "did you mean 'tokenize'"),
    (["build", "recipe.yaml", "--set", "sources.talk.clean=[slopp]"], 1, "unknown cleaner 'slopp'; did you mean 'slop'?"),
    (["build", "recipe.yaml", "--set", "sources.talk.path=nowhere"], 1, "no such file or folder"),
    (["build", "recipe.yaml", "--set", "sources.talk.path=empty.jsonl"], 1, "source 'talk' gave no record"),
    (["build", "recipe.yaml", "--set", "tokenizer={path: nowhere}"], 1, "tokenizer"),
    (["build", "recipe.yaml", "--set", "tokenizer.chat_template=chatlm"], 1, "did you mean 'chatml'"),
    (["build", "recipe.yaml", "--set", "tokenizer.chat_template=tokenizer_default"], 1, "has no chat template"),
    (["build", "recipe.yaml", "--set", "sources.talk.format={instruction: {output: answer}}"], 1, "field_missing"),
    (["build", "recipe.yaml", "--set", "tokenize={excess_length: error, sequence_len: 9}"], 1, "sequence_len is 9"),
    (["build", "recipe.yaml", "--workers", "none"], 2, "--workers"),
    (["build", "recipe.yaml", "--without", "nobody.txt"], 1, "nobody.txt: cannot be read"),
    (["ingest", "recipe.yaml", "--format", "yaml"], 1, "unknown ingestor 'yaml'"),
    (["ingest", "faq.csv", "--format", "csv", "-o", "delimeter=;"], 1, "did you mean 'delimiter'"),
    (["ingest", "latin.csv", "--format", "csv", "-o", "encoding=utf-8"], 1, "latin.csv"),
    (["build", "recipe.yaml", "--allow-code", "--set", "sources.talk.ingest=odd_steps:broken"], 1, "raised KeyError: 'x'"),
    (["build", "recipe.yaml", "--allow-code", "--set", "sources.talk.ingest=odd_steps:number"], 1, "odd_steps:number' gave 5"),
    (["build", "recipe.yaml", "--allow-code", "--set", "sources.faq.format=odd_steps:shape"], 1, "faq.csv#0: formatter 'odd"),
    (["inspect", "."], 1, "holds no finished build"),
    (["verify", "nowhere"], 1, "no such folder"),
    (["train", "nowhere"], 1, "no such folder"),
    (["generate", "nowhere", "--prompt", "x"], 1, "nowhere"),
    (["unknown"], 2, "No such command"),
]


ODD_STEPS = """
def broken(file):
    raise KeyError("x")

def number(file):
    yield 5

def shape(record):
    return record["nothing"]
"""


@pytest.mark.parametrize(("arguments", "code", "text"), MISTAKES, ids=[" ".join(row[0])[:60] for row in MISTAKES])
def test_mistake_gives_one_line_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, text: str
) -> None:
    write_small_recipe(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "latin.csv").write_bytes("a,b\nü,é\n".encode("latin-1"))
    (tmp_path / "odd_steps.py").write_text(ODD_STEPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_steps", raising=False)
    found, out, err = run(*arguments)
    assert found == code, err
    assert text in err and "Traceback" not in err + out
    assert code == 2 or len(err.strip().splitlines()) == 1


def test_file_that_cannot_be_read_is_quarantined_with_a_warning(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    (tmp_path / "talk" / "z.jsonl.gz").write_bytes(b"this is not gzip")
    done = run_command("build", recipe, "--out", "out", folder=tmp_path)
    assert done.returncode == 0 and "warning: 1 damaged file not read to the end; the quarantine names it" in done.stderr
    rows = pq.read_table(tmp_path / "out" / ".sftdata" / "quarantine.parquet").to_pylist()
    assert ("z.jsonl.gz#0", "file_damaged") in [(row["id"], row["reason"]) for row in rows]


def test_held_folder_is_exit_code_75(tmp_path: Path) -> None:
    from sftdata import storage

    recipe = write_small_recipe(tmp_path)
    with storage.lock(tmp_path / "out"):
        assert run_command("build", recipe, "--out", "out", folder=tmp_path).returncode == 75


def test_hub_style_folder_stands_for_the_only_build_in_it(small: Path) -> None:
    code, _, err = run("verify", small.parent)
    assert code == 0 and "sound" in err


def test_sources_take_paths_relative_to_the_current_folder_from_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = needs_shared("data", "chat", "huanhuan.json")
    recipe = copy_recipes(tmp_path)
    monkeypatch.chdir(data.parent)
    code, out, err = run(
        "build", recipe, "--out", tmp_path / "out", "--limit", 50, "--set", "sources.dialogue.path=huanhuan.json", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["counts"]["prepare"]["records"] == 50 + 50 + 50 + 13
