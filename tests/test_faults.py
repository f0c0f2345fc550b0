"""A little of every fault: whatever kills or fails a command, its output is whole, and the next run makes the very same bytes.

`make faults` tries all of them: every storage operation, 200 random kills.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from faults import trials, zygote
from faults.environments import same_bytes
from faults.scenes import SCENES, Scene, open_scenes
from faults.trials import Outcome


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scene]]:
    """The commands that are disturbed."""
    opened = open_scenes(tmp_path_factory.mktemp("scenes"))
    yield {maker.__name__: scene for maker, scene in zip(SCENES, opened, strict=True)}
    zygote.close()


def assert_all_identical(outcome: Outcome, tried: int) -> None:
    assert outcome.problems == []
    assert outcome.identical == outcome.tried == tried


@pytest.mark.parametrize("name", [maker.__name__ for maker in SCENES])
def test_command_passes_every_kind_of_operation(scenes: dict[str, Scene], name: str) -> None:
    operations = scenes[name].operations
    assert {"create", "write", "fsync", "rename", "fsync_folder", "mkdir", "lock", "remove"} <= set(operations)
    assert len(operations) > 70


@pytest.mark.parametrize("name", [maker.__name__ for maker in SCENES])
def test_command_killed_at_an_operation_is_mended_by_the_next(scenes: dict[str, Scene], name: str) -> None:
    assert_all_identical(trials.kills_at_operations(scenes[name], 2), 2)


@pytest.mark.parametrize("action", sorted(trials.ERRORS))
def test_command_whose_operation_fails_says_so_and_leaves_the_old_output(scenes: dict[str, Scene], action: str) -> None:
    assert_all_identical(trials.errors_at_operations(scenes["second_build"], action, 1), 1)
    assert_all_identical(trials.errors_at_operations(scenes["ingest_again"], action, 2), 2)


def test_killed_process_group_leaves_nobody_and_is_mended(scenes: dict[str, Scene]) -> None:
    assert_all_identical(trials.kills_at_random(scenes["first_build"], 2, most=1.5), 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_command_leaves_nothing_and_nobody(scenes: dict[str, Scene], number: signal.Signals) -> None:
    assert_all_identical(trials.signals_at_random(scenes["first_build"], number, 1, most=0.5), 1)


def test_worker_that_is_killed_changes_no_byte(scenes: dict[str, Scene]) -> None:
    assert_all_identical(trials.lost_workers(scenes["first_build"], signal.SIGKILL, 1, most=0.5), 1)


def test_builds_of_one_folder_at_once_exclude_each_other(scenes: dict[str, Scene]) -> None:
    assert_all_identical(trials.builds_at_once(scenes["first_build"], 1, num_builds=2), 1)


def test_damaged_results_are_made_again_and_said(scenes: dict[str, Scene]) -> None:
    assert_all_identical(trials.damaged_results(scenes["first_build"], 1), 1)


def test_build_is_the_same_with_four_workers_and_with_folders_listed_in_another_order(scenes: dict[str, Scene]) -> None:
    assert_all_identical(same_bytes(scenes["first_build"], ("4 workers",), seeds=(1,)), 2)
