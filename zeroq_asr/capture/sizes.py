"""Extents: what is asked of a tensor's shape, and arithmetic of that."""

from __future__ import annotations

from zeroq_asr.capture.dispatch import handles
from zeroq_asr.capture.tracer import Lengths, Real, Size, TimeMajor, Tracer


@handles("size", object)
def _size(t: Tracer, x: object, *axis: object) -> Size:
    place = 1 if isinstance(x, TimeMajor) else 0
    return Size(batch=isinstance(x, (Real, TimeMajor, Lengths)) and axis == (place,))


@handles("assertion")
def _assertion(t: Tracer, *arguments: object) -> None:
    return None


def _extent(t: Tracer, a: object, b: object, *options: object) -> Size:
    return Size()


for _name in ("add", "sub", "mul", "div", "floor_divide"):
    handles(_name, Size, object)(_extent)
    handles(_name, object, Size)(_extent)


def _of_sizes(t: Tracer, *arguments: object) -> object:
    return Size() if all(isinstance(a, (Size, int)) for a in arguments) else NotImplemented


for _name in ("mod", "neg"):
    handles(_name, (Size, int))(_of_sizes)
