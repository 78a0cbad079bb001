"""Attention of every frame to all valid frames: scores, softmax and the weighted mean of the values.

Shapes: B batch, H heads, E channels a head, T frames.

    score(i, j) = u·(2^a·Σ_e (q_i − z_q)(k_j − z_k) + m_p·Σ_e (p_i − z_p)(r_(i−j) − z_r))
    u = scale·s_q·s_k / 2^a

The scale of the distances r was chosen such that the second sum is in units of the first: nothing is
rounded.  Softmax does not change when a row's largest score is taken from all of them, so that
d = max − score ≥ 0 needs no calibration: the numerator exp(−u·d) is looked up in steps of 2^shift units, 15
bits of it in two bytes.  An 8-bit *probability* would lose a long row's mass; numerators are kept, their
products with the values summed byte by byte, and each output is divided once:

    u_i = (2^8·Σ_j n_ij·v_j + Σ_j n_ij div 2) div Σ_j n_ij,   y = requantize(u_i − 2^8·z_v)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.ops import integer_op, lowers, qdq
from zeroq_asr.integer.types import I32, I64

#: numerators are at most 2^15 − 1
_NUMERATOR = (1 << 15) - 1
#: entries of the table at most, and scores at most
_ENTRIES, _SCORE = 2048, (1 << 30) - 1
#: binary places of the weighted mean
_FRACTION = 8


@integer_op
def attention(
    f: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    lengths: Any,
    high: Any,
    low: Any,
    *position: Any,
    heads: int,
    size: int,
    zq: int,
    zk: int,
    zv: int,
    zp: int,
    zr: int,
    up: int,
    mp: int,
    cap: int,
    shift: int,
    m: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> Any:
    """y uint8 [B, H·E, T]; query, key, value uint8 [B, H·E, T], mask bool [B, 1, T], lengths int64 [B].

    ``position``: nothing, or queries uint8 [B, H·E, T] and distances uint8 [1, H·E, 2T].
    ``high`` and ``low`` uint8 [N]: entry i is a byte of the numerator at d = i·2^shift; d ≥ ``cap`` is the
    last one.  ``up`` and ``mp`` are 2^a and m_p.
    """
    rows = (0, 1, 3, 2)
    keys, values = f.heads(key, heads, size), f.heads(value, heads, size)
    queries = f.transpose(f.heads(query, heads, size), rows)
    score = f.mul(f.matmul(queries, keys, za=zq, zb=zk, terms=size), up)
    if position:
        queries = f.transpose(f.heads(position[0], heads, size), rows)
        distances = f.matmul(queries, f.heads(position[1], heads, size), za=zp, zb=zr, terms=size)
        score = f.add(score, f.mul(f.relative_shift(distances), mp))
    score = f.select(f.of_keys(mask), score, -_SCORE)
    index = f.shift_right(f.clamp(f.below_peak(score), 0, cap), shift)
    # a column of ones beside the values adds up the numerators
    values = f.with_ones(f.transpose(values, rows))
    sums = [
        f.cast(f.matmul(f.lookup(index, part), values, za=0, zb=0, terms=lengths), I64)
        for part in (high, low)
    ]
    weighted, total = f.without_ones(f.add(f.mul(sums[0], 256), sums[1]), size)
    # bounds cannot know that each row has its own largest score, whose numerator is not 0
    total = f.clamp(total, 1, 1 << 40)
    u = f.divide(f.add(f.mul(weighted, 1 << _FRACTION), f.divide(total, 2)), total)
    # a mean of bytes is a byte: bounds cannot know that the numerators add up to their own sum
    u = f.cast(f.clamp(u, 0, 255 << _FRACTION), I32)
    u = f.merge(f.transpose(u, rows), heads * size)
    v = f.add(f.mul(f.sub(u, zv << _FRACTION), m), zy << c)
    return requantize(f, v, c=c, zero_point=0, lo=lo, hi=hi, type=type)


@qdq(attention)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    # nothing that a provider would fuse: the integers as they are
    return b.define(i, ins)


def hides(high: np.ndarray, low: np.ndarray, attrs: dict[str, Any]) -> bool:
    """Whether what lies behind a mask has no part in any sum, and every largest score has one."""
    largest = 255 * 255 * attrs["size"] * (attrs["up"] + attrs["mp"])
    ends = int(high[0]) + int(low[0]) > 0 and int(high[-1]) + int(low[-1]) == 0
    return ends and largest + attrs["cap"] <= _SCORE


def aligned(ratio: float, size: int) -> tuple[int, int]:
    """Return 2^a and m_p ≥ ``ratio``·2^a, the largest at which both scores over ``size`` channels add up.

    ``ratio`` = s_p·s_r / (s_q·s_k): the unit of a position's score in that of a content's.
    """
    room = _SCORE // 2 // (255 * 255 * size)
    up = 1 << 12
    while up > 1 and up + max(1, math.ceil(ratio * up)) > room:
        up >>= 1
    # a ratio that is one already must not become the next by a rounding of its division
    return up, max(1, math.ceil(ratio * up * (1 - 1e-9)))


@lowers("attention")
def _lower(ctx: Any, node: Any) -> None:
    a = node.attrs
    query, key, value, lengths, *position = node.ins
    q, k, v = (ctx.info(name) for name in (query, key, value))
    p, r = (ctx.info(name) for name in position) if position else (q, k)
    target = ctx.activation(node)
    lo, hi = ctx.clamp(target, a.get("clamp"))
    heads, size = a["heads"], ctx.channels(query) // a["heads"]
    up, mp = aligned(p.scale * r.scale / (q.scale * k.scale) if position else 0.0, size)
    unit = a["scale"] * q.scale * k.scale / up
    # beyond this a numerator rounds to nothing
    cap = min(math.ceil(math.log(2.0 * (_NUMERATOR + 1)) / unit), _SCORE // 2)
    shift = max(0, (cap // _ENTRIES).bit_length())
    steps = np.arange((cap >> shift) + 1)
    exponential = np.rint(_NUMERATOR * np.exp(-unit * 2.0**shift * steps)).astype(np.int32)
    exponential[-1] = 0
    ratio = v.scale / target.scale
    c = 16
    # u has 16 bits, the multiplier gets 13
    while c > 0 and round(ratio * 2.0 ** (c - _FRACTION)) > 1 << 13:
        c -= 1
    ctx.emit(
        "attention",
        node,
        (
            query,
            key,
            value,
            ctx.mask(query, lengths),
            lengths,
            ctx.constant(f"{node.out}:high", (exponential >> 8).astype(np.uint8)),
            ctx.constant(f"{node.out}:low", (exponential & 255).astype(np.uint8)),
            *position,
        ),
        heads=heads,
        size=size,
        zq=q.zero_point,
        zk=k.zero_point,
        zv=v.zero_point,
        zp=p.zero_point if position else 0,
        zr=r.zero_point if position else 0,
        up=up,
        mp=mp,
        cap=cap,
        shift=shift,
        m=max(1, round(ratio * 2.0 ** (c - _FRACTION))),
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )
