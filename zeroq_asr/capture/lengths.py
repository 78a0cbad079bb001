"""Arithmetic of lengths: affine functions of the numbers of valid frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zeroq_asr.capture.dispatch import handles
from zeroq_asr.capture.tracer import Lengths, TimeIndex, Tracer, Unrounded


def shifted(lengths: Lengths, by: int) -> Lengths:
    """Return ``lengths`` with a whole number added."""
    if lengths.divisor == 1 and lengths.after == 0:
        return replace(lengths, before=lengths.before + by)
    return replace(lengths, after=lengths.after + by)


@handles("add", Lengths, int)
def _add(t: Tracer, a: Lengths, b: int, alpha: object = 1) -> Lengths:
    return shifted(a, b)


@handles("add", int, Lengths)
def _add_turned(t: Tracer, a: int, b: Lengths, alpha: object = 1) -> Lengths:
    return shifted(b, a)


@handles("sub", Lengths, int)
def _sub(t: Tracer, a: Lengths, b: int, alpha: object = 1) -> Lengths:
    return shifted(a, -b)


@handles("floor_divide", Lengths, int)
def _floor_divide(t: Tracer, a: Lengths, b: int) -> Any:
    return _div(t, a, b, "floor")


@handles("div", Lengths, int)
def _div(t: Tracer, a: Lengths, b: int, rounding: object = None) -> Any:
    """Half of an odd length is no length until it is rounded: frame k lies below k + 1/2."""
    if b <= 0:
        return NotImplemented
    base = a if a.divisor == 1 and a.after == 0 else Lengths(t.length_name(a))
    divided = replace(base, divisor=b)
    return Unrounded(divided) if rounding is None else divided


@handles("add", (Unrounded, TimeIndex), (int, float))
def _add_whole(t: Tracer, a: Unrounded | TimeIndex, b: float, alpha: object = 1) -> Any:
    """No frame number changes by 0, and the floor of a length by a whole number."""
    if b != int(b) or alpha != 1:
        return NotImplemented
    if isinstance(a, Unrounded):
        return Unrounded(replace(a.lengths, after=a.lengths.after + int(b)))
    return a if b == 0 else NotImplemented


@handles("sub", (Unrounded, TimeIndex), (int, float))
def _sub_whole(t: Tracer, a: Unrounded | TimeIndex, b: float, alpha: object = 1) -> Any:
    return _add_whole(t, a, -b, alpha)


@handles("floor", Unrounded)
def _floor(t: Tracer, x: Unrounded) -> Lengths:
    return x.lengths


@handles("clamp", Lengths)
def _clamp(t: Tracer, x: Lengths, lo: Any = None, hi: object = None) -> Any:
    """max(base + before, 0) div divisor + after is what a length step computes, if it is one by itself."""
    if hi is not None or lo is None:
        return NotImplemented
    closed = Lengths(t.length_name(x)) if x.after == 0 else x
    return closed if lo <= x.after else NotImplemented
