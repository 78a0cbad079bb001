"""Rounding, against Python's own exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroq_asr.integer.backends.interval import Interval, IntervalBackend
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.dyadic import (
    MAX_SHIFT,
    accumulator_bounds,
    half_even,
    largest_shift,
    requantize,
    shift_half_even,
)
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.operators.convolution.one_axis import conv_requant

NUMPY = NumpyBackend()
SHIFTS = st.integers(0, 31)
#: output formats (lo, hi, zero point), wide and narrow, also with a zero point outside of the range
FORMATS = st.one_of(
    st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)),
    st.tuples(st.integers(-32768, 32767), st.integers(-32768, 32767), st.just(0)),
).map(lambda f: (min(f[0], f[1]), max(f[0], f[1]), f[2]))


def exact(numerator: int, shift: int) -> int:
    """Python rounds a Fraction half to even."""
    return round(Fraction(numerator, 1 << shift))


@pytest.mark.parametrize("shift", range(25))
def test_every_tie_and_its_neighbours(shift: int) -> None:
    half = (1 << shift) >> 1
    for quotient in range(-6, 6):
        for offset in (-1, 0, 1):
            numerator = (quotient << shift) + half + offset
            wanted = exact(numerator, shift)
            assert half_even(numerator, shift) == wanted
            array = np.array([numerator], dtype=np.int32)
            assert shift_half_even(NUMPY, array, shift).tolist() == [wanted]


@pytest.mark.parametrize(
    ("numerator", "wanted"), [(1, 0), (3, 2), (5, 2), (7, 4), (-1, 0), (-3, -2), (-5, -2), (-7, -4)]
)
def test_halves_go_to_the_even_neighbour(numerator: int, wanted: int) -> None:
    assert half_even(numerator, 1) == wanted


@given(st.integers(-(2**100), 2**100), st.integers(0, 90))
def test_half_even_is_exact_beyond_machine_words(numerator: int, shift: int) -> None:
    assert half_even(numerator, shift) == exact(numerator, shift)


@given(st.lists(st.integers(-(2**30), 2**30), min_size=1), st.integers(0, 29))
def test_primitives_round_like_fractions(numerators: list[int], shift: int) -> None:
    found = shift_half_even(NUMPY, np.array(numerators, dtype=np.int32), shift)
    assert found.dtype == np.int32
    assert found.tolist() == [exact(n, shift) for n in numerators]


@given(st.integers(-(2**24), 2**24), st.integers(0, MAX_SHIFT))
def test_rounding_is_what_float32_kernels_do(numerator: int, shift: int) -> None:
    # a dyadic of at most 24 bits is exact in float32, and rint rounds half to even
    assert int(np.rint(np.float32(numerator) * np.float32(2.0**-shift))) == half_even(numerator, shift)


def requantized(acc: int, m: int, c: int, zy: int, lo: int, hi: int) -> int:
    return min(max(exact(acc * m, c) + zy, lo), hi)


@settings(max_examples=400)
@given(st.lists(st.integers(-(2**26), 2**26), min_size=1), st.integers(0, 17), FORMATS)
def test_requantize_is_the_rule(values: list[int], c: int, form: tuple[int, int, int]) -> None:
    lo, hi, zy = form
    kind = "uint8" if lo >= 0 and hi <= 255 else "int32"
    # the values themselves, and each moved to the tie and to the multiple of 2^c nearest to it
    near = [(v >> c << c) + part for v in values for part in (0, (1 << c) >> 1)]
    v = np.array([*values, *near], dtype=np.int32)
    found = requantize(NUMPY, v, c=c, zero_point=zy, lo=lo, hi=hi, type=kind)
    assert found.dtype == kind
    assert found.tolist() == [requantized(int(n), 1, c, zy, lo, hi) for n in v]
    bounds = requantize(
        IntervalBackend(), Interval.of(-(2**26), 2**26, I32), c=c, zero_point=zy, lo=lo, hi=hi, type=kind
    )
    # a bound moves by one at most, towards the parity that the zero point asks for
    assert lo - 1 <= bounds.min <= found.min()
    assert found.max() <= bounds.max <= hi + 1


@pytest.mark.parametrize("c", [1, 7, 16])
@pytest.mark.parametrize("zero_point", [0, 1, 127, 128, 255])
def test_requantize_on_every_tie(c: int, zero_point: int) -> None:
    quotients = np.arange(-300, 301)
    v = np.concatenate([(quotients << c) + (1 << (c - 1)) + d for d in (-1, 0, 1)]).astype(np.int32)
    found = requantize(NUMPY, v, c=c, zero_point=zero_point, lo=0, hi=255, type="uint8")
    assert found.tolist() == [requantized(int(n), 1, c, zero_point, 0, 255) for n in v]


@settings(max_examples=400)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(1, 2**24), st.integers(0, MAX_SHIFT), FORMATS)
def test_accumulator_bounds_change_no_output(acc: int, m: int, c: int, form: tuple[int, int, int]) -> None:
    lo, hi, zy = form
    lower, upper = accumulator_bounds(np.array([m], dtype=np.int32), c, zy, lo, hi)
    for value in (acc, int(lower[0]), int(upper[0]), int(lower[0]) - 1, int(upper[0]) + 1):
        clamped = min(max(value, int(lower[0])), int(upper[0]))
        assert requantized(clamped, m, c, zy, lo, hi) == requantized(value, m, c, zy, lo, hi)


@given(st.lists(st.integers(1, 2**24), min_size=1, max_size=5), st.integers(0, MAX_SHIFT), FORMATS)
def test_accumulator_bounds_are_a_vector_around_zero(
    m: list[int], c: int, form: tuple[int, int, int]
) -> None:
    lo, hi, zy = form
    lower, upper = accumulator_bounds(np.array(m, dtype=np.int32), c, zy, lo, hi)
    assert lower.shape == upper.shape == (len(m),)
    assert (lower <= 0).all()
    assert (upper >= 0).all()


@settings(max_examples=200)
@given(st.integers(1, 2**29), FORMATS)
def test_largest_shift_leaves_headroom_for_the_whole_requantization(
    m_max: int, form: tuple[int, int, int]
) -> None:
    lo, hi, zy = form
    c = largest_shift(lo, hi, zy, m_max)
    proof = IntervalBackend()
    constants = {
        "w": np.full((1, 30000, 1), 127, dtype=np.int8),
        "bias": np.zeros(1, dtype=np.int32),
        "m": np.array([m_max], dtype=np.int32),
    }
    # the interval backend raises if any intermediate, the shift's offset included, leaves int32
    result = conv_requant(
        proof,
        Interval.of(0, 255, U8),
        *(proof.constant(name, array) for name, array in constants.items()),
        zx=128,
        c=c,
        zy=zy,
        lo=lo,
        hi=hi,
        type="int32",
        saturate=True,
        stride=1,
        padding=(0, 0),
        dilation=1,
        groups=1,
    )
    assert lo <= result.min <= result.max <= hi
    assert proof.peak <= I32.hi


@given(st.integers(1, 2**20), FORMATS)
def test_largest_shift_is_the_largest(m_max: int, form: tuple[int, int, int]) -> None:
    lo, hi, zy = form
    c = largest_shift(lo, hi, zy, m_max)
    span = max(hi - zy, zy - lo, 1)
    # one step more would need more than half of int32
    assert c == MAX_SHIFT or (span << (c + 1)) + m_max + (2 << (c + 1)) > I32.hi // 2


def test_bytes_always_get_the_whole_shift() -> None:
    for zero_point in range(256):
        assert largest_shift(0, 255, zero_point, 2**24) == MAX_SHIFT


def test_no_shift_is_left_out() -> None:
    array = np.array([5, -7], dtype=np.int32)
    assert shift_half_even(NUMPY, array, 0) is array
