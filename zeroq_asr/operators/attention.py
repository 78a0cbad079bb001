"""Attention of every frame to all valid frames: scores, softmax and the weighted mean of the values.

Shapes: B batch, H heads, E channels a head, T frames.

    score(i, j) = u·(2^a·Σ_e (q_i − z_q)(k_j − z_k) + m_p·Σ_e (p_i − z_p)(r_(i−j) − z_r))
    u = scale·s_q·s_k / 2^a

The scale of the distances r was chosen such that the second sum is in units of the first: nothing is
rounded.  Softmax does not change when a row's largest score is taken from all of them, so that
d = max − score ≥ 0 needs no calibration: the numerator exp(−u·d) is looked up in steps of 2^shift units, 15
bits of it as 2^7·high + low.  An 8-bit *probability* would lose a long row's mass; numerators are kept, their
products with the values summed part by part, and each output is divided once:

    u_i = ⌊2^8·Σ_j n_ij·v_j / Σ_j n_ij⌋,   y = requantize(u_i − 2^8·z_v)

In the fused form float32 carries the scores, of at most 24 bits, and float64 the sums.  Of T < 2^20 frames
n = Σ n_ij is below 2^35, a quotient u that is no integer differs from all by at least 1 / n, and rounding
quotients below 2^16 moves them by less.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.types import I32, I64, U8
from zeroq_asr.operators import Condition, fused, integer_op, lowers, qdq

#: numerators are at most 2^15 − 1
_NUMERATOR = (1 << 15) - 1
#: bits of the lower part of a numerator
_LOW = 7
#: entries of the table at most, and scores at most
_ENTRIES, _SCORE = 2048, (1 << 30) - 1
#: scores that a float32 carries
_CARRIED = 1 << 24
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
    ``high`` and ``low`` uint8 [N]: entry i is a part of the numerator at d = i·2^shift; d ≥ ``cap`` is the
    last one.  ``up`` and ``mp`` are 2^a and m_p.
    """
    rows = (0, 1, 3, 2)
    keys, values = f.heads(key, heads, size), f.heads(value, heads, size)
    queries = f.transpose(f.heads(query, heads, size), rows)
    # a column of ones beside the values adds up the numerators
    values = f.with_ones(f.transpose(values, rows))
    valid = f.of_keys(mask)

    def block(queries: Any, positions: Any, distances: Any) -> Any:
        score = f.mul(f.matmul(queries, keys, za=zq, zb=zk, terms=size), up)
        if positions is not None:
            by_distance = f.matmul(positions, distances, za=zp, zb=zr, terms=size)
            score = f.add(score, f.mul(f.relative_shift(by_distance), mp))
        score = f.select(valid, score, -_SCORE)
        index = f.shift_right(f.clamp(f.below_peak(score), 0, cap), shift)
        sums = [
            f.cast(f.matmul(f.lookup(index, part), values, za=0, zb=0, terms=lengths), I64)
            for part in (high, low)
        ]
        weighted, total = f.without_ones(f.add(f.mul(sums[0], 1 << _LOW), sums[1]), size)
        # bounds cannot know that each row has its own largest score, whose numerator is not 0
        total = f.clamp(total, 1, 1 << 40)
        u = f.divide(f.mul(weighted, 1 << _FRACTION), total)
        # a mean of bytes is a byte: bounds cannot know that the numerators add up to their own sum
        u = f.cast(f.clamp(u, 0, 255 << _FRACTION), I32)
        v = f.mul(f.sub(u, zv << _FRACTION), m)
        return requantize(f, v, c=c, zero_point=zy, lo=lo, hi=hi, type=type)

    positions = distances = None
    if position:
        positions = f.transpose(f.heads(position[0], heads, size), rows)
        distances = f.heads(position[1], heads, size)
    y = f.row_blocks(block, queries, positions, distances, heads=heads, frames=lengths)
    return f.merge(f.transpose(y, rows), heads * size)


def _exact_if(
    i: Any, query: Any, key: Any, value: Any, mask: Any, lengths: Any, high: Any, low: Any, *position: Any
) -> list[Condition]:
    a = i.attrs

    def reach(left: Any, zero_left: int, right: Any, zero_right: int) -> int:
        ends = (max(v.max - z, z - v.min) for v, z in ((left, zero_left), (right, zero_right)))
        return int(a["size"] * math.prod(ends))

    most = a["up"] * reach(query, a["zq"], key, a["zk"])
    if position:
        most += a["mp"] * reach(position[0], a["zp"], position[1], a["zr"])
    largest = (max(a["zv"], 255 - a["zv"]) << _FRACTION) * a["m"]
    result = max(abs(a["lo"] - a["zy"]), abs(a["hi"] - a["zy"]))
    return [
        Condition("scores and cap ≤ 2^24", max(most, a["cap"]) <= _CARRIED, f"{most}, {a['cap']}"),
        Condition("low < 2^7: a code 2^8·high + low rounds to high", int(low.exact.max()) < 1 << _LOW),
        Condition("T < 2^20", lengths.max < 1 << 20, f"T ≤ {lengths.max}"),
        Condition("|u − 2^8·z_v|·m ≤ 2^24", largest <= 1 << 24, f"{largest}"),
        Condition("(y − z_y)·2^c ≤ 2^24", result << a["c"] <= 1 << 24, f"{result << a['c']}"),
        Condition("the output is bytes", a["type"] == U8.name, a["type"]),
    ]


@fused(attention, exact_if=_exact_if, kernel="attention in exact floats")
def _carried(b: Any, i: Any, ins: list[Any]) -> Any:
    query, key, value, mask, lengths, high, low, *position = ins
    a = i.attrs
    # in steps of the table
    unit = 2.0 ** -a["shift"]

    def node(op: str, *operands: Any, **attrs: Any) -> str:
        return str(b.node(op, list(operands), None, **attrs))

    def heads(v: Any, *perm: int) -> Any:
        split = node("Reshape", b.frames_first(v), b.axes(0, 0, a["heads"], a["size"]))
        return b.tensor(node("Transpose", split, perm=list(perm)), U8)

    def product(left: Any, zero_left: int, right: Any, zero_right: int, scale: float) -> str:
        scales = (b.float_scalar(scale), b.float_scalar(1.0))
        zeros = (b.scalar(zero_left, U8), b.scalar(zero_right, U8))
        operands = [left, right, *scales, *zeros]
        return str(b.node("MatMulIntegerToFloat", operands, None, "com.microsoft"))

    rows, columns = (0, 2, 1, 3), (0, 2, 3, 1)
    keys = heads(key, *columns)
    # a column of ones beside the values adds up the numerators
    values = b.with_ones(heads(value, *rows)).name
    hidden = b.shared(("hidden", mask.name), lambda: _hidden(b, mask))

    def block(queries: Any, positions: Any, distances: Any) -> Any:
        score = product(queries, a["zq"], keys, a["zk"], a["up"] * unit)
        if positions is not None:
            by_distance = product(positions, a["zp"], distances, a["zr"], a["mp"] * unit)
            score = node("Add", score, b.relative_shift(b.tensor(by_distance, I32, carried=True)).name)
        score = node("Min", score, hidden)
        below = node("Sub", node("ReduceMax", score, b.axes(-1), keepdims=1), score)
        index = b.to_int32(node("Min", below, b.float_scalar(a["cap"] * unit)))
        code = b.codes(index, high, low)
        upper = node("QuantizeLinear", b.to_float(code), b.float_scalar(256.0), b.scalar(0, U8))
        zeros = b.scalar(0, U8), b.scalar(0, U8)
        sums = [b.to_double(node("MatMulInteger", part, values, *zeros)) for part in (upper, b.to_byte(code))]
        both = node("Add", node("Mul", sums[0], b.double_scalar(1 << _LOW)), sums[1])
        total = node("Slice", both, b.axes(a["size"]), b.axes(a["size"] + 1), b.axes(3))
        dims = b.dims.get(both)
        if dims:
            b.tell_dims(total, (*dims[:3], 1))
        mean = node("Div", both, node("Mul", total, b.double_scalar(2.0**-_FRACTION)))
        # the last column is the sum's own mean
        u = b.node("Slice", [b.to_int32(mean), b.axes(0), b.axes(a["size"]), b.axes(3)], I32)
        if dims:
            b.tell_dims(u.name, (*dims[:3], a["size"]))
        v = b.to_float(u)
        if a["zv"]:
            v = node("Sub", v, b.float_scalar(a["zv"] << _FRACTION))
        return b.quantized(node("Mul", v, b.float_scalar(a["m"] / 2.0 ** a["c"])), i)

    positions = distances = None
    if position:
        positions, distances = heads(position[0], *rows), heads(position[1], *columns)
    queries = heads(query, *rows)
    y = b.row_blocks(block, queries, positions, distances, heads=a["heads"], frames=lengths)
    turned = node("Transpose", y, perm=list(rows))
    merged = node("Reshape", turned, b.axes(0, 0, a["heads"] * a["size"]))
    return replace(y, name=merged, frames_first=True)


def _hidden(b: Any, mask: Any) -> str:
    """[B, 1, 1, T]: no bound for what is valid, less than any score for what is not."""
    ends = b.float_scalar(2.0**30), b.float_scalar(-(2.0**30))
    return str(b.node("Where", [b.of_keys(mask), *ends], None))


@qdq(attention)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    # nothing that a provider would fuse: the integers as they are
    return b.define(i, ins)


def hides(high: np.ndarray, low: np.ndarray, attrs: dict[str, Any]) -> bool:
    """Whether what lies behind a mask has no part in any sum, and every largest score has one."""
    largest = 255 * 255 * attrs["size"] * (attrs["up"] + attrs["mp"])
    ends = int(high[0]) + int(low[0]) > 0 and int(high[-1]) + int(low[-1]) == 0
    return ends and largest + attrs["cap"] <= _SCORE


def reach_of(unit: float) -> int:
    """d beyond which exp(−``unit``·d) rounds to no numerator."""
    return min(math.ceil(math.log(2.0 * (_NUMERATOR + 1)) / unit), _SCORE // 2)


def aligned(query: Any, key: Any, position: Any, distances: Any, size: int, scale: float) -> tuple[int, int]:
    """Return 2^a and m_p ≥ 2^a·s_p·s_r / (s_q·s_k), the largest at which both scores add up to 24 bits.

    The four are formats (scale, zero point and ends), ``size`` the channels of a head, ``scale`` that of the
    scores.
    """
    ratio = position.scale * distances.scale / (query.scale * key.scale)
    content, by_distance = (size * _reach(a) * _reach(b) for a, b in ((query, key), (position, distances)))
    unit = scale * query.scale * key.scale

    def factor(up: int) -> int:
        # a ratio that is one already must not become the next by a rounding of its division
        return max(1, math.ceil(ratio * up * (1 - 1e-9)))

    up = 1 << 12
    while up > 1 and max(up * content + factor(up) * by_distance, reach_of(unit / up)) > _CARRIED:
        up >>= 1
    return up, factor(up)


def _reach(info: Any) -> int:
    return int(max(info.hi - info.zero_point, info.zero_point - info.lo))


@lowers("attention")
def _lower(ctx: Any, node: Any) -> None:
    a = node.attrs
    query, key, value, lengths, *position = node.ins
    q, k, v = (ctx.info(name) for name in (query, key, value))
    p, r = (ctx.info(name) for name in position) if position else (q, k)
    target = ctx.activation(node)
    lo, hi = ctx.clamp(target, a.get("clamp"))
    heads, size = a["heads"], ctx.channels(query) // a["heads"]
    up, mp = aligned(q, k, p, r, size, a["scale"]) if position else (1, 1)
    unit = a["scale"] * q.scale * k.scale / up
    cap = reach_of(unit)
    shift = max(0, (cap // _ENTRIES).bit_length())
    steps = np.arange((cap >> shift) + 1)
    exponential = np.rint(_NUMERATOR * np.exp(-unit * 2.0**shift * steps)).astype(np.int32)
    exponential[-1] = 0
    ratio = v.scale / target.scale
    c = 16
    # u has 16 bits and the multiplier gets 8; the scale of the result gives way, so that it is exact
    while c > 0 and round(ratio * 2.0 ** (c - _FRACTION)) > 1 << 8:
        c -= 1
    m = max(1, round(ratio * 2.0 ** (c - _FRACTION)))
    ctx.alias(node, replace(target, scale=v.scale * 2.0 ** (c - _FRACTION) / m))
    ctx.emit(
        "attention",
        node,
        (
            query,
            key,
            value,
            ctx.mask(query, lengths),
            lengths,
            ctx.constant(f"{node.out}:high", (exponential >> _LOW).astype(np.uint8)),
            ctx.constant(f"{node.out}:low", (exponential & 127).astype(np.uint8)),
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
        m=m,
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )
