"""What the rows of the benchmarks share: a checkpoint, recordings, and what files make of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
from ranges import Features, Frames, run

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.decoding.greedy import greedy_ctc
from zeroq_asr.deployment.export import Deployment
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.measure.evaluate import count_errors
from zeroq_asr.speech.audio import AudioReader


def load(checkpoint: str, loader: str | None = None) -> zq.AsrModel:
    """Load a checkpoint; its ``loader`` is looked for in its own folder, too."""
    if loader:
        sys.path.insert(0, str(Path(checkpoint).resolve().parent))
    return zq.load_checkpoint(checkpoint, loader=loader)


class Hearing:
    """Recordings, heard once by the float network, and by as many files as there are."""

    def __init__(self, model: zq.AsrModel, manifests: Sequence[str], limit: int | None = None) -> None:
        """``limit``: recordings of each manifest."""
        self.model = model
        utterances = [u for path in manifests for u in zq.read_manifest(path)[:limit]]
        frontend = zq.Frontend(model.frontend)
        with AudioReader(model.frontend.sample_rate) as read:
            self.features: Features = [frontend.batch([read(u)]) for u in utterances]
        graph = capture(model.network, model.example_input(), model.name)
        around = Deployment(model.name, model.frontend, model.tokenizer, 60.0, model.subsampling_factor)
        self.float_onnx: onnx.ModelProto = export_float(graph, around)
        self.truth = self._texts(run(self.float_onnx.SerializeToString(), self.features))
        spoken = [u.text for u in utterances]
        self.spoken = None if None in spoken else [text or "" for text in spoken]

    def float_rates(self) -> list[float]:
        """Return what ``rates`` does, of the float network."""
        return self._rates(self.truth)

    def rates(self, file: bytes) -> list[float]:
        """Return word errors, and words and characters that differ from the float network's, in percent.

        Word errors are nan where a manifest has no text.
        """
        return self._rates(self._texts(run(file, self.features)))

    def _texts(self, frames: Frames) -> list[str]:
        tokenizer = self.model.tokenizer
        return [tokenizer.decode(greedy_ctc(f, len(f), tokenizer.blank_id)) for f in frames]

    def _rates(self, found: list[str]) -> list[float]:
        errors = 100 * (count_errors(self.spoken, found)[0].rate or 0) if self.spoken else float("nan")
        return [errors, *(100 * (counts.rate or 0) for counts in count_errors(self.truth, found))]
