"""Attention in floats that carry its integers exactly, for the dialect ``fused``.

float32 carries the scores, of at most 24 bits, and float64 the sums.  Of T < 2^20 frames n = Σ n_ij is below
2^35, a quotient u that is no integer differs from all by at least 1 / n, and rounding quotients below 2^16
moves them by less.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I8, I32, U8, WEIGHT_ZERO_POINT
from zeroq_asr.operators.attention.scores import CARRIED, FRACTION, LOW
from zeroq_asr.registry import Condition

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym


def exact_if(
    i: Instruction,
    query: Interval,
    key: Interval,
    value: Interval,
    mask: Interval,
    lengths: Interval,
    high: Interval,
    low: Interval,
    *position: Interval,
) -> list[Condition]:
    """When floats carry the scores and the sums."""
    a = i.attrs

    def reach(left: Interval, zero_left: int, right: Interval, zero_right: int) -> int:
        ends = (max(v.max - z, z - v.min) for v, z in ((left, zero_left), (right, zero_right)))
        return int(a["size"] * math.prod(ends))

    most = a["up"] * reach(query, a["zq"], key, a["zk"])
    if position:
        most += a["mp"] * reach(position[0], a["zp"], position[1], a["zr"])
    largest = (max(a["zv"], 255 - a["zv"]) << FRACTION) * a["m"]
    result = max(abs(a["lo"] - a["zy"]), abs(a["hi"] - a["zy"]))
    return [
        Condition("scores and cap ≤ 2^24", max(most, a["cap"]) <= CARRIED, f"{most}, {a['cap']}"),
        Condition(
            "low < 2^7: a code 2^8·high + low rounds to high", int(np.asarray(low.exact).max()) < 1 << LOW
        ),
        Condition("T < 2^20", lengths.max < 1 << 20, f"T ≤ {lengths.max}"),
        Condition("|u − 2^8·z_v|·m ≤ 2^24", largest <= 1 << 24, f"{largest}"),
        Condition("(y − z_y)·2^c ≤ 2^24", result << a["c"] <= 1 << 24, f"{result << a['c']}"),
        Condition("the output is bytes", a["type"] == U8.name, a["type"]),
    ]


def emit_carried(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    """Attention with scores in float32 and sums in float64."""
    query, key, value, mask, lengths, high, low, *position = ins
    a = i.attrs
    # in steps of the table
    unit = 2.0 ** -a["shift"]
    bears_signed = b.target != "x86-any"

    def node(op: str, *operands: Sym | str, **attrs: int | list[int]) -> str:
        return str(b.node(op, list(operands), None, "", **attrs))

    def heads(v: Sym, *perm: int) -> Sym:
        split = node("Reshape", b.frames_first(v), b.axes(0, 0, a["heads"], a["size"]))
        return b.tensor(node("Transpose", split, perm=list(perm)), U8)

    def factor(v: Sym) -> Sym:
        return b.tensor(b.signed(v), I8) if bears_signed else v

    def zero_of(zero_point: int, signed: bool) -> str:
        return b.scalar(zero_point - WEIGHT_ZERO_POINT, I8) if signed else b.scalar(zero_point, U8)

    def product(left: Sym, zero_left: int, right: Sym, zero_right: int, scale: float) -> str:
        scales = (b.float_scalar(scale), b.float_scalar(1.0))
        zeros = (b.scalar(zero_left, U8), zero_of(zero_right, bears_signed))
        operands: list[Sym | str] = [left, right, *scales, *zeros]
        return str(b.node("MatMulIntegerToFloat", operands, None, "com.microsoft"))

    rows, columns = (0, 2, 1, 3), (0, 2, 3, 1)
    keys = factor(heads(key, *columns))
    # a column of ones beside the values adds up the numerators
    values = b.append_column(heads(value, *rows), 1).name
    signed_values = b.signed(values)
    hidden = b.shared(("hidden", mask.name), lambda: _hidden(b, mask))

    def block(queries: Sym, positions: Sym | None, distances: Sym | None) -> Sym:
        score = product(queries, a["zq"], keys, a["zk"], a["up"] * unit)
        if positions is not None and distances is not None:
            by_distance = product(positions, a["zp"], distances, a["zr"], a["mp"] * unit)
            score = node("Add", score, b.relative_shift(b.tensor(by_distance, I32, carried=True)).name)
        score = node("Min", score, hidden)
        below = node("Sub", node("ReduceMax", score, b.axes(-1), keepdims=1), score)
        index = b.to_int32(node("Min", below, b.float_scalar(a["cap"] * unit)))
        code = b.codes(index, high, low)
        upper = node("QuantizeLinear", b.to_float(code), b.float_scalar(256.0), b.scalar(0, U8))
        parts = (
            (upper, signed_values if bears_signed else values, bears_signed),
            (b.to_byte(code), signed_values, True),
        )
        sums = [
            b.to_double(node("MatMulInteger", part, by, b.scalar(0, U8), zero_of(0, signed)))
            for part, by, signed in parts
        ]
        both = node("Add", node("Mul", sums[0], b.double_scalar(1 << LOW)), sums[1])
        total = node("Slice", both, b.axes(a["size"]), b.axes(a["size"] + 1), b.axes(3))
        dims = b.dims.get(both)
        if dims:
            b.tell_dims(total, (*dims[:3], 1))
        mean = node("Div", both, node("Mul", total, b.double_scalar(2.0**-FRACTION)))
        # the last column is the sum's own mean
        u = b.node("Slice", [b.to_int32(mean), b.axes(0), b.axes(a["size"]), b.axes(3)], I32)
        if dims:
            b.tell_dims(u.name, (*dims[:3], a["size"]))
        v = b.to_float(u)
        if a["zv"]:
            v = node("Sub", v, b.float_scalar(a["zv"] << FRACTION))
        return b.quantized(node("Mul", v, b.float_scalar(a["m"] / 2.0 ** a["c"])), i)

    positions = distances = None
    if position:
        positions, distances = heads(position[0], *rows), factor(heads(position[1], *columns))
    queries = heads(query, *rows)
    y = b.row_blocks(block, queries, positions, distances, heads=a["heads"], frames=lengths)
    turned = node("Transpose", y, perm=list(rows))
    merged = node("Reshape", turned, b.axes(0, 0, a["heads"] * a["size"]))
    return replace(y, name=merged, frames_first=True)


def _hidden(b: Kernels, mask: Sym) -> str:
    """[B, 1, 1, T]: no bound for what is valid, less than any score for what is not."""
    ends = b.float_scalar(2.0**30), b.float_scalar(-(2.0**30))
    return str(b.node("Where", [b.rearrange(mask, "b 1 t -> b 1 1 t"), *ends], None))
