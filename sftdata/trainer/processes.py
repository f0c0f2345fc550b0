"""One process or several: what `torchrun` and `accelerate launch` tell, and the few things that processes must agree on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import distributed

from sftdata.errors import TrainingError
from sftdata.trainer.data import ALONE, Share


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    share: Share = ALONE

    @property
    def is_main(self) -> bool:
        """True for the one process that reports and writes."""
        return self.share.rank == 0

    @property
    def several(self) -> bool:
        """True where a launcher started more than one process."""
        return self.share.world_size > 1

    @property
    def sharded(self) -> bool:
        """True where the launcher asks for FSDP: no process holds the whole model."""
        return self.several and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes."""
        if self.several:
            distributed.all_reduce(value)
        return value

    def gathered(self, values: list[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Return what each process gave, in the order of their ranks."""
        if not self.several:
            return [values]
        found: list[list[torch.Tensor]] = [[] for _ in range(self.share.world_size)]
        distributed.all_gather_object(found, values)
        return found

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.several:
            distributed.barrier()

    def voice(self, report: Callable[[str], None]) -> Callable[[str], None]:
        """Return `report` for the main process, silence for the others: a line is said once."""
        return report if self.is_main else _silent


SINGLE = Processes()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the group of processes that the launcher started; without a launcher, be alone. Raises TrainingError."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield SINGLE
        return
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local >= torch.cuda.device_count():
        raise TrainingError(f"process {local} finds {torch.cuda.device_count()} GPUs; start no more processes than GPUs")
    if cuda:
        torch.cuda.set_device(local)
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(Share(distributed.get_rank(), world_size))
    finally:
        if ours:
            distributed.destroy_process_group()


def _silent(line: str) -> None:
    """Say nothing."""
