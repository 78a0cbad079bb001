"""Data-free calibration against real data, noise and ONNX Runtime's own quantizer, on one table.

What can be measured depends on what the user has.  Recordings with text give word error rates;
recordings without text give *agreement*, the word error rate against the transcript of the float
network; without any recording, held-out synthetic features still tell how often the best token of a
frame differs and the KL divergence of the frames' distributions.  The latter two are always given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroq_asr.audio import audio_duration, load_audio
from zeroq_asr.bootstrap import Difference, paired_bootstrap
from zeroq_asr.capture import capture
from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec
from zeroq_asr.decode import greedy_ctc
from zeroq_asr.errors import AudioError, ConfigError
from zeroq_asr.evaluate import ErrorCounts, count_errors
from zeroq_asr.float_onnx import export_float
from zeroq_asr.frontend import Frontend
from zeroq_asr.manifest import Utterance, read_manifest
from zeroq_asr.model import AsrModel
from zeroq_asr.peers import ort_static
from zeroq_asr.pipeline import Quantized, quantize
from zeroq_asr.progress import Progress, silent
from zeroq_asr.recognizer import OnnxRecognizer, Recognizer, TorchRecognizer
from zeroq_asr.synthesize import synthesize

#: how far the seed of held-out synthetic features is from those that calibrate
HELD_OUT = 1_000_003

FLOAT, DATA_FREE, REAL, NOISE, ORT = "float", "data-free", "real data", "noise", "ORT static, real data"

Features = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Row:
    """One recogniser.  Rates are None where they cannot be known."""

    label: str
    #: bytes of the file; of the parameters for the float network
    size: int
    #: against the text
    words: ErrorCounts | None
    #: against the float network's transcript
    agreement: ErrorCounts | None
    #: share of frames whose best token is not the float network's
    frames: float
    #: mean over frames of KL(float || this), in nats
    divergence: float


@dataclass(frozen=True)
class Gap:
    """The difference of two rows' word error rates, with its paired bootstrap interval."""

    label: str
    other: str
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """What was compared, on what."""

    name: str
    bits: str
    #: what was listened to: "recordings with text", "recordings" or "synthetic features"
    heard: str
    utterances: int
    audio_seconds: float
    rows: tuple[Row, ...]
    gaps: tuple[Gap, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "name": self.name,
            "bits": self.bits,
            "heard": self.heard,
            "utterances": self.utterances,
            "audio_seconds": self.audio_seconds,
            "rows": [
                {
                    "label": row.label,
                    "bytes": row.size,
                    "words": None if row.words is None else row.words.to_dict(),
                    "agreement": None if row.agreement is None else row.agreement.to_dict(),
                    "frames": row.frames,
                    "divergence": row.divergence,
                }
                for row in self.rows
            ],
            "gaps": [
                {
                    "label": gap.label,
                    "other": gap.other,
                    "value": gap.difference.value,
                    "low": gap.difference.low,
                    "high": gap.difference.high,
                }
                for gap in self.gaps
            ],
        }


def compare(
    model: AsrModel,
    manifest: Sequence[Utterance] | None = None,
    calibration_manifest: str | None = None,
    *,
    spec: QuantSpec | None = None,
    also: Sequence[QuantSpec] = (),
    synthesis: SynthesisSpec | None = None,
    calibration_limit: int | None = None,
    seeds: int = 1,
    progress: Progress = silent,
) -> Comparison:
    """Quantize ``model`` in every way and listen to ``manifest`` with each.

    ``manifest``: recordings, best with text; None: held-out synthetic features take their place.
    ``calibration_manifest``: real recordings, the first ``calibration_limit`` of which calibrate the
    rows "real data" and "ORT static"; without it those are left out.  ``also``: other formats, each with rows
    without data of its own.  ``seeds``: syntheses, each with a row of its own.

    Raises AudioError for a recording that cannot be read, or is longer than ``spec.max_seconds``.
    """
    spec, synthesis = spec or QuantSpec(), synthesis or SynthesisSpec.preset("default")
    if seeds < 1:
        raise ConfigError("compare", f"seeds must be 1 or more, got {seeds}")
    for utterance in manifest or ():
        _check_duration(utterance, spec.max_seconds)
    syntheses = [replace(synthesis, seed=synthesis.seed + k) for k in range(seeds)]
    with tempfile.TemporaryDirectory(prefix="zeroq-asr-") as folder:
        listeners = _build(
            model, Path(folder), calibration_manifest, calibration_limit, (spec, *also), syntheses, progress
        )
        if manifest is None:
            made = synthesize(model, replace(synthesis, seed=synthesis.seed + HELD_OUT), progress)
            pairs = [
                (made.features[i : i + 1, :, :n], np.array([n], dtype=np.int64))
                for i, n in enumerate(made.lengths)
            ]
            _listen(listeners, iter(pairs), len(pairs), progress)
            seconds, count = 0.0, len(pairs)
        else:
            source = _Recordings(model, manifest)
            _listen(listeners, iter(source), len(manifest), progress)
            seconds, count = source.seconds, len(manifest)
    texts = None
    if manifest is not None and all(u.text is not None for u in manifest):
        texts = [u.text or "" for u in manifest]
    heard = "synthetic features" if manifest is None else "recordings with text" if texts else "recordings"
    rows = tuple(_row(listener, listeners[0], texts, manifest is not None) for listener in listeners)
    gaps = tuple(_gaps(listeners, texts)) if texts else ()
    return Comparison(model.name, bits_of(spec), heard, count, seconds, rows, gaps)


def bits_of(spec: QuantSpec) -> str:
    """Return the format as people write it, W4A8, and how its weights are rounded where that was chosen."""
    rounding = {"auto": "", "nearest": " to nearest", "feedback": " by feedback"}[spec.rounding]
    return f"W{spec.weight_bits}A{spec.activation_bits}{rounding}"


@dataclass
class _Listener:
    """A recogniser and what it made of the utterances so far."""

    label: str
    kind: str
    recognizer: Recognizer
    size: int
    texts: list[str] = field(default_factory=list)
    frames: int = 0
    wrong: int = 0
    divergence: float = 0.0


def _build(
    model: AsrModel,
    folder: Path,
    real: str | None,
    limit: int | None,
    specs: Sequence[QuantSpec],
    syntheses: Sequence[SynthesisSpec],
    progress: Progress,
) -> list[_Listener]:
    """Quantize in every way; the recognisers, float first."""
    size = model.float_bytes
    listeners = [_Listener(FLOAT, FLOAT, TorchRecognizer(model), size)]

    def ours(
        label: str,
        kind: str,
        calibration: CalibrationSpec,
        synthesis: SynthesisSpec,
        spec: QuantSpec = specs[0],
    ) -> Quantized:
        def tell(stage: str, done: int, total: int, note: str = "") -> None:
            progress(f"{label}: {stage}", done, total, note)

        path = folder / f"{len(listeners)}.onnx"
        made = quantize(model, path, spec=spec, synthesis=synthesis, calibration=calibration, progress=tell)
        listeners.append(_Listener(label, kind, OnnxRecognizer(path), made.size))
        return made

    def seeded(kind: str, synthesis: SynthesisSpec) -> str:
        return kind if len(syntheses) == 1 else f"{kind}, seed {synthesis.seed}"

    for synthesis in syntheses:
        made = ours(seeded(DATA_FREE, synthesis), DATA_FREE, CalibrationSpec(), synthesis)
        if len(specs) > 1 and made.features is not None:
            made.features.save(folder / f"{synthesis.seed}.npz")
    for spec in specs[1:]:
        kind = f"{DATA_FREE} {bits_of(spec)}"
        for synthesis in syntheses:
            features = CalibrationSpec(str(folder / f"{synthesis.seed}.npz"))
            ours(seeded(kind, synthesis), kind, features, synthesis, spec)
    if real is not None:
        made = ours(REAL, REAL, CalibrationSpec(real, limit=limit), syntheses[0])
        progress(ORT, 0, 1)
        example = model.example_input()
        graph = capture(model.network, example, model.name, allow_float=specs[0].allow_float)
        source = _Recordings(model, read_manifest(real)[:limit])
        path = folder / "ort.onnx"
        plain = export_float(graph, made.deployment, shared_masks=False)
        path.write_bytes(ort_static(plain, source))
        recognizer = OnnxRecognizer(path, frontend=model.frontend, tokenizer=model.tokenizer)
        listeners.append(_Listener(ORT, ORT, recognizer, path.stat().st_size))
        progress(ORT, 1, 1)
    ours(NOISE, NOISE, CalibrationSpec("noise"), syntheses[0])
    return listeners


class _Recordings:
    """Features of recordings, one by one, so that memory does not grow with them."""

    def __init__(self, model: AsrModel, utterances: Sequence[Utterance]) -> None:
        self.frontend = Frontend(model.frontend)
        self.utterances = utterances
        #: of sound, that were read
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Features]:
        rate = self.frontend.config.sample_rate
        for utterance in self.utterances:
            waveform = load_audio(utterance.audio_path, rate)
            self.seconds += len(waveform) / rate
            yield self.frontend.batch([waveform], [str(utterance.audio_path)])


def _listen(listeners: list[_Listener], pairs: Iterable[Features], count: int, progress: Progress) -> None:
    """Let every recogniser hear every utterance, and count frames against the first."""
    progress("listen", 0, count)
    for done, (features, lengths) in enumerate(pairs, start=1):
        truth = None
        for listener in listeners:
            scores, encoded = listener.recognizer.log_probs(features, lengths)
            found = scores[0, : encoded[0]].astype(np.float64)
            tokenizer = listener.recognizer.tokenizer
            listener.texts.append(tokenizer.decode(greedy_ctc(found, len(found), tokenizer.blank_id)))
            truth = found if truth is None else truth
            listener.frames += len(truth)
            listener.wrong += int((found.argmax(-1) != truth.argmax(-1)).sum())
            listener.divergence += float((np.exp(truth) * (truth - found)).sum())
        progress("listen", done, count)


def _check_duration(utterance: Utterance, limit: float) -> None:
    seconds = audio_duration(utterance.audio_path)
    if seconds > limit:
        raise AudioError(
            utterance.audio_path,
            f"lasts {seconds:.7g} s, files are to be proven for {limit:g} s",
            "say a larger --max-seconds, or cut the recording",
        )


def _row(listener: _Listener, truth: _Listener, texts: list[str] | None, audible: bool) -> Row:
    return Row(
        listener.label,
        listener.size,
        None if texts is None else count_errors(texts, listener.texts)[0],
        count_errors(truth.texts, listener.texts)[0] if audible else None,
        listener.wrong / max(listener.frames, 1),
        listener.divergence / max(listener.frames, 1),
    )


def _gaps(listeners: list[_Listener], texts: list[str]) -> Iterator[Gap]:
    """Differences of what matters: each kind against float, and data-free against the other kinds."""
    lengths: list[int] = []
    errors: dict[str, list[np.ndarray]] = {}
    for listener in listeners:
        counts = [count_errors([a], [b])[0] for a, b in zip(texts, listener.texts, strict=True)]
        lengths = [c.length for c in counts]
        errors.setdefault(listener.kind, []).append(np.array([c.errors for c in counts]))
    # several seeds of one kind: their mean, so that utterances stay the unit that is drawn
    means = {kind: np.mean(runs, axis=0) for kind, runs in errors.items()}
    pairs = [(kind, FLOAT) for kind in means if kind != FLOAT]
    pairs += [(DATA_FREE, kind) for kind in (REAL, ORT, NOISE) if kind in means]
    for kind, other in pairs:
        difference = paired_bootstrap(means[kind], means[other], lengths)
        if difference is not None:
            yield Gap(kind, other, difference)
