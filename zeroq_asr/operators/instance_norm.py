"""Normalization of every channel over an utterance's own frames: y = γ·(x − μ) / √(σ² + ε) + β.

With n frames of integers x, the mean is formed with 4 binary places, d = 2^4·x − ⌊2^4·μ⌉; then, as in
``layer_norm``, d are cut to 12 bits and a sign, e = d / k with k = ⌊max|d| / 2^12⌋ + 1, and

    V = ⌊2^8·Σ e² / n⌋ + ⌊2^16·ε / (s_x²·k²)⌋ + 1      (2^8 mean squares of e)
    r = 2^24 / √(V / 2^8),   (x − μ)/σ = e·r / 2^24

r has no more than 18 bits: beyond a peak of 64 deviations the result is too small.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.types import I32, I64
from zeroq_asr.operators import integer_op, lowers, qdq

#: binary places of the mean, bits of e, binary places of V, of its root, and what is shifted out of e·r
_PLACES, _BITS, _ENERGY, _ROOT, _CUT = 4, 12, 8, 6, 14
#: bits of r at most, and of 2^24
_LARGEST, _UNIT = 18, 24
#: V and twelve binary places of its root fit 52 bits
_LARGEST_EPSILON = (1 << 39) - 1
#: largest magnitude of a multiplier: 16 bits of e·r / 2^14 times this fit int32
_MULTIPLIER = 1 << 13


@integer_op
def instance_norm(
    f: Any,
    x: Any,
    mask: Any,
    lengths: Any,
    m: Any,
    bias: Any,
    *,
    zx: int,
    channels: int,
    epsilon: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> Any:
    """y = clamp(half_even((((e·r) >> 14)·m + bias) / 2^c) + zy, lo, hi), see above.

    x [B, C, T] uint8, or int32 of 16 bits; mask bool [B, 1, T]; lengths int64 [B] ≥ 1; m and bias int32 [C],
    |m| ≤ 2^13; ``epsilon`` 2^16·ε/s_x² < 2^39.
    """
    n = f.cast(f.per_batch(lengths), I64)
    x = f.sub(f.cast(x, I32), zx)
    total = f.sum_time(f.cast(f.select(mask, x, 0), I64), lengths)
    # made non-negative to be divided: no |x| is larger than 2^16
    raised = f.add(f.mul(total, 1 << _PLACES), f.mul(n, 1 << 16 + _PLACES))
    mean = f.divide(f.clamp(f.add(raised, f.divide(n, 2)), 0, 1 << 50), n)
    # bounds cannot know that n divides its own sum
    mean = f.sub(f.cast(f.clamp(mean, 0, 2 << 16 + _PLACES), I32), 1 << 16 + _PLACES)
    d = f.select(mask, f.sub(f.mul(x, 1 << _PLACES), mean), 0)
    k = f.add(f.shift_right(f.peak_time(d), _BITS), 1)
    e = f.clamp(f.quotient(d, k), -(1 << _BITS), 1 << _BITS)
    energy = f.sum_time(f.cast(f.square(e), I64), lengths)
    energy = f.clamp(f.divide(f.mul(energy, 1 << _ENERGY), n), 0, 1 << 2 * _BITS + _ENERGY)
    k = f.cast(k, I64)
    energy = f.add(f.add(energy, f.reciprocal(epsilon, f.mul(k, k))), 1)
    root = f.isqrt(f.mul(energy, 1 << 2 * _ROOT))
    r = f.reciprocal(1 << _UNIT + _ENERGY // 2 + _ROOT, root)
    # e·r + 2^30 has 31 bits: so many a shift takes
    r = f.cast(f.clamp(r, 0, (1 << _LARGEST) - 1), I32)
    z = f.shift_right(f.mul(e, r), _CUT)
    v = f.add(f.mul(z, f.per_channel(m)), f.per_channel(bias))
    return requantize(f, v, c=c, zero_point=zy, lo=lo, hi=hi, type=type)


@qdq(instance_norm)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    # nothing that a provider would fuse: the integers as they are
    return b.define(i, ins)


@lowers("instance_norm")
def _lower(ctx: Any, node: Any) -> None:
    a = node.attrs
    source, target = ctx.info(node.ins[0]), ctx.activation(node)
    lo, hi = ctx.clamp(target, a.get("clamp"))
    gamma, beta = (np.asarray(a[name], dtype=np.float64) for name in ("weight", "bias"))
    # a unit of z is 2^14 / 2^24 deviations
    ratio = gamma / 2.0 ** (_UNIT - _CUT) / target.scale
    c = 16
    room = max(abs(lo - target.zero_point), hi - target.zero_point)
    while c > 0 and (np.abs(np.rint(ratio * 2.0**c)).max() > _MULTIPLIER or room << c > I32.hi // 4):
        c -= 1
    m = np.clip(np.rint(ratio * 2.0**c), -_MULTIPLIER, _MULTIPLIER)
    # z was cut downwards, by half a unit on average
    bias = np.clip(np.rint(beta / target.scale * 2.0**c + m / 2), -(1 << 29), 1 << 29)
    epsilon = a["epsilon"] * 2.0 ** (2 * _PLACES + _ENERGY) / source.scale**2
    ctx.emit(
        "instance_norm",
        node,
        (
            node.ins[0],
            ctx.mask(node.ins[0], node.ins[1]),
            node.ins[1],
            ctx.constant(f"{node.out}:multiplier", m.astype(np.int32)),
            ctx.constant(f"{node.out}:bias", bias.astype(np.int32)),
        ),
        zx=source.zero_point,
        channels=len(gamma),
        epsilon=min(round(epsilon), _LARGEST_EPSILON),
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )
