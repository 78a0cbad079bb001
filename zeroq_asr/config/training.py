"""How the weights of a program are trained after they were rounded (see ``zeroq_asr.training``)."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zeroq_asr.config.checks import choice, from_dict, real, whole
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

#: when sections are reconstructed; "auto": where some weights have one bit, unless their rounding was chosen.
#: With 2 and 4 bits rounding by feedback does better on speech (benchmarks/lowbits.py, docs/experiments.md)
RECONSTRUCTIONS = ("auto", "on", "off")
#: bits that weights step down through where nobody says which
WIDTHS = (8, 4, 2)
#: where training computes, as users say it
TRAINING_DEVICES = ("cpu", "cuda", "cuda:N", "auto")
_DEVICE = r"cpu|auto|cuda(:(0|[1-9]\d{0,2}))?"


@dataclass(frozen=True)
class TrainingSpec:
    """How weights are trained: section by section, then, if asked for, the whole network."""

    #: one of ``RECONSTRUCTIONS``
    reconstruction: str = "auto"
    #: Adam steps of each section
    section_steps: int = 200
    #: share of the entries of a section's input that come from the float path (QDrop, arXiv 2203.05740)
    mixed: float = 0.5
    #: Adam's step sizes for a section's weights, in steps of their grid, and the logarithms of these steps
    section_rate: float = 3e-2
    section_step_rate: float = 2e-3
    #: Adam steps that learn where values of 4 bits and fewer end, before weights are trained; 0: none
    clipping_steps: int = 0
    #: Adam's step size of these ends, in the logarithm
    clipping_rate: float = 1e-2
    #: seconds that the whole network is trained for, by distillation from the float one; 0: not at all
    distillation: float = 0.0
    #: or the number of its steps, which makes it the same on any machine of a kind; 0: as time allows
    distillation_steps: int = 0
    #: bits of the weights that it begins with, widest first, before those of the plan; all have as much time
    progressive: tuple[int, ...] = ()
    #: Adam's step sizes of the distillation, for weights and for the logarithms of steps
    weight_rate: float = 1e-2
    step_rate: float = 1e-3
    #: Adam's step size for biases, in 16 steps of a layer's result, in sections and in the distillation
    bias_rate: float = 1e-3
    #: weight of the hidden values' squared error beside the divergence of the tokens
    hidden: float = 1.0
    #: utterances of a step, and seconds of each
    training_batch: int = 8
    training_seconds: float = 2.56
    #: utterances of made speech to train on, beside what ranges come from
    training_speakers: int = 96
    #: of made speech, or of every eighth recording, to judge by
    held_out: int = 16
    #: where it computes: "cpu", "cuda", "cuda:N", or "auto", a GPU where there is one
    device: str = "cpu"

    def __post_init__(self) -> None:
        where = "TrainingSpec"
        choice(where, "reconstruction", self.reconstruction, RECONSTRUCTIONS)
        whole(where, "section_steps", self.section_steps, 1, 1_000_000)
        real(where, "mixed", self.mixed, at_least=0.0, at_most=1.0)
        real(where, "distillation", self.distillation, at_least=0.0, at_most=1e9)
        whole(where, "distillation_steps", self.distillation_steps, 0, 100_000_000)
        given = self.progressive
        if not isinstance(given, tuple | list):
            raise ConfigError(where, f"progressive must be a list of bits, got {shown(given)}")
        object.__setattr__(self, "progressive", tuple(given))
        for bits in self.progressive:
            whole(where, "bits of progressive", bits, 2, 8)
        if any(a <= b for a, b in itertools.pairwise(self.progressive)):
            raise ConfigError(where, f"progressive must fall from wide to narrow, got {shown(given)}")
        if self.progressive and not self.distills:
            problem = "progressive widths are of a distillation, and there is none"
            raise ConfigError(where, problem, "say how long it takes (--train TIME)")
        whole(where, "clipping_steps", self.clipping_steps, 0, 1_000_000)
        rates = [one.name for one in dataclasses.fields(self) if one.name.endswith("_rate")]
        for name in rates:
            real(where, name, getattr(self, name), at_least=0.0, at_most=1.0)
        real(where, "hidden", self.hidden, at_least=0.0, at_most=1e6)
        whole(where, "training_batch", self.training_batch, 1, 4096)
        real(where, "training_seconds", self.training_seconds, at_least=0.1, at_most=60.0)
        whole(where, "training_speakers", self.training_speakers, 0, 100_000)
        whole(where, "held_out", self.held_out, 1, 4096)
        if not (isinstance(self.device, str) and re.fullmatch(_DEVICE, self.device, re.ASCII)):
            problem = f"device {shown(self.device)} is not one of {', '.join(TRAINING_DEVICES)}"
            raise ConfigError(where, problem)

    @property
    def distills(self) -> bool:
        """Whether the whole network is trained."""
        return self.distillation > 0 or self.distillation_steps > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingSpec:
        """Return the specification that ``to_dict`` wrote; ConfigError for unknown keys."""
        return from_dict(cls, data)
