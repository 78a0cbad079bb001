"""Choosing the integers of an LSTM: weights, tables, and how many binary places the cell has.

With x = s_x·(q_x − z_x) and h = s_h·(q_h − z_h), a row of [W·s_x, R·s_h] multiplies integers.  It lies on
one grid at one scale, m / 2^(γ + π) with π binary places of the gates: so both products are added as
integers, and what rounding costs the smaller part is no more than what it costs the larger one.  As in
convolutions the scale is *chosen* dyadic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zeroq_asr.errors import CalibrationError, UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.pair_saturation import most
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.integer.types import I16, I32, U8
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.convolution.weights import is_filled, quantize_weight
from zeroq_asr.operators.lstm.cell import SIGMOID_PLACES
from zeroq_asr.registry import Attrs

#: π, binary places of the gates, and the end of their table: 16 bits
GATE_PLACES, GATE_REACH = 11, 16
#: γ at most: a float32 carries 16 bits of a gate and as many binary places
_LARGEST_SHIFT = 8
#: most binary places of a cell: |c| < 4
_MOST_PLACES = SIGMOID_PLACES - 1
#: end of the table of tanh
_TANH_REACH = 8
#: a cell may be so many times what was observed: made inputs excite it less than speech does
CELL_MARGIN = 2.0
#: what an int32 is left for: a shift first adds as much again, so that nothing is negative
_ROOM = (1 << 30) - (1 << 20)
#: torch's order of the gates' rows is i, f, g, o
_ORDER = (0, 1, 3, 2)


@dataclass(frozen=True)
class Quantized:
    """The constants of an LSTM of H units, and its attributes."""

    #: int8 [4·H, I, 1] and [4·H, H, 1]
    weight: np.ndarray
    recurrent: np.ndarray
    #: int32 [4·H] each
    bias: np.ndarray
    multiplier: np.ndarray
    c: int


def sigmoid_table() -> np.ndarray:
    """σ with 14 binary places, int32, for gates around the middle."""
    half = GATE_REACH << GATE_PLACES
    real = np.arange(-half, half) / 2.0**GATE_PLACES
    return np.rint(2.0**SIGMOID_PLACES / (1.0 + np.exp(-real))).astype(np.int32)


def tanh_table(places: int, scale: float) -> tuple[np.ndarray, int]:
    """A·tanh for cells around the middle, int32, and s.

    o·A·tanh / 2^s, where o has 14 binary places, is in steps of ``scale``.
    """
    cut = SIGMOID_PLACES + math.floor(math.log2(I16.hi * scale))
    half = min(_TANH_REACH << places, -I16.lo)
    real = np.arange(-half, half) / 2.0**places
    return np.rint(np.tanh(real) * 2.0 ** (cut - SIGMOID_PLACES) / scale).astype(np.int32), cut


def cell_format(where: str, low: float, high: float) -> ValueInfo:
    """The format of a cell that was observed in [low, high]: 16 bits, and a power of two for a step."""
    peak = max(-low, high, 0.0) * CELL_MARGIN
    places = _MOST_PLACES if peak == 0 else min(_MOST_PLACES, math.floor(math.log2(I16.hi / peak)))
    if places < 0:
        raise CalibrationError(
            where, f"its cell reaches {peak / CELL_MARGIN:.3g}", "check the weights and the features"
        )
    return ValueInfo(I32.name, 2.0**-places, 0, -I16.hi, I16.hi)


def gate_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [4·H, …] of i, f, g and o as the cell has them: those of g are last, and twice."""
    parts = np.split(np.asarray(rows, dtype=np.float64), 4)
    return np.concatenate([parts[k] * (2.0 if k == 2 else 1.0) for k in _ORDER])


def quantize_lstm(ctx: Lowering, node: FloatNode, source: ValueInfo, hidden: ValueInfo) -> Quantized:
    """Choose integer weights, biases and multipliers."""
    a = node.attrs
    weight, recurrent, bias = (gate_rows(a[name]) for name in ("weight", "recurrent", "bias"))
    grid, inputs = ctx.grid(node), weight.shape[1]
    together = None
    if ctx.spec.target == "x86-any" and is_filled(grid) and most(U8.hi) < 2 * grid.limit:
        together = most(U8.hi)
    # neighbours are those of one product: where its inputs are odd in number, the last has none
    alone = inputs % 2 if together is not None else 0
    rows = np.concatenate(
        [weight * source.scale, np.zeros((len(weight), alone)), recurrent * hidden.scale], axis=1
    )
    reach_x, reach_h = (max(v.hi - v.zero_point, v.zero_point - v.lo) for v in (source, hidden))
    for c in range(_LARGEST_SHIFT, -1, -1):
        step = 2.0 ** -(GATE_PLACES + c)
        q, m = quantize_weight(rows, step, grid, together)
        offset = np.rint(bias / (m * step))
        magnitude = np.abs(q.astype(np.int64))
        given = (magnitude[:, :inputs].sum(axis=1) * reach_x + np.abs(offset)) * m
        held = magnitude[:, inputs + alone :].sum(axis=1) * reach_h * m
        if given.max() + held.max() < _ROOM:
            return Quantized(
                np.ascontiguousarray(q[:, :inputs, None]),
                np.ascontiguousarray(q[:, inputs + alone :, None]),
                offset.astype(np.int32),
                m.astype(np.int32),
                c,
            )
    raise CalibrationError(
        node.where or node.out,
        f"its gates may reach {(given.max() + held.max()) * step:.3g}, which no int32 holds",
        "check its weights and the range of its input",
    )


def plan_formats(ctx: Lowering, nodes: list[FloatNode]) -> None:
    """Hidden states lie in (−1, 1), cells in what was observed of them, before and behind a step."""
    for node in nodes:
        where = node.where or node.out
        names = [node.others[0], *node.ins[2:]]
        ends = [ctx.range(name) for name in names]
        ctx.plan_format(node.out, ctx.byte_format(node.out, (-1.0, 1.0)))
        ctx.plan_format(
            node.others[0], cell_format(where, min(lo for lo, _ in ends), max(hi for _, hi in ends))
        )


def lower(ctx: Lowering, node: FloatNode, op: str, **attrs: bool) -> None:
    """Emit a step, whose operands are x, h and c, or a sequence."""
    if ctx.is_logits(node.out):
        raise UnsupportedOperatorError(
            node.where or node.out,
            "an LSTM makes bytes and cannot make the logits",
            "end the network in a convolution or a linear layer",
        )
    x = ctx.narrow(node.ins[0])
    source, hidden = ctx.info(x), ctx.activation(node)
    cell_node = FloatNode(node.op, node.others[0], (), {}, node.where)
    cell = ctx.activation(cell_node)
    if len(node.ins) > 1 and (ctx.info(node.ins[1]), ctx.info(node.ins[2])) != (hidden, cell):
        raise UnsupportedOperatorError(
            node.where or node.out,
            "its states enter in other formats than they leave in",
            "let what leaves the step be what enters the next one",
        )
    made = quantize_lstm(ctx, node, source, hidden)
    places = round(-math.log2(cell.scale))
    tanh, cut = tanh_table(places, hidden.scale)
    found: Attrs = {"zx": source.zero_point, "c": made.c, "places": places, "cell": cell.hi, "cut": cut}
    found |= {"zy": hidden.zero_point, "lo": hidden.lo, "hi": hidden.hi, "type": hidden.type, **attrs}
    grid = ctx.grid(node)
    names = (
        ctx.constant(f"{node.out}:weight", made.weight, grid),
        ctx.constant(f"{node.out}:recurrent", made.recurrent, grid),
        ctx.constant(f"{node.out}:bias", made.bias),
        ctx.constant(f"{node.out}:multiplier", made.multiplier),
        ctx.constant(f"{node.out}:sigmoid", sigmoid_table()),
        ctx.constant(f"{node.out}:tanh", tanh),
    )
    ctx.emit(op, node, (x, *node.ins[1:], *names), **found)
