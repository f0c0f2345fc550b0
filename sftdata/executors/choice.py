"""Which executor carries out a build."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from sftdata.errors import RecipeError
from sftdata.executors.jobs import available_cores
from sftdata.executors.local import ProcessExecutor, SerialExecutor, local_executor
from sftdata.executors.ray import RayExecutor
from sftdata.scanning import Listed, Part, num_bytes, scan

SMALL_INPUT = 4 << 20
"""Bytes of input up to which starting worker processes takes longer than the work."""


def choose_executor(
    workers: int | None, input_bytes: int, executor: str = "local", ray_address: str | None = None
) -> SerialExecutor | ProcessExecutor | RayExecutor:
    """Return Ray, worker processes, or this very process where one worker was asked for or there is too little to share.

    input_bytes: size of the input.
    """
    if executor not in ("local", "ray"):
        raise RecipeError(f"executor: {executor!r}; known: local, ray")
    if executor == "ray":
        return RayExecutor(workers, ray_address)
    if ray_address is not None:
        raise RecipeError(f"ray_address: {ray_address!r} has no meaning under executor: local; write executor: ray")
    if workers is not None:
        return local_executor(workers)
    return SerialExecutor() if input_bytes < SMALL_INPUT else ProcessExecutor(available_cores())


def scan_here(listed: Sequence[Listed]) -> list[Part]:
    """Return the parts of input files, looked at by all processors of this machine."""
    with closing(choose_executor(None, num_bytes(listed))) as workplace:
        return scan(listed, workplace)
