"""Processes that train one program together, as torchrun starts them: each on its own part of every batch.

Gradients are averaged over them by ``torch.distributed``, so that all hold the same weights after every
step.  What is not trained together, each process computes for itself, and to the same result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

#: what torchrun says to each of its processes
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: how long others are waited for
_PATIENCE = timedelta(minutes=5)


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
        # what joins the processes (gloo) sums on the CPU
        total = values.to("cpu", copy=True)
        dist.all_reduce(total)
        return total.to(values.device) / self.count

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
    """Join the processes that torchrun started beside this one, if it did, until the end.

    Raises ConfigError where its variables cannot be read, or the others are not there within five minutes.
    """
    # schedulers set some of them for every process: only together do they come from torchrun
    if processes().count > 1 or any(os.environ.get(name, "") == "" for name in _VARIABLES):
        yield processes()
        return
    try:
        if int(os.environ["WORLD_SIZE"]) > 1:
            dist.init_process_group("gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        problem = f"cannot join the other processes ({', '.join(_VARIABLES)}): {shown(str(error))}"
        raise ConfigError("torchrun", problem, "start it by torchrun, or without these variables") from error
    try:
        yield processes()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
