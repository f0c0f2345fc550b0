"""Progress of long work: stage bodies count rows here; whoever shows progress listens.

The count is also a worker's sign of life. Nothing of it reaches an output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[int], None]] = []
_stage_listeners: list[Callable[[str, int], None]] = []
_place_listeners: list[Callable[[str], None]] = []


def tick(count: int) -> None:
    """Tell the listeners that `count` more rows (or shard rows) are done."""
    for listener in _listeners:
        listener(count)


def at(place: str) -> None:
    """Tell the listeners which record a task is at that handles one after the other: where it is lost, they know it."""
    for listener in _place_listeners:
        listener(place)


def stage(name: str, num_tasks: int) -> None:
    """Tell the listeners that a stage of so many tasks begins."""
    for listener in _stage_listeners:
        listener(name, num_tasks)


def forward(listener: Callable[[int], None]) -> Callable[[], None]:
    """Call `listener(count)` at every tick; returns a function that ends it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def forward_places(listener: Callable[[str], None]) -> None:
    """Call `listener(place)` at every place, until the process ends."""
    _place_listeners.append(listener)


@contextmanager
def listen(on_rows: Callable[[int], None], on_stage: Callable[[str, int], None]) -> Iterator[None]:
    """Call `on_rows(count)` at every tick and `on_stage(name, num_tasks)` at every stage, while the block runs."""
    _stage_listeners.append(on_stage)
    end = forward(on_rows)
    try:
        yield
    finally:
        end()
        _stage_listeners.remove(on_stage)
