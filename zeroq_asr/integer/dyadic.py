"""Dyadic multipliers m / 2^c and the rounding they use.

Requantization replaces a real ratio by ``m / 2^c`` with integers m and c.  The rounding is
half-to-even everywhere, because that is what every float-requantizing kernel does, so that a
float32 kernel whose intermediates are exact gives the same integers.
"""

from __future__ import annotations

import numpy as np

from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.types import I32, TYPES, U8

#: Largest shift of an 8-bit output.  A product below 2^8 in steps of 2^-16 has 24 significant
#: bits, all of which a float32 holds: this is the condition under which QLinearConv is exact.
MAX_SHIFT = 16


def half_even(numerator: int, shift: int) -> int:
    """Round numerator / 2^shift to the nearest integer, ties to even (Python integers, exact)."""
    quotient, remainder = numerator >> shift, numerator & ((1 << shift) - 1)
    doubled = 2 * remainder
    if doubled > (1 << shift) or (doubled == (1 << shift) and quotient & 1):
        quotient += 1
    return quotient


def shift_half_even(f: Backend[V], x: V, c: int) -> V:
    """Round x / 2^c half to even, spelled in a backend's primitives.

    (x + 2^(c−1) − 1 + ((x >> c) & 1)) >> c, with an arithmetic right shift.  Adding 2^(c−1) − 1
    rounds half down, the parity bit of the floor turns the tie towards the even neighbour.
    """
    if c == 0:
        return x
    parity = f.bit_and(f.shift_right(x, c), 1)
    return f.shift_right(f.add(f.add(x, (1 << (c - 1)) - 1), parity), c)


def shift_half_up(f: Backend[V], x: V, c: int) -> V:
    """Round x / 2^c to the nearest integer, ties up: (x + 2^(c−1)) >> c, c ≥ 1."""
    return f.shift_right(f.add(x, 1 << (c - 1)), c)


def requantize(f: Backend[V], v: V, *, c: int, zero_point: int, lo: int, hi: int, type: str) -> V:
    """clamp(half_even(v / 2^c) + zero_point, lo, hi), v int32, spelled in a backend's primitives.

    Bytes take a form that needs one division.  Clamping v first to what the result can be makes
    w = v + zero_point·2^c + 2^(c−1) ≥ 0, and w >> c rounds ties up: where one was met, which is where the
    low c bits of w are all 0, clearing the lowest bit of an even-offset result goes back to the even
    neighbour.  With an odd zero point it is the odd one, so ties are rounded down (2^(c−1) − 1, the low
    bits all 1) and the lowest bit is set.  No other bit can change.
    """
    kind = TYPES[type]
    if kind is not U8 or not 0 < c <= MAX_SHIFT:
        y = f.add(shift_half_even(f, v, c), zero_point)
        return f.cast(f.clamp(y, lo, hi), kind)
    odd = zero_point & 1
    v = f.clamp(v, (lo - zero_point) << c, (hi - zero_point) << c)
    w = f.add(v, (zero_point << c) + (1 << (c - 1)) - odd)
    y = f.cast(f.shift_right(w, c), U8)
    return f.set_parity(y, f.low_bits_equal(w, c, odd), odd)


def accumulator_bounds(m: np.ndarray, c: int, zy: int, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
    """Range outside of which clamp(half_even(acc·m/2^c) + zy, lo, hi) no longer depends on acc.

    Clamping an accumulator [C] to the result keeps acc·m within int32 and changes no output: at
    the lower bound the quotient is at most lo − zy, at the upper bound at least hi − zy.  Requires m ≥ 1;
    no bound leaves int32, where no accumulator does.
    """
    m = np.asarray(m, dtype=np.int64)
    lower = np.floor_divide((lo - zy) << c, m)
    upper = -np.floor_divide(-((hi - zy) << c), m)
    return np.clip(lower, I32.lo, 0), np.clip(upper, 0, I32.hi)


def largest_shift(lo: int, hi: int, zy: int, m_max: int) -> int:
    """Largest c ≤ MAX_SHIFT at which a saturated accumulator times m_max stays within int32."""
    span = max(hi - zy, zy - lo, 1)
    for c in range(MAX_SHIFT, -1, -1):
        # the clamped accumulator times m exceeds span·2^c by less than m; rounding adds 2^c
        if (span << c) + m_max + (2 << c) <= I32.hi // 2:
            return c
    return 0
