"""Processes that train one program together, as torchrun starts them: each on its own part of every batch.

Gradients are averaged over them by ``torch.distributed``, so that all hold the same weights after every
step.  What is not trained together, each process computes for itself, and to the same result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from zeroq_asr.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that work together: ``rank`` of ``count``."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and says what there is to say."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes of tensors of one shape."""
        if self.count == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.count

    def of_first(self, value: float) -> float:
        """Return what the first process says."""
        if self.count == 1:
            return value
        said = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(said, 0)
        return float(said)

    def require_same(self, what: str, digest: str) -> None:
        """Raise ConfigError unless all processes have the same digest of something."""
        if self.count == 1:
            return
        found: list[str | None] = [None] * self.count
        dist.all_gather_object(found, digest)
        if len({*found}) > 1:
            problem = f"the processes made different {what}, so that they cannot train one network together"
            raise ConfigError("torchrun", problem, "start all on machines of one kind with the same versions")


def processes() -> Processes:
    """Return the processes that this one has joined; one alone where it has joined none."""
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    return Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started beside this one, if it did, until the end."""
    if processes().count > 1 or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield processes()
        return
    dist.init_process_group("gloo")
    try:
        yield processes()
    finally:
        dist.destroy_process_group()
