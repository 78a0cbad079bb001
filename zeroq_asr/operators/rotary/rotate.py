"""Rotary positions: channels turned in pairs by angles that grow with the frame's number (arXiv 2104.09864).

    y[c] = a[c]·x[c] + b[c]·x[pair[c]],    a, b: cosines and signed sines of the frame

with a and b in steps of 2^-f, f ≤ 14.  The products of a byte have 23 bits, the low 10 of which are rounded
away first: what is left is in 16ths of a step of x, and the ratio of the scales is rounded to m / 2^c.

Heads turn alike, and so do the channels of a pair: tables hold one row of all that are equal up to a sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.attributes import BYTE, MULTIPLIER, REQUANTIZATION, indices
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.dyadic import requantize, shift_half_up
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.multiply.wide import significant
from zeroq_asr.operators.rotary.cases import frame_table_cases, rotate_cases
from zeroq_asr.registry import (
    OWN,
    Condition,
    Constant,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
    spelled,
)

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend

#: binary places of cosines and sines, and of a sum of products those that are rounded away
_PLACES, _CUT = 14, 10
#: |a·x + b·x'| < 2^14·2·255 leaves less than 2^13 after the cut; times this, 27 bits
_LARGEST_MULTIPLIER = 1 << 14


def _meaning(
    x: Tensor, *, coefficients: Callable[[int], tuple[Tensor, Tensor]], pair: tuple[int, ...]
) -> Tensor:
    """a·x + b·x[:, pair], where coefficients(T) is (a, b), [C, T] each: cosines and signed sines."""
    a, b = (table.to(x) for table in coefficients(x.shape[2]))
    return x * a + x[:, list(pair)] * b


def _spelling(w: Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    a, b = (w.frame_table(node.ins[0], table, together) for table in coefficients_of(node, w.longest))
    other = w.add("Gather", [x, w.store(node.attrs["pair"], np.int64)], axis=2 if together else 1)
    w.done(node, w.add("Add", [w.add("Mul", [x, a]), w.add("Mul", [other, b])]), together)


def frame_table(f: Backend[V], like: V, table: V, signs: V, *, rows: tuple[int, ...]) -> V:
    """y int32 [1, C, T]: y[0, c, t] = signs[c]·table[rows[c], t].

    ``like`` [B, C', T] gives the frames; ``table`` int16 [R, L], L ≥ T; ``signs`` int32 [C].
    """
    return f.mul(f.take_channels(f.slice_frames(table, like), rows), f.per_channel(signs))


def rotate(
    f: Backend[V],
    x: V,
    a: V,
    b: V,
    *,
    pair: tuple[int, ...],
    zx: int,
    m: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> V:
    """y = clamp(half_even((half_up((a·u + b·u[pair]) / 2^10)·m + zy·2^c) / 2^c), lo, hi), u = x − zx.

    x uint8 [B, C, T]; a, b int32 [1, C, T] in [−2^15, 2^15).  The zero point is inside the rounding.
    """
    u = f.sub(f.cast(x, I32), zx)
    total = f.add(f.mul(u, a), f.mul(f.take_channels(u, pair), b))
    product = f.mul(shift_half_up(f, total, _CUT), m)
    return requantize(f, f.add(product, zy << c), c=c, zero_point=0, lo=lo, hi=hi, type=type)


def _exact_if(i: Instruction, x: Interval, a: Interval, b: Interval) -> list[Condition]:
    attrs = i.attrs
    largest = max(x.max - attrs["zx"], attrs["zx"] - x.min) * sum(max(-t.min, t.max) for t in (a, b))
    reach = significant(attrs["lo"], attrs["hi"], attrs["zy"]) << attrs["c"]
    return [
        Condition("the input is of unsigned bytes", x.type is U8),
        Condition("max|x − z_x|·(max|a| + max|b|) + 2^9 ≤ 2^24", largest + 512 <= 1 << 24, f"{largest}"),
        Condition("below saturation (max|y| + |z| + 1)·2^c ≤ 2^24", reach <= 1 << 24, f"{reach}"),
        Condition("the multiplier is exact in float32: 1 ≤ m < 2^24", 1 <= attrs["m"] < 1 << 24),
    ]


def _carried(g: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    ins = g.alike(ins)
    attrs, (u, a, b) = i.attrs, (g.carry(value) for value in ins)
    if attrs["zx"]:
        u = g.node("Sub", [u, g.float_scalar(attrs["zx"])], None)
    other = g.node("Gather", [u, g.channel_index(attrs["pair"])], None, axis=2 if ins[0].frames_first else 1)
    total = g.node("Add", [g.node("Mul", [u, a], None), g.node("Mul", [other, b], None)], None)
    scaled = g.node("Mul", [total, g.float_scalar(2.0**-_CUT)], None)
    cut = g.node("Floor", [g.node("Add", [scaled, g.float_scalar(0.5)], None)], None)
    y = g.node("Mul", [cut, g.float_scalar(attrs["m"] / 2.0 ** attrs["c"])], None)
    if attrs["zy"]:
        y = g.node("Add", [y, g.float_scalar(attrs["zy"])], None)
    return replace(g.rounded(y, i), frames_first=ins[0].frames_first)


def _qdq(g: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    x, a, b = (g.real(value, name) for value, name in zip(ins, i.ins, strict=True))
    other = g.node("Gather", [x, g.channel_index(i.attrs["pair"])], axis=1)
    total = g.node("Add", [g.node("Mul", [x, a]), g.node("Mul", [other, b])])
    return g.quantize_to(total, i.out, i.attrs["lo"], i.attrs["hi"])


def _lower(ctx: Lowering, node: FloatNode) -> None:
    x, source, target = node.ins[0], ctx.info(node.ins[0]), ctx.activation(node)
    if target.type != U8.name:
        raise UnsupportedOperatorError(
            node.where or node.out,
            "rotary positions make bytes and cannot make the logits",
            "end the network in a convolution or a linear layer",
        )
    reals = coefficients_of(node, ctx.longest(x))
    places = _PLACES - max(0, math.ceil(math.log2(max(float(np.abs(reals).max()), 1e-30))))
    tables = [
        ctx.frame_table(f"{node.out}:{name}", x, np.rint(real * 2.0**places).astype(np.int16), 2.0**-places)
        for name, real in zip(("cos", "sin"), reals, strict=True)
    ]
    ratio = source.scale / target.scale * 2.0 ** (_CUT - places)
    reach, c = significant(target.lo, target.hi, target.zero_point), 15
    while c > 0 and (round(ratio * 2.0**c) > _LARGEST_MULTIPLIER or reach << c > 1 << 24):
        c -= 1
    ctx.emit(
        "rotate",
        node,
        (x, *tables),
        pair=tuple(node.attrs["pair"]),
        zx=source.zero_point,
        m=max(1, round(ratio * 2.0**c)),
        c=c,
        zy=target.zero_point,
        lo=target.lo,
        hi=target.hi,
        type=target.type,
    )


def coefficients_of(node: FloatNode, frames: int) -> np.ndarray:
    """Return a and b of a float node for so many frames, float64 [2, C, T].

    Raises UnsupportedOperatorError if it has none for as many.
    """
    where = node.where or node.out
    try:
        found = np.stack([table.double().numpy() for table in node.attrs["coefficients"](frames)])
    except (RuntimeError, IndexError) as error:  # a stored table that is shorter
        problem = f"its positions end before {frames} frames, which the longest input has"
        raise UnsupportedOperatorError(where, problem, "quantize for a smaller --max-seconds") from error
    if not np.isfinite(found).all():
        raise UnsupportedOperatorError(where, "its rotary positions are not finite", "check its frequencies")
    return found


def _check_table(view: Checked) -> None:
    table, rows = view.constant("table"), view.attrs["rows"]
    view.require(max(rows) < len(table), "takes rows that its table has")
    view.require_rows(len(rows), "signs")
    columns, count = table.shape[1], view.longest(0)
    view.require(columns >= count, f"has a table for {columns} frames, its operand up to {count}")


def _check(view: Checked) -> None:
    takes = len(view.attrs["pair"])
    view.require({*view.operands} == {takes}, f"turns {takes} channels, its operands have {view.operands}")
    view.require(max(view.attrs["pair"]) < takes, f"turns channels of {takes}")


ROTATE = register(
    Operator(
        "rotate",
        _meaning,
        traits=Traits(framewise=True),
        spelling=_spelling,
        lower=_lower,
        integers=(
            IntegerOperator(
                "frame_table",
                frame_table,
                {"rows": indices("row numbers")},
                constants={1: Constant("table", np.int16, 2), 2: Constant("signs", np.int32, 1)},
                frames=OWN,
                check=_check_table,
                kernels={"qdq": Kernel(spelled)},
                bounded=True,
                # entries of a table, in steps of 2^-14
                tolerance={"frame_table": 0.5},
                cases=frame_table_cases,
            ),
            IntegerOperator(
                "rotate",
                rotate,
                {**REQUANTIZATION, "zx": BYTE, "pair": indices("channel numbers"), "m": MULTIPLIER},
                zero_points={"zx": 0},
                frames=OWN,
                check=_check,
                kernels={
                    "fused": Kernel(_carried, _exact_if, "rotation in exact floats"),
                    "qdq": Kernel(_qdq),
                },
                # products cut to a 16th of a step, a ratio of 11 bits for each of 180 steps, coefficients of
                # 14 bits
                tolerance={"rotate": 0.5 + 1 / 32 + 180 / 2**12 + 255 / 2**14},
                cases=rotate_cases,
            ),
        ),
    )
)
