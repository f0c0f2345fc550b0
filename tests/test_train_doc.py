"""docs/train.md: its commands, files, constants and recipes are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from build_support import RECIPES, REPOSITORY

from sftdata.cli import main
from sftdata.trainer import advice, diagnosis, evaluating

TEXT = (REPOSITORY / "docs" / "train.md").read_text("utf-8")


def test_every_recipe_and_benchmark_is_named_and_there() -> None:
    named = set(re.findall(r"`([\w-]+\.yaml)`", TEXT))
    assert named == {path.name for path in RECIPES.glob("*.yaml")} and len(named) == 9
    scripts = re.findall(r"(?:benchmarks|recipes)/[\w/]+\.py", TEXT)
    assert len(scripts) >= 2 and all((REPOSITORY / path).is_file() for path in scripts)


def test_options_and_links_are_real() -> None:
    options = {option for command in main.commands.values() for parameter in command.params for option in parameter.opts}
    assert {"--plan", "--resume", "--set"} <= set(re.findall(r"`(--[a-z]+)", TEXT)) | {"--set"} <= options
    links = re.findall(r"\]\(([\w.]+\.md)", TEXT)
    assert links and all((REPOSITORY / "docs" / Path(link)).is_file() for link in links)


def test_constants_in_the_text_are_those_of_the_code() -> None:
    for words in (
        f"fell by less than {diagnosis.FLAT:.0%}".replace("%", " %"),
        f"still made {diagnosis.STILL_FALLING:.0%} of its fall".replace("%", " %"),
        f"by {diagnosis.TURNED_UP:.0%} of the fall".replace("%", " %"),
        f"level {diagnosis.CLOSE:.0%} above".replace("%", " %"),
        f"jumped to {diagnosis.SPIKE} times",
        f"the {evaluating.NUM_HARDEST} documents of the highest loss",
        f"less than {advice.MIN_BYTES_FULL // 1_000_000} MB",
        f"more than {advice.MAX_SOURCE_SHARE:.0%}".replace("%", " %"),
        f"more than {advice.MAX_EPOCHS} epochs, fewer than {advice.MIN_STEPS} steps",
    ):
        assert words in TEXT, words
