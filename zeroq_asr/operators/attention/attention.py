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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.attributes import BYTE, COUNT, MULTIPLIER, REQUANTIZATION, SHIFT, whole
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.types import I32, I64
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.attention.captured import captures
from zeroq_asr.operators.attention.cases import attention_cases
from zeroq_asr.operators.attention.distances import expose_positions, slice_distances
from zeroq_asr.operators.attention.kernel import emit_carried, exact_if
from zeroq_asr.operators.attention.qdq import emit_qdq
from zeroq_asr.operators.attention.scores import (
    ENTRIES,
    FRACTION,
    LOW,
    MASKED,
    NUMERATOR,
    SCORE,
    aligned,
    hides,
    reach_of,
)
from zeroq_asr.registry import (
    VALID,
    Constant,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
)


def _meaning(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    *position: Tensor,
    heads: int,
    scale: float,
    positions: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Softmax over the valid frames of scale · (content + position), times the values; all [B, H·E, T].

    ``position``: nothing, or queries [B, H·E, T] and what the distances T − 1 down to 1 − T are to them,
    [1, H·E, 2T − 1] or as ``positions(T)`` [H, E, 2T − 1].
    """
    batch, channels, frames = query.shape

    def split(x: Tensor) -> Tensor:
        return x.reshape(batch, heads, channels // heads, frames)

    scores = torch.einsum("bhet,bhes->bhts", split(query), split(key))
    if position:
        distances = position[1] if positions is None else positions(frames).to(query.device)
        distances = distances.reshape(heads, channels // heads, -1)
        by_distance = torch.einsum("bhet,her->bhtr", split(position[0]), distances)
        index = torch.arange(frames, device=query.device)
        scores = scores + by_distance[:, :, index[:, None], frames - 1 - index[:, None] + index[None, :]]
    valid = torch.arange(frames, device=query.device)[None, :] < lengths[:, None]
    scores = (scores * scale).masked_fill(~valid[:, None, None, :], -torch.inf)
    out = torch.einsum("bhts,bhes->bhet", torch.softmax(scores, dim=-1), split(value))
    return out.reshape(batch, channels, frames)


def _spelling(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    query, key, value, lengths, *position = node.ins

    def split(name: str, perm: list[int]) -> str:
        parts = w.add("Reshape", [w.frames(name), w.axes(0, 0, a["heads"], -1)])
        return w.add("Transpose", [parts], perm=perm)

    scores = w.add("MatMul", [split(query, [0, 2, 1, 3]), split(key, [0, 2, 3, 1])])
    source = w.frames(query)
    if position:
        if a.get("positions") is not None:
            distances = slice_distances(w, source, a["positions"])
        else:  # a value [1, H·E, 2T − 1] of the graph
            distances = w.add("Reshape", [w.channels(position[1]), w.axes(a["heads"], -1, 0)])
        by_distance = w.add("MatMul", [split(position[0], [0, 2, 1, 3]), distances])
        scores = w.add("Add", [scores, _shift(w, by_distance)])
    scaled = w.add("Mul", [scores, w.store(a["scale"])])
    kept = w.add("Where", [w.mask(query, lengths, 1, 2), scaled, w.store(MASKED)])
    out = w.add("MatMul", [w.add("Softmax", [kept], axis=-1), split(value, [0, 2, 1, 3])])
    joined = w.add("Transpose", [out], perm=[0, 2, 1, 3])
    w.done(node, w.add("Reshape", [joined, w.axes(0, 0, -1)]), True)


def _shift(w: Writer, scores: str) -> str:
    """Scores of distances [B, H, T, 2T − 1] as scores of pairs [B, H, T, T]: see relative_shift."""
    frames = w.add("Shape", [scores], start=2, end=3)
    padded = w.add("Pad", [scores, w.store([0, 0, 0, 1, 0, 0, 0, 0], np.int64)])
    turned = w.add("Reshape", [padded, w.add("Concat", [w.axes(0, 0, -1), frames], axis=0)])
    dropped = w.add("Slice", [turned, w.axes(1), w.axes(2**62), w.axes(2)])
    back = w.add("Reshape", [dropped, w.add("Concat", [w.axes(0, 0), frames, w.axes(-1)], axis=0)])
    return w.add("Slice", [back, w.axes(0), frames, w.axes(3)])


# -- integers --------------------------------------------------------------------------------------


def attention(
    f: Backend[V],
    query: V,
    key: V,
    value: V,
    mask: V,
    lengths: V,
    high: V,
    low: V,
    *position: V,
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
) -> V:
    """y uint8 [B, H·E, T]; query, key, value uint8 [B, H·E, T], mask bool [B, 1, T], lengths int64 [B].

    ``position``: nothing, or queries uint8 [B, H·E, T] and distances uint8 [1, H·E, 2T].
    ``high`` and ``low`` uint8 [N]: entry i is a part of the numerator at d = i·2^shift; d ≥ ``cap`` is the
    last one.  ``up`` and ``mp`` are 2^a and m_p.
    """

    def split(v: V) -> V:
        return f.rearrange(v, "b (h e) t -> b h e t", h=heads, e=size)

    def turned(v: V) -> V:
        return f.rearrange(v, "b h e t -> b h t e")

    keys, values = split(key), split(value)
    queries = turned(split(query))
    # a column of ones beside the values adds up the numerators
    values = f.append_column(turned(values), 1)
    valid = f.rearrange(mask, "b 1 t -> b 1 1 t")

    def block(queries: V, positions: V | None, distances: V | None) -> V:
        score = f.mul(f.matmul(queries, keys, za=zq, zb=zk, terms=size), up)
        if positions is not None and distances is not None:
            by_distance = f.matmul(positions, distances, za=zp, zb=zr, terms=size)
            score = f.add(score, f.mul(f.relative_shift(by_distance), mp))
        score = f.select(valid, score, -SCORE)
        index = f.shift_right(f.clamp(f.below_peak(score), 0, cap), shift)
        sums = [
            f.cast(f.matmul(f.lookup(index, part), values, za=0, zb=0, terms=lengths), I64)
            for part in (high, low)
        ]
        weighted, total = f.split_columns(f.add(f.mul(sums[0], 1 << LOW), sums[1]), size)
        # bounds cannot know that each row has its own largest score, whose numerator is not 0
        total = f.clamp(total, 1, 1 << 40)
        u = f.quotient(f.mul(weighted, 1 << FRACTION), total)
        # a mean of bytes is a byte: bounds cannot know that the numerators add up to their own sum
        u = f.cast(f.clamp(u, 0, 255 << FRACTION), I32)
        v = f.mul(f.sub(u, zv << FRACTION), m)
        return requantize(f, v, c=c, zero_point=zy, lo=lo, hi=hi, type=type)

    positions = distances = None
    if position:
        positions, distances = turned(split(position[0])), split(position[1])
    y = f.row_blocks(block, queries, positions, distances, heads=heads, frames=lengths)
    return f.rearrange(f.rearrange(y, "b h t e -> b h e t"), "b h e t -> b (h e) t", he=heads * size)


def _check(view: Checked) -> None:
    a = view.attrs
    high, low = view.constant("high"), view.constant("low")
    steps = (a["cap"] >> a["shift"]) + 1
    for entries in (high, low):
        view.require(entries.shape == (steps,), f"its tables have {steps} entries")
    problem = "numerators fall from 1 or more to 0, which is where masked scores lie"
    view.require(hides(high, low, a), problem)
    query, key, value, _, _, *position = view.operands
    takes = a["heads"] * a["size"]
    right = {query, key, value, *position} == {takes} and len(position) in (0, 2)
    view.require(right, f"takes {takes} channels, its operands have {view.operands}")


def _unseen(node: FloatNode, operand: str, result: set[str]) -> set[str]:
    """Keys and values are masked by the lengths; a query's frame is seen where its result's is."""
    query, key, value, lengths, *positions = node.ins
    as_query = result if operand in (query, *positions) else None
    as_key = {lengths} | result if operand in (key, value) else None
    both = [hidden for hidden in (as_query, as_key) if hidden is not None]
    return set.intersection(*both) if both else set()


# -- lowering --------------------------------------------------------------------------------------


def _plan_formats(ctx: Lowering, nodes: list[FloatNode]) -> None:
    """Formats that one value cannot choose by itself.

    Both queries are one product plus a vector each: at one scale they share its weights.  The scale of the
    distances is widened so that both kinds of score have a common unit.
    """
    names = sorted({name for n in nodes for name in n.ins if not ctx.shape(name).lengths})
    bytes_ = {name: ctx.byte_format(name, ctx.range(name)) for name in names}
    related = [node for node in nodes if len(node.ins) == 6]
    for node in related:
        pair = [ctx.range(name) for name in (node.ins[0], node.ins[4])]
        both = min(low for low, _ in pair), max(high for _, high in pair)
        for name in (node.ins[0], node.ins[4]):
            bytes_[name] = ctx.byte_format(name, both)
            ctx.plan_format(name, bytes_[name])
    for node in related:
        query, key, _, _, position, distances = node.ins
        q, k, p, r = (bytes_[name] for name in (query, key, position, distances))
        size = (ctx.shape(query).channels or 0) // node.attrs["heads"]
        up, mp = aligned(q, k, p, r, size, node.attrs["scale"])
        scale = q.scale * k.scale * mp / (up * p.scale)
        ctx.plan_format(distances, replace(r, scale=scale))


def _lower(ctx: Lowering, node: FloatNode) -> None:
    a = node.attrs
    query, key, value, lengths, *position = node.ins
    q, k, v = (ctx.info(name) for name in (query, key, value))
    p, r = (ctx.info(name) for name in position) if position else (q, k)
    target = ctx.activation(node)
    lo, hi = ctx.clamp(target, a.get("clamp"))
    heads, size = a["heads"], (ctx.shape(query).channels or 0) // a["heads"]
    up, mp = aligned(q, k, p, r, size, a["scale"]) if position else (1, 1)
    unit = a["scale"] * q.scale * k.scale / up
    cap = reach_of(unit)
    shift = max(0, (cap // ENTRIES).bit_length())
    steps = np.arange((cap >> shift) + 1)
    exponential = np.rint(NUMERATOR * np.exp(-unit * 2.0**shift * steps)).astype(np.int32)
    exponential[-1] = 0
    ratio = v.scale / target.scale
    c = 16
    # u has 16 bits and the multiplier gets 8; the scale of the result gives way, so that it is exact
    while c > 0 and round(ratio * 2.0 ** (c - FRACTION)) > 1 << 8:
        c -= 1
    m = max(1, round(ratio * 2.0 ** (c - FRACTION)))
    ctx.alias(node, replace(target, scale=v.scale * 2.0 ** (c - FRACTION) / m))
    ctx.emit(
        "attention",
        node,
        (
            query,
            key,
            value,
            ctx.mask(query, lengths),
            lengths,
            ctx.constant(f"{node.out}:high", (exponential >> LOW).astype(np.uint8)),
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


ATTENTION = register(
    Operator(
        "attention",
        _meaning,
        captures=tuple(captures),
        traits=Traits(keeps_channels=2),
        spelling=_spelling,
        lower=_lower,
        integers=(
            IntegerOperator(
                "attention",
                attention,
                {
                    **REQUANTIZATION,
                    **dict.fromkeys(("zq", "zk", "zv", "zp", "zr"), BYTE),
                    **dict.fromkeys(("m", "up", "mp"), MULTIPLIER),
                    "heads": COUNT,
                    "size": COUNT,
                    "cap": whole(0, (1 << 30) - 1, "0 ≤ cap < 2^30"),
                    "shift": SHIFT,
                },
                zero_points={"zq": 0, "zk": 1, "zv": 2, "zp": 7, "zr": 8},
                frames=VALID,
                constants={5: Constant("high", np.uint8, 1), 6: Constant("low", np.uint8, 1)},
                check=_check,
                kernels={
                    "fused": Kernel(emit_carried, exact_if, "attention in exact floats"),
                    "qdq": Kernel(emit_qdq),
                },
                mask=(3, 4),
                # a numerator is that of the next larger score in a table of a thousand steps or more: up to
                # 1% too much
                tolerance={"attention": 0.5 + 0.25},
                cases=attention_cases,
            ),
        ),
        unseen=_unseen,
        rewrite=expose_positions,
        plan_formats=_plan_formats,
        needs_bytes=True,
    )
)
