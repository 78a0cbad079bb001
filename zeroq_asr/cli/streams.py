"""The standard streams of the process: a result that cannot be delivered is an error, a lost message is none.

Whatever a stream is (closed, full, a pipe whose reader left), no write raises more than once, and nothing is
left in a buffer that Python would fail to write when it ends.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any

#: what errors call them
STDOUT = "stdout"


class _Results(io.FileIO):
    """stdout: the first failure is raised and kept, what comes after it is dropped."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                while (count := super().write(data)) is None:  # somebody made the terminal non-blocking
                    select.select([], [self.fileno()], [])
                return count
            except OSError as error:
                error.filename = STDOUT
                self.failure = error
                raise
        return len(data)


class _Messages(io.FileIO):
    """stderr: what cannot be written is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


class _Open(io.TextIOWrapper):
    """A stream that nobody else, as a user's loader, can close."""

    def close(self) -> None:
        """Write what is there, and stay open."""
        with contextlib.suppress(OSError):
            self.flush()


class Streams:
    """stdout and stderr of a process, taken over."""

    def __init__(self) -> None:
        closed = _occupy()
        encodings = [getattr(stream, "encoding", None) or "utf-8" for stream in (sys.stdout, sys.stderr)]
        # what libraries beneath Python print is no result; stderr has it
        kept = os.dup(1)
        os.dup2(2, 1)
        self._results = _Results(kept, "w")
        if 1 in closed:
            self._results.failure = OSError(errno.EBADF, "is closed", STDOUT)
        messages = io.BufferedWriter(_Messages(2, "w", closefd=False))
        # a transcript may hold characters that the terminal's encoding lacks; rich asks the streams that
        # Python began with for the width of the terminal
        sys.stdout = sys.__stdout__ = _Open(  # type: ignore[misc]
            io.BufferedWriter(self._results),
            encodings[0],
            errors="backslashreplace",
            line_buffering=self._results.isatty(),
        )
        sys.stderr = sys.__stderr__ = _Open(  # type: ignore[misc]
            messages, encodings[1], errors="backslashreplace", line_buffering=True
        )
        self._stdout = sys.stdout

    @property
    def failure(self) -> OSError | None:
        """What happened to stdout, after everything that is on its way there has been tried to be written."""
        with contextlib.suppress(OSError):  # it is kept
            self._stdout.flush()
        return self._results.failure


def _occupy() -> set[int]:
    """Open what stands for standard streams that are closed, or the next files would; return which."""
    closed = set()
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.add(number)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    return closed


def closed_stdout() -> OSError | None:
    """Return the error of a stdout that was closed or has failed, so that no work is done for nothing."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Results) else None
