"""How many threads compute: results must not hang on it.

Sums that PyTorch parts among threads are rounded differently by each number of them.  So whatever decides
about a file is computed with one thread an operation, and what is independent, an utterance, runs beside
others: the same numbers on any machine of a kind.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
#: threads that the caller of the outermost ``one_thread`` had
_GIVEN: ContextVar[int | None] = ContextVar("given", default=None)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch's operators use ``count`` threads, then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute every operator of PyTorch by one thread: the same bits whatever the number was before."""
    given = _GIVEN.set(available())
    try:
        with torch_threads(1):
            yield
    finally:
        _GIVEN.reset(given)


def available() -> int:
    """Return how many threads there are for what is independent."""
    return _GIVEN.get() or torch.get_num_threads()


def side_by_side(
    work: Callable[[Item], None], items: list[Item], stopping: threading.Event | None = None
) -> None:
    """Call ``work`` for every item, as many at a time as threads are available; the first error is raised.

    ``stopping`` is set when one fails, or the user interrupts, for the others to look at.
    """
    if available() == 1 or len(items) == 1:
        for item in items:
            work(item)
        return
    pool = ThreadPoolExecutor(min(available(), len(items)))
    try:
        for future in [pool.submit(work, item) for item in items]:
            future.result()
    except BaseException:
        if stopping is not None:
            stopping.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(work: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """Yield ``work`` of every item, in their order, with so many ``jobs`` at a time.

    ``items`` are drawn here, by one thread and no more than two rounds ahead.  The first error, of an item or
    of drawing it, is raised behind the results of all that came before, as by one job.
    """
    if jobs == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(jobs)
    pending: deque[Future[Result]] = deque()
    source = iter(items)
    failure: Exception | None = None
    try:
        while failure is None:
            try:
                pending.append(pool.submit(work, next(source)))
            except StopIteration:
                break
            except Exception as error:  # raised below, in its turn
                failure = error
            while pending and (pending[0].done() or len(pending) >= 2 * jobs):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)
