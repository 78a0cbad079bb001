"""quantize(): a checkpoint in, a proven integer ONNX file out; every stage on one screen."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.calibration.equalize import equalize
from zeroq_asr.calibration.smooth import smooth
from zeroq_asr.capture.capture import capture
from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec
from zeroq_asr.deployment.export import Deployment, Export, export
from zeroq_asr.deployment.machine import settled
from zeroq_asr.errors import CalibrationError
from zeroq_asr.files import atomic_write_bytes
from zeroq_asr.graph.distances import expose_positions
from zeroq_asr.integer.float_parts import Island, islands
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.proof import Proof, prove
from zeroq_asr.lowering.formats import named_values
from zeroq_asr.lowering.keep_float import with_islands
from zeroq_asr.lowering.lower import check_operators, lower
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import Progress, silent
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.frontend import Frontend
from zeroq_asr.speech.manifest import Utterance, read_manifest
from zeroq_asr.synthesis.synthesize import SyntheticFeatures, gaussian_noise, synthesize


@dataclass(frozen=True)
class Quantized:
    """What ``quantize`` made, and the account of it."""

    program: Program
    deployment: Deployment
    proof: Proof
    exported: Export
    #: what the ranges came from; None for audio
    features: SyntheticFeatures | None
    #: where it was written; None if it was not
    path: Path | None
    #: bytes of the file
    size: int
    #: bytes of the float network's parameters and buffers
    float_bytes: int
    #: stage → seconds
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def islands(self) -> tuple[Island, ...]:
        """What stayed in float; none if the program is integer-only."""
        return islands(self.program)

    def to_dict(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        return {
            "file": None if self.path is None else str(self.path),
            "bytes": self.size,
            "float_bytes": self.float_bytes,
            "name": self.deployment.name,
            "dialect": self.exported.backend.dialect,
            "integer_only": not self.islands,
            "islands": [asdict(island) for island in self.islands],
            "program_sha256": self.program.digest(),
            "proof": self.proof.to_dict(),
            "recipe": self.deployment.recipe,
            "seconds": self.seconds,
        }


def quantize(
    source: str | os.PathLike[str] | AsrModel,
    output: str | os.PathLike[str] | None = None,
    *,
    spec: QuantSpec | None = None,
    synthesis: SynthesisSpec | None = None,
    calibration: CalibrationSpec | None = None,
    dialect: str = "fused",
    config: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    progress: Progress = silent,
) -> Quantized:
    """Quantize a checkpoint (or a loaded model) and write it to ``output`` if given.

    ``config`` and ``loader`` are as in ``load_checkpoint``.  Raises a ZeroqError for anything that
    is wrong with the input; the output file is whole or not there at all.  The file is integer-only unless
    ``spec`` keeps something in float (``keep_float``, ``allow_float``), which ``Quantized.islands`` lists and
    only the dialect ``fused`` can hold.
    """
    spec, calibration = settled(spec or QuantSpec()), calibration or CalibrationSpec()
    synthesis = synthesis or SynthesisSpec.preset("default")
    seconds: dict[str, float] = {}
    clock = _Clock(seconds, progress)

    with clock("load"):
        model = (
            source if isinstance(source, AsrModel) else load_checkpoint(source, config=config, loader=loader)
        )
    with clock("source"):
        source_of_ranges = open_source(model, calibration)
    with clock("capture"):
        graph = expose_positions(
            capture(model.network, model.example_input(), model.name, allow_float=spec.allow_float)
        )
        # before the long work begins
        whole = with_islands(graph, spec.keep_float)
        check_operators(whole)
        named_values(whole, spec.layer_bits)
    with clock("features"):
        features, stream, total = calibration_features(
            model, source_of_ranges, synthesis, calibration, progress
        )
        if spec.equalization:
            graph = equalize(graph, stream(), spec.equalization)
        if spec.smoothing:
            graph = smooth(graph, stream(), spec.smoothing)
    with clock("calibrate"):
        levels = 2**spec.activation_bits - 1
        reached = {layer.name: layer.std_ratio for layer in features.account} if features else None
        observed = calibrate(
            graph,
            stream(),
            calibration,
            levels=levels,
            reached=reached,
            covariances=spec.feedback,
            total=total,
            progress=progress,
        )
    deployment = Deployment(
        name=model.name,
        frontend=model.frontend,
        tokenizer=model.tokenizer,
        max_seconds=spec.max_seconds,
        subsampling_factor=model.subsampling_factor,
        recipe=_recipe(spec, synthesis, calibration),
    )
    with clock("lower"):
        program = lower(
            graph,
            observed.ranges,
            spec,
            channels=model.frontend.features,
            max_frames=deployment.max_frames,
            means=observed.means if spec.bias_correction else None,
            covariances=observed.covariances,
            waveform=model.frontend.is_waveform,
        )
    with clock("prove"):
        proof = prove(program)
    with clock("export"):
        exported = export(program, deployment, dialect, spec.target)
        data = exported.to_bytes()
        if output is not None:
            atomic_write_bytes(output, data)
    path = None if output is None else Path(output)
    size = len(data)
    return Quantized(program, deployment, proof, exported, features, path, size, model.float_bytes, seconds)


class _Clock:
    """Times the stages, and tells of those that have no steps of their own."""

    def __init__(self, seconds: dict[str, float], progress: Progress) -> None:
        self._seconds, self._progress = seconds, progress
        self._stage, self._start = "", 0.0

    def __call__(self, stage: str) -> _Clock:
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        if self._stage not in ("source", "features", "calibrate"):
            self._progress(self._stage, 0, 1)

    def __exit__(self, *_: object) -> None:
        self._seconds[self._stage] = round(time.perf_counter() - self._start, 3)
        if self._stage not in ("source", "features", "calibrate"):
            self._progress(self._stage, 1, 1)


Source = list[Utterance] | SyntheticFeatures | None


def open_source(model: AsrModel, calibration: CalibrationSpec) -> Source:
    """Read what is to be calibrated on, so that a mistake shows before the long work begins.

    A list of utterances, saved features, or None for what is still to be made.
    """
    if calibration.kind == "audio":
        return read_manifest(calibration.source)[: calibration.limit]
    if calibration.kind != "features":
        return None
    saved = SyntheticFeatures.load(calibration.source)
    if saved.features.shape[1] != model.frontend.features:
        raise CalibrationError(
            calibration.source,
            f"features have {saved.features.shape[1]} mels, the network takes {model.frontend.features}",
            "synthesize them for this checkpoint",
        )
    return saved


def calibration_features(
    model: AsrModel,
    source: Source,
    synthesis: SynthesisSpec,
    calibration: CalibrationSpec,
    progress: Progress,
) -> tuple[SyntheticFeatures | None, Callable[[], Iterator[Tensor]], int]:
    """What to calibrate on: the saved or made features, what streams them as [M, T], how many there are."""
    if isinstance(source, list):
        frontend = Frontend(model.frontend)

        def audio() -> Iterator[Tensor]:
            for utterance in source:
                waveform = load_audio(utterance.audio_path, model.frontend.sample_rate)
                features, length = frontend(waveform, os.fspath(utterance.audio_path))
                yield torch.from_numpy(features[:, :length])

        return None, audio, len(source)
    if source is not None:
        made = source
    elif calibration.kind == "noise":
        made = gaussian_noise(model, synthesis)
    else:
        made = synthesize(model, synthesis, progress)
    count = min(len(made.lengths), calibration.limit or len(made.lengths))

    def synthetic() -> Iterator[Tensor]:
        return (torch.from_numpy(made.features[i, :, : made.lengths[i]]) for i in range(count))

    return made, synthetic, count


def _recipe(spec: QuantSpec, synthesis: SynthesisSpec, calibration: CalibrationSpec) -> dict[str, Any]:
    """How the file was made, for its metadata; folders of the maker's machine stay out of it."""
    recipe = {"quantization": spec.to_dict(), "calibration": calibration.to_dict()}
    if calibration.kind in ("synthetic", "noise"):
        recipe["synthesis"] = synthesis.to_dict()
    else:
        recipe["calibration"]["source"] = Path(calibration.source).name
    return recipe
