"""Convolutions of a 16-bit value, and their requantization: both of its bytes are convolved.

With x + 2^15 = 256·h + l, h and l bytes, a contraction of x is one of each byte:

    conv(x, w) = 256·conv(h − 128, w) + conv(l, w)

A frame of padding is zero in both.  The accumulator counts in 256 units of x, as if h alone stood for x and l
were a carry: half a unit of it, which is what rounding the carry costs, is some thousandth of an output
step.  So it has no more bits than that of a byte, and weights, biases and multipliers are chosen as for h.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zeroq_asr.integer.dyadic import accumulator_bounds, requantize, shift_half_up
from zeroq_asr.integer.types import I16, I32, U8
from zeroq_asr.operators import Condition, fused, integer_op, qdq
from zeroq_asr.operators.conv2d_requant import layout_2d
from zeroq_asr.operators.conv_requant import emit_qdq, layout_1d, requantizes_exactly

#: the high byte of zero
_ZERO = 128


def planes(f: Any, x: Any) -> tuple[Any, Any]:
    """Return h and l, uint8, of x + 2^15 = 256·h + l; x int32 in [−2^15, 2^15)."""
    raised = f.add(x, -I16.lo)
    return f.cast(f.shift_right(raised, 8), U8), f.low_byte(raised)


@integer_op
def conv_wide_requant(
    f: Any,
    x: Any,
    w: Any,
    bias: Any,
    m: Any,
    *,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
    saturate: bool,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    groups: int,
) -> Any:
    """y = clamp(half_even(acc · m / 2^c) + zy, lo, hi), acc = conv(x, w) / 2^8 rounded half up, + bias.

    x int32 [B, I, T] in [−2^15, 2^15); w [O, I/groups, K], |w| ≤ 127; bias int32 [O]; m int32 [O] ≥ 1.
    ``saturate`` clamps the accumulator first where acc·m could leave int32; it changes no output.
    """
    layout = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    high, low = (
        f.conv(plane, w, zero_point=zero, **layout)
        for plane, zero in zip(planes(f, x), (_ZERO, 0), strict=True)
    )
    acc = f.add(f.add(high, shift_half_up(f, low, 8)), f.per_channel(bias))
    if saturate:
        acc = f.clamp(acc, *accumulator_bounds(f.array(m), c, zy, lo, hi))
    return requantize(f, f.mul(acc, f.per_channel(m)), c=c, zero_point=zy, lo=lo, hi=hi, type=type)


@integer_op
def conv2d_wide_requant(
    f: Any,
    x: Any,
    w: Any,
    bias: Any,
    m: Any,
    *,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
    saturate: bool,
    strides: tuple[int, int],
    pads: tuple[int, int],
    dilations: tuple[int, int],
    groups: int,
) -> Any:
    """As ``conv_wide_requant``, over time and frequency.

    x int32 [B, I, T, F] in [−2^15, 2^15); w [O, I/groups, K, L], |w| ≤ 127.  Strides, pads of either side and
    dilations are of time and of frequency.
    """
    layout = {"stride": strides, "padding": pads, "dilation": dilations, "groups": groups}
    high, low = (
        f.conv2d(plane, w, zero_point=zero, **layout)
        for plane, zero in zip(planes(f, x), (_ZERO, 0), strict=True)
    )
    acc = f.add(f.add(high, shift_half_up(f, low, 8)), f.per_channel(bias, 2))
    if saturate:
        bounds = accumulator_bounds(f.array(m), c, zy, lo, hi)
        acc = f.clamp(acc, *(end[:, None] for end in bounds))
    return requantize(f, f.mul(acc, f.per_channel(m, 2)), c=c, zero_point=zy, lo=lo, hi=hi, type=type)


def _exact_if(i: Any, x: Any, w: Any, bias: Any, m: Any) -> list[Condition]:
    taps = np.abs(w.exact.astype(np.int64)).reshape(len(w.exact), -1).sum(axis=1)
    reach = int((U8.hi * taps + np.abs(bias.exact.astype(np.int64))).max()) + (1 << 8)
    return [
        Condition("the input has 16 bits", x.type is I32 and I16.holds(x.min, x.max), f"{x.min}, {x.max}"),
        Condition("255·Σ|w| + |bias| + 2^8 ≤ 2^24", reach <= 1 << 24, f"{reach}"),
        *requantizes_exactly(i, m),
    ]


def _emit(b: Any, i: Any, ins: list[Any], **layout: Any) -> Any:
    """Two ConvIntegers; float32 carries what they give.  ``layout``: strides, pads and dilations."""
    x, w, bias, m = ins
    axes = w.exact.ndim - 2
    layout |= {"group": i.attrs["groups"], "kernel_shape": list(w.exact.shape[2:])}
    high, low = (
        b.conv_integer(plane, w, zero, **layout) for plane, zero in zip(b.planes(x), (_ZERO, 0), strict=True)
    )
    real = b.node("Mul", [b.to_float(low), b.float_scalar(2.0**-8)], None)
    carry = b.node("Floor", [b.node("Add", [real, b.float_scalar(0.5)], None)], None)
    high = b.to_float(b.add_node("Add", [high, b.per_channel(bias, axes)]))
    acc = b.node("Add", [high, carry], None)
    return b.quantized(b.node("Mul", [acc, b.scaled(m, i.attrs["c"], axes)], None), i)


@fused(conv_wide_requant, exact_if=_exact_if, kernel="ConvInteger of two bytes")
def _fused(b: Any, i: Any, ins: list[Any]) -> Any:
    return _emit(b, i, ins, **layout_1d(i))


@fused(conv2d_wide_requant, exact_if=_exact_if, kernel="ConvInteger of two bytes")
def _fused_2d(b: Any, i: Any, ins: list[Any]) -> Any:
    return _emit(b, i, ins, **layout_2d(i))


@qdq(conv_wide_requant)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    return emit_qdq(b, i, ins, **layout_1d(i))


@qdq(conv2d_wide_requant)
def _qdq_2d(b: Any, i: Any, ins: list[Any]) -> Any:
    return emit_qdq(b, i, ins, **layout_2d(i))
