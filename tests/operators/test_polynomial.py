"""Polynomials that stand for functions: monotone, symmetric, within a step, and proven, at any scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroq_asr.integer.backends.interval import Interval, IntervalBackend
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.program import Instruction, ValueInfo
from zeroq_asr.integer.types import U8, activation_range
from zeroq_asr.operators.activations.functions import FUNCTIONS
from zeroq_asr.operators.activations.polynomial import SYMMETRIES, polynomial_requant
from zeroq_asr.operators.activations.polynomial_fit import fitted

NAMES = sorted(FUNCTIONS)
#: what rises everywhere
RISING = [name for name in NAMES if name not in ("silu", "gelu")]


def formats(name: str, exponent: float, zero_point: int, bits: int = 8) -> tuple[ValueInfo, ValueInfo]:
    """Formats of an input of scale 2^``exponent`` and of the whole of what the function makes of it."""
    low, high = activation_range(bits)
    source = ValueInfo("uint8", 2.0**exponent, min(zero_point, high), low, high)
    reals = values(name, source)
    lo, hi = FUNCTIONS[name].range or (min(0.0, *reals), max(0.0, *reals))
    scale = (hi - lo) / high or 1.0
    return source, ValueInfo("uint8", scale, round(-lo / scale), low, high)


def values(name: str, source: ValueInfo) -> list[float]:
    inputs = range(source.lo, source.hi + 1)
    return [FUNCTIONS[name].of(source.scale * (q - source.zero_point)) for q in inputs]


def lowered(name: str, source: ValueInfo, target: ValueInfo, clamp: tuple[int, int] | None = None) -> Any:
    attrs = fitted(source, target, name, FUNCTIONS[name].of, clamp or (target.lo, target.hi))
    x = np.arange(source.lo, source.hi + 1, dtype=np.uint8)
    return attrs, polynomial_requant(NumpyBackend(), x, **attrs).astype(int)


ANY_EXPONENTS = st.floats(-30.0, 30.0) | st.sampled_from((-1040.0, -300.0, 300.0, 900.0))
EXPONENTS, ZERO_POINTS = st.floats(-14.0, 3.0), st.integers(0, 255)


def test_every_function_has_its_symmetry() -> None:
    assert SYMMETRIES.keys() == FUNCTIONS.keys()
    for name, symmetry in SYMMETRIES.items():
        f = FUNCTIONS[name].of
        for x in (0.1, 0.7, 3.0, 20.0):
            line = 0.0 if symmetry == "odd" else f(64.0) / 64.0
            above, below = f(x) - f(0.0) - line * x, f(-x) - f(0.0)
            wanted = {"odd": -below, "even": below, "none": 0.0}[symmetry]
            assert math.isclose(above, wanted, abs_tol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), EXPONENTS, st.integers(0, 210), st.sampled_from((3, 4, 6, 8)))
def test_errors_are_at_most_a_step(name: str, exponent: float, zero_point: int, bits: int) -> None:
    source, target = formats(name, exponent, zero_point * 2**bits // 256, bits)
    _, y = lowered(name, source, target)
    ideal = np.clip(np.array(values(name, source)) / target.scale + target.zero_point, target.lo, target.hi)
    assert np.abs(y - ideal).max() <= 1.0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RISING), EXPONENTS, ZERO_POINTS)
def test_what_rises_never_falls(name: str, exponent: float, zero_point: int) -> None:
    _, y = lowered(name, *formats(name, exponent, zero_point))
    assert (np.diff(y) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["sigmoid", "tanh"]), EXPONENTS)
def test_symmetric_functions_are_symmetric(name: str, exponent: float) -> None:
    source = ValueInfo("uint8", 2.0**exponent, 128, 0, 255)
    # a zero point that is even: half-even rounding has the same symmetry
    target = ValueInfo(
        "uint8", 1 / 256 if name == "sigmoid" else 1 / 128, 0 if name == "sigmoid" else 128, 0, 255
    )
    _, y = lowered(name, source, target)
    inside = (y[1:] > 0) & (y[1:] < 255) & (y[:0:-1] > 0) & (y[:0:-1] < 255)
    assert (y[1:] + y[:0:-1] == 256)[inside].all()
    assert y[128] == 128


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), ANY_EXPONENTS, ZERO_POINTS, ANY_EXPONENTS, st.integers(0, 255))
def test_any_scales_are_proven_and_bounded(
    name: str, exponent: float, zero_point: int, other: float, zy: int
) -> None:
    """Outputs of any scale, though nearly all of them saturate."""
    source = ValueInfo("uint8", 2.0**exponent, zero_point, 0, 255)
    attrs, y = lowered(name, source, ValueInfo("uint8", 2.0**other, zy, 0, 255), (20, 220))
    proof = IntervalBackend()
    bounds = polynomial_requant(proof, Interval.of(0, 255, U8), **attrs)
    assert 20 <= y.min() <= y.max() <= 220
    # bounds allow for a tie at either end
    assert 19 <= bounds.min <= y.min() <= y.max() <= bounds.max <= 221
    assert proof.peak <= 1 << 24


@pytest.mark.parametrize("name", NAMES)
def test_what_is_lowered_finds_the_exact_kernel(name: str) -> None:
    for reach in (0.5, 4.0, 12.0, 40.0):
        source, target = formats(name, math.log2(reach / 128), 120)
        attrs, _ = lowered(name, source, target)
        backend = OnnxFusedBackend()
        x = backend.input("x", Interval.of(0, 255, U8), (1, 1, "frames"))
        backend.instruction(Instruction("polynomial_requant", "y", ("x",), attrs), [x])
        assert backend.spellings == {"polynomial_requant": {"polynomial in exact floats": 1}}


def test_a_lower_degree_is_taken_where_it_does() -> None:
    degrees = [len(lowered("tanh", *formats("tanh", e, 128))[0]["coefficients"]) for e in (-14, -7, -5, 3)]
    assert degrees[0] == degrees[3] == 1 < degrees[1] < degrees[2] <= 5


def test_zero_is_exact() -> None:
    for name in NAMES:
        source, target = formats(name, -4.0, 99)
        _, y = lowered(name, source, target)
        assert y[99] == round(FUNCTIONS[name].of(0.0) / target.scale) + target.zero_point
