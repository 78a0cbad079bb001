"""Which labels the predictor and the joiner of a transducer are calibrated on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zeroq_asr.config.checks import choice, from_dict, names, whole
from zeroq_asr.errors import ConfigError

#: what the float network itself hears in the features that the encoder is calibrated on; every token once, in
#: an order drawn by chance; tokens drawn by chance
DECODED, PIECES, RANDOM = "decoded", "pieces", "random"
LABEL_SOURCES = (DECODED, PIECES, RANDOM)


@dataclass(frozen=True)
class LabelSpec:
    """Label sequences for a transducer's predictor, and pairs of encodings and predictions for its joiner.

    A joiner sees every pair that the decoding of the features meets, and others drawn by chance from all
    encodings and all predictions.
    """

    #: of ``LABEL_SOURCES``, one or more
    label_sources: tuple[str, ...] = LABEL_SOURCES
    #: sequences of "random"
    label_sequences: int = 64
    #: labels of a sequence of "pieces" and "random"
    label_length: int = 48
    #: pairs that are drawn by chance
    joint_pairs: int = 2048
    label_seed: int = 0

    def __post_init__(self) -> None:
        where = "LabelSpec"
        object.__setattr__(self, "label_sources", names(where, "label_sources", self.label_sources))
        if not self.label_sources:
            raise ConfigError(where, "names no source of labels", f"use one or more of {LABEL_SOURCES}")
        for source in self.label_sources:
            choice(where, "label_sources", source, LABEL_SOURCES)
        whole(where, "label_sequences", self.label_sequences, 1, 1 << 16)
        whole(where, "label_length", self.label_length, 1, 1 << 16)
        whole(where, "joint_pairs", self.joint_pairs, 1, 1 << 20)
        whole(where, "label_seed", self.label_seed, 0, (1 << 32) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**dataclasses.asdict(self), "label_sources": list(self.label_sources)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSpec:
        """Return the specification that ``to_dict`` wrote; ConfigError for unknown keys."""
        return from_dict(cls, data)
