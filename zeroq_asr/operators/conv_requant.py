"""1-D convolution (full, pointwise, depthwise, grouped, strided, dilated) and its requantization.

Lowering.  With x = s_x·(q_x − z_x), w = s_w·q_w per output channel and y = s_y·(q_y − z_y):

    q_y = z_y + (s_x·s_w / s_y) · (Σ (q_x − z_x)·q_w + b / (s_x·s_w))

The weight scale is free, so it is *chosen* such that s_x·s_w/s_y is the dyadic m / 2^c: nothing is
approximated after the fact, and ONNX Runtime's float32 requantization is then exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zeroq_asr.errors import CalibrationError
from zeroq_asr.integer.dyadic import accumulator_bounds, largest_shift, requantize
from zeroq_asr.integer.pair_saturation import bounded, in_order, most, out_of_order
from zeroq_asr.integer.types import I32, U8, weight_limit
from zeroq_asr.lowering.feedback import round_by_feedback, weighted_gain
from zeroq_asr.operators import Condition, fused, integer_op, lowers, qdq

#: Fractions of the no-clipping multiplier that are tried for rounding the weights,
SHRINK = np.linspace(0.3, 1.0, 29)
#: and those where neighbours must not add up to too much: at 2 all weights have 7 bits, and none do.
SHRINK_PAIRS = np.linspace(0.6, 2.0, 36)
#: weights that are rounded at once
_AT_ONCE = 1 << 15


@integer_op
def conv_requant(
    f: Any,
    x: Any,
    w: Any,
    bias: Any,
    m: Any,
    *,
    zx: int,
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
    """y = clamp(half_even(acc · m / 2^c) + zy, lo, hi) with acc = conv(x − zx, w) + bias.

    x uint8 [B, I, T]; w [O, I/groups, K], |w| ≤ 127; bias int32 [O]; m int32 [O] ≥ 1.
    ``saturate`` clamps the accumulator first where acc·m could leave int32; it changes no output.
    """
    acc = f.conv(x, w, zero_point=zx, stride=stride, padding=padding, dilation=dilation, groups=groups)
    acc = f.add(acc, f.per_channel(bias))
    if saturate:
        acc = f.clamp(acc, *accumulator_bounds(f.array(m), c, zy, lo, hi))
    return requantize(f, f.mul(acc, f.per_channel(m)), c=c, zero_point=zy, lo=lo, hi=hi, type=type)


def exact_if(i: Any, x: Any, w: Any, bias: Any, m: Any) -> list[Condition]:
    """When floats inside QLinearConv, or behind ConvInteger, equal the definition."""
    return [Condition("the input is unsigned bytes", x.type is U8, x.type.name), *requantizes_exactly(i, m)]


def requantizes_exactly(i: Any, m: Any) -> list[Condition]:
    """When a float32 product of an accumulator and m / 2^c rounds to what the integers do."""
    a = i.attrs
    reach = max(abs(a["lo"] - a["zy"]), abs(a["hi"] - a["zy"]))
    smallest, largest = int(m.exact.min()), int(m.exact.max())
    return [
        Condition(
            "acc·m/2^c has at most 24 significant bits below saturation: (y − z_y)·2^c ≤ 2^24",
            reach << a["c"] <= 1 << 24,
            f"{reach} << {a['c']}",
        ),
        Condition(
            "multipliers are exact in float32: 1 ≤ m < 2^24",
            smallest >= 1 and largest < 1 << 24,
            f"{smallest} ≤ m ≤ {largest}",
        ),
    ]


def emit_kernel(b: Any, i: Any, ins: list[Any], **layout: Any) -> Any:
    """QLinearConv of instruction ``i``; for 16 bits ConvInteger, and a float32 carries what it gives.

    ``layout``: strides, pads and dilations.
    """
    x, w, bias, m = ins
    a = i.attrs
    axes = w.exact.ndim - 2
    layout |= {"group": a["groups"], "kernel_shape": list(w.exact.shape[2:])}
    if a["type"] != U8.name:
        x = b.channels_first(x)
        acc = b.add_node("Add", [b.conv_integer(x, w, a["zx"], **layout), b.per_channel(bias, axes)])
        return b.quantized(b.add_node("Mul", [b.to_float(acc), b.scaled(m, a["c"], axes)]), i)
    weight, weight_zero_point = b.kernel_weight(x, w, a["groups"])
    domain = ""
    if axes == 1:
        # as ONNX Runtime computes it in any case
        x, domain = b.frames_first(x), "com.microsoft"
        layout["channels_last"] = 1
    y = b.node(
        "QLinearConv",
        [
            x,
            b.float_scalar(1.0),
            b.scalar(a["zx"], U8),
            weight,
            b.multiplier(m, a["c"]),
            weight_zero_point,
            b.float_scalar(1.0),
            b.scalar(a["zy"], U8),
            b.vector(bias),
        ],
        U8,
        domain,
        **layout,
    )
    return replace(b.clip_u8(y, a["lo"], a["hi"]), frames_first=axes == 1)


def emit_product(b: Any, i: Any, ins: list[Any]) -> Any:
    """MatMulIntegerToFloat of a pointwise convolution to 16 bits, which a float32 carries."""
    x, w, bias, m = ins
    a = i.attrs
    b.called("MatMulIntegerToFloat")
    weight, weight_zero_point = b.matrix(x, w)
    real = b.node(
        "MatMulIntegerToFloat",
        [
            b.frames_first(x),
            weight,
            b.float_scalar(1.0),
            b.multiplier(m, a["c"]),
            b.scalar(a["zx"], U8),
            weight_zero_point,
            # both are constants, and ONNX Runtime multiplies them once
            b.node("Mul", [b.to_float(b.vector(bias)), b.multiplier(m, a["c"])], None),
        ],
        None,
        "com.microsoft",
    )
    return replace(b.quantized(real, i), frames_first=True)


def real_bias(bias: Any, m: Any, c: int) -> np.ndarray:
    """bias·m / 2^c, float64 [C]."""
    product: np.ndarray = bias.exact.astype(np.float64) * m.exact.astype(np.float64)
    return product / 2.0**c


def is_product(i: Any, w: Any, bias: Any, m: Any) -> bool:
    """Whether a pointwise convolution may be one matrix product, scaled before its bias is added.

    In range |acc·m/2^c| ≤ |y − z_y| + |bias·m/2^c|, which then has no more bits than a float32.
    """
    a = i.attrs
    pointwise = w.exact.shape[2] == 1 and a["stride"] == 1 and a["groups"] == 1 and not any(a["padding"])
    reach = max(abs(a["lo"] - a["zy"]), abs(a["hi"] - a["zy"]))
    return bool(pointwise and (reach + np.abs(real_bias(bias, m, a["c"])).max()) * 2.0 ** a["c"] <= 1 << 24)


def layout_1d(i: Any) -> dict[str, list[int]]:
    """Return ONNX's strides, pads and dilations of a convolution over time."""
    a = i.attrs
    return {"strides": [a["stride"]], "pads": list(a["padding"]), "dilations": [a["dilation"]]}


@fused(conv_requant, exact_if=exact_if)
def _qlinear_conv(b: Any, i: Any, ins: list[Any]) -> Any:
    if i.attrs["type"] != U8.name and is_product(i, *ins[1:]):
        return emit_product(b, i, ins)
    return emit_kernel(b, i, ins, **layout_1d(i))


def emit_qdq(b: Any, i: Any, ins: list[Any], **layout: Any) -> Any:
    """Conv between dequantized operands; ``layout``: strides, pads and dilations."""
    x, w, bias, m = ins
    a = i.attrs
    source, target = b.info(i.ins[0]), b.info(i.out)
    unit = as_bytes(source).scale
    weight_scale = m.exact / 2.0 ** a["c"] * target.scale / unit
    operands = [
        b.real(x, i.ins[0]),
        b.dequantized_weight(w, weight_scale),
        b.dequantized_bias(bias, weight_scale * unit),
    ]
    kernel = list(w.exact.shape[2:])
    y = b.node("Conv", operands, None, **layout, group=a["groups"], kernel_shape=kernel)
    return b.quantize_to(y, i.out, a["lo"], a["hi"])


@qdq(conv_requant)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    return emit_qdq(b, i, ins, **layout_1d(i))


def quantize_weight(
    w: np.ndarray, ratio: float, bits: int, together: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Choose per output channel the integer weights closest in angle and the multiplier that keeps the gain.

    ``w`` float [O, ...]; ``ratio`` = s_y·2^-c / s_x, so that the weight scale is m·ratio.  Returns
    integer weights [O, ...] within ±(2^(bits−1) − 1) and multipliers m [O] ≥ 1.  A channel whose
    weights are all zero gets m = 1: its bias alone speaks.  ``together``: what the magnitudes
    of neighbours of one sign may add up to, if weights are in the order in which kernels sum them.

    With g = ⟨ŵ, w⟩ / ⟨w, w⟩ the gain and θ the angle between ŵ and w, tan²θ + (g − 1)² is least.  Least
    squares would give g = cos²θ < 1 instead: every layer would shrink its signal a little, and over the
    layers of a deep network at few bits that costs more than the noise it saves.
    """
    flat = w.reshape(w.shape[0], -1).astype(np.float64)
    # channels do not depend on each other, and a few at a time stay in the processor's cache
    few = max(1, _AT_ONCE // max(flat.shape[1], 1))
    parts = [
        _quantized_rows(flat[first : first + few], ratio, weight_limit(bits), together)
        for first in range(0, len(flat), few)
    ]
    integers, multipliers = (np.concatenate(part) for part in zip(*parts, strict=True))
    return integers.reshape(w.shape), multipliers


def _quantized_rows(
    flat: np.ndarray, ratio: float, limit: int, together: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """What ``quantize_weight`` makes of rows [O, N]."""
    # in units of each channel's largest weight, so that no square vanishes
    peak = np.abs(flat).max(axis=1)
    peak[peak == 0] = 1.0
    flat, step = flat / peak[:, None], ratio / peak
    energy = (flat**2).sum(axis=1)
    ideal = 1.0 / (limit * step)
    # no integer at all is a gain of zero
    best_cost = np.ones(len(flat))
    best_m = np.ones(len(flat), dtype=np.int64)
    best_q = np.zeros_like(flat)
    for fraction in SHRINK if together is None else SHRINK_PAIRS:
        for candidate in (np.floor(ideal * fraction), np.ceil(ideal * fraction)):
            q = np.clip(np.rint(flat / (np.maximum(candidate, 1.0) * step)[:, None]), -limit, limit)
            q = q if together is None else bounded(q, together)
            along = (q * flat).sum(axis=1)
            some = along > 0
            inner = np.where(some, along, 1.0)
            m = np.maximum(np.rint(energy / (inner * step)), 1.0)
            gain = m * step * inner / np.where(some, energy, 1.0)
            tangent = energy * (q**2).sum(axis=1) / inner**2 - 1.0
            better = some & (tangent + (gain - 1.0) ** 2 < best_cost)
            best_cost[better] = (tangent + (gain - 1.0) ** 2)[better]
            best_q[better], best_m[better] = q[better], m[better].astype(np.int64)
    return best_q.astype(np.int8), best_m


def corrected_bias(
    bias: np.ndarray, w: np.ndarray, rounded: np.ndarray, mean: np.ndarray | None, groups: int
) -> np.ndarray:
    """Add to ``bias`` [O] what rounding the weights [O, I/groups, K] takes from the mean of the output.

    b + Σ_ik (w − ŵ)[o, i, k] · E[x_i], where ``mean`` [I] is E[x] over time (Nagel et al., arXiv 1906.04721,
    section 4.2); the frames that padding touches are taken to be like the others.
    """
    if mean is None:
        return bias
    outputs = w.shape[0]
    of_group = mean.reshape(groups, -1)[np.arange(outputs) // (outputs // groups)]
    return bias + ((w - rounded).sum(axis=2) * of_group).sum(axis=1)


def as_bytes(info: Any) -> Any:
    """Return what a byte of a value means: itself, or the high byte of 16 bits (``conv_wide_requant``)."""
    if info.type == U8.name:
        return info
    return replace(info, type=U8.name, scale=256 * info.scale, zero_point=128, lo=U8.lo, hi=U8.hi)


@dataclass(frozen=True)
class Quantized:
    """A convolution's constants and the attributes that its requantization takes."""

    #: int8, of the weight's own shape
    weight: np.ndarray
    #: int32 [O] each
    bias: np.ndarray
    multiplier: np.ndarray
    attrs: dict[str, Any]


def quantize_convolution(ctx: Any, node: Any) -> Quantized:
    """Choose integer weights, biases and multipliers of a convolution, between the formats of its ends."""
    a = node.attrs
    source, target = as_bytes(ctx.info(node.ins[0])), ctx.activation(node)
    lo, hi = ctx.clamp(target, a.get("clamp"))
    shape = tuple(a["weight"].shape)
    weight = np.asarray(a["weight"], dtype=np.float64).reshape(*shape[:2], -1)
    bits = ctx.spec.weight_bits
    limit, rows, together = weight_limit(bits), in_order(weight), None
    depthwise = shape[1] == 1 < a["groups"] == shape[0]
    # what reads 16 bits has kernels that take unsigned weights, and saturates nowhere either
    bytewise = ctx.info(node.ins[0]).type == U8.name
    if ctx.spec.target == "x86-any" and bytewise and not depthwise:
        together = most(source.hi) if most(source.hi) < 2 * limit else None
    steepest = np.abs(weight).max() * source.scale / (limit * target.scale)
    if steepest > I32.hi // 8:
        raise CalibrationError(
            node.where or node.out,
            f"its range is {steepest:.3g} times too narrow for its weights",
            "calibrate on features that excite it",
        )
    # the largest shift that leaves room for the largest multiplier it entails
    bias = 0.0
    if target.type != U8.name:
        # rounding the weights may move it a little
        bias = 1.05 * float(np.abs(np.asarray(a["bias"], dtype=np.float64)).max()) / target.scale + 16
    c = ctx.largest_shift(node.out, target, bias)
    while True:
        ratio = target.scale / 2.0**c / source.scale
        q, m = quantize_weight(rows, ratio, bits, together)
        room = largest_shift(lo, hi, target.zero_point, int(m.max()))
        if room >= c:
            break
        c -= 1
    if (covariance := ctx.covariances.get(node.out)) is not None:
        order = in_order(np.arange(rows.shape[1]).reshape(1, *weight.shape[1:]))[0]
        covariance = covariance[np.ix_(order, order)]
        q = round_by_feedback(rows, m * ratio, covariance, limit, together)
        # c has room for the largest multiplier there was
        restored = np.rint(m / weighted_gain(rows, q * (m * ratio)[:, None], covariance))
        m = np.clip(restored, 1, m.max()).astype(np.int64)
    q = out_of_order(q, weight.shape).astype(np.int8)
    real_bias = corrected_bias(
        np.asarray(a["bias"], dtype=np.float64),
        weight,
        q * (m * ratio)[:, None, None],
        ctx.means.get(node.ins[0]),
        a["groups"],
    )
    offset = np.rint(real_bias / (m * ratio * source.scale))
    offset = np.clip(offset, -(2**30), 2**30).astype(np.int32)
    reach = np.abs(q.astype(np.int64)).sum(axis=(1, 2)) * max(
        source.hi - source.zero_point, source.zero_point
    )
    saturate = bool(((reach + np.abs(offset.astype(np.int64))) * m).max() > I32.hi // 2)
    attrs = {
        "zx": source.zero_point,
        "c": c,
        "zy": target.zero_point,
        "lo": lo,
        "hi": hi,
        "type": target.type,
        "saturate": saturate,
    }
    return Quantized(q.reshape(shape), offset, m.astype(np.int32), attrs)


#: operator → that which reads 16 bits
_OF_16_BITS = {"conv_requant": "conv_wide_requant", "conv2d_requant": "conv2d_wide_requant"}


def emit_convolution(ctx: Any, op: str, node: Any, **layout: Any) -> None:
    """Quantize and emit a convolution; ``op`` is that of bytes."""
    made = quantize_convolution(ctx, node)
    attrs = {**made.attrs, **layout}
    if ctx.info(node.ins[0]).type != U8.name:
        op = _OF_16_BITS[op]
        del attrs["zx"]
    constants = (("weight", made.weight), ("bias", made.bias), ("multiplier", made.multiplier))
    names = (ctx.constant(f"{node.out}:{name}", array) for name, array in constants)
    ctx.emit(op, node, (node.ins[0], *names), **attrs)


@lowers("conv1d")
def _lower(ctx: Any, node: Any) -> None:
    a = node.attrs
    layout = {name: a[name] for name in ("stride", "dilation", "groups")}
    emit_convolution(ctx, "conv_requant", node, padding=tuple(a["padding"]), **layout)
