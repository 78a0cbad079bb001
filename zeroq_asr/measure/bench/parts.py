"""Transducers as what is measured: the whole recogniser on speech, and its parts alone.

The whole one decodes greedily, and how long that takes depends on what is said.  So it hears speech, the
clips that come with the package, as the recogniser's own frontend hears them: noise would say too little or,
of a network that hears words in it, too much.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zeroq_asr.deployment.transducer import AnyTransducer
from zeroq_asr.embedded import embedded_files
from zeroq_asr.measure.bench.contenders import Contender, Features, Run
from zeroq_asr.speech.audio import AudioReader
from zeroq_asr.speech.frontend import Frontend, FrontendConfig
from zeroq_asr.speech.manifest import read_manifest


def spoken(frontend: FrontendConfig, seconds: float) -> Features:
    """Return features [1, M, T] of the speech that comes with the package, clip behind clip."""
    count = max(round(seconds * frontend.sample_rate), frontend.min_samples)
    clips: list[np.ndarray] = []
    with AudioReader(frontend.sample_rate) as read:
        for utterance in read_manifest(embedded_files().test):
            clips.append(read(utterance))
            if sum(map(len, clips)) >= count:
                break
    features, length = Frontend(frontend)(np.resize(np.concatenate(clips), count), "speech")
    return np.ascontiguousarray(features[None, :, :length])


def whole(label: str, dialect: str, size: int, opened: Callable[[int], AnyTransducer]) -> Contender:
    """Return a whole recogniser on the CPU, decoding greedily; ``opened`` opens it with so many threads."""

    def start(threads: int, features: Features) -> Run:
        recognizer = opened(threads)
        lengths = np.array([features.shape[2]], dtype=np.int64)

        def run() -> None:
            recognizer.hypotheses(features, lengths)

        return run

    return Contender(label, "onnxruntime", dialect, "cpu", start, size)
