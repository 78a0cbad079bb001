"""bench(): how fast, how large and how hungry each way to run a recogniser is.

Times are medians of one interleaved run; what matters is their ratio to float in that run.

Imported by: cli.
Imports: _version, errors, lines, progress, files, threads, config, speech, decoding, integer, graph, model,
embedded, capture, deployment, pipeline.
Never imports: cli.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zeroq_asr.config import DEVICES, QuantSpec
from zeroq_asr.deployment.bundle_recognizer import is_bundle
from zeroq_asr.deployment.machine import Machine, this_machine
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import temporary_folder
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.bundle import NETWORK
from zeroq_asr.lines import summary
from zeroq_asr.measure.bench.contenders import BASELINE, Contender, noise, of_file, of_model
from zeroq_asr.measure.bench.measure import Timing, measure
from zeroq_asr.measure.bench.parts import STEPS, of_folder, spoken
from zeroq_asr.measure.bench.transducers import FLOAT, of_transducer
from zeroq_asr.model import AsrModel, TransducerModel
from zeroq_asr.pipeline import Prepared
from zeroq_asr.progress import Progress, silent
from zeroq_asr.speech.frontend import FrontendConfig

#: feature frames a second of a file that does not say, beside no other that does: what NeMo's frontends give
_USUAL_RATE = 100.0


@dataclass(frozen=True)
class Benchmark:
    """What ``bench`` found."""

    machine: Machine
    #: label of the contender that ``speedup`` refers to; "" if none ran
    baseline: str
    rounds: int
    rows: list[Timing]
    versions: dict[str, str]

    def __repr__(self) -> str:
        """Show where it was measured, and how much, on one line."""
        return summary(self, self.machine.processor, f"{len(self.rows)} rows", f"{self.rounds} rounds")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        rows = [row.to_dict() for row in self.rows]
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
    model: AsrModel | TransducerModel | Prepared | None = None,
    against: AsrModel | TransducerModel | None = None,
    spec: QuantSpec | None = None,
    seconds: Sequence[float] = (10.0,),
    threads: Sequence[int] = (1,),
    devices: Sequence[str] = ("cpu",),
    rounds: int = 15,
    progress: Progress = silent,
) -> Benchmark:
    """Measure ONNX ``files``, every form of ``model``, and the float and other tools' forms of ``against``.

    A transducer's file is the folder of a bundle.  It is measured as a whole, on speech that it decodes
    greedily, and part by part; predictor and joiner take steps, whatever ``seconds``.  Of a network that
    ``prepare`` took, what it captured is not captured again.

    ``spec``: the format of the forms, of which each row sets the bits of weights and the target itself.  What
    it keeps in float is an island in ``fused`` rows; the others say that they hold none.  A contender that
    cannot run becomes a row that says why.  Raises ConfigError when there is nothing to measure or to keep
    in float, the contenders take different features, or only some are transducers, CheckpointError for a
    file that is no recogniser, and UnsupportedOperatorError for an operator that ``spec`` does not allow in
    float.
    """
    # what is asked for twice is measured once
    seconds, threads = [*dict.fromkeys(seconds)], [*dict.fromkeys(threads)]
    devices = [*dict.fromkeys(devices)]
    _check(seconds, threads, devices, rounds)
    spec = spec or QuantSpec()
    spec = replace(spec, max_seconds=max(spec.max_seconds, *seconds))
    if spec.keep_float and model is None:
        raise ConfigError(
            "--keep-float",
            "there is no checkpoint to quantize, ONNX files are measured as they are",
            "name the checkpoint, or leave it out",
        )
    captured: FloatGraph | None = None
    if isinstance(model, Prepared):
        captured = model.captured if model.spec.allow_float == spec.allow_float else None
        model = model.model
    found = _Found(devices)
    for path in files:
        found.add_file(path)
    with temporary_folder() as folder:
        for checkpoint, graph, peers_only in ((model, captured, False), (against, None, True)):
            if checkpoint is not None:
                found.add_checkpoint(
                    checkpoint, folder, spec, graph, peers_only=peers_only, progress=progress
                )
        return found.measured(seconds, threads, rounds, progress)


class _Found:
    """Contenders that take the same features, and what these are."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices, self.machine = devices, this_machine()
        self.contenders: list[Contender] = []
        self.mels: set[int] = set()
        self.rates: set[float] = set()
        #: of transducers, which hear speech
        self.frontend: FrontendConfig | None = None

    def add_file(self, path: str | os.PathLike[str]) -> None:
        """Add an ONNX file, or a bundle's folder."""
        if is_bundle(path):
            several, self.frontend = of_folder(path)
            rate: float | None = self.frontend.frames_per_second
            self.mels.add(self.frontend.features)
        else:
            contender, count, rate = of_file(path)
            several = [contender]
            self.mels.add(count)
        if "cpu" not in self.devices:
            several = [replace(one, absent="an ONNX file is measured on the CPU") for one in several]
        self.contenders += several
        self.rates |= set() if rate is None else {rate}

    def add_checkpoint(
        self,
        checkpoint: AsrModel | TransducerModel,
        folder: Path,
        spec: QuantSpec,
        graph: FloatGraph | None,
        *,
        peers_only: bool,
        progress: Progress,
    ) -> None:
        """Add every form of a checkpoint; ``folder`` is to last as long as they are measured."""
        if isinstance(checkpoint, TransducerModel):
            if [*self.devices] != ["cpu"]:
                problem = f"{checkpoint.name} is a transducer, which is measured on the CPU"
                raise ConfigError("--device", problem, "say cpu, or leave it out")
            self.frontend = self.frontend or checkpoint.frontend
            self.contenders += of_transducer(
                checkpoint, self.machine, folder=folder, spec=spec, peers_only=peers_only, progress=progress
            )
        else:
            self.contenders += of_model(
                checkpoint,
                self.machine,
                self.devices,
                folder=folder,
                spec=spec,
                graph=graph,
                peers_only=peers_only,
                progress=progress,
            )
        self.mels.add(checkpoint.frontend.features)
        self.rates.add(checkpoint.frontend.frames_per_second)

    def measured(
        self, seconds: Sequence[float], threads: Sequence[int], rounds: int, progress: Progress
    ) -> Benchmark:
        """Measure all, or raise ConfigError where they cannot be measured together."""
        import onnxruntime  # here, since a tenth of a second matters to commands that do not need it

        if not self.contenders:
            raise ConfigError("bench", "there is nothing to measure", "name an ONNX file or a checkpoint")
        if len(self.mels) > 1 or len(self.rates) > 1:
            taken = f"{_listed(self.mels)} mels, {_listed(self.rates)} frames a second"
            raise ConfigError("bench", f"the networks take different features: {taken}", "measure them apart")
        parts = [*dict.fromkeys(c.part for c in self.contenders)]
        if NETWORK in parts and len(parts) > 1:
            raise ConfigError("bench", "only some of the networks are transducers", "measure them apart")
        contenders = _distinct(self.contenders)
        labels = [c.label for c in contenders if not c.absent]
        named = [label for label in (BASELINE, FLOAT) if label in labels]
        baseline = next(iter(named + labels), "")
        plan: list[tuple[str, float | None, int]]
        plan = [
            (part, length, n) for length in seconds for n in threads for part in parts if part not in STEPS
        ]
        plan += [(part, None, n) for n in threads for part in parts if part in STEPS]
        rows: list[Timing] = []
        for index, (part, length, count) in enumerate(plan):
            heard = length or min(seconds)
            rows += measure(
                [c for c in contenders if c.part == part],
                noise(min(self.mels), heard, min(self.rates, default=_USUAL_RATE))
                if self.frontend is None
                else spoken(self.frontend, heard),
                seconds=length,
                threads=count,
                rounds=rounds,
                baseline=baseline,
                progress=progress,
                stage=f"measure {index + 1}/{len(plan)}",
            )
        versions = {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
        return Benchmark(self.machine, baseline, rounds, rows, versions)


def _listed(values: set[Any]) -> str:
    return " and ".join(f"{value:g}" for value in sorted(values))


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
    seen: dict[tuple[str, str], int] = {}
    found = []
    for contender in contenders:
        what = (contender.label, contender.part)
        seen[what] = count = seen.get(what, 0) + 1
        label = contender.label if count == 1 else f"{contender.label} ({count})"
        found.append(replace(contender, label=label))
    return found
