"""Processes of this machine that compute a sweep's tasks.

They are spawned, so that nothing is shared with this one.  Results come through a pipe, whole or not at all;
a process that is gone closes its pipe, behind all that it had sent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from zeroq_asr.files import discard_temporaries
from zeroq_asr.measure.sweep.cells import Task
from zeroq_asr.measure.sweep.runners import Computed, Died, threads_of
from zeroq_asr.measure.sweep.work import References, computed

#: by which the libraries beneath are told how many threads to start, before they are imported
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: seconds that a process has to end itself
_GRACE = 2.0


class _Worker:
    """A process, the pipe to it, and the task that it has not done yet."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.task: Task | None = None


class LocalRunner:
    """Computes tasks in so many processes, which share the cores."""

    def __init__(self, jobs: int) -> None:
        self.workers = jobs
        self._threads = threads_of(jobs)
        self._waiting: deque[tuple[Task, References]] = deque()
        self._running: list[_Worker] = []

    def submit(self, task: Task, references: References) -> None:
        """Take a task."""
        self._waiting.append((task, references))

    def wait(self) -> Sequence[Computed | Died]:
        """Return what has happened."""
        events: list[Computed | Died] = []
        while not events:
            self._dispatch()
            pipes: dict[Any, _Worker] = {worker.pipe: worker for worker in self._running}
            for pipe in wait([*pipes]):
                events += self._received(pipes[pipe])
        return events

    def close(self) -> None:
        """End every process, also one in the middle of its work."""
        for worker in self._running:
            worker.process.terminate()
        for worker in self._running:
            worker.process.join(_GRACE)
            if worker.process.exitcode is None:  # in a long call that is no Python
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._running.clear()

    def _dispatch(self) -> None:
        while self._waiting:
            idle = next((worker for worker in self._running if worker.task is None), None)
            if idle is None and len(self._running) == self.workers:
                return
            worker = idle or self._started()
            task, references = self._waiting.popleft()
            worker.task = task
            # one that is gone is found out by its pipe
            with suppress(OSError):
                worker.pipe.send((task, references))

    def _received(self, worker: _Worker) -> list[Computed | Died]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            return self._gone(worker)
        if message is None:
            worker.task = None
            return []
        name, result = message
        assert worker.task is not None
        worker.task = worker.task.without([name])
        return [Computed(name, result)]

    def _gone(self, worker: _Worker) -> list[Computed | Died]:
        worker.process.join()
        worker.pipe.close()
        self._running.remove(worker)
        if worker.task is None or not worker.task.cells:
            return []
        code = worker.process.exitcode or 0
        how = f"ended with exit code {code}" if code >= 0 else f"was killed ({_signal(-code)})"
        # cells are computed in their order
        return [Died(worker.task.cells[:1], worker.task.cells[1:], how)]

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, its = context.Pipe()
        process = context.Process(target=_work, args=(its, self._threads), daemon=True)
        # where a process is spawned for the first time this starts another, and has SIGINT heard again
        resource_tracker.ensure_running()
        with _uninterrupted(), _environment(dict.fromkeys(_THREADS, str(self._threads))):
            process.start()
        its.close()
        worker = _Worker(process, ours)
        self._running.append(worker)
        return worker


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Have what is started not hear Ctrl-C, which a terminal sends to all: this process ends the others."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _work(pipe: Connection, threads: int) -> None:
    """Compute the tasks that come through the pipe, until it is closed: what a process does."""
    signal.signal(signal.SIGTERM, _end)
    # what a user's loader prints must not be taken for the command's result
    with suppress(OSError):
        os.dup2(2, 1)
    sys.stdout = sys.stderr
    # the other end is gone with its process
    with suppress(EOFError, OSError):
        while True:
            task, references = pipe.recv()
            for message in computed(task, references, threads):
                pipe.send(message)
            pipe.send(None)


def _end(number: int, _: object) -> None:
    discard_temporaries()
    os._exit(128 + number)
