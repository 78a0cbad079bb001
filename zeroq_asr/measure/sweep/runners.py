"""What computes the tasks of a sweep, as the sweep sees it: tasks go in, results and deaths come out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from zeroq_asr.measure.sweep.cells import Cell, Task
from zeroq_asr.measure.sweep.work import References, Result


@dataclass(frozen=True)
class Computed:
    """A cell's result has come, or its error."""

    name: str
    result: Result


@dataclass(frozen=True)
class Died:
    """What computed a task is gone, with these of its cells not done."""

    #: those that may have been the cause, and those that had not begun
    suspects: tuple[Cell, ...]
    others: tuple[Cell, ...]
    #: as in "its process …"
    how: str


class Runner(Protocol):
    """Computes tasks side by side."""

    #: tasks that it computes at a time
    workers: int

    def submit(self, task: Task, references: References) -> None:
        """Take a task, with the transcripts of the float network that it needs."""

    def wait(self) -> Sequence[Computed | Died]:
        """Return what has happened, one event at least; there must be a task that is not done."""

    def close(self) -> None:
        """End all work that is under way, and leave nothing of it."""


def threads_of(jobs: int) -> int:
    """Return how many threads each of so many jobs has on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)
