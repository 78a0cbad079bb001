"""How long the stages of a pipeline take."""

from __future__ import annotations

import time

from zeroq_asr.progress import Progress

#: stages that tell of their steps themselves
_TOLD = ("source", "features", "calibrate", "train")


class Clock:
    """Times the stages, in sum where one comes again, and tells of those that have no steps of their own."""

    def __init__(self, seconds: dict[str, float], progress: Progress) -> None:
        self._seconds, self._progress = seconds, progress
        self._stage, self._start = "", 0.0

    def __call__(self, stage: str) -> Clock:
        """Return the context of a stage, whose time is noted."""
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        if self._stage not in _TOLD:
            self._progress(self._stage, 0, 1)

    def __exit__(self, *_: object) -> None:
        before = self._seconds.get(self._stage, 0.0)
        self._seconds[self._stage] = round(before + time.perf_counter() - self._start, 3)
        if self._stage not in _TOLD:
            self._progress(self._stage, 1, 1)
