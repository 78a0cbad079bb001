"""Tasks of a sweep as those of Ray (``ray.remote``), on this machine or on a cluster.

A task of Ray gives the results of all its cells at its end.  Which cell it died of is therefore not known:
all of them are suspects, and each runs again by itself.
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Sequence
from typing import Any

from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import said
from zeroq_asr.measure.sweep.cells import Task
from zeroq_asr.measure.sweep.runners import Computed, Died, threads_of
from zeroq_asr.measure.sweep.work import References, Result, computed


class RayRunner:
    """Computes tasks by Ray: of a cluster that RAY_ADDRESS names, else of this machine.

    A task asks for so many CPUs as it has threads, the cores of this machine over ``jobs``.

    Raises ConfigError where Ray is not there or cannot be started.
    """

    def __init__(self, jobs: int) -> None:
        self._ray = ray_module()
        # Ray takes SIGTERM for itself
        handler = signal.getsignal(signal.SIGTERM)
        self._ours = not self._ray.is_initialized()
        try:
            if self._ours:
                self._ray.init(log_to_driver=False, logging_level="error", include_dashboard=False)
            cores = self._ray.cluster_resources().get("CPU", 1)
        except Exception as error:  # Ray's errors share no base
            raise ConfigError(
                "--on ray", f"Ray cannot be started ({said(error)})", "see ray status"
            ) from error
        finally:
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
        self._threads = min(threads_of(jobs), max(1, int(cores)))
        self.workers = max(1, int(cores) // self._threads)
        # run again by the sweep, a cell at a time, and not by Ray
        self._remote = self._ray.remote(num_cpus=self._threads, max_retries=0)(_results)
        self._pending: dict[Any, Task] = {}

    def submit(self, task: Task, references: References) -> None:
        """Take a task."""
        self._pending[self._remote.remote(task, dict(references), self._threads)] = task

    def wait(self) -> Sequence[Computed | Died]:
        """Return what has happened."""
        (done, *_), _ = self._ray.wait([*self._pending], num_returns=1)
        task = self._pending.pop(done)
        try:
            return [Computed(*found) for found in self._ray.get(done)]
        except self._ray.exceptions.RayError as error:
            return [Died(task.cells, (), f"was lost ({type(error).__name__})")]

    def close(self) -> None:
        """Cancel every task, and end what was started here."""
        for one in self._pending:
            self._ray.cancel(one, force=True)
        self._pending.clear()
        if self._ours:
            self._ray.shutdown()


def ray_module() -> Any:
    """Return Ray; ConfigError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError:
        remedy = "pip install 'zeroq-asr[ray]', or leave --on out"
        raise ConfigError("--on ray", "Ray is not installed", remedy) from None


def _results(task: Task, references: References, threads: int) -> list[tuple[str, Result]]:
    return [*computed(task, references, threads)]
