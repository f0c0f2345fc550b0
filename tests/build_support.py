"""What tests of whole builds share: running the command in a process of its own, and comparing folders byte by byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = REPOSITORY / "recipes"
SHARED = REPOSITORY.parent / "shared"

OUTSIDE_SAME_BYTES = {".sftdata/run.json", "report.html"}


def needs_shared(*parts: str) -> Path:
    """Return a path of the shared reference data; skip the test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the reference data {'/'.join(parts)} is not on this machine")
    return path


def run_command(*arguments: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `sftdata` in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "sftdata", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Return every file of a build by name, those aside that may differ from run to run."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert set(files) >= OUTSIDE_SAME_BYTES, "a build writes run.json and the report"
    return {name: data for name, data in sorted(files.items()) if name not in OUTSIDE_SAME_BYTES}


def write_small_recipe(folder: Path, **changes: Any) -> Path:
    """Write a recipe with two small sources in three files, of which some rows are broken, doubled or slop; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    talk = [{"instruction": f"第{n}问：几更天了？", "output": f"回娘娘，{n}更了。窗外有雨。"} for n in range(40)]
    talk += [talk[3], {"instruction": "你是谁", "output": "作为一个AI语言模型，我没有名字。"}, {"instruction": "缺"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in talk] + ["{broken"]
    (folder / "talk").mkdir(exist_ok=True)
    (folder / "talk" / "a.jsonl").write_text("\n".join(lines[:20]) + "\n", encoding="utf-8")
    (folder / "talk" / "b.jsonl").write_text("\n".join(lines[20:]) + "\n", encoding="utf-8")
    rows = "".join(f"what is rule {n}?,\"it is rule {n}, and no other\"\n" for n in range(30))
    (folder / "faq.csv").write_text("question,answer\n" + rows + "one,two,three\n", encoding="utf-8")
    recipe = {
        "name": "small",
        "tokenizer": {"train": {"vocab_size": 400}, "chat_template": "chatml"},
        "sources": [
            {"name": "talk", "path": "talk", "ingest": "jsonl", "clean": ["unicode", "slop"], "format": "instruction"},
            {
                "name": "faq",
                "path": "faq.csv",
                "ingest": "csv",
                "format": {"source_target": {"source": "question", "target": "answer"}},
            },
        ],
        "clean": ["dedup"],
        "tokenize": {"sequence_len": 256},
        "split": {"validation": 0.1},
        "mix": {"strategy": "buckets", "bins": 3},
        "pack": {"strategy": "best_fit"},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe, ensure_ascii=False), encoding="utf-8")  # JSON is YAML
    return path


def copy_recipes(folder: Path) -> Path:
    """Copy the bundled recipes with their data and return the main one."""
    shutil.copytree(RECIPES, folder / "recipes")
    return folder / "recipes" / "zhenhuan.yaml"
