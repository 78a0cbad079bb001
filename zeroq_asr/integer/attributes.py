"""Invariants of attributes that many integer operators have in common, for their records."""

from __future__ import annotations

from collections.abc import Mapping

from zeroq_asr.integer.types import I32, U8
from zeroq_asr.registry import Attribute

#: lengths, shifts of lengths, strides: nothing in a network is larger
FAR = 1 << 40
#: strides, dilations, paddings, groups: what a convolution of a network is far from
LAYOUT = 1 << 20
#: scales lie between 2^-96 and 2^96: times any int32 they are normal numbers of float32
SCALES = 96


def is_whole(value: object, low: int, high: int) -> bool:
    """Whether a value is an integer of a closed range; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def all_whole(value: object, low: int, high: int) -> bool:
    """Whether a value is such an integer, or a tuple of one or more of them."""
    values = value if isinstance(value, tuple) else (value,)
    return bool(values) and all(is_whole(v, low, high) for v in values)


def is_positive(value: object) -> bool:
    """Whether a value is a positive float that float32 holds, and its products with integers, too."""
    return isinstance(value, float) and 2.0**-SCALES <= value <= 2.0**SCALES


def whole(low: int, high: int, must_be: str) -> Attribute:
    """Return the invariant of an integer in a closed range."""
    return Attribute(must_be, lambda v: is_whole(v, low, high))


def pair(low: int, high: int, must_be: str) -> Attribute:
    """Return the invariant of two integers of a closed range."""
    return Attribute(must_be, lambda v: isinstance(v, tuple) and len(v) == 2 and all_whole(v, low, high))


def indices(must_be: str) -> Attribute:
    """Return the invariant of a tuple of one or more numbers of channels or rows."""
    return Attribute(must_be, lambda v: isinstance(v, tuple) and all_whole(v, 0, FAR))


BYTE = Attribute("a byte", lambda v: all_whole(v, U8.lo, U8.hi))
MULTIPLIER = Attribute("1 ≤ m < 2^31", lambda v: all_whole(v, 1, I32.hi))
COUNT = whole(1, FAR, "1 or more")
STEP = whole(1, LAYOUT, f"1 or more, at most {LAYOUT}")
INT32 = whole(I32.lo, I32.hi, "an int32")
SHIFT = whole(0, 30, "0 ≤ shift ≤ 30")
WHOLE_NUMBER = whole(-FAR, FAR, "a whole number")
FLAG = Attribute("true or false", lambda v: isinstance(v, bool))
SCALE = Attribute("a number from 2^-96 to 2^96", is_positive)
TYPE = Attribute("uint8 or int32", lambda v: v in ("uint8", "int32"))

#: what a requantization is told of its result: shift, zero point, range and type
REQUANTIZATION: Mapping[str, Attribute] = {
    "c": whole(0, 30, "0 ≤ c ≤ 30"),
    "zy": BYTE,
    "lo": INT32,
    "hi": INT32,
    "type": TYPE,
}
