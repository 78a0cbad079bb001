"""What ``compare`` makes of a network, a subject: of a CTC network files, of a transducer folders of files.

A subject knows how it is prepared, quantized, spelled in float, handed to ONNX Runtime's own quantizers, and
opened.  Which rows there are, and what is made of them, is no business of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zeroq_asr.capture.capture import capture
from zeroq_asr.capture.transducer import capture_transducer
from zeroq_asr.config import CalibrationSpec, LabelSpec, QuantSpec, SynthesisSpec, TrainingSpec
from zeroq_asr.config.choices import CTC, TRANSDUCER
from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.deployment.bundle_recognizer import IntegerTransducer, is_bundle
from zeroq_asr.deployment.float_files import save
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.deployment.float_transducer import FloatTransducer, export_float_transducer
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.deployment.parts import PARTS
from zeroq_asr.deployment.recognizer import BeamRecognizer, OnnxRecognizer, Recognizer, TorchRecognizer
from zeroq_asr.deployment.transducer import AnyTransducer, TransducerRecognizer
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.measure.bench.contenders import Contender, noise, of_path
from zeroq_asr.measure.bench.parts import spoken, whole
from zeroq_asr.measure.onnxruntime_quantizers import ort_dynamic, ort_static, preprocess
from zeroq_asr.measure.peers import Files, Peer, static_peer
from zeroq_asr.measure.said import Features
from zeroq_asr.model import AsrModel, TransducerModel
from zeroq_asr.pipeline import Prepared, preparation, prepare, quantize
from zeroq_asr.pipeline.transducer import (
    PreparedTransducer,
    encoder_of,
    prepare_transducer,
    quantize_transducer,
)
from zeroq_asr.progress import Progress

ORT_STATIC, ORT_DYNAMIC = "ORT static, real data", "ORT dynamic"
#: what a file or a folder of files is opened as, and its bytes
Opened = tuple[Recognizer | AnyTransducer, int]


class Subject(Protocol):
    """A network that is compared with what becomes of it."""

    #: the network that takes features: itself, or its encoder
    listener: AsrModel
    #: "ctc" or "transducer"
    head: str
    #: of the names of what is made of it
    suffix: str

    @property
    def model(self) -> AsrModel | TransducerModel:
        """The float network."""
        ...

    def recognizer(self) -> Recognizer | AnyTransducer:
        """Return what runs the float network as it is."""
        ...

    def alike(self, spec: QuantSpec) -> Hashable:
        """Return what formats that are prepared together have in common."""
        ...

    def prepare(
        self,
        specs: Sequence[QuantSpec],
        synthesis: SynthesisSpec,
        labels: LabelSpec,
        calibration: CalibrationSpec,
        progress: Progress,
    ) -> Any:
        """Observe it for formats that are prepared alike; of ranges no warning tells, rows show them."""
        ...

    def quantize(
        self, prepared: Any, spec: QuantSpec, training: TrainingSpec | None, path: Path, progress: Progress
    ) -> Opened:
        """Write what it becomes to ``path``, and open that."""
        ...

    def write_float(self, deployment: Deployment, path: Path) -> None:
        """Write the float network to ``path``, as what is timed."""
        ...

    def peers(
        self, deployment: Deployment, recordings: Iterable[Features] | None
    ) -> dict[str, Callable[[], Peer]]:
        """Return label → what ONNX Runtime's own quantizer of that label makes of the float network.

        ``recordings``: what calibrates those that need it; None: they are left out.
        """
        ...

    def open(self, files: Files, path: Path, deployment: Deployment) -> Opened:
        """Write what another tool made to ``path``, and open that."""
        ...

    def contender(self, label: str, kind: str, path: Path, deployment: Deployment) -> Contender:
        """Return what lies at ``path`` as what is timed on ``features``."""
        ...

    def features(self, seconds: float) -> npt.NDArray[np.float32]:
        """Return features [1, M, T] to be timed on."""
        ...


def subject_of(
    model: AsrModel | TransducerModel,
    specs: Sequence[QuantSpec],
    labels: LabelSpec | None,
    beam: BeamSpec | None,
    graph: FloatGraph | None = None,
) -> Subject:
    """Return the subject that a model is, all forms of which are decoded by one beam; None: greedily.

    ``graph``: a CTC network as ``capture`` gives it for ``specs``, where it was captured before.
    Raises ConfigError for what cannot be asked of it.
    """
    if isinstance(model, TransducerModel):
        return _TransducerSubject(model, beam)
    if labels is not None:
        problem = f"labels are of a transducer, {model.name} is a CTC network"
        raise ConfigError("compare", problem, "leave fields of LabelSpec out")
    return _CtcSubject(model, specs[0].allow_float, beam, graph)


class _CtcSubject:
    """A CTC network, each form of which is one file."""

    head, suffix = CTC, ".onnx"

    def __init__(
        self, model: AsrModel, allow_float: bool, beam: BeamSpec | None, graph: FloatGraph | None
    ) -> None:
        self.model = self.listener = model
        # language models are read once for all
        self._beam = None if beam is None else BeamRecognizer(TorchRecognizer(model), beam).beam
        # captured once, and once more for a format that keeps other operators in float
        self._allowed = allow_float
        self._graph = graph or capture(
            model.network, model.example_input(), model.name, allow_float=allow_float
        )

    def recognizer(self) -> Recognizer:
        return self._decoded(TorchRecognizer(self.model))

    def alike(self, spec: QuantSpec) -> Hashable:
        return preparation(spec)

    def prepare(
        self,
        specs: Sequence[QuantSpec],
        synthesis: SynthesisSpec,
        labels: LabelSpec,
        calibration: CalibrationSpec,
        progress: Progress,
    ) -> Prepared:
        return prepare(
            self.model,
            spec=specs[0],
            also=specs[1:],
            synthesis=synthesis,
            calibration=calibration,
            graph=self._graph if specs[0].allow_float == self._allowed else None,
            check_ranges=False,
            progress=progress,
        )

    def quantize(
        self,
        prepared: Prepared,
        spec: QuantSpec,
        training: TrainingSpec | None,
        path: Path,
        progress: Progress,
    ) -> Opened:
        made = quantize(prepared, path, spec=spec, training=training, progress=progress)
        return self._decoded(OnnxRecognizer(path, spin=False)), made.size

    def write_float(self, deployment: Deployment, path: Path) -> None:
        save(export_float(self._graph, deployment), path)

    def peers(
        self, deployment: Deployment, recordings: Iterable[Features] | None
    ) -> dict[str, Callable[[], Peer]]:
        ready = preprocess(export_float(self._graph, deployment, quantizable=True))
        ways: dict[str, Callable[[], Peer]] = {}
        if recordings is not None:
            ways[ORT_STATIC] = lambda: Peer({"": ort_static(ready, recordings)})
        ways[ORT_DYNAMIC] = lambda: Peer({"": ort_dynamic(ready)})
        return ways

    def open(self, files: Files, path: Path, deployment: Deployment) -> Opened:
        path.write_bytes(files[""])
        frontend, tokenizer = self.model.frontend, self.model.tokenizer
        recognizer = OnnxRecognizer(path, spin=False, frontend=frontend, tokenizer=tokenizer)
        return self._decoded(recognizer), len(files[""])

    def contender(self, label: str, kind: str, path: Path, deployment: Deployment) -> Contender:
        return of_path(label, kind, path)

    def features(self, seconds: float) -> npt.NDArray[np.float32]:
        return noise(self.model.frontend.features, seconds, self.model.frontend.frames_per_second)

    def _decoded(self, recognizer: Recognizer) -> Recognizer:
        return recognizer if self._beam is None else BeamRecognizer(recognizer, self._beam)


class _TransducerSubject:
    """A transducer, each form of which is a folder of its parts' files."""

    head, suffix = TRANSDUCER, ""

    def __init__(self, model: TransducerModel, beam: BeamSpec | None) -> None:
        self.model, self.listener = model, encoder_of(model)
        # language models are read once for all
        self._beam = TransducerRecognizer(model, beam).beam
        self._graphs = capture_transducer(model.network, model.example_input(), model.name)

    def recognizer(self) -> TransducerRecognizer:
        return TransducerRecognizer(self.model, self._beam)

    def alike(self, spec: QuantSpec) -> Hashable:
        return spec  # each is observed by itself

    def prepare(
        self,
        specs: Sequence[QuantSpec],
        synthesis: SynthesisSpec,
        labels: LabelSpec,
        calibration: CalibrationSpec,
        progress: Progress,
    ) -> PreparedTransducer:
        return prepare_transducer(
            self.model,
            spec=specs[0],
            synthesis=synthesis,
            calibration=calibration,
            labels=labels,
            graphs=self._graphs,
            check_ranges=False,
            progress=progress,
        )

    def quantize(
        self,
        prepared: PreparedTransducer,
        spec: QuantSpec,
        training: TrainingSpec | None,
        path: Path,
        progress: Progress,
    ) -> Opened:
        made = quantize_transducer(prepared, path, progress=progress)
        return IntegerTransducer.of_folder(path, beam=self._beam, spin=False), made.size

    def write_float(self, deployment: Deployment, path: Path) -> None:
        path.mkdir()
        for part, model in export_float_transducer(self._graphs, deployment).items():
            save(model, path / f"{part}.onnx")

    def peers(
        self, deployment: Deployment, recordings: Iterable[Features] | None
    ) -> dict[str, Callable[[], Peer]]:
        made = export_float_transducer(self._graphs, deployment, quantizable=True)
        ways: dict[str, Callable[[], Peer]] = {}
        if recordings is not None:
            ways[ORT_STATIC] = lambda: static_peer(made, self._graphs, deployment, recordings)
        ways[ORT_DYNAMIC] = lambda: Peer(
            {part: ort_dynamic(preprocess(model)) for part, model in made.items()}
        )
        return ways

    def open(self, files: Files, path: Path, deployment: Deployment) -> Opened:
        _write(path, files)
        recognizer = FloatTransducer(files, self._graphs, deployment, beam=self._beam, spin=False)
        return recognizer, sum(map(len, files.values()))

    def contender(self, label: str, kind: str, path: Path, deployment: Deployment) -> Contender:
        size = sum(file.stat().st_size for file in path.iterdir())

        def opened(threads: int) -> AnyTransducer:
            if is_bundle(path):
                return IntegerTransducer.of_folder(path, threads, self._beam, spin=False)
            files = {part: path / f"{part}.onnx" for part in PARTS}
            return FloatTransducer(files, self._graphs, deployment, threads, self._beam, spin=False)

        return whole(label, kind, size, opened)

    def features(self, seconds: float) -> npt.NDArray[np.float32]:
        return spoken(self.model.frontend, seconds)


def _write(folder: Path, files: Files) -> None:
    folder.mkdir()
    for part, data in files.items():
        (folder / f"{part}.onnx").write_bytes(data)
