"""Normalization of every frame over its channels: y = γ·(x − μ) / √(σ² + ε) + β, without a float.

With C channels of integers x, d = C·x − Σx = C·(x − μ) is exact.  A frame's d are cut to 12 bits and a sign,
e = d / k with k = ⌊max|d| / 2^12⌋ + 1, so that loud and quiet frames are equally fine; then with
g = ⌊e / 2^t + ½⌋

    V = Σ g² + ⌊C³·ε / (s_x²·k²·4^t)⌋ + 1           (+ 1: a frame of equal channels has a root, too)
    r = 2^(23 − t) / √V,   (x − μ)/σ = e·r·√C / 2^23

t is the smallest for which Σ g² fits 24 bits.  The root is that of an integer, exact to the last bit.

r has no more than 12 bits: a frame whose deviation is below 2^11 / C^1.5 steps of x comes out too small.

Every product has at most 24 bits and every quotient is that of integers a float holds, so that float32, and
float64 for the root, may carry them all: IEEE 754 rounds quotients and roots correctly, and what is rounded
correctly does not cross an integer here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zeroq_asr.integer.dyadic import MAX_SHIFT, requantize
from zeroq_asr.integer.ops import Condition, fused, integer_op, lowers, qdq
from zeroq_asr.integer.types import I32, I64

#: bits of e, of r, of the fraction of √V, and what is shifted out of e·r
_BITS, _ROOT, _CUT = 12, 10, 9
#: largest magnitude of a multiplier: 15 bits of e·r / 2^9 times this are 24
_LARGEST = 1 << 9


@integer_op
def layer_norm(
    f: Any,
    x: Any,
    m: Any,
    bias: Any,
    *,
    zx: int,
    channels: int,
    halvings: int,
    epsilon: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> Any:
    """y = clamp(half_even((((e·r) >> 9)·m + bias) / 2^c) + zy, lo, hi), see above.

    x [B, C, T] uint8, or int32 of 16 bits; m and bias int32 [C], |m| ≤ 2^9; ``halvings`` is t,
    ``epsilon`` C³·ε/(s_x²·4^t) < 2^31.
    """
    x = f.sub(f.cast(x, I32), zx)
    d = f.sub(f.mul(x, channels), f.sum_channels(x, channels))
    k = f.add(f.shift_right(f.peak_channels(d), _BITS), 1)
    # bounds cannot know that k was made for this
    e = f.clamp(f.quotient(d, k), -(1 << _BITS), 1 << _BITS)
    g = f.shift_right(f.add(e, 1 << halvings >> 1), halvings)
    energy = f.cast(f.sum_channels(f.square(g), channels), I64)
    k = f.cast(k, I64)
    energy = f.add(f.add(energy, f.reciprocal(epsilon, f.mul(k, k))), 1)
    root = f.isqrt(f.mul(energy, 1 << 2 * _ROOT))
    r = f.cast(f.clamp(f.reciprocal(1 << 23 - halvings + _ROOT, root), 0, 1 << _BITS), I32)
    z = f.shift_right(f.mul(e, r), _CUT)
    v = f.add(f.mul(z, f.per_channel(m)), f.per_channel(bias))
    return requantize(f, v, c=c, zero_point=zy, lo=lo, hi=hi, type=type)


def _exact_if(i: Any, x: Any, m: Any, bias: Any) -> list[Condition]:
    a = i.attrs
    spread = max(abs(x.min - a["zx"]), abs(x.max - a["zx"]))
    reach = max(abs(a["lo"] - a["zy"]), abs(a["hi"] - a["zy"]))
    largest = max(int(abs(v.exact.astype(np.int64)).max()) for v in (m, bias))
    energy = a["channels"] * ((1 << _BITS >> a["halvings"]) + 1) ** 2
    return [
        Condition(
            "2·C·max|x| ≤ 2^24", 2 * a["channels"] * spread <= 1 << 24, f"{2 * a['channels'] * spread}"
        ),
        Condition("Σ g² ≤ 2^24", energy <= 1 << 24, f"{energy}"),
        Condition("|m| ≤ 2^9 and |bias| ≤ 2^24", abs(m.exact).max() <= _LARGEST and largest <= 1 << 24),
        Condition("(y − z_y)·2^c ≤ 2^24", reach << a["c"] <= 1 << 24, f"{reach << a['c']}"),
    ]


@fused(layer_norm, exact_if=_exact_if, kernel="LayerNorm in exact floats")
def _carried(b: Any, i: Any, ins: list[Any]) -> Any:
    a = i.attrs
    channels, halvings = a["channels"], a["halvings"]

    def node(op: str, *operands: Any, **attrs: Any) -> str:
        return str(b.node(op, list(operands), None, **attrs))

    def single(value: float) -> str:
        return str(b.float_scalar(value))

    def double(value: float) -> str:
        return str(b.double_scalar(value))

    x = b.carry(ins[0])
    if a["zx"]:
        x = node("Sub", x, single(a["zx"]))
    d = node("Sub", node("Mul", x, single(channels)), node("ReduceSum", x, b.axes(1), keepdims=1))
    peak = node("ReduceMax", node("Abs", d), b.axes(1), keepdims=1)
    k = node("Add", node("Floor", node("Mul", peak, single(2.0**-_BITS))), single(1))
    e = b.to_float(b.to_int32(node("Div", d, k)))
    g = node("Floor", node("Add", node("Mul", e, single(2.0**-halvings)), single(0.5 if halvings else 0.0)))
    energy = b.to_double(node("ReduceSumSquare", g, b.axes(1), keepdims=1))
    k = b.to_double(k)
    bias = node("Floor", node("Div", double(a["epsilon"]), node("Mul", k, k)))
    energy = node("Add", node("Add", energy, bias), double(1))
    root = node("Floor", node("Sqrt", node("Mul", energy, double(1 << 2 * _ROOT))))
    r = node("Floor", node("Div", double(1 << 23 - halvings + _ROOT), root))
    r = b.to_float(node("Mul", node("Min", r, double(1 << _BITS)), double(2.0**-_CUT)))
    z = node("Floor", node("Mul", e, r))
    v = node("Mul", z, b.scaled(ins[1], a["c"]))
    return b.quantized(node("Add", v, b.scaled(ins[2], a["c"])), i)


@qdq(layer_norm)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    a = i.attrs
    x, m, bias = ins
    source, target = b.info(i.ins[0]), b.info(i.out)
    step = target.scale / 2.0 ** a["c"]
    gamma = m.exact * step * 2.0 ** (23 - _CUT) / math.sqrt(a["channels"])
    beta = (bias.exact - m.exact / 2) * step
    epsilon = a["epsilon"] * 4.0 ** a["halvings"] / a["channels"] ** 3 * source.scale**2
    last = b.add_node("Transpose", [b.real(x, i.ins[0])], perm=[0, 2, 1])
    operands = [last, b.real_vector(f"{i.out}/gamma", gamma), b.real_vector(f"{i.out}/beta", beta)]
    y = b.node("LayerNormalization", operands, None, axis=-1, epsilon=epsilon)
    return b.quantize_to(b.node("Transpose", [y], None, perm=[0, 2, 1]), i.out, a["lo"], a["hi"])


@lowers("layer_norm")
def _lower(ctx: Any, node: Any) -> None:
    a = node.attrs
    source, target = ctx.info(node.ins[0]), ctx.activation(node)
    lo, hi = ctx.clamp(target, a.get("clamp"))
    gamma, beta = (np.asarray(a[name], dtype=np.float64) for name in ("weight", "bias"))
    channels = len(gamma)
    halvings = 0
    while channels * ((1 << _BITS >> halvings) + 1) ** 2 > 1 << 24:
        halvings += 1
    epsilon = a["epsilon"] * channels**3 / (source.scale**2 * 4**halvings)
    # a unit of z is 2^9 / 2^23 of √C deviations
    ratio = gamma * math.sqrt(channels) / 2.0 ** (23 - _CUT) / target.scale
    room = 24 - max(abs(lo - target.zero_point), hi - target.zero_point).bit_length()
    c = min(MAX_SHIFT, room)
    while c > 0 and np.abs(np.rint(ratio * 2.0**c)).max() > _LARGEST:
        c -= 1
    m = np.clip(np.rint(ratio * 2.0**c), -_LARGEST, _LARGEST)
    # z was cut downwards, by half a unit on average
    bias = np.clip(np.rint(beta / target.scale * 2.0**c + m / 2), -(1 << 24), 1 << 24)
    ctx.emit(
        "layer_norm",
        node,
        (
            node.ins[0],
            ctx.constant(f"{node.out}:multiplier", m.astype(np.int32)),
            ctx.constant(f"{node.out}:bias", bias.astype(np.int32)),
        ),
        zx=source.zero_point,
        channels=channels,
        halvings=halvings,
        epsilon=min(round(epsilon), I32.hi - 1),
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )
