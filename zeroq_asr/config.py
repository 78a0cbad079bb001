"""What a user may choose, as frozen values: how to quantize, how to synthesize, how to calibrate.

Each specification is checked when it is made (ConfigError says what is allowed) and survives
a JSON round trip: ``Spec.from_dict(spec.to_dict()) == spec``.  Unknown keys are refused, so
that a misspelt option in a saved configuration is an error and not a silent default.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from zeroq_asr.errors import ConfigError

#: targets by name: what each promises about the kernels that will run the file
TARGETS = {
    "auto": "the finest of these that is exact on the machine that quantizes",
    "x86-any": "u8 x s8 products, weights such that no pair of them saturates: exact on every x86",
    "x86-vnni": "u8 x s8 products, weights at full range: exact only where the CPU has VNNI",
    "arm": "s8 weights at full range: exact on ARM",
}
#: Matching means and variances says nothing about tails: the extremes of made features fall short of
#: speech's.  Chosen by agreement with float on train-clean-100 speech under babble noise
#: (benchmarks/ranges.py, docs/design.md).
MADE_MARGIN = 1.1
#: bits that the result of a single layer can have beside those of all
LAYER_BITS = 16
#: forms of the nonlinearities by name
NONLINEARITIES = {
    "table": "256 entries, exact to half a step",
    "polynomial": "of degree 5 at most, exact to a step: for targets without a fast gather",
}
ROUNDINGS = ("auto", "nearest", "feedback")
METHODS = ("auto", "minmax", "percentile", "mse")
SCHEDULES = ("constant", "cosine", "plateau")
INITS = ("normal", "uniform", "smooth", "student", "speech")

S = TypeVar("S")


@dataclass(frozen=True)
class QuantSpec:
    """The integer format of the network that is written."""

    #: bits of a weight, 2..8: symmetric, range +-(2^(bits-1) - 1), a scale per output channel
    weight_bits: int = 8
    #: bits of an activation, 2..8: unsigned with a zero point, a scale per tensor
    activation_bits: int = 8
    #: (name, bits) of single layers' results, finer than ``activation_bits``: a layer's path, a value's
    #: name, or a glob of them, and 16, the only width there is beside bytes (``zeroq_asr.lowering.formats``)
    layer_bits: tuple[tuple[str, int], ...] = ()
    #: what stays in float: paths of layers, names of values, or globs of them.  The file is then not
    #: integer-only, and its certificate lists these islands (``zeroq_asr.lowering.keep_float``)
    keep_float: tuple[str, ...] = ()
    #: keep operators that have no integer lowering in float, too, instead of refusing the network
    allow_float: bool = False
    #: bits of the integer logits, 8..16
    logit_bits: int = 16
    #: a key of ``TARGETS``
    target: str = "x86-any"
    #: how sigmoid, tanh, Swish, GELU, ELU and SELU are computed: a key of ``NONLINEARITIES``
    nonlinearity: str = "table"
    #: end the range of what sigmoid, tanh, Swish and the like read where they are flat
    flat_ends: bool = True
    #: longest input in seconds that the interval proof covers and the file accepts
    max_seconds: float = 60.0
    #: give back through the biases what rounding the weights takes from the means of a layer
    bias_correction: bool = True
    #: of weights: "nearest", "feedback" (GPTQ: errors are made up for by the weights still to come), or
    #: "auto": nearest at 8 bits, where feedback gains nothing, feedback below
    rounding: str = "auto"
    #: exponent of cross-layer equalization through depthwise → pointwise pairs, 0 (off) to 1 (whole)
    equalization: float = 0.0
    #: exponent of smoothing the channels behind layer normalizations, in attention's values and behind gates,
    #: 0 (off) to 1 (whole)
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        where = "QuantSpec"
        _whole(where, "weight_bits", self.weight_bits, 2, 8)
        _whole(where, "activation_bits", self.activation_bits, 2, 8)
        # JSON has no tuples
        object.__setattr__(self, "layer_bits", _layer_bits(where, self.layer_bits))
        object.__setattr__(self, "keep_float", _names(where, "keep_float", self.keep_float))
        _flag(where, "allow_float", self.allow_float)
        _whole(where, "logit_bits", self.logit_bits, 8, 16)
        _choice(where, "target", self.target, TARGETS)
        _choice(where, "nonlinearity", self.nonlinearity, NONLINEARITIES)
        _flag(where, "flat_ends", self.flat_ends)
        _real(where, "max_seconds", self.max_seconds, above=0.0, at_most=1e6)
        _flag(where, "bias_correction", self.bias_correction)
        _choice(where, "rounding", self.rounding, ROUNDINGS)
        _real(where, "equalization", self.equalization, at_least=0.0, at_most=1.0)
        _real(where, "smoothing", self.smoothing, at_least=0.0, at_most=1.0)

    @property
    def feedback(self) -> bool:
        """Whether weights are rounded by feedback."""
        return self.rounding == "feedback" or (self.rounding == "auto" and self.weight_bits < 8)

    @classmethod
    def parse_bits(cls, *texts: str, **fields: Any) -> QuantSpec:
        """Return the specification that ``texts`` spell, other fields given by keyword.

        ``"6"`` means 6-bit weights and activations, ``"w4a8"`` 4-bit weights and 8-bit activations
        (case does not matter), said at most once; ``"NAME=16"`` 16 bits for the result of a layer.  Raises
        ConfigError for anything else.
        """
        layers = [text for text in texts if "=" in text]
        whole = [text for text in texts if "=" not in text]
        if len(whole) > 1:
            raise ConfigError(
                "bits", f"{whole[0]!r} and {whole[1]!r} are both of the whole network", "keep one"
            )
        for text in whole:
            match = re.fullmatch(r"(?:(\d)|w(\d)a(\d))", text.strip().lower(), flags=re.ASCII)
            if match is None:
                remedy = "write 8, or w8a8, w7a8, w4a8 and the like; or LAYER=16"
                raise ConfigError("bits", f"cannot read {text!r}", remedy)
            both, weight, activation = match.groups()
            fields |= {"weight_bits": int(both or weight), "activation_bits": int(both or activation)}
        pairs: list[tuple[str, Any]] = []
        for text in layers:
            name, _, bits = text.rpartition("=")
            # __post_init__ refuses what is no number
            pairs.append(
                (name.strip(), int(bits) if re.fullmatch(r"\s*\d{1,3}\s*", bits, re.ASCII) else bits)
            )
        return cls(layer_bits=tuple(pairs), **fields) if pairs else cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QuantSpec:
        """Return the specification that ``to_dict`` wrote; ConfigError for unknown keys."""
        return _from_dict(cls, data)


@dataclass(frozen=True)
class SynthesisSpec:
    """How synthetic features are optimised (see ``zeroq_asr.synthesis.synthesize``)."""

    #: utterances optimised together
    batch: int = 8
    #: feature frames of each
    frames: int = 256
    #: Adam steps; 0 leaves the initial noise as it is
    iterations: int = 60
    #: Adam's step size at the start, in units of a feature
    learning_rate: float = 0.1
    #: how the step size falls: "constant", "cosine" (to zero over ``iterations``), or "plateau"
    #: (a tenth after 25 iterations without improvement, never below 1e-4)
    schedule: str = "cosine"
    #: a key of ``zeroq_asr.synthesis.objectives.OBJECTIVES``
    objective: str = "kl_reverse"
    #: a key of ``zeroq_asr.synthesis.starts.INITIAL``: "normal", "uniform", "smooth", "student" or "speech"
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
    #: seed of the private random generator
    seed: int = 0
    #: stop after so many iterations without improvement; 0 never stops early
    patience: int = 0
    #: the relative fall of the loss that counts as an improvement
    min_improvement: float = 1e-3

    def __post_init__(self) -> None:
        where = "SynthesisSpec"
        _whole(where, "batch", self.batch, 1, 4096)
        _whole(where, "frames", self.frames, 8, 1_000_000)
        _whole(where, "iterations", self.iterations, 0, 1_000_000)
        _real(where, "learning_rate", self.learning_rate, above=0.0)
        _choice(where, "schedule", self.schedule, SCHEDULES)
        _name(where, "objective", self.objective)
        _choice(where, "init", self.init, INITS)
        _flag(where, "standardize", self.standardize)
        _real(where, "slack", self.slack, at_least=0.0, at_most=10.0)
        _real(where, "emphasis", self.emphasis, at_least=0.0, at_most=100.0)
        _real(where, "norm_prior", self.norm_prior, at_least=0.0, at_most=1e6)
        _real(where, "locality", self.locality, at_least=0.0, at_most=1e6)
        _real(where, "nonblank", self.nonblank, at_least=0.0, at_most=1e6)
        _real(where, "confidence", self.confidence, at_least=0.0, at_most=1e6)
        _whole(where, "seed", self.seed, 0, 2**63 - 1)
        _whole(where, "patience", self.patience, 0, 1_000_000)
        _real(where, "min_improvement", self.min_improvement, at_least=0.0, below=1.0)

    @classmethod
    def preset(cls, name: str, **fields: Any) -> SynthesisSpec:
        """Return the named preset, with ``fields`` changed.

        - ``paper``: Kim et al., arXiv 2103.16827: Adam, 200 iterations, batch 8 x 500 frames,
          KL; learning rate 0.01, start U(-0.3, 0.3) and reduce-on-plateau as in the authors'
          code (kssteven418/Q-ASR, ``distill_data.py``).
        - ``default``: tuned for two CPU cores (``benchmarks/synthesis.py``).  From smooth noise, the
          reverse direction of KL reaches in 60 steps a smaller value even of the paper's KL than
          the paper's own direction does in 200.
        - ``fast``: a quarter of the default's work.
        """
        _choice("preset", "name", name, _PRESETS)
        return cls(**{**_PRESETS[name], **fields})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SynthesisSpec:
        """Return the specification that ``to_dict`` wrote; ConfigError for unknown keys."""
        return _from_dict(cls, data)


_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "batch": 8,
        "frames": 500,
        "iterations": 200,
        "learning_rate": 0.01,
        "schedule": "plateau",
        "objective": "kl",
        "init": "uniform",
    },
    "default": {},
    "fast": {"batch": 2},
}


@dataclass(frozen=True)
class CalibrationSpec:
    """Where activation ranges come from and how they are chosen."""

    #: "synthetic", "noise", or the path of saved features (.npz), a manifest or a folder of audio
    source: str = "synthetic"
    #: "minmax", "percentile", "mse" (the range of least squared rounding and clipping error), or "auto":
    #: by the bits of the activations (``resolved``)
    method: str = "auto"
    #: for ``percentile``: the share of values kept inside the range, in percent
    percentile: float = 99.99
    #: for ``percentile`` and ``mse``: histogram bins kept for a tensor, whatever the data's size
    bins: int = 2048
    #: utterances used at most; None uses all
    limit: int | None = None
    #: every range is widened by this factor; None: ``MADE_MARGIN`` for features that were made,
    #: 1 for audio
    margin: float | None = None
    #: k: the range of a normalized value reaches at least to β ± k|γ| of any channel; 0: it need not
    floor: float = 0.0
    #: widen ranges where synthetic features fall short of the stored deviations
    shortfall: bool = False

    def __post_init__(self) -> None:
        where = "CalibrationSpec"
        _name(where, "source", self.source)
        _choice(where, "method", self.method, METHODS)
        _real(where, "percentile", self.percentile, above=50.0, at_most=100.0)
        _whole(where, "bins", self.bins, 16, 1 << 20)
        if self.bins % 4:
            raise ConfigError(where, f"bins must be a multiple of 4, got {self.bins}")
        if self.limit is not None:
            _whole(where, "limit", self.limit, 1, 1 << 31)
        if self.margin is not None:
            _real(where, "margin", self.margin, at_least=0.1, at_most=100.0)
        _real(where, "floor", self.floor, at_least=0.0, at_most=100.0)
        _flag(where, "shortfall", self.shortfall)

    def resolved(self, levels: int) -> CalibrationSpec:
        """Return the specification with the method that "auto" stands for at ``levels`` = 2^bits − 1 steps.

        With 8 bits the extremes; the coarser the step, the more it pays to clip for its sake: with 7 bits
        the percentile 99.999, with fewer 99.99 (benchmarks/ranges.py --activations, docs/design.md).
        """
        if self.method != "auto":
            return self
        if levels >= 255:
            return dataclasses.replace(self, method="minmax")
        kept = 99.999 if levels >= 127 else 99.99
        margin = 1.0 if self.margin is None else self.margin
        return dataclasses.replace(self, method="percentile", percentile=kept, margin=margin)

    @property
    def widening(self) -> float:
        """The factor that ranges are widened by."""
        if self.margin is not None:
            return self.margin
        return 1.0 if self.kind == "audio" else MADE_MARGIN

    @property
    def kind(self) -> str:
        """What ``source`` names: "synthetic", "noise", "features" or "audio"."""
        if self.source in ("synthetic", "noise"):
            return self.source
        return "features" if self.source.lower().endswith(".npz") else "audio"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CalibrationSpec:
        """Return the specification that ``to_dict`` wrote; ConfigError for unknown keys."""
        return _from_dict(cls, data)


def _from_dict(cls: type[S], data: Mapping[str, Any]) -> S:
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not isinstance(data, Mapping):
        raise ConfigError(cls.__name__, f"expected an object of {known}, got {type(data).__name__}")
    unknown = sorted(str(key) for key in data if key not in known)
    if unknown:
        raise ConfigError(cls.__name__, f"unknown keys {unknown}", f"it has {known}")
    return cls(**data)


def _whole(where: str, name: str, value: object, low: int, high: int) -> None:
    # bool is an int to Python, but True is not a number of bits
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(where, f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _real(
    where: str,
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (above < value and at_least <= value <= at_most and value < below):  # type: ignore[operator]
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">", above), (">=", at_least), ("<=", at_most), ("<", below))
            if math.isfinite(bound)
        ]
        raise ConfigError(where, f"{name} must be a finite number {' and '.join(bounds)}, got {value!r}")


def _layer_bits(where: str, value: object) -> tuple[tuple[str, int], ...]:
    pairs = value if isinstance(value, tuple | list) else (value,)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError(where, f"layer_bits must be pairs of a name and 16, got {pair!r}")
        _name(where, "a name of layer_bits", pair[0])
        if isinstance(pair[1], bool) or pair[1] != LAYER_BITS:
            problem = f"{pair[0]} cannot have {pair[1]} bits: a single layer can have {LAYER_BITS}"
            raise ConfigError(where, problem, f"write --bits '{pair[0]}={LAYER_BITS}', or leave it out")
    return tuple((str(name), int(bits)) for name, bits in pairs)


def _names(where: str, name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, tuple | list):
        raise ConfigError(where, f"{name} must be a list of names, got {value!r}")
    for one in value:
        _name(where, f"a name of {name}", one)
    return tuple(str(one) for one in value)


def _flag(where: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(where, f"{name} must be true or false, got {value!r}")


def _choice(where: str, name: str, value: object, allowed: Mapping[str, Any] | tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(where, f"{name} {value!r} is not one of {', '.join(allowed)}")


def _name(where: str, name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(where, f"{name} must be a non-empty string, got {value!r}")
