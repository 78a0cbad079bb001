"""Mean over the valid frames of each utterance, as squeeze-and-excitation takes it.

With n frames, Σ q_x / n is formed with ``fraction`` binary places by one integer division, then
requantized: y = z_y + (s_x / s_y)·(Σ q_x / n − z_x).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onnx import TensorProto
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Lengths, Real, TimeSum, Tracer
from zeroq_asr.graph.float_graph import Clamp, FloatNode, clamped, valid_frames
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.attributes import BYTE, MULTIPLIER, REQUANTIZATION, whole
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import Case, with_lengths
from zeroq_asr.registry import (
    VALID,
    Attrs,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
)

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.onnx_graph import Sym
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend


def _meaning(x: Tensor, lengths: Tensor, *, clamp: Clamp = None) -> Tensor:
    total = x.where(valid_frames(x, lengths), 0.0).sum(dim=2, keepdim=True)
    return clamped(total / lengths[:, None, None], clamp)


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    # the one frame of a mean broadcasts
    return Shape(operands[0].channels)


# -- capture ---------------------------------------------------------------------------------------

captures = Captures()


@captures("sum", Real)
def _sum(t: Tracer, x: Real, dims: Any = None, keepdim: bool = False, dtype: object = None) -> Any:
    """The sum over frames of what was masked."""
    if not keepdim or dims is None or len(dims) != 1:
        return NotImplemented
    source = t.node(x)
    if dims[0] not in ((1, -2) if x.frames_first else (2, -1)) or source is None or source.op != "mask_time":
        return NotImplemented
    return TimeSum(Real(source.ins[0], x.frames_first), Lengths(source.ins[1]))


@captures("div", TimeSum, Lengths)
def _div(t: Tracer, a: TimeSum, b: Lengths, rounding: object = None) -> Any:
    if t.length_name(b) != t.length_name(a.lengths):
        return NotImplemented
    source = a.source
    return t.emit("mean_time", (source.name, t.length_name(a.lengths)), source.frames_first)


def _spelling(w: Writer, node: FloatNode) -> None:
    source = w.channels(node.ins[0])
    kept = w.add("Where", [w.mask(node.ins[0], node.ins[1], 1), source, w.store(0.0)])
    total = w.add("ReduceSum", [kept, w.axes(2)], keepdims=1)
    count = w.add("Unsqueeze", [w.add("Cast", [node.ins[1]], to=TensorProto.FLOAT), w.axes(1, 2)])
    w.done(node, w.add("Div", [total, count]), False)


# -- integers --------------------------------------------------------------------------------------


def mean_requant(
    f: Backend[V],
    x: V,
    mask: V,
    lengths: V,
    *,
    zx: int,
    fraction: int,
    m: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> V:
    """y [B, C, 1] = clamp(half_even(((u − zx·2^fraction)·m + zy·2^c) / 2^c), lo, hi).

    x uint8 [B, C, T]; mask bool [B, 1, T]; lengths int64 [B] ≥ 1; u = (Σ x·2^fraction + n div 2) div n.
    """
    n = f.per_batch(lengths)
    total = f.reduce(f.select(mask, f.cast(x, I32), 0), "sum", "frames", lengths)
    u = f.quotient(f.add(f.mul(total, 1 << fraction), f.quotient(n, 2)), n)
    # a mean of bytes is a byte: bounds cannot know that n divides its own sum, so say it
    u = f.clamp(u, 0, 255 << fraction)
    v = f.add(f.mul(f.sub(u, zx << fraction), m), zy << c)
    return requantize(f, v, c=c, zero_point=0, lo=lo, hi=hi, type=type)


def _qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    x, mask, lengths = ins
    kept = b.node("Where", [mask, b.real(x, i.ins[0]), b.float_scalar(0.0)], None)
    total = b.node("ReduceSum", [kept, b.axes(2)], None, keepdims=1)
    return b.quantize_to(
        b.node("Div", [total, b.float_per_batch(lengths)], None), i.out, i.attrs["lo"], i.attrs["hi"]
    )


# -- lowering --------------------------------------------------------------------------------------


def _lower(ctx: Lowering, node: FloatNode) -> None:
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


# -- parity ----------------------------------------------------------------------------------------


def _cases() -> Iterator[Case]:
    options: dict[str, Attrs] = {
        "plain": {"zx": 0, "fraction": 8, "m": 256, "c": 16, "zy": 0},
        "zero-points": {"zx": 128, "fraction": 8, "m": 300, "c": 16, "zy": 100},
        "zero-point-255": {"zx": 255, "fraction": 8, "m": 200, "c": 16, "zy": 255},
        "ties": {"zx": 128, "fraction": 0, "m": 1, "c": 1, "zy": 128},
        "ties-of-the-mean": {"zx": 10, "fraction": 1, "m": 1, "c": 2, "zy": 10},
        "no-fraction": {"zx": 5, "fraction": 0, "m": 1 << 16, "c": 16, "zy": 5},
        "largest-multiplier": {"zx": 0, "fraction": 8, "m": 1 << 13, "c": 16, "zy": 0},
        "4-bits": {"zx": 9, "fraction": 8, "m": 16, "c": 16, "zy": 3, "hi": 15},
        "relu": {"zx": 128, "fraction": 8, "m": 500, "c": 16, "zy": 128, "lo": 128},
        "signed-16": {
            "zx": 128,
            "fraction": 8,
            "m": 4000,
            "c": 12,
            "zy": 0,
            "lo": -32768,
            "hi": 32767,
            "type": "int32",
        },
    }
    for name, given in options.items():
        attrs = {"lo": 0, "hi": 255, "type": "uint8", **given}
        yield Case("mean_requant", name, attrs, ("x", "mask", "lengths"), with_lengths(zero=given["zx"]))


MEAN_REQUANT = IntegerOperator(
    "mean_requant",
    mean_requant,
    {**REQUANTIZATION, "zx": BYTE, "fraction": whole(0, 16, "0 ≤ fraction ≤ 16"), "m": MULTIPLIER},
    zero_points={"zx": 0},
    frames=VALID,
    kernels={"qdq": Kernel(_qdq)},
    mask=(1, 2),
    # the mean has 8 binary places, its ratio 16
    tolerance={"mean_requant": 0.5 + 0.02},
    cases=_cases,
)

MEAN_TIME = register(
    Operator(
        "mean_time",
        _meaning,
        captures=tuple(captures),
        shape=_shape,
        traits=Traits(takes_clamp=True, averages=True),
        spelling=_spelling,
        lower=_lower,
        integers=(MEAN_REQUANT,),
        # a mean spreads over all frames, so its own unseen frames hide nothing
        unseen=lambda node, operand, result: {node.ins[1]},
    )
)
