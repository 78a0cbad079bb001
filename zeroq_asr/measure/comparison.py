"""What a comparison found: a row of every recogniser, and the gaps between kinds of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zeroq_asr.config.calibration import BOTH, MATCHED, SPEECH
from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.lines import summary
from zeroq_asr.measure.bootstrap import Difference, paired_bootstrap
from zeroq_asr.measure.evaluate import ErrorCounts, count_errors
from zeroq_asr.measure.said import Distance
from zeroq_asr.measure.subjects import ORT_DYNAMIC, ORT_STATIC

FLOAT, DATA_FREE, REAL, FROM_NOISE = "float", "data-free", "real data", "noise"
#: rows without data of other sources than the default's
SOURCES = {
    MATCHED: f"{DATA_FREE}, matched",
    SPEECH: f"{DATA_FREE}, made speech",
    BOTH: f"{DATA_FREE}, both",
}


@dataclass(frozen=True)
class Row:
    """One recogniser.  Rates are None where they cannot be known."""

    label: str
    #: bytes of the file, or of all files; of the parameters for the float network
    size: int
    #: against the text
    words: ErrorCounts | None
    #: against the float network's transcript
    agreement: ErrorCounts | None
    #: share of frames (of a transducer: of steps of the float network's path) whose best token is not the
    #: float network's
    frames: float
    #: mean over those of KL(float || this), in nats
    divergence: float
    #: seconds of one run on one thread, of the float network as ONNX files; None if it was not timed
    median: float | None = None
    #: time of the float network / time of this one
    speedup: float | None = None
    #: what of the network is not as the label says; mostly nothing
    note: str = ""


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
    #: "ctc" or "transducer"
    head: str
    bits: str
    #: what was listened to: "recordings with text", "recordings" or "synthetic features"
    heard: str
    utterances: int
    audio_seconds: float
    rows: tuple[Row, ...]
    gaps: tuple[Gap, ...]
    #: rows that another tool did not make, and why
    absent: dict[str, str] = field(default_factory=dict)
    #: seconds of features that files were timed on; None if they were not
    timed_seconds: float | None = None
    #: how every row was decoded; None: greedily
    beam: BeamSpec | None = None

    def __repr__(self) -> str:
        """Show what was compared, and on what, on one line."""
        heard = f"{self.utterances} {'utterances' if 'recordings' in self.heard else 'synthetic features'}"
        return summary(self, self.name, self.bits, f"{len(self.rows)} rows", f"on {heard}")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "name": self.name,
            "head": self.head,
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
                    "divergence_nats": row.divergence,
                    "median_seconds": row.median,
                    "speedup": row.speedup,
                    "note": row.note,
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
            "absent": self.absent,
            "timed_seconds": self.timed_seconds,
            "beam": None if self.beam is None else self.beam.to_dict(),
        }


@dataclass
class Heard:
    """What one recogniser made of the utterances so far."""

    label: str
    kind: str
    #: bytes of the file, or of all files; of the parameters for the float network
    size: int
    texts: list[str] = field(default_factory=list)
    distance: Distance = field(default_factory=Distance)
    #: what of the network is not as the label says
    note: str = ""


def row_of(
    listener: Heard, truth: Heard, texts: list[str] | None, audible: bool, times: dict[str, float]
) -> Row:
    """Return the row of a recogniser, ``truth`` being that of the float network.

    ``texts``: what was said, if it is known; ``audible``: whether there were recordings; ``times``: label →
    seconds of one run, of those that were timed.
    """
    median, base = times.get(listener.label), times.get(truth.label)
    return Row(
        listener.label,
        listener.size,
        None if texts is None else count_errors(texts, listener.texts)[0],
        count_errors(truth.texts, listener.texts)[0] if audible else None,
        listener.distance.wrong / max(listener.distance.steps, 1),
        listener.distance.divergence / max(listener.distance.steps, 1),
        median,
        None if median is None or base is None else base / median,
        listener.note,
    )


def gaps_of(listeners: Sequence[Heard], texts: list[str]) -> Iterator[Gap]:
    """Yield the differences that matter: each kind against float, and data-free against the others."""
    lengths: list[int] = []
    errors: dict[str, list[np.ndarray]] = {}
    for listener in listeners:
        counts = [count_errors([a], [b])[0] for a, b in zip(texts, listener.texts, strict=True)]
        lengths = [c.length for c in counts]
        errors.setdefault(listener.kind, []).append(np.array([c.errors for c in counts]))
    # several seeds of one kind: their mean, so that utterances stay the unit that is drawn
    means = {kind: np.mean(runs, axis=0) for kind, runs in errors.items()}
    pairs = [(kind, FLOAT) for kind in means if kind != FLOAT]
    pairs += [
        (DATA_FREE, kind)
        for kind in (*SOURCES.values(), REAL, ORT_STATIC, ORT_DYNAMIC, FROM_NOISE)
        if kind in means
    ]
    for kind, other in pairs:
        difference = paired_bootstrap(means[kind], means[other], lengths)
        if difference is not None:
            yield Gap(kind, other, difference)
