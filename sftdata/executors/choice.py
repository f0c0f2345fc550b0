"""Which executor carries out a build."""

from __future__ import annotations

from collections.abc import Sequence

from sftdata.errors import RecipeError
from sftdata.executors.jobs import available_cores
from sftdata.executors.local import ProcessExecutor, SerialExecutor, local_executor
from sftdata.executors.ray import RayExecutor
from sftdata.scanning import Part

SMALL_INPUT = 4 << 20
"""Bytes of input up to which starting worker processes takes longer than the work."""


def choose_executor(
    workers: int | None, parts: Sequence[Part], executor: str = "local", ray_address: str | None = None
) -> SerialExecutor | ProcessExecutor | RayExecutor:
    """Return Ray, worker processes, or this very process where one worker was asked for or there is too little to share."""
    if executor not in ("local", "ray"):
        raise RecipeError(f"executor: {executor!r}; known: local, ray")
    if executor == "ray":
        return RayExecutor(workers, ray_address)
    if ray_address is not None:
        raise RecipeError(f"ray_address: {ray_address!r} has no meaning under executor: local; write executor: ray")
    if workers is not None:
        return local_executor(workers)
    small = sum(part.stamp[0] for part in parts) < SMALL_INPUT
    return SerialExecutor() if small else ProcessExecutor(available_cores())
