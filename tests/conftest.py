"""Fixtures of more than one test file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from build_support import RECIPES, write_small_recipe

import sftdata
from sftdata import registry

hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def steps_from_outside_are_forgotten() -> Iterator[None]:
    """Take back the steps that a test registers, so that the tests that share its process do not see them."""
    before = dict(registry._steps)
    yield
    for key in [key for key in registry._steps if key not in before]:
        module = registry._steps[key].module
        if not module.startswith("sftdata."):
            del registry._steps[key]
            sys.modules.pop(module, None)


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled recipe, built once; read it, do not change it."""
    return sftdata.build(RECIPES / "zhenhuan.yaml", out=tmp_path_factory.mktemp("bundled") / "zhenhuan").folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe, built once; read it, do not change it."""
    folder = tmp_path_factory.mktemp("small")
    return sftdata.build(write_small_recipe(folder / "raw"), out=folder / "shards").folder
