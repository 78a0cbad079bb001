"""How the library tells a caller what it is doing; it never prints.

Every long function takes ``progress``, called as ``progress(stage, done, total, note)``:
``stage`` is a short name ("synthesize"), ``done`` of ``total`` steps are finished, and
``note`` is a few words worth showing ("loss 1.23").  It is called with ``done == 0`` before
the first step and with ``done == total`` after the last.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callback that is told of each finished step."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report that ``done`` of ``total`` steps of ``stage`` are finished."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Ignore every report: the default."""
