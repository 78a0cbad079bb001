"""Data-free calibration against real data, noise and ONNX Runtime's own quantizers, on one table.

What can be measured depends on what the user has.  Recordings with text give word error rates;
recordings without text give *agreement*, the word error rate against the transcript of the float
network; without any recording, held-out synthetic features still tell how often the best token of a
frame differs and the KL divergence of the frames' distributions.  The latter two are always given, of a
transducer along the float network's own path (``zeroq_asr.measure.said``).
So is the time that each file takes, interleaved with the float network's as a file of its own; of a
transducer that of its three files, which decode speech greedily.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zeroq_asr.config import CalibrationSpec, LabelSpec, QuantSpec, SynthesisSpec, TrainingSpec
from zeroq_asr.config.calibration import AUTO, NOISE
from zeroq_asr.config.checks import choice
from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.deployment.recognizer import Recognizer
from zeroq_asr.deployment.transducer import AnyTransducer
from zeroq_asr.errors import AudioError, CheckpointError, ConfigError
from zeroq_asr.files import temporary_folder
from zeroq_asr.measure.bench.measure import clock
from zeroq_asr.measure.comparison import (
    DATA_FREE,
    FLOAT,
    FROM_NOISE,
    REAL,
    SOURCES,
    Comparison,
    Heard,
    gaps_of,
    row_of,
)
from zeroq_asr.measure.onnxruntime_quantizers import attempt
from zeroq_asr.measure.said import Features, Said, hear
from zeroq_asr.measure.subjects import Subject, subject_of
from zeroq_asr.model import AsrModel, TransducerModel
from zeroq_asr.pipeline import Prepared
from zeroq_asr.progress import Progress, silent
from zeroq_asr.speech.audio import AudioReader, audio_duration, check_segments
from zeroq_asr.speech.frontend import Frontend
from zeroq_asr.speech.manifest import Channel, Utterance, read_manifest
from zeroq_asr.synthesis.sources import make_features, source_for

#: how far the seed of held-out synthetic features is from those that calibrate
HELD_OUT = 1_000_003

#: of features that files are timed on, or as many as they accept
_TIMED_SECONDS = 10.0
#: few, for all files together are to take seconds
_ROUNDS = 5


def compare(
    model: AsrModel | TransducerModel | Prepared,
    manifest: Sequence[Utterance] | None = None,
    calibration_manifest: str | None = None,
    *,
    spec: QuantSpec | None = None,
    also: Sequence[QuantSpec] = (),
    synthesis: SynthesisSpec | None = None,
    labels: LabelSpec | None = None,
    training: TrainingSpec | None = None,
    calibration_limit: int | None = None,
    calibration_channel: Channel = None,
    seeds: int = 1,
    sources: Sequence[str] = (),
    beam: BeamSpec | None = None,
    timed: bool = True,
    progress: Progress = silent,
) -> Comparison:
    """Quantize ``model`` in every way and listen to ``manifest`` with each.

    ``manifest``: recordings, best with text; None: held-out synthetic features take their place.
    ``calibration_manifest``: real recordings, the first ``calibration_limit`` of which calibrate the
    rows "real data" and "ORT static", heard on
    ``calibration_channel``; without it those are left out.  ``also``: other formats, each with rows
    without data of its own.  ``training``: of weights of few bits.
    ``seeds``: syntheses, each with a row of its own.  ``sources``: of the first
    format also rows whose ranges come from these, "synthetic", "speech" or "both", where the default is
    another.  ``beam``: decodes every row; None: greedily.
    ``timed``: also time each file, which takes seconds.

    Of a CTC network that ``prepare`` took, nothing that it made is made again: its formats are compared, and
    what it was observed on serves the first row of each; ``spec``, ``also`` and ``synthesis`` are its own.

    ``labels``: what the predictor and the joiner of a transducer are calibrated on, drawn anew for every
    seed; those of the row "ORT static" are calibrated on what the float network says of the recordings.

    Raises ConfigError for a source that there is not, a beam that cannot be had, and for what was prepared on
    recordings or for ranges that other rows do not have, AudioError for a recording that cannot be read, or
    is longer than ``spec.max_seconds``.
    """
    prepared: Prepared | None = None
    if isinstance(model, Prepared):
        _check_prepared(model, spec, also, synthesis)
        prepared, model = model, model.model
        (spec, *also), synthesis = prepared.specs, prepared.synthesis
    spec, synthesis = spec or QuantSpec(), synthesis or SynthesisSpec.preset("default")
    if seeds < 1:
        raise ConfigError("compare", f"seeds must be 1 or more, got {seeds}")
    for name in sources:
        choice("compare", "source", name, SOURCES)
    check_segments(manifest or ())
    for utterance in manifest or ():
        _check_duration(utterance, spec.max_seconds)
    captured = None if prepared is None else prepared.captured
    subject = subject_of(model, (spec, *also), labels, beam, captured)
    drawn = labels or LabelSpec()
    draws = [
        (replace(synthesis, seed=synthesis.seed + k), replace(drawn, label_seed=drawn.label_seed + k))
        for k in range(seeds)
    ]
    with temporary_folder() as folder:
        real = None
        if calibration_manifest is not None:
            real = CalibrationSpec(calibration_manifest, limit=calibration_limit, channel=calibration_channel)
        usual = source_for(subject.listener) if prepared is None else prepared.calibration.source
        others = [name for name in dict.fromkeys(sources) if name != usual]
        listeners, absent, deployment = _build(
            subject, folder, real, (spec, *also), draws, others, training, prepared, progress
        )
        if manifest is None:
            held_out = replace(synthesis, seed=synthesis.seed + HELD_OUT)
            made = make_features(subject.listener, held_out, progress=progress)
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
        length = min(_TIMED_SECONDS, *(s.max_seconds for s in (spec, *also))) if timed else None
        times = {} if length is None else _times(subject, listeners, deployment, length, progress)
    texts = None
    if manifest is not None and all(u.text is not None for u in manifest):
        texts = [u.text or "" for u in manifest]
    heard = "synthetic features" if manifest is None else "recordings with text" if texts else "recordings"
    rows = tuple(row_of(each, listeners[0], texts, manifest is not None, times) for each in listeners)
    gaps = tuple(gaps_of(listeners, texts)) if texts else ()
    return Comparison(
        model.name, subject.head, bits_of(spec), heard, count, seconds, rows, gaps, absent, length, beam
    )


def _check_prepared(
    prepared: Prepared, spec: QuantSpec | None, also: Sequence[QuantSpec], synthesis: SynthesisSpec | None
) -> None:
    """Raise ConfigError where rows would not be alike, or are to be of something else."""
    if spec is not None or also or synthesis is not None:
        problem = "the network is prepared already, for formats and by features of its own"
        raise ConfigError("compare", problem, "prepare it for others, or give the model")
    calibration = prepared.calibration
    if calibration.kind not in SOURCES or replace(calibration, source=AUTO) != CalibrationSpec():
        problem = f"the network is prepared with ranges from {calibration.source}, or chosen in another way"
        raise ConfigError("compare", f"{problem} than other rows are", "give the model")


def bits_of(spec: QuantSpec) -> str:
    """Return the format as people write it, W4A8, and how its weights are rounded where that was chosen."""
    rounding = {"auto": "", "nearest": " to nearest", "feedback": " by feedback"}[spec.rounding]
    return f"W{spec.weight_bits}A{spec.activation_bits}{rounding}"


@dataclass
class _Listener(Heard):
    """A recogniser, and what it made of the utterances so far."""

    recognizer: Recognizer | AnyTransducer = field(kw_only=True)
    #: where the ONNX files of it are, of the float network too
    file: Path = field(kw_only=True)


def _build(
    subject: Subject,
    folder: Path,
    real: CalibrationSpec | None,
    specs: Sequence[QuantSpec],
    draws: Sequence[tuple[SynthesisSpec, LabelSpec]],
    sources: Sequence[str],
    training: TrainingSpec | None,
    given: Prepared | None,
    progress: Progress,
) -> tuple[list[_Listener], dict[str, str], Deployment]:
    """Quantize in every way; return the recognisers, float first, and what another tool did not make.

    ``given``: the network, prepared for ``specs`` by the first of ``draws``.  The last value surrounds the
    files of float networks and of other tools.
    """
    numbers = itertools.count()

    def fresh() -> Path:
        return folder / f"{next(numbers)}{subject.suffix}"

    listeners = [
        _Listener(FLOAT, FLOAT, subject.model.float_bytes, recognizer=subject.recognizer(), file=fresh())
    ]

    def prepared(
        label: str,
        specs: Sequence[QuantSpec],
        draw: tuple[SynthesisSpec, LabelSpec],
        calibration: CalibrationSpec,
    ) -> Any:
        return subject.prepare(specs, *draw, calibration, _labelled(progress, label))

    def ours(label: str, kind: str, source: Any, spec: QuantSpec) -> _Listener:
        path = fresh()
        recognizer, size = subject.quantize(source, spec, training, path, _labelled(progress, label))
        return _Listener(label, kind, size, recognizer=recognizer, file=path)

    def seeded(kind: str, draw: tuple[SynthesisSpec, LabelSpec]) -> str:
        return kind if len(draws) == 1 else f"{kind}, seed {draw[0].seed}"

    # the slow part once a synthesis for all formats that can share it; rows come in the order of formats
    rows: dict[int, list[_Listener]] = {place: [] for place in range(len(specs))}
    for draw in draws:
        for kept in dict.fromkeys(map(subject.alike, specs)):
            alike = {place: spec for place, spec in enumerate(specs) if subject.alike(spec) == kept}
            label = seeded(DATA_FREE, draw)
            source: Any = given if draw is draws[0] else None
            source = source or prepared(label, [*alike.values()], draw, CalibrationSpec())
            for place, spec in alike.items():
                kind = f"{DATA_FREE} {bits_of(spec)}" if place else DATA_FREE
                rows[place].append(ours(seeded(kind, draw), kind, source, spec))
    listeners += [each for place in rows for each in rows[place]]
    for name, draw in itertools.product(sources, draws):
        label = seeded(SOURCES[name], draw)
        source = prepared(label, specs[:1], draw, CalibrationSpec(name))
        listeners.append(ours(label, SOURCES[name], source, specs[0]))
    if real is not None:
        source = prepared(REAL, specs[:1], draws[0], real)
        listeners.append(ours(REAL, REAL, source, specs[0]))
    deployment: Deployment = source.deployment()
    recordings = None
    if real is not None:
        recordings = _Recordings(subject.model, read_manifest(real.source, real.channel)[: real.limit])
    absent: dict[str, str] = {}
    for kind, make in subject.peers(deployment, recordings).items():
        progress(kind, 0, 1)
        made, reason = attempt(make)
        if made is not None:
            path = fresh()
            try:
                recognizer, size = subject.open(made.files, path, deployment)
                hear(recognizer, _example(subject.listener))
                listeners.append(
                    _Listener(kind, kind, size, note=made.note, recognizer=recognizer, file=path)
                )
            except CheckpointError as error:
                reason = f"its file cannot be run ({error.problem})"
        if reason:
            absent[kind] = reason
        progress(kind, 1, 1)
    subject.write_float(deployment, listeners[0].file)
    source = prepared(FROM_NOISE, specs[:1], draws[0], CalibrationSpec(NOISE))
    listeners.append(ours(FROM_NOISE, FROM_NOISE, source, specs[0]))
    return listeners, absent, deployment


def _example(model: AsrModel) -> Features:
    """Features of one utterance that a network accepts."""
    features, lengths = model.example_input()
    return features[:1].numpy(), lengths[:1].numpy()


def _labelled(progress: Progress, label: str) -> Progress:
    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        progress(f"{label}: {stage}", done, total, note)

    return tell


def _times(
    subject: Subject,
    listeners: Sequence[_Listener],
    deployment: Deployment,
    seconds: float,
    progress: Progress,
) -> dict[str, float]:
    """Return label → seconds of one run of its files on one thread, on so many seconds of features."""
    contenders = [subject.contender(each.label, each.kind, each.file, deployment) for each in listeners]
    features = subject.features(seconds)
    found, _ = clock(contenders, features, threads=1, rounds=_ROUNDS, progress=progress, stage="time")
    return {label: statistics.median(times) for label, times in found.items()}


class _Recordings:
    """Features of recordings, one by one, so that memory does not grow with them."""

    def __init__(self, model: AsrModel | TransducerModel, utterances: Sequence[Utterance]) -> None:
        self.frontend = Frontend(model.frontend)
        self.utterances = utterances
        #: of sound, that were read
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Features]:
        rate = self.frontend.config.sample_rate
        with AudioReader(rate) as read:
            for utterance in self.utterances:
                waveform = read(utterance)
                self.seconds += len(waveform) / rate
                yield self.frontend.batch([waveform], [utterance.name])


def _listen(listeners: list[_Listener], pairs: Iterable[Features], count: int, progress: Progress) -> None:
    """Let every recogniser hear every utterance, and count steps against the first."""
    progress("listen", 0, count)
    for done, features in enumerate(pairs, start=1):
        truth: Said | None = None
        for listener in listeners:
            found = hear(listener.recognizer, features, None if truth is None else truth.path)
            truth = found if truth is None else truth
            listener.texts.append(found.text)
            listener.distance = listener.distance.plus(truth, found)
        progress("listen", done, count)


def _check_duration(utterance: Utterance, limit: float) -> None:
    seconds = audio_duration(utterance)
    if seconds > limit:
        raise AudioError(
            utterance.name,
            f"lasts {seconds:.7g} s, files are to be proven for {limit:g} s",
            "say a larger --max-seconds, or cut the recording",
        )
