"""Progress of long work: stage bodies count rows here; whoever shows progress listens.

The count is also a worker's sign of life. Nothing of it reaches an output.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[int], None]] = []


def tick(count: int) -> None:
    """Tell the listeners that `count` more rows (or shard rows) are done."""
    for listener in _listeners:
        listener(count)


def forward(listener: Callable[[int], None]) -> Callable[[], None]:
    """Call `listener(count)` at every tick; returns a function that ends it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)
