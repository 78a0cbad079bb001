"""Mean over the valid frames of each utterance, as squeeze-and-excitation takes it.

With n frames, Σ q_x / n is formed with ``fraction`` binary places by one integer division, then
requantized: y = z_y + (s_x / s_y)·(Σ q_x / n − z_x).
"""

from __future__ import annotations

from typing import Any

from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.types import I32
from zeroq_asr.operators import integer_op, lowers, qdq


@integer_op
def mean_requant(
    f: Any,
    x: Any,
    mask: Any,
    lengths: Any,
    *,
    zx: int,
    fraction: int,
    m: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> Any:
    """y [B, C, 1] = clamp(half_even(((u − zx·2^fraction)·m + zy·2^c) / 2^c), lo, hi).

    x uint8 [B, C, T]; mask bool [B, 1, T]; lengths int64 [B] ≥ 1; u = (Σ x·2^fraction + n div 2) div n.
    """
    n = f.per_batch(lengths)
    total = f.sum_time(f.select(mask, f.cast(x, I32), 0), lengths)
    u = f.divide(f.add(f.mul(total, 1 << fraction), f.divide(n, 2)), n)
    # a mean of bytes is a byte: bounds cannot know that n divides its own sum, so say it
    u = f.clamp(u, 0, 255 << fraction)
    v = f.add(f.mul(f.sub(u, zx << fraction), m), zy << c)
    return requantize(f, v, c=c, zero_point=0, lo=lo, hi=hi, type=type)


@qdq(mean_requant)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    x, mask, lengths = ins
    kept = b.node("Where", [mask, b.real(x, i.ins[0]), b.float_scalar(0.0)], None)
    total = b.node("ReduceSum", [kept, b.axes(2)], None, keepdims=1)
    return b.quantize_to(
        b.node("Div", [total, b.float_per_batch(lengths)], None), i.out, i.attrs["lo"], i.attrs["hi"]
    )


@lowers("mean_time")
def _lower(ctx: Any, node: Any) -> None:
    source, target = ctx.info(node.ins[0]), ctx.activation(node)
    lo, hi = ctx.clamp(target, node.attrs.get("clamp"))
    fraction = 8
    while fraction > 0 and (source.hi << fraction) * ctx.max_frames + ctx.max_frames > I32.hi:
        fraction -= 1
    ratio = source.scale / target.scale
    c = 16
    # u has 8 + fraction bits, the multiplier gets what is left of 29
    while c > 0 and round(ratio * 2.0 ** (c - fraction)) > 1 << (21 - fraction):
        c -= 1
    ctx.emit(
        "mean_requant",
        node,
        (node.ins[0], ctx.mask(node.ins[0], node.ins[1]), node.ins[1]),
        zx=source.zero_point,
        fraction=fraction,
        m=max(1, round(ratio * 2.0 ** (c - fraction))),
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )
