"""How ONNX Runtime runs an LSTM: matrix products of bytes, then the definition of the cell.

Between both, float32 carries the sums of the gates.  With steps of 2^-γ a sum within the table of σ has
16 + γ bits, 24 at most; any other saturates, as it does in the definition, however it is rounded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from zeroq_asr.integer.backends.base import Backend
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.operators.lstm.cell import Format, scanned, updated
from zeroq_asr.registry import Condition

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym


def _exact_if(i: Instruction, x: Interval, m: Interval, sigmoid: Interval) -> list[Condition]:
    entries, c = len(sigmoid.lo), i.attrs["c"]
    return [
        Condition("the input is unsigned bytes", x.type is U8, x.type.name),
        Condition(
            # the half that rounds takes a bit of its own where nothing is shifted
            "a gate and its half have at most 24 bits: entries of σ · 2^max(γ, 1) ≤ 2^24",
            entries << max(c, 1) <= 1 << 24,
            f"{entries} << {max(c, 1)}",
        ),
        Condition(
            "multipliers are exact in float32: 1 ≤ m < 2^24", m.min >= 1 and m.max < 1 << 24, f"{m.max}"
        ),
    ]


def exact_if_step(i: Instruction, *operands: Interval) -> list[Condition]:
    """Return when floats between the products and the table equal the definition, of one step."""
    return _exact_if(i, operands[0], operands[6], operands[7])


def exact_if_sequence(i: Instruction, *operands: Interval) -> list[Condition]:
    """Return when they do, of a sequence."""
    return _exact_if(i, operands[0], operands[4], operands[5])


def _form(i: Instruction) -> Format:
    a = i.attrs
    return Format(a["c"], a["places"], a["cell"], a["cut"], a["zy"], a["lo"], a["hi"])


def _product(b: Kernels, x: Sym, w: Sym, zero_point: int) -> str:
    """Rows [B, T, I] times weights: int32 [B, T, O]."""
    weight, weight_zero_point = b.matrix(x, w)
    return b.add_node(
        "MatMulInteger", [b.frames_first(x), weight, b.scalar(zero_point, U8), weight_zero_point]
    )


def _contributed(b: Kernels, x: Sym, w: Sym, bias: Sym, zx: int) -> str:
    """What the input gives the gates, int32 [B, T, 4·H], before any multiplier."""
    return b.add_node("Add", [_product(b, x, w, zx), b.vector(bias)])


def _stepped(
    b: Kernels, given: str, h: Sym, c: Sym, r: Sym, m: Sym, sigmoid: Sym, tanh: Sym, form: Format
) -> tuple[Sym, Sym]:
    """h' and c' [B, 1, H] of ``given`` int32 [B, 1, 4·H], h and c."""
    units, entries = r.exact.shape[1], sigmoid.exact.size
    total = b.to_float(b.add_node("Add", [given, _product(b, h, r, form.zy)]))
    scaled = b.node("Mul", [total, b.multiplier(m, form.c)], None)
    # half a step for the rounding; what is no longer negative a Cast floors
    raised = b.node("Add", [scaled, b.float_scalar(entries / 2 + 0.5)], None)
    index = b.to_int32(b.node("Clip", [raised, b.float_scalar(0), b.float_scalar(entries - 1)], None))
    flat = b.add_node("Reshape", [index, b.axes(-1)])
    found = b.add_node("GatherElements", [b.vector(sigmoid), flat], axis=0)
    rows = b.add_node("Reshape", [found, b.axes(-1, 1, 4 * units)])
    bounds = Interval.of(int(sigmoid.exact.min()), int(sigmoid.exact.max()), I32)
    names = b.add_node_of("Split", [rows], 4, axis=2, num_outputs=4)
    i, keep, o, g = (replace(b.tensor(name, I32), interval=bounds) for name in names)
    f = cast("Backend[Sym]", b)
    h, c = updated(f, (i, keep, o, g), b.frames_first(c), tanh, form)
    return replace(h, frames_first=True), replace(c, frames_first=True)


def emit_step(b: Kernels, i: Instruction, ins: list[Sym]) -> tuple[Sym, Sym]:
    """One step."""
    x, h, c, w, r, bias, m, sigmoid, tanh = ins
    given = _contributed(b, x, w, bias, i.attrs["zx"])
    return _stepped(b, given, h, c, r, m, sigmoid, tanh, _form(i))


def emit_sequence(b: Kernels, i: Instruction, ins: list[Sym]) -> tuple[Sym, Sym]:
    """The product with the input of all frames at once, then a scan."""
    x, w, r, bias, m, sigmoid, tanh = ins
    form, f = _form(i), cast("Backend[Sym]", b)
    contributed = replace(b.tensor(_contributed(b, x, w, bias, i.attrs["zx"]), I32), frames_first=True)

    def step(given: Sym, h: Sym, c: Sym) -> tuple[Sym, Sym]:
        hidden, cell = _stepped(b, b.frames_first(given).name, h, c, r, m, sigmoid, tanh, form)
        return b.channels_first(hidden), b.channels_first(cell)

    units = r.exact.shape[1]
    made = scanned(f, b.channels_first(contributed), x, units, step, form, i.attrs["backwards"])
    return made
