"""bench(): how fast, how large and how hungry each way to run a recogniser is.

Every contender runs in one process, interleaved, on the same features, after warming up: what the
machine does meanwhile then touches all of them.  Time is a median, its spread the distance of the first and
third quartile; both matter less than the ratio to float in the same run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from zeroq_asr.bench import probe
from zeroq_asr.bench.contenders import BASELINE, DEVICES, Contender, Features, of_file, of_model
from zeroq_asr.errors import ConfigError
from zeroq_asr.machine import Machine, this_machine
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import Progress, silent

WARM_UP = 2


@dataclass(frozen=True)
class Timing:
    """One contender at one length of audio with so many threads."""

    label: str
    engine: str
    dialect: str
    device: str
    threads: int
    #: of audio
    seconds: float
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
    #: bytes that loading and one run add to a fresh process at most
    peak_bytes: int | None = None

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work a second of audio."""
        return None if self.median is None else self.median / self.seconds


@dataclass(frozen=True)
class Benchmark:
    """What ``bench`` found."""

    machine: Machine
    #: label of the contender that ``speedup`` refers to
    baseline: str
    rounds: int
    rows: list[Timing]
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        rows = [{**asdict(row), "real_time_factor": row.real_time_factor} for row in self.rows]
        return {
            "machine": self.machine.to_dict(),
            "versions": self.versions,
            "baseline": self.baseline,
            "rounds": self.rounds,
            "rows": rows,
        }


def bench(
    files: Sequence[str | os.PathLike[str]] = (),
    *,
    model: AsrModel | None = None,
    against: AsrModel | None = None,
    seconds: Sequence[float] = (10.0,),
    threads: Sequence[int] = (1,),
    devices: Sequence[str] = ("cpu",),
    rounds: int = 15,
    progress: Progress = silent,
) -> Benchmark:
    """Measure ONNX ``files``, every form of ``model``, and the float and other tools' forms of ``against``.

    Raises ConfigError when there is nothing to measure or the contenders take different features, and
    CheckpointError for a file that is no recogniser.
    """
    _check(seconds, threads, devices, rounds)
    machine = this_machine()
    contenders: list[Contender] = []
    kinds: set[tuple[int, float]] = set()
    for path in files:
        contender, mels, rate = of_file(path)
        if "cpu" not in devices:
            contender = replace(contender, absent="an ONNX file is measured on the CPU")
        contenders.append(contender)
        kinds.add((mels, rate))
    longest = max(60.0, *seconds)
    for checkpoint, peers_only in ((model, False), (against, True)):
        if checkpoint is not None:
            contenders += of_model(
                checkpoint, machine, devices, peers_only=peers_only, max_seconds=longest, progress=progress
            )
            kinds.add((checkpoint.frontend.features, checkpoint.frontend.frames_per_second))
    if not contenders:
        raise ConfigError("bench", "there is nothing to measure", "name an ONNX file or a checkpoint")
    if len(kinds) > 1:
        shapes = ", ".join(f"{mels} mels at {rate:g} frames a second" for mels, rate in sorted(kinds))
        raise ConfigError("bench", f"the contenders take different features: {shapes}", "measure them apart")
    ((mels, rate),) = kinds
    contenders = _distinct(contenders)
    labels = [c.label for c in contenders if not c.absent]
    baseline = BASELINE if BASELINE in labels else labels[0] if labels else ""
    plan = [(length, count) for length in seconds for count in threads]
    rows: list[Timing] = []
    for index, (length, count) in enumerate(plan):
        features = _features(mels, length, rate)
        rows += _measure(
            contenders,
            features,
            length,
            count,
            rounds,
            baseline,
            progress,
            f"measure {index + 1}/{len(plan)}",
        )
    versions = {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
    return Benchmark(machine, baseline, rounds, rows, versions)


def _check(seconds: Sequence[float], threads: Sequence[int], devices: Sequence[str], rounds: int) -> None:
    if not seconds or not all(0 < value <= 3600 for value in seconds):
        raise ConfigError("bench", f"seconds must lie in (0, 3600], got {list(seconds)}")
    if not threads or not all(1 <= value <= 512 for value in threads):
        raise ConfigError("bench", f"threads must lie in [1, 512], got {list(threads)}")
    unknown = [device for device in devices if device not in DEVICES]
    if unknown or not devices:
        raise ConfigError("bench", f"unknown device {unknown}", f"use {' or '.join(DEVICES)}")
    if rounds < 1:
        raise ConfigError("bench", f"rounds must be 1 or more, got {rounds}")


def _distinct(contenders: Sequence[Contender]) -> list[Contender]:
    """Number labels that occur twice: two files of one name."""
    seen: dict[str, int] = {}
    found = []
    for contender in contenders:
        seen[contender.label] = count = seen.get(contender.label, 0) + 1
        label = contender.label if count == 1 else f"{contender.label} ({count})"
        found.append(replace(contender, label=label))
    return found


def _features(mels: int, seconds: float, rate: float) -> Features:
    """Return noise [1, M, T], as normalised features are scaled; at least eight frames."""
    frames = max(8, round(seconds * rate))
    return np.random.default_rng(0).standard_normal((1, mels, frames)).astype(np.float32)


def _measure(
    contenders: Sequence[Contender],
    features: Features,
    seconds: float,
    threads: int,
    rounds: int,
    baseline: str,
    progress: Progress,
    stage: str,
) -> list[Timing]:
    torch.set_num_threads(threads)
    present = [c for c in contenders if not c.absent]
    costs = {c.label: _cost(c, threads, features) for c in present}
    runs = {c.label: c.open(threads, features) for c in present}
    times: dict[str, list[float]] = {label: [] for label in runs}
    for turn in range(WARM_UP + rounds):
        progress(stage, turn, WARM_UP + rounds)
        for label, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= WARM_UP:
                times[label].append(time.perf_counter() - start)
    progress(stage, WARM_UP + rounds, WARM_UP + rounds)
    base = statistics.median(times[baseline]) if baseline else None
    rows = []
    for c in contenders:
        facts = (c.label, c.engine, c.dialect, c.device, threads, seconds)
        if c.absent:
            rows.append(Timing(*facts, absent=c.absent))
            continue
        median = statistics.median(times[c.label])
        low, _, high = statistics.quantiles(times[c.label], n=4) if rounds > 1 else (median, median, median)
        load, peak = costs[c.label]
        rows.append(
            Timing(
                *facts,
                median=median,
                spread=(high - low) / median,
                speedup=None if base is None else base / median,
                size=c.size,
                load_seconds=load,
                peak_bytes=peak,
            )
        )
    return rows


def _cost(contender: Contender, threads: int, features: Features) -> tuple[float | None, int | None]:
    """Return seconds to load and bytes at the peak, in a fresh process; None where it cannot be told."""
    if contender.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        contender.open(threads, features)()
        return None, torch.cuda.max_memory_allocated()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(contender.data)
        shape = [str(size) for size in (threads, *features.shape[1:])]
        command = [sys.executable, probe.__file__, str(file), *shape]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return None, None
    found = json.loads(done.stdout.splitlines()[-1])
    return found["load_seconds"], found["peak_bytes"]
