"""The examples of docs/masks.md are what a build makes of their records. `python tests/test_masks_doc.py` writes them anew."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from build_support import write_small_recipe
from tokenizing_fixture import write_family

import sftdata
from sftdata.mask_lint import COUNTED
from sftdata.views.inspect import Segment, inspect, whole_characters
from sftdata.views.visible import visible

DOC = Path(__file__).resolve().parents[1] / "docs" / "masks.md"
EXAMPLE = re.compile(r"```json (?P<options>\{[^\n]*\})\n(?P<record>[^\n]*)\n```\n\n```diff\n(?P<lines>.*?)```\n", re.DOTALL)


def build(folder: Path, record: str, options: dict[str, Any]) -> Path:
    """Build one record under the options of an example."""
    template = options.get("template", "chatml")
    if "{" in template:
        (folder / "own.jinja").write_text(template, encoding="utf-8")
        template = "own.jinja"
    write_family(folder / "tokenizer", "byte_level", bos="<s>" if options.get("bos", True) else None)
    (folder / "record.jsonl").write_text(record + "\n", encoding="utf-8")
    source = {"name": "doc", "path": "record.jsonl", "ingest": "jsonl", "format": options.get("format", "messages")}
    tokenizer = {"path": "tokenizer", "chat_template": template}
    recipe = write_small_recipe(
        folder, sources=[source], tokenizer=tokenizer, clean=[], split={}, mix={}, pack={}, tokenize=options.get("tokenize", {})
    )
    return sftdata.build(recipe, out=folder / "out").folder


def lines_of(segment: Segment, between: str) -> str:
    """Return a document as lines of a diff: trained ones begin with +."""
    lines: list[tuple[bool, str]] = []
    for glyphs in whole_characters(segment.tokens):
        trained = glyphs.kind.startswith("trained")
        for text in visible(glyphs.text).replace("\n", "⏎\n").splitlines(keepends=True):
            if lines and lines[-1][0] == trained and not lines[-1][1].endswith("\n"):
                lines[-1] = (trained, lines[-1][1] + between + text)
            else:
                lines.append((trained, text))
    shown = [(trained, re.sub(" $", "␣", text.removesuffix("\n"))) for trained, text in lines]
    return "".join(f"{'+' if trained else ' '} {text}\n" for trained, text in shown)


def made(example: re.Match[str]) -> str:
    """Return an example with the lines that a build gives."""
    options: dict[str, Any] = yaml.safe_load(example["options"])
    with tempfile.TemporaryDirectory() as folder:
        found = build(Path(folder), example["record"], options)
        if sftdata.open_shards(found).splits["train"].num_rows:
            lines = lines_of(inspect(found).segments[0], "·" if options.get("tokens") else "")
        else:
            [event] = sftdata.why(found, "record.jsonl#0")[0].events
            lines = f"- {event.reason}: {event.evidence}\n"
    return f"```json {example['options']}\n{example['record']}\n```\n\n```diff\n{lines}```\n"


def test_examples_are_what_a_build_makes_of_them() -> None:
    text = DOC.read_text(encoding="utf-8")
    assert len(EXAMPLE.findall(text)) == text.count("```diff") >= 12
    assert all(kind in text for kind in ("\n+ ", "\n  ", "\n- mask_unproven"))
    assert EXAMPLE.sub(made, text) == text


def test_counts_of_the_mask_lint_are_listed() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", DOC.read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == [*COUNTED, "cut_answers"]


def test_tests_that_are_named_exist() -> None:
    named = re.findall(r"`(tests/\w+\.py)`", DOC.read_text(encoding="utf-8"))
    assert len(named) > 5 and all((DOC.parents[1] / name).is_file() for name in named)


if __name__ == "__main__":
    DOC.write_text(EXAMPLE.sub(made, DOC.read_text(encoding="utf-8")), encoding="utf-8")
