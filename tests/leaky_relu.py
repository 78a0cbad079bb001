"""An operator from outside of the package: leaky ReLU, y = x for x > 0 and slope·x below.

This one file is all that it takes; registering the record is all that a user does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.kinds import Real
from zeroq_asr.capture.tracer import Tracer
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.attributes import BYTE, MULTIPLIER, REQUANTIZATION, whole
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import Case, edge_bytes
from zeroq_asr.registry import Condition, IntegerOperator, Kernel, Operator, Traits

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym

#: binary places of both ratios, and what they may be at most: 255·(2^8 + 2^8)·2^7 is below 2^24
_PLACES, _LARGEST = 7, 1 << 15


def _meaning(x: Tensor, *, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


captures = Captures()


@captures("leaky_relu", Real)
def _captured(t: Tracer, x: Real, slope: float = 0.01) -> Any:
    if slope <= 0:
        return NotImplemented
    return t.emit("leaky_relu", (x.name,), x.frames_first, slope=float(slope))


def _spelling(w: Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    w.done(node, w.add("LeakyRelu", [x], alpha=node.attrs["slope"]), together)


def leaky_requant(
    f: Backend[V], x: V, *, zx: int, m: int, n: int, c: int, zy: int, lo: int, hi: int, type: str
) -> V:
    """y = clamp(half_even((max(d, 0)·m + min(d, 0)·n) / 2^c) + zy, lo, hi) with d = x − zx.

    x uint8 of any shape; 1 ≤ m, n.
    """
    d = f.sub(f.cast(x, I32), zx)
    v = f.add(f.mul(f.clamp(d, 0, 255), m), f.mul(f.clamp(d, -255, 0), n))
    return requantize(f, v, c=c, zero_point=zy, lo=lo, hi=hi, type=type)


def _exact_if(i: Instruction, x: Interval) -> list[Condition]:
    a = i.attrs
    reach = max((x.max - a["zx"]) * a["m"], (a["zx"] - x.min) * a["n"])
    return [
        Condition("the input is unsigned bytes", x.type is U8),
        Condition("max|d|·m ≤ 2^24", reach <= 1 << 24, f"{reach}"),
    ]


def _carried(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    a = i.attrs
    d = b.node("Sub", [b.carry(ins[0]), b.float_scalar(a["zx"])], None)
    above = b.node("Mul", [b.node("Relu", [d], None), b.float_scalar(a["m"] / 2.0 ** a["c"])], None)
    below = b.node("Min", [d, b.float_scalar(0.0)], None)
    y = b.node("Add", [above, b.node("Mul", [below, b.float_scalar(a["n"] / 2.0 ** a["c"])], None)], None)
    return b.like(b.quantized(y, i), ins[0])


def _lower(ctx: Lowering, node: FloatNode) -> None:
    source, target = ctx.info(node.ins[0]), ctx.activation(node)
    lo, hi = ctx.clamp(target, None)
    ratio = source.scale / target.scale
    m, n = (min(max(1, round(r * 2**_PLACES)), _LARGEST) for r in (ratio, ratio * node.attrs["slope"]))
    attrs = {"zx": source.zero_point, "m": m, "n": n, "c": _PLACES}
    ctx.emit("leaky_requant", node, node.ins, **attrs, zy=target.zero_point, lo=lo, hi=hi, type=target.type)


def _cases() -> Iterator[Case]:
    inputs = [{"x": edge_bytes(shape, seed, 128)} for seed, shape in enumerate(((1, 2, 3), (3, 4, 17)))]
    inputs.append({"x": np.arange(256, dtype=np.uint8).reshape(1, 4, 64)})
    for name, zx, m, n, c in (("plain", 128, 128, 3, 7), ("ties", 5, 1, 1, 1), ("steep", 250, 999, 100, 7)):
        attrs = {"zx": zx, "m": m, "n": n, "c": c, "zy": 60, "lo": 0, "hi": 255, "type": "uint8"}
        yield Case("leaky_requant", name, attrs, ("x",), inputs, kernel="leaky ReLU in exact floats")


LEAKY_RELU = Operator(
    "leaky_relu",
    _meaning,
    captures=tuple(captures),
    traits=Traits(framewise=True, light=True),
    spelling=_spelling,
    lower=_lower,
    integers=(
        IntegerOperator(
            "leaky_requant",
            leaky_requant,
            {**REQUANTIZATION, "zx": BYTE, "m": MULTIPLIER, "n": MULTIPLIER, "c": whole(0, 15, "0 ≤ c ≤ 15")},
            kernels={"fused": Kernel(_carried, _exact_if, "leaky ReLU in exact floats")},
            axis_free=True,
            # both ratios have 7 binary places, for 255 steps
            tolerance={"leaky_requant": 0.5 + 255 / 2**8},
            cases=_cases,
        ),
    ),
)
