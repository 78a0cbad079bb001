from __future__ import annotations

import dataclasses
import json
import math

import pytest

from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec
from zeroq_asr.errors import ConfigError

SPECS = [
    QuantSpec(),
    QuantSpec(weight_bits=4, activation_bits=6, logit_bits=8, target="arm", max_seconds=12.5),
    QuantSpec(nonlinearity="polynomial"),
    SynthesisSpec.preset("paper"),
    SynthesisSpec.preset("default", seed=7),
    SynthesisSpec.preset("fast"),
    CalibrationSpec(source="features.npz", method="percentile", percentile=99.0, limit=3),
]


@pytest.mark.parametrize("spec", SPECS)
def test_json_round_trip(spec) -> None:
    data = json.loads(json.dumps(spec.to_dict()))
    assert type(spec).from_dict(data) == spec
    with pytest.raises(ConfigError, match="colour"):
        type(spec).from_dict({**data, "colour": 1})
    with pytest.raises(ConfigError, match="expected an object"):
        type(spec).from_dict([1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.seed = 1


@pytest.mark.parametrize(
    ("text", "weight", "activation"),
    [("8", 8, 8), ("w8a8", 8, 8), ("W4A8", 4, 8), (" 6 ", 6, 6), ("w7a8", 7, 8), ("2", 2, 2)],
)
def test_bits_are_parsed(text: str, weight: int, activation: int) -> None:
    spec = QuantSpec.parse_bits(text, max_seconds=5.0)
    assert (spec.weight_bits, spec.activation_bits, spec.max_seconds) == (weight, activation, 5.0)


@pytest.mark.parametrize(
    "text", ["", "w", "w8", "a8", "w8a", "88", "8.0", "1", "9", "w4a9", "int8", "-8", "٨"]
)
def test_bad_bits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"bits|whole number"):
        QuantSpec.parse_bits(text)


def test_bits_of_layers_are_parsed() -> None:
    spec = QuantSpec.parse_bits("w7a8", "a.*=16", " b = 16 ")
    assert (spec.weight_bits, spec.layer_bits) == (7, (("a.*", 16), ("b", 16)))
    assert QuantSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert QuantSpec.parse_bits("x=16").weight_bits == 8
    assert QuantSpec.parse_bits("8", "x=4").layer_bits == (("x", 4),)
    assert QuantSpec.parse_bits().layer_bits == ()


@pytest.mark.parametrize("text", ["x=1", "x=9", "x=12", "x=16.0", "x=", "x=many", "x=0016000", "x=-16"])
def test_other_bits_of_layers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x cannot have .* a single layer can have 16, or 2 to 8"):
        QuantSpec.parse_bits("8", text)


@pytest.mark.parametrize(
    "value", ["x", 16, ["x"], [["x"]], [["x", 16, 1]], [["", 16]], [[3, 16]], [["x", True]]]
)
def test_layers_are_pairs(value: object) -> None:
    with pytest.raises(ConfigError, match=r"layer_bits|cannot have"):
        QuantSpec(layer_bits=value)


def test_the_whole_network_has_its_bits_once() -> None:
    with pytest.raises(ConfigError, match="'8' and 'w4a8' are both of the whole network"):
        QuantSpec.parse_bits("8", "w4a8")
    with pytest.raises(ConfigError, match="a name of layer_bits"):
        QuantSpec.parse_bits("=16")


def test_fewer_bits_are_rounded_by_feedback() -> None:
    assert not QuantSpec().feedback
    assert QuantSpec(weight_bits=7).feedback
    assert QuantSpec(rounding="feedback").feedback
    assert not QuantSpec(weight_bits=4, rounding="nearest").feedback


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (QuantSpec, "weight_bits", True),
        (QuantSpec, "weight_bits", 8.0),
        (QuantSpec, "activation_bits", 1),
        (QuantSpec, "logit_bits", 7),
        (QuantSpec, "target", "gpu"),
        (QuantSpec, "target", None),
        (QuantSpec, "rounding", "up"),
        (QuantSpec, "max_seconds", 0),
        (QuantSpec, "max_seconds", math.nan),
        (QuantSpec, "max_seconds", math.inf),
        (QuantSpec, "max_seconds", "60"),
        (SynthesisSpec, "batch", 0),
        (SynthesisSpec, "frames", "256"),
        (SynthesisSpec, "iterations", -1),
        (SynthesisSpec, "learning_rate", 0.0),
        (SynthesisSpec, "beta1", 1.0),
        (SynthesisSpec, "beta2", -0.1),
        (SynthesisSpec, "schedule", "step"),
        (SynthesisSpec, "objective", ""),
        (SynthesisSpec, "init", "zeros"),
        (SynthesisSpec, "standardize", 1),
        (SynthesisSpec, "locality", -0.1),
        (SynthesisSpec, "nonblank", math.nan),
        (SynthesisSpec, "confidence", "1"),
        (SynthesisSpec, "seed", -1),
        (SynthesisSpec, "patience", -1),
        (SynthesisSpec, "min_improvement", 1.0),
        (CalibrationSpec, "source", " "),
        (CalibrationSpec, "source", None),
        (CalibrationSpec, "method", "max"),
        (CalibrationSpec, "percentile", 50.0),
        (CalibrationSpec, "percentile", 100.1),
        (CalibrationSpec, "bins", 8),
        (CalibrationSpec, "limit", 0),
    ],
)
def test_nonsense_is_refused_by_name(cls, field: str, value) -> None:
    with pytest.raises(ConfigError, match=field):
        cls(**{field: value})


def test_recipes_of_before_have_the_means_that_they_were_made_with() -> None:
    told = SynthesisSpec().to_dict()
    assert SynthesisSpec.from_dict(told) == SynthesisSpec()
    before = SynthesisSpec.from_dict({k: v for k, v in told.items() if k not in ("beta1", "beta2")})
    paper = SynthesisSpec.preset("paper")
    assert (before.beta1, before.beta2) == (paper.beta1, paper.beta2) == (0.9, 0.999)


def test_presets() -> None:
    paper = SynthesisSpec.preset("paper")
    assert (paper.batch, paper.frames, paper.iterations, paper.objective) == (8, 500, 200, "kl")
    assert SynthesisSpec.preset("default") == SynthesisSpec()
    with pytest.raises(ConfigError, match="paper, default, fast"):
        SynthesisSpec.preset("slow")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("synthetic", "synthetic"),
        ("noise", "noise"),
        ("a/b.NPZ", "features"),
        ("m.jsonl", "audio"),
        (".", "audio"),
    ],
)
def test_calibration_kind(source: str, kind: str) -> None:
    assert CalibrationSpec(source=source).kind == kind
