"""The trained transducers as bundles, calibrated on the language that they learned."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from trained_transducers import speech, trained

import zeroq_asr as zq
from zeroq_asr.pipeline.transducer import QuantizedTransducer
from zeroq_asr.synthesis.features import SyntheticFeatures

KINDS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "durations": {"durations": (0, 1, 2)},
    "stateless": {"stateless": True},
    "tanh": {"activation": "tanh"},
}
SPEC = zq.QuantSpec(max_seconds=20.0)


@cache
def quantized(
    kind: str, labels: zq.LabelSpec | None = None, again: bool = False, bits: int = 8
) -> QuantizedTransducer:
    """Calibrated on the language itself, so that what is measured is what integers cost."""
    features, _ = speech(8, 12, 5)
    lengths = np.full(len(features), features.shape[2])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # made speech is another language, which its ranges miss
        warnings.simplefilter("ignore", zq.ZeroqWarning)
        path = Path(folder) / "language.npz"
        SyntheticFeatures(features.numpy(), lengths, zq.SynthesisSpec()).save(path)
        return zq.quantize_transducer(
            trained(**KINDS[kind]),
            spec=dataclasses.replace(SPEC, weight_bits=bits),
            calibration=zq.CalibrationSpec(str(path)),
            labels=labels,
        )
