"""What is measured: (engine, dialect, device) triples, each ready to run on features [1, M, T].

Neither ranges nor how weights are rounded change the time, so what is built here from a checkpoint is
calibrated on noise and rounded to nearest: these files are for the clock alone.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from zeroq_asr.capture.capture import capture
from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec
from zeroq_asr.deployment.export import export
from zeroq_asr.deployment.float_files import File, held, size, source
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.deployment.frontend_graph import AUDIO, AUDIO_LENGTH
from zeroq_asr.deployment.machine import Machine
from zeroq_asr.deployment.metadata import Deployment, own_metadata
from zeroq_asr.deployment.recognizer import open_session, read_metadata, read_surroundings
from zeroq_asr.errors import CheckpointError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.bundle import NETWORK
from zeroq_asr.integer.float_parts import islands
from zeroq_asr.integer.program import Program
from zeroq_asr.measure.onnxruntime_quantizers import attempt, ort_dynamic, ort_static, preprocess
from zeroq_asr.model import AsrModel
from zeroq_asr.pipeline import Prepared, build, prepare
from zeroq_asr.progress import Progress, silent

Features = npt.NDArray[np.float32]
#: run once and wait for the end
Run = Callable[[], None]

#: the contender that the others are compared with
BASELINE = "float, depthwise as 2-D"


@dataclass(frozen=True)
class Contender:
    """One way to run a network."""

    label: str
    #: "onnxruntime" or "torch"
    engine: str
    #: float, fused, strict, qdq, …
    dialect: str
    #: one of `zeroq_asr.config.DEVICES`
    device: str
    #: (threads, features [1, M, T]) → what is timed
    open: Callable[[int, Features], Run]
    #: bytes of the file, or of the parameters
    size: int
    #: the ONNX model, for engines that load one
    data: File = b""
    #: why it cannot run here; "" if it can
    absent: str = ""
    #: what of a recogniser is run: one of ``zeroq_asr.measure.bench.parts.RUNS`` of a transducer
    part: str = NETWORK
    #: of a recogniser of several ONNX models, in place of ``data``: name of a file → the model
    files: Mapping[str, File] = field(default_factory=dict)


def of_onnx(label: str, dialect: str, data: File) -> Contender:
    """Return ONNX Runtime on the CPU with a model."""
    return Contender(label, "onnxruntime", dialect, "cpu", _opening(label, source(data)), size(data), data)


def of_path(label: str, dialect: str, path: Path) -> Contender:
    """Return ONNX Runtime on the CPU with the model in a file, which is read when it is opened."""
    return Contender(label, "onnxruntime", dialect, "cpu", _opening(label, str(path)), size(path))


def _opening(label: str, model: str | bytes) -> Callable[[int, Features], Run]:
    def start(threads: int, features: Features) -> Run:
        session = open_session(label, model, threads, spin=False)
        feed = {"audio_signal": features, "length": np.array([features.shape[2]], dtype=np.int64)}
        given = {value.name: feed[value.name] for value in session.get_inputs()}
        return lambda: session.run(None, given)

    return start


def of_file(path: str | os.PathLike[str]) -> tuple[Contender, int, float | None]:
    """Return the contender of an ONNX file, its mels, and its frames a second where the file says so.

    Raises CheckpointError when it is no recogniser of features.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})", "check the path") from None
    session = open_session(path, data, 1)
    inputs = {value.name: value.shape for value in session.get_inputs()}
    shape = inputs.get("audio_signal", [])
    if set(inputs) == {AUDIO, AUDIO_LENGTH}:
        problem = "takes audio: bench measures networks, on features, without their frontend"
        raise CheckpointError(path, problem, "write it again: zeroq-asr export --without-frontend")
    if not set(inputs) <= {"audio_signal", "length"} or len(shape) != 3 or not isinstance(shape[1], int):
        raise CheckpointError(
            path, f"takes {sorted(inputs)}, a recogniser takes audio_signal [batch, mels, frames] and length"
        )
    own = own_metadata(path, read_metadata(path, session))
    rate = None
    if own:
        frontend, _ = read_surroundings(path, own)
        rate = frontend.frames_per_second
    return of_onnx(Path(path).name, str(own.get("dialect", "onnx")), data), shape[1], rate


def noise(mels: int, seconds: float, rate: float) -> Features:
    """Return noise [1, M, T], as normalised features are scaled; at least eight frames.

    ``rate``: feature frames a second.
    """
    frames = max(8, round(seconds * rate))
    return np.random.default_rng(0).standard_normal((1, mels, frames)).astype(np.float32)


def of_model(
    model: AsrModel,
    machine: Machine,
    devices: Sequence[str] = ("cpu",),
    *,
    folder: Path,
    spec: QuantSpec | None = None,
    graph: FloatGraph | None = None,
    peers_only: bool = False,
    progress: Progress = silent,
) -> list[Contender]:
    """Return every contender of a checkpoint; with ``peers_only`` those that are not this package's.

    ``folder``: where float models lie that are too large to be held, as long as contenders are run.

    ``spec``: the format, of which each row sets the bits of weights and the target itself.  ``graph``: the
    network as ``capture`` gives it, where it was captured before.

    Raises UnsupportedOperatorError for an operator without an integer lowering, if ``spec`` allows none in
    float.
    """
    spec = spec or QuantSpec()
    found: list[Contender] = []
    if "cpu" in devices:
        progress("build", 0, 2)
        if graph is None:
            graph = capture(model.network, model.example_input(), model.name, allow_float=spec.allow_float)
        deployment = Deployment(
            model.name, model.frontend, model.tokenizer, spec.max_seconds, model.subsampling_factor
        )
        for label, flat in (("float, as exported (1-D)", True), (BASELINE, False)):
            found.append(of_onnx(label, "float", held(export_float(graph, deployment, flat=flat), folder)))
        found += [] if peers_only else _integers(model, machine, spec, graph)
        found += _peers(export_float(graph, deployment, quantizable=True), model)
        progress("build", 1, 2)
    if "cuda" in devices:
        found += _on_gpu(model, spec, peers_only=peers_only)
    progress("build", 2, 2)
    return found


def full_range_target(machine: Machine) -> str:
    """Return the target of weights of full range on a machine that is exact with them."""
    return "arm" if machine.architecture == "arm" else "x86-vnni"


def _integers(model: AsrModel, machine: Machine, spec: QuantSpec, graph: FloatGraph) -> list[Contender]:
    any_x86 = replace(spec, target="x86-any", rounding="nearest")
    eight, seven = replace(any_x86, weight_bits=8), replace(any_x86, weight_bits=7)
    target = full_range_target(machine)
    vnni = replace(eight, target=target)
    prepared = _prepared(model, [eight, seven, vnni], graph)
    deployment = prepared.deployment()
    wide, narrow = build(prepared, eight), build(prepared, seven)

    def spelled(label: str, program: Program, dialect: str, target: str) -> Contender:
        if dialect != "fused" and islands(program):
            return absent(label, "onnxruntime", dialect, "cpu", f"{dialect} cannot hold float islands")
        return of_onnx(label, dialect, export(program, deployment, dialect, target).to_bytes())

    found = [
        spelled("fused W8", wide, "fused", "x86-any"),
        spelled("fused W7", narrow, "fused", "x86-any"),
    ]
    if machine.exact_at_full_range:
        found.append(spelled("fused W8 at full range", build(prepared, vnni), "fused", target))
    return [
        *found,
        spelled("strict W8", wide, "strict", "x86-any"),
        spelled("qdq W8", wide, "qdq", "x86-any"),
    ]


def absent(label: str, engine: str, dialect: str, device: str, reason: str) -> Contender:
    """Return the row of what cannot run here, and why."""

    def never(threads: int, features: Features) -> Run:
        raise AssertionError("an absent contender is not run")

    return Contender(label, engine, dialect, device, never, 0, absent=reason)


def _prepared(model: AsrModel, specs: Sequence[QuantSpec], graph: FloatGraph | None = None) -> Prepared:
    return prepare(
        model,
        spec=specs[0],
        also=specs[1:],
        calibration=CalibrationSpec(source="noise"),
        synthesis=SynthesisSpec(batch=1, frames=256),
        graph=graph,
        # files of noise are as fast as others, and nobody keeps them
        check_ranges=False,
    )


def _peers(float_model: onnx.ModelProto, model: AsrModel) -> list[Contender]:
    """ONNX Runtime's own quantizers of the fast float form, or rows that say why they fail."""
    data = [(noise(model.frontend.features, 256, 1), np.array([256], dtype=np.int64))]
    ready = preprocess(float_model)
    ways: list[tuple[str, str, Callable[[], bytes]]] = [
        ("ORT static, u8 × u8", "ort static", lambda: ort_static(ready, data)),
        (
            "ORT static, u8 × s8",
            "ort static",
            lambda: ort_static(ready, data, signed_weights=True, per_channel=True),
        ),
        ("ORT dynamic", "ort dynamic", lambda: ort_dynamic(ready)),
    ]
    found = []
    for label, dialect, make in ways:
        made, reason = attempt(make)
        row = of_onnx(label, dialect, made) if made is not None else None
        found.append(row or absent(label, "onnxruntime", dialect, "cpu", reason))
    return found


def _on_gpu(model: AsrModel, spec: QuantSpec, *, peers_only: bool) -> list[Contender]:
    """PyTorch on a GPU; rows that say so where there is none."""
    if torch.cuda.is_available():
        return of_torch(model, "cuda", spec, peers_only=peers_only)
    labels = list(_TORCH)[: 2 if peers_only else 3]
    return [absent(label, "torch", _TORCH[label], "cuda", "no CUDA device here") for label in labels]


#: label → dialect
_TORCH = {"torch, float32": "float", "torch, float16": "float", "torch, integer program W8": "program"}


def of_torch(
    model: AsrModel, device: str, spec: QuantSpec | None = None, *, peers_only: bool = False
) -> list[Contender]:
    """Return PyTorch on ``device``: the network in two float types, and the integer program."""
    starts = [
        (_float_network(model, device, torch.float32), model.float_bytes),
        (_float_network(model, device, torch.float16), model.float_bytes // 2),
    ]
    if not peers_only:
        eight = replace(spec or QuantSpec(), weight_bits=8, target="x86-any", rounding="nearest")
        program = build(_prepared(model, [eight]))
        starts.append((_program(program, device), sum(a.nbytes for a in program.constants.values())))
    return [
        Contender(label, "torch", dialect, device, start, stored)
        for (label, dialect), (start, stored) in zip(_TORCH.items(), starts, strict=False)
    ]


def _float_network(model: AsrModel, device: str, dtype: torch.dtype) -> Callable[[int, Features], Run]:
    def start(threads: int, features: Features) -> Run:
        network = copy.deepcopy(model.network).to(device, dtype)
        x = torch.from_numpy(features).to(device, dtype)
        lengths = torch.tensor([features.shape[2]], device=device)
        return _waiting(lambda: network(x, lengths), device)

    return start


def _program(program: Program, device: str) -> Callable[[int, Features], Run]:
    def start(threads: int, features: Features) -> Run:
        backend = TorchBackend(device)
        x = torch.from_numpy(features).to(device)
        lengths = torch.tensor([features.shape[2]], device=device)
        return _waiting(lambda: program.run(backend, x, lengths), device)

    return start


def _waiting(run: Callable[[], Any], device: str) -> Run:
    """Return ``run`` under inference mode, waiting for the device."""

    def once() -> None:
        with torch.inference_mode():
            run()
        if device == "cuda":
            torch.cuda.synchronize()

    return once
