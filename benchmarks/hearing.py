"""What the rows of the benchmarks share: a checkpoint, recordings, and what files make of them."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from ranges import Features, Frames, run

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.decoding.greedy import greedy_ctc
from zeroq_asr.deployment.export import Deployment
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.measure.bootstrap import Difference, paired_bootstrap
from zeroq_asr.measure.evaluate import count_errors
from zeroq_asr.speech.audio import AudioReader


def load(checkpoint: str, loader: str | None = None) -> zq.AsrModel:
    """Load a checkpoint; its ``loader`` is looked for in its own folder, too."""
    if loader:
        sys.path.insert(0, str(Path(checkpoint).resolve().parent))
    return zq.load_checkpoint(checkpoint, loader=loader)


def parser(description: str | None, *, embedded: bool = True) -> argparse.ArgumentParser:
    """Return the options that all rows have; without ``--manifest`` the ``embedded`` test clips are heard."""
    made = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    made.add_argument("--checkpoint", required=True)
    made.add_argument("--loader", help="MODULE:FUNCTION, for a checkpoint that needs one")
    clips = [str(zq.embedded_files().test)] if embedded else None
    made.add_argument("--manifest", nargs="+", default=clips, required=not embedded)
    made.add_argument("--limit", type=int, help="recordings of each manifest")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return made


def heard(arguments: argparse.Namespace) -> tuple[zq.AsrModel, Hearing]:
    """Return the checkpoint that ``parser``'s options name, and its recordings as it hears them."""
    model = load(arguments.checkpoint, arguments.loader)
    return model, Hearing(model, arguments.manifest, arguments.limit)


def show_means(
    rows: Mapping[str, Sequence[Sequence[float]]], show: Callable[[str, list[float]], None]
) -> None:
    """Show the mean of every row that has several seeds."""
    for name, several in rows.items():
        if len(several) > 1:
            show(name, [float(mean) for mean in np.mean(several, axis=0)])


def our_warnings_alone() -> None:
    """Show every warning of the package, such as that ranges miss what speech reaches, and no other."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", zq.ZeroqWarning)


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
        return self.rates_of(self.truth)

    def rates(self, file: bytes) -> list[float]:
        """Return word errors, and words and characters that differ from the float network's, in percent.

        Word errors are nan where a manifest has no text.
        """
        return self.rates_of(self.texts(file))

    def texts(self, file: bytes) -> list[str]:
        """Return what a file makes of the recordings, a text each."""
        return self._texts(run(file, self.features))

    def difference(self, texts: Sequence[Sequence[str]], others: Sequence[Sequence[str]]) -> Difference:
        """Return the mean word error rate of some runs' ``texts`` less that of others', and its interval.

        Recordings are drawn with replacement, errors of a recording are means over runs; without what was
        spoken, words that differ from the float network's are counted.
        """
        references = self.spoken or self.truth
        words = [count_errors([text], [text])[0].length for text in references]
        means = [
            np.mean([self._word_errors(references, found) for found in several], axis=0)
            for several in (texts, others)
        ]
        difference = paired_bootstrap(*means, words)
        assert difference is not None, "no recording has a word"
        return difference

    @staticmethod
    def _word_errors(references: Sequence[str], found: Sequence[str]) -> list[int]:
        pairs = zip(references, found, strict=True)
        return [count_errors([one], [other])[0].errors for one, other in pairs]

    def _texts(self, frames: Frames) -> list[str]:
        tokenizer = self.model.tokenizer
        return [tokenizer.decode(greedy_ctc(f, len(f), tokenizer.blank_id)) for f in frames]

    def rates_of(self, found: Sequence[str]) -> list[float]:
        """Return what ``rates`` does, of texts that are there already."""
        errors = 100 * (count_errors(self.spoken, found)[0].rate or 0) if self.spoken else float("nan")
        return [errors, *(100 * (counts.rate or 0) for counts in count_errors(self.truth, found))]
