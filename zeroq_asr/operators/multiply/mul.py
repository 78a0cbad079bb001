"""Product of two activations and its requantization.

y = z_y + (s_a·s_b / s_y)·(q_a − z_a)(q_b − z_b), the ratio rounded to m / 2^c.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Real, Tracer
from zeroq_asr.graph.float_graph import Clamp, FloatNode, clamped
from zeroq_asr.graph.linear import is_linear
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.attributes import BYTE, MULTIPLIER, REQUANTIZATION
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.add import check_joined
from zeroq_asr.operators.multiply.cases import mul_cases
from zeroq_asr.operators.multiply.wide import MUL_WIDE_REQUANT, emit_qdq, lower_product
from zeroq_asr.registry import (
    NAMED,
    OWN,
    Condition,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
)

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym

#: A product of two centred bytes has 16 bits, the multiplier gets 13: their product fits int32.
_LARGEST_MULTIPLIER = 1 << 13


def _meaning(a: Tensor, b: Tensor, *, clamp: Clamp = None) -> Tensor:
    return clamped(a * b, clamp)


# -- capture ---------------------------------------------------------------------------------------

captures = Captures()


@captures("mul", Real, Real)
def _mul(t: Tracer, a: Real, b: Real) -> Any:
    if a.frames_first != b.frames_first:
        return NotImplemented
    return t.emit("mul", (a.name, b.name), a.frames_first)


@captures("glu", Real)
def _glu(t: Tracer, x: Real, dim: int = -1) -> Any:
    """a · sigmoid(b) of the two halves of the channels, each made by its own rows where it can be."""
    source = t.node(x)
    if dim % 3 != (2 if x.frames_first else 1) or source is None or not is_linear(source):
        return NotImplemented
    half = source.attrs["weight"].shape[0] // 2
    parts = []
    for rows in (slice(0, half), slice(half, None)):
        own = {"weight": source.attrs["weight"][rows], "bias": source.attrs["bias"][rows]}
        parts.append(t.emit(source.op, source.ins, x.frames_first, **{**source.attrs, **own}))
    gate = t.emit("sigmoid", (parts[1].name,), x.frames_first)
    return t.emit("mul", (parts[0].name, gate.name), x.frames_first)


def _spelling(w: Writer, node: FloatNode) -> None:
    operands, together = w.forms(node)
    w.done(node, w.add("Mul", operands), together)


# -- integers --------------------------------------------------------------------------------------


def mul_requant(
    f: Backend[V], a: V, b: V, *, za: int, zb: int, m: int, c: int, zy: int, lo: int, hi: int, type: str
) -> V:
    """y = clamp(half_even(((a − za)(b − zb)·m + zy·2^c) / 2^c), lo, hi).

    a uint8 [B, C, T], b uint8 of a shape that broadcasts.  The zero point is inside the rounding.
    """
    product = f.mul(f.sub(f.cast(a, I32), za), f.sub(f.cast(b, I32), zb))
    return requantize(f, f.add(f.mul(product, m), zy << c), c=c, zero_point=0, lo=lo, hi=hi, type=type)


def _exact_if(i: Instruction, a: Interval, b: Interval) -> list[Condition]:
    return [
        Condition("the inputs are unsigned bytes", a.type is U8 and b.type is U8),
        Condition(
            "the output is unsigned and at most 8 bits",
            i.attrs["type"] == U8.name and U8.holds(i.attrs["lo"], i.attrs["hi"]),
            i.attrs["type"],
        ),
        Condition("p·m/2^c + z has at most 24 significant bits below saturation: c ≤ 15", i.attrs["c"] <= 15),
        Condition("the multiplier is exact in float32: 1 ≤ m < 2^24", 1 <= i.attrs["m"] < 1 << 24),
    ]


def _qlinear_mul(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    a = i.attrs
    ins = b.alike(ins)
    operands: list[Sym | str] = [
        ins[0],
        b.float_scalar(1.0),
        b.scalar(a["za"], U8),
        ins[1],
        b.float_scalar(a["m"] / 2.0 ** a["c"]),
        b.scalar(a["zb"], U8),
        b.float_scalar(1.0),
        b.scalar(a["zy"], U8),
    ]
    y = b.node("QLinearMul", operands, U8, domain="com.microsoft")
    return replace(b.clip_u8(y, a["lo"], a["hi"]), frames_first=ins[0].frames_first)


# -- lowering --------------------------------------------------------------------------------------


def _lower(ctx: Lowering, node: FloatNode) -> None:
    wide = [name for name in node.ins if ctx.info(name).type != U8.name]
    if wide:
        gate = next((name for name in node.ins if name != wide[0]), wide[0])
        lower_product(ctx, node, wide[0], ctx.narrow(gate))
        return
    left, right = (ctx.info(name) for name in node.ins)
    target = ctx.activation(node)
    lo, hi = ctx.clamp(target, node.attrs.get("clamp"))
    ratio = left.scale * right.scale / target.scale
    c = 15
    while c > 0 and (round(ratio * 2**c) > _LARGEST_MULTIPLIER or max(abs(lo), hi) << c > I32.hi // 4):
        c -= 1
    ctx.emit(
        "mul_requant",
        node,
        node.ins,
        za=left.zero_point,
        zb=right.zero_point,
        m=max(1, round(ratio * 2**c)),
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )


MUL_REQUANT = IntegerOperator(
    "mul_requant",
    mul_requant,
    {**REQUANTIZATION, "za": BYTE, "zb": BYTE, "m": MULTIPLIER},
    zero_points={"za": 0, "zb": 1},
    frames=OWN,
    check=check_joined,
    kernels={"fused": Kernel(_qlinear_mul, _exact_if), "qdq": Kernel(emit_qdq)},
    tolerance={"mul_requant": 0.5 + 255 * 255 * 0.5 / 2**15},
    cases=mul_cases,
)

MUL = register(
    Operator(
        "mul",
        _meaning,
        captures=tuple(captures),
        traits=Traits(
            framewise=True,
            takes_clamp=True,
            reads_wide=NAMED,
            makes_wide=NAMED,
            light=True,
            keeps_channels=0,
        ),
        spelling=_spelling,
        lower=_lower,
        integers=(MUL_REQUANT, MUL_WIDE_REQUANT),
    )
)
