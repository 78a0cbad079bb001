"""The clock: contenders in turn, in one process, on the same features.

The order is drawn anew each round, for whoever runs next to a hot cache or a spinning thread would gain or
lose by it every time.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zeroq_asr.deployment.float_files import put
from zeroq_asr.errors import CheckpointError
from zeroq_asr.files import temporary_folder
from zeroq_asr.integer.bundle import NETWORK
from zeroq_asr.measure.bench.contenders import Contender, Features, Run
from zeroq_asr.measure.bench.parts import RUNS, STEPS, name_of
from zeroq_asr.progress import Progress
from zeroq_asr.threads import torch_threads

WARM_UP = 2
#: a program of its own, which imports no more than it measures
_PROBE = Path(__file__).with_name("probe.py")
#: a file that takes longer to load and run once has no memory figure
_PROBE_SECONDS = 600


@dataclass(frozen=True)
class Timing:
    """One contender at one length of audio with so many threads."""

    label: str
    engine: str
    dialect: str
    device: str
    threads: int
    #: of audio; None of a step, which takes none
    seconds: float | None
    #: why there are no figures; "" if there are
    absent: str = ""
    #: seconds of one run
    median: float | None = None
    #: (third quartile - first quartile) / median
    spread: float | None = None
    #: time of the baseline / time of this one
    speedup: float | None = None
    #: bytes of the file or the parameters
    size: int | None = None
    #: seconds to load the file, in a fresh process
    load_seconds: float | None = None
    #: bytes that loading and one run add to a fresh process at most; on a GPU what they take of its memory
    peak_bytes: int | None = None
    #: what of a recogniser was run
    part: str = NETWORK

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return {
            "label": self.label,
            "part": self.part,
            "engine": self.engine,
            "dialect": self.dialect,
            "device": self.device,
            "threads": self.threads,
            "audio_seconds": self.seconds,
            "absent": self.absent,
            "median_seconds": self.median,
            "spread": self.spread,
            "speedup": self.speedup,
            "bytes": self.size,
            "load_seconds": self.load_seconds,
            "peak_bytes": self.peak_bytes,
            "real_time_factor": self.real_time_factor,
        }

    @property
    def title(self) -> str:
        """What rows that are measured alike have in common, in words."""
        return (
            f"{RUNS[self.part].format(self.seconds)}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        )

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work a second of audio."""
        return None if self.median is None or self.seconds is None else self.median / self.seconds


def measure(
    contenders: Sequence[Contender],
    features: Features,
    *,
    seconds: float | None,
    threads: int,
    rounds: int,
    baseline: str,
    progress: Progress,
    stage: str,
) -> list[Timing]:
    """Time every contender; one that fails becomes a row that says why.

    ``baseline``: label of the contender that speed-ups refer to; "" for none.
    """
    times, reasons = clock(
        contenders, features, threads=threads, rounds=rounds, progress=progress, stage=stage
    )
    costs = {c.label: _cost(c, threads, features) for c in contenders if c.label in times}
    base = statistics.median(times[baseline]) if baseline in times else None
    rows = []
    for c in contenders:
        facts = (c.label, c.engine, c.dialect, c.device, threads, seconds)
        if c.label not in times:
            rows.append(Timing(*facts, absent=reasons[c.label], part=c.part))
            continue
        median = statistics.median(times[c.label])
        spread = 0.0
        if rounds > 1:
            low, _, high = statistics.quantiles(times[c.label], n=4, method="inclusive")
            spread = (high - low) / median
        load, peak = costs[c.label]
        rows.append(
            Timing(
                *facts,
                median=median,
                spread=spread,
                speedup=None if base is None else base / median,
                size=c.size,
                load_seconds=load,
                peak_bytes=peak,
                part=c.part,
            )
        )
    return rows


def clock(
    contenders: Sequence[Contender],
    features: Features,
    *,
    threads: int,
    rounds: int,
    progress: Progress,
    stage: str,
    timer: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run the contenders in turn; return label → seconds of each round, and label → why it does not run.

    ``timer``: what tells seconds.
    """
    with torch_threads(threads):
        runs, reasons = _opened(contenders, threads, features)
        return _times(runs, rounds, progress, stage, timer), reasons


def _opened(
    contenders: Sequence[Contender], threads: int, features: Features
) -> tuple[dict[str, Run], dict[str, str]]:
    """Open and try each; return those that run, and why the others do not."""
    runs: dict[str, Run] = {}
    reasons: dict[str, str] = {}
    for c in contenders:
        if c.absent:
            reasons[c.label] = c.absent
            continue
        try:
            run = c.open(threads, features)
            run()
        except CheckpointError:
            raise  # the file itself is wrong
        except Exception as error:  # engines raise what they like, and the others are still to run
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reasons[c.label] = f"fails: {lines[0][:120]}"
        else:
            runs[c.label] = run
    return runs, reasons


def _times(
    runs: dict[str, Run], rounds: int, progress: Progress, stage: str, timer: Callable[[], float]
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {label: [] for label in runs}
    generator = random.Random(0)
    for turn in range(WARM_UP + rounds):
        progress(stage, turn, WARM_UP + rounds)
        for label in generator.sample(list(runs), len(runs)):
            start = timer()
            runs[label]()
            if turn >= WARM_UP:
                times[label].append(timer() - start)
    progress(stage, WARM_UP + rounds, WARM_UP + rounds)
    return times


def _cost(contender: Contender, threads: int, features: Features) -> tuple[float | None, int | None]:
    """Return seconds to load and bytes at the peak, in a fresh process; None where it cannot be told."""
    if contender.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contender.open(threads, features)()
        return None, torch.cuda.max_memory_allocated() - before
    files = contender.files
    if contender.data and not files:
        files = {name_of("model", contender.data): contender.data}
    if not files:
        return None, None
    with temporary_folder() as folder:
        for name, data in files.items():
            put(data, folder / name)
        # a step takes no features, and adds next to nothing to what its file takes
        shape = [] if contender.part in STEPS else [*features.shape[1:]]
        try:
            found = _probed(folder, threads, *shape)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            return None, None
    return found["load_seconds"], found["peak_bytes"]


def _probed(file: Path, *numbers: int) -> dict[str, Any]:
    """What the probe says of a file, or of all that are in a folder."""
    command = [sys.executable, str(_PROBE), str(file), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def load_seconds(file: Path, *, processor: bool = False) -> float:
    """Return the seconds that a session of one thread takes to create in a fresh process.

    ``processor``: of the processor's time.  Raises CalledProcessError where the file cannot be loaded.
    """
    return float(_probed(file, 1)["load_processor_seconds" if processor else "load_seconds"])
