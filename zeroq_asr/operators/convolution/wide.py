"""Convolutions of a 16-bit value, and their requantization: both of its bytes are convolved.

With x + 2^15 = 256·h + l, h and l bytes, a contraction of x is one of each byte:

    conv(x, w) = 256·conv(h − 128, w) + conv(l, w)

A frame of padding is zero in both.  The accumulator counts in 256 units of x, as if h alone stood for x and l
were a carry: half a unit of it, which is what rounding the carry costs, is some thousandth of an output
step.  So it has no more bits than that of a byte, and weights, biases and multipliers are chosen as for h.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.dyadic import shift_half_up
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I16, I32, U8
from zeroq_asr.operators.convolution.carried import emit_carried, is_carried
from zeroq_asr.operators.convolution.kernels import kernel_layout, layout_1d, layout_2d, qdq_1d, qdq_2d
from zeroq_asr.operators.convolution.requantization import (
    ONE_AXIS,
    TWO_AXES,
    check,
    constants,
    frames_read,
    requantized,
    requantizes_exactly,
)
from zeroq_asr.operators.convolution.wide_cases import one_axis_cases, two_axes_cases
from zeroq_asr.registry import Condition, IntegerOperator, Kernel

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym

#: the high byte of zero
_ZERO = 128


def conv_wide_requant(
    f: Backend[V],
    x: V,
    w: V,
    bias: V,
    m: V,
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
) -> V:
    """y = clamp(half_even(acc · m / 2^c) + zy, lo, hi), acc = conv(x, w) / 2^8 rounded half up, + bias.

    x int32 [B, I, T] in [−2^15, 2^15); w [O, I/groups, K], |w| ≤ 127; bias int32 [O]; m int32 [O] ≥ 1.
    ``saturate`` clamps the accumulator first where acc·m could leave int32; it changes no output.
    """
    acc = _contracted(f, x, w, (stride,), (padding,), (dilation,), groups)
    return requantized(f, acc, bias, m, 1, c=c, zy=zy, lo=lo, hi=hi, type=type, saturate=saturate)


def conv2d_wide_requant(
    f: Backend[V],
    x: V,
    w: V,
    bias: V,
    m: V,
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
) -> V:
    """As ``conv_wide_requant``, over time and frequency.

    x int32 [B, I, T, F] in [−2^15, 2^15); w [O, I/groups, K, L], |w| ≤ 127.  Strides, pads of either side and
    dilations are of time and of frequency.
    """
    both = ((pads[0], pads[0]), (pads[1], pads[1]))
    acc = _contracted(f, x, w, strides, both, dilations, groups)
    return requantized(f, acc, bias, m, 2, c=c, zy=zy, lo=lo, hi=hi, type=type, saturate=saturate)


def _contracted(
    f: Backend[V],
    x: V,
    w: V,
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int,
) -> V:
    """conv(x, w) / 2^8, rounded half up."""
    high, low = (
        f.conv(plane, w, zero_point=zero, strides=strides, pads=pads, dilations=dilations, groups=groups)
        for plane, zero in zip(_planes(f, x), (_ZERO, 0), strict=True)
    )
    return f.add(high, shift_half_up(f, low, 8))


def _planes(f: Backend[V], x: V) -> tuple[V, V]:
    """h and l, uint8, of x + 2^15 = 256·h + l; x int32 in [−2^15, 2^15)."""
    raised = f.add(x, -I16.lo)
    return f.cast(f.shift_right(raised, 8), U8), f.low_byte(raised)


# -- the kernel ------------------------------------------------------------------------------------


def _exact_if(i: Instruction, x: Interval, w: Interval, bias: Interval, m: Interval) -> list[Condition]:
    weight, offset = _known(w), _known(bias)
    taps = np.abs(weight).reshape(len(weight), -1).sum(axis=1)
    reach = int((U8.hi * taps + np.abs(offset)).max()) + (1 << 8)
    return [
        Condition("the input has 16 bits", x.type is I32 and I16.holds(x.min, x.max), f"{x.min}, {x.max}"),
        Condition("255·Σ|w| + |bias| + 2^8 ≤ 2^24", reach <= 1 << 24, f"{reach}"),
        *requantizes_exactly(i, m),
    ]


def _known(v: Interval) -> np.ndarray:
    """The array of a constant, int64."""
    return np.asarray(v.exact, dtype=np.int64)


def _emit(b: Kernels, i: Instruction, ins: list[Sym], layout: dict[str, list[int]]) -> Sym:
    """Convolve each byte; float32 carries what they give.  ``layout``: strides, pads and dilations."""
    x, w, bias, m = ins
    if _is_product(i, w):
        return _emit_products(b, i, ins)
    axes = w.exact.ndim - 2
    whole = kernel_layout(i, w, layout)
    offset = b.per_channel(bias, axes)
    if is_carried(w, bias, i.attrs["groups"]):
        b.called(_CARRIED)
        high, low = (emit_carried(b, plane, w, zero, whole) for plane, zero in _bytes(b, x))
        high = b.add_node("Add", [high, b.to_float(offset)])
    else:
        high, low = (
            b.conv_integer(b.channels_first(plane), w, zero, **whole) for plane, zero in _bytes(b, x)
        )
        high, low = b.to_float(b.add_node("Add", [high, offset])), b.to_float(low)
    acc = b.add_node("Add", [high, _carry(b, b.add_node("Mul", [low, b.float_scalar(2.0**-8)]))])
    return b.quantized(b.add_node("Mul", [acc, b.scaled(m, i.attrs["c"], axes)]), i)


def _bytes(b: Kernels, x: Sym) -> Iterator[tuple[Sym, int]]:
    """Both planes of a value, each with its zero point."""
    return zip(b.planes(x), (_ZERO, 0), strict=True)


def _carry(b: Kernels, low: str) -> str:
    """What the low bytes give, in steps of the high ones, rounded half up."""
    return b.add_node("Floor", [b.add_node("Add", [low, b.float_scalar(0.5)])])


def _is_product(i: Instruction, w: Sym) -> bool:
    """Whether a convolution over time takes each frame by itself."""
    a = i.attrs
    return w.exact.shape[2:] == (1,) and a["stride"] == a["groups"] == 1 and not any(a["padding"])


def _emit_products(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    """MatMulIntegerToFloat of each byte of a pointwise convolution."""
    x, w, bias, m = ins
    b.called(_PRODUCTS)
    sums = []
    for plane, zero in _bytes(b, x):
        weight, weight_zero_point = b.matrix(plane, w)
        unit = b.float_scalar(1.0 if zero else 2.0**-8)
        factors: list[Sym | str] = [b.frames_first(plane), weight, b.float_scalar(1.0), unit]
        offset = [b.to_float(b.vector(bias))] if zero else []
        operands = [*factors, b.scalar(zero, U8), weight_zero_point, *offset]
        sums.append(b.add_node("MatMulIntegerToFloat", operands, "com.microsoft"))
    acc = b.add_node("Add", [sums[0], _carry(b, sums[1])])
    made = b.quantized(b.add_node("Mul", [acc, b.multiplier(m, i.attrs["c"])]), i)
    return replace(made, frames_first=True)


def _fused(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    return _emit(b, i, ins, layout_1d(i))


def _fused_2d(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    return _emit(b, i, ins, layout_2d(i))


_NAME, _CARRIED, _PRODUCTS = (
    f"{kernel} of two bytes" for kernel in ("ConvInteger", "Conv", "MatMulIntegerToFloat")
)
#: half a unit of the accumulator comes on top: a quarter of a step where the output has 16 bits, too
_TOLERANCE = 0.5 + 0.27

CONV_WIDE_REQUANT = IntegerOperator(
    "conv_wide_requant",
    conv_wide_requant,
    ONE_AXIS,
    constants(1),
    frames=frames_read,
    check=check,
    kernels={"fused": Kernel(_fused, _exact_if, _NAME), "qdq": Kernel(qdq_1d)},
    tolerance={"conv_wide_requant": _TOLERANCE},
    cases=one_axis_cases,
)

CONV2D_WIDE_REQUANT = IntegerOperator(
    "conv2d_wide_requant",
    conv2d_wide_requant,
    TWO_AXES,
    constants(2),
    frames=frames_read,
    check=check,
    kernels={"fused": Kernel(_fused_2d, _exact_if, _NAME), "qdq": Kernel(qdq_2d)},
    tolerance={"conv2d_wide_requant": _TOLERANCE},
    cases=two_axes_cases,
)
