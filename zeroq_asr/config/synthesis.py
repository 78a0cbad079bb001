"""How features are made (see ``zeroq_asr.synthesis.synthesize``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zeroq_asr.config.checks import choice, flag, from_dict, real, text, whole

SCHEDULES = ("constant", "cosine", "plateau")
#: the start that is made speech through the network's own frontend
VOICE = "voice"
INITS = ("normal", "uniform", "smooth", "student", "speech", VOICE)


@dataclass(frozen=True)
class SynthesisSpec:
    """How synthetic features are optimised (see ``zeroq_asr.synthesis.synthesize``)."""

    #: utterances optimised
    batch: int = 12
    #: groups of utterances, each of which matches the statistics on its own, side by side; a group has two
    #: utterances at least
    groups: int = 2
    #: feature frames of each
    frames: int = 256
    #: Adam steps; 0 leaves the initial noise as it is
    iterations: int = 30
    #: Adam's step size at the start, in units of a feature
    learning_rate: float = 0.2
    #: how much of the last step Adam keeps of its means of gradients, and of their squares: all of a gradient
    #: is known in each step, so that little is to be averaged
    beta1: float = 0.7
    beta2: float = 0.9
    #: how the step size falls: "constant", "cosine" (to zero over ``iterations``), or "plateau"
    #: (a tenth after 25 iterations without improvement, never below 1e-4)
    schedule: str = "cosine"
    #: a key of ``zeroq_asr.synthesis.objectives.OBJECTIVES``
    objective: str = "kl_reverse"
    #: a key of ``zeroq_asr.synthesis.starts.INITIAL``, "normal", "uniform", "smooth", "student" or "speech",
    #: or "voice": made speech (``zeroq_asr.synthesis.made_speech``)
    init: str = "smooth"
    #: keep every mel of every utterance at mean 0, variance 1 where the frontend does so too
    standardize: bool = False
    #: how far a batch's mean (in stored deviations) and half its log variance may be off for nothing
    slack: float = 0.0
    #: weight of one layer's statistics a sample by itself, which makes samples unlike each other
    emphasis: float = 0.0
    #: weight of the layer normalizations' γ and β as a prior on the moments of what they give (a heuristic)
    norm_prior: float = 0.0
    #: weight of how far every attention looks (``synthesis.speech_priors.distance``); speech attends near
    locality: float = 0.0
    #: weight of the blanks that utterances have too many of (``zeroq_asr.synthesis.speech_priors.silence``)
    nonblank: float = 0.0
    #: weight of the entropy of a frame's classes (``zeroq_asr.synthesis.speech_priors.doubt``)
    confidence: float = 0.0
    #: utterances of made speech (``zeroq_asr.synthesis.made_speech``), each by a speaker of its own
    speakers: int = 16
    #: how long each of them lasts
    seconds: float = 6.0
    #: seed of the private random generator
    seed: int = 0
    #: stop after so many iterations without improvement; 0 never stops early
    patience: int = 0
    #: the relative fall of the loss that counts as an improvement
    min_improvement: float = 1e-3

    def __post_init__(self) -> None:
        where = "SynthesisSpec"
        whole(where, "batch", self.batch, 1, 4096)
        whole(where, "groups", self.groups, 1, 4096)
        whole(where, "frames", self.frames, 8, 1_000_000)
        whole(where, "iterations", self.iterations, 0, 1_000_000)
        real(where, "learning_rate", self.learning_rate, above=0.0)
        real(where, "beta1", self.beta1, at_least=0.0, below=1.0)
        real(where, "beta2", self.beta2, at_least=0.0, below=1.0)
        choice(where, "schedule", self.schedule, SCHEDULES)
        text(where, "objective", self.objective)
        choice(where, "init", self.init, INITS)
        flag(where, "standardize", self.standardize)
        real(where, "slack", self.slack, at_least=0.0, at_most=10.0)
        real(where, "emphasis", self.emphasis, at_least=0.0, at_most=100.0)
        real(where, "norm_prior", self.norm_prior, at_least=0.0, at_most=1e6)
        real(where, "locality", self.locality, at_least=0.0, at_most=1e6)
        real(where, "nonblank", self.nonblank, at_least=0.0, at_most=1e6)
        real(where, "confidence", self.confidence, at_least=0.0, at_most=1e6)
        whole(where, "speakers", self.speakers, 1, 4096)
        real(where, "seconds", self.seconds, at_least=0.1, at_most=600.0)
        whole(where, "seed", self.seed, 0, 2**63 - 1)
        whole(where, "patience", self.patience, 0, 1_000_000)
        real(where, "min_improvement", self.min_improvement, at_least=0.0, below=1.0)

    @classmethod
    def preset(cls, name: str, **fields: Any) -> SynthesisSpec:
        """Return the named preset, with ``fields`` changed.

        - ``paper``: Kim et al., arXiv 2103.16827: Adam, 200 iterations, batch 8 x 500 frames,
          KL; learning rate 0.01, start U(-0.3, 0.3) and reduce-on-plateau as in the authors'
          code (kssteven418/Q-ASR, ``distill_data.py``).
        - ``default``: tuned for two CPU cores (``benchmarks/synthesis.py``).  From smooth noise, the
          reverse direction of KL reaches in 60 steps a smaller value even of the paper's KL than
          the paper's own direction does in 200; means of gradients that forget early halve them.
        - ``fast``: a sixth of the default's work.
        """
        choice("preset", "name", name, _PRESETS)
        return cls(**{**_PRESETS[name], **fields})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SynthesisSpec:
        """Return the specification that ``to_dict`` wrote; ConfigError for unknown keys."""
        # what was made before these could be chosen was made with Adam's own
        return from_dict(cls, {**_ADAM, **data} if isinstance(data, Mapping) else data)


#: as Kingma and Ba (arXiv 1412.6980) have them, and torch
_ADAM = {"beta1": 0.9, "beta2": 0.999}
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "batch": 8,
        "groups": 1,
        "frames": 500,
        "iterations": 200,
        "learning_rate": 0.01,
        **_ADAM,
        "schedule": "plateau",
        "objective": "kl",
        "init": "uniform",
    },
    "default": {},
    "fast": {"batch": 2},
}
