"""Units of attention's scores: how finely they are looked up, and how both kinds are made comparable."""

from __future__ import annotations

import math

import numpy as np

from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.registry import Attrs

#: numerators are at most 2^15 − 1
NUMERATOR = (1 << 15) - 1
#: bits of the lower part of a numerator
LOW = 7
#: entries of the table at most, and scores at most
ENTRIES, SCORE = 2048, (1 << 30) - 1
#: scores that a float32 carries
CARRIED = 1 << 24
#: binary places of the weighted mean
FRACTION = 8
#: a masked score in float, as NeMo exports it: nothing beside any other, and a number that can be quantized
MASKED = -10000.0


def hides(high: np.ndarray, low: np.ndarray, attrs: Attrs) -> bool:
    """Whether what lies behind a mask has no part in any sum, and every largest score has one."""
    ends = int(high[0]) + int(low[0]) > 0 and int(high[-1]) + int(low[-1]) == 0
    return ends and _lies_above(attrs["size"], attrs["up"], attrs["mp"], attrs["cap"])


def _lies_above(size: int, up: int, mp: int, cap: int) -> bool:
    """Whether scores of bytes, however few of their bits are used, lie more than ``cap`` above a mask's."""
    return 255 * 255 * size * (up + mp) + cap <= SCORE


def reach_of(unit: float) -> int:
    """d beyond which exp(−``unit``·d) rounds to no numerator."""
    return min(math.ceil(math.log(2.0 * (NUMERATOR + 1)) / unit), SCORE // 2)


def unit_of(high: np.ndarray, low: np.ndarray, shift: int, cap: int) -> float:
    """Return the unit of scores that a table of numerators, uint8 [N] and uint8 [N], was made for.

    Entry i is exp(−unit·2^``shift``·i) in steps of 1 / NUMERATOR, rounded: of the lines −log entry = slope·i
    the one of least squares, where an entry counts by its square: the smaller, the less its logarithm is
    known.
    """
    entries = high.astype(np.float64) * (1 << LOW) + low
    index = np.flatnonzero(entries)
    counts, index = entries[index] ** 2, index.astype(np.float64)
    spread = (counts * index**2).sum()
    if not spread:  # beside a row's largest score nothing counts
        return math.log(2.0 * (NUMERATOR + 1)) / cap
    slope = -(counts * index * np.log(np.sqrt(counts) / NUMERATOR)).sum() / spread
    return float(slope) / 2.0**shift


def aligned(
    query: ValueInfo,
    key: ValueInfo,
    position: ValueInfo,
    distances: ValueInfo,
    size: int,
    scale: float,
) -> tuple[int, int]:
    """Return 2^a and m_p ≥ 2^a·s_p·s_r / (s_q·s_k), the largest at which both scores add up to 24 bits,

    and those of whole bytes, of which the formats may be a part, lie far enough above what is masked.

    The four are formats (scale, zero point and ends), ``size`` the channels of a head, ``scale`` that of the
    scores.
    """
    ratio = position.scale * distances.scale / (query.scale * key.scale)
    content, by_distance = (size * _reach(a) * _reach(b) for a, b in ((query, key), (position, distances)))
    unit = scale * query.scale * key.scale

    def factor(up: int) -> int:
        # a ratio that is one already must not become the next by a rounding of its division
        return max(1, math.ceil(ratio * up * (1 - 1e-9)))

    def fits(up: int) -> bool:
        cap, largest = reach_of(unit / up), up * content + factor(up) * by_distance
        return max(largest, cap) <= CARRIED and _lies_above(size, up, factor(up), cap)

    up = 1 << 12
    while up > 1 and not fits(up):
        up >>= 1
    return up, factor(up)


def _reach(info: ValueInfo) -> int:
    return int(max(info.hi - info.zero_point, info.zero_point - info.lo))
