"""Product of a 16-bit value and a byte, and its requantization.

y = z_y + (s_a·s_b / s_y)·q_a·(q_b − z_b).  The product has 24 bits, the low 8 of which are rounded away
first: what is left has 16, as that of two bytes, and the ratio is rounded to 2^-8·m / 2^c.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.attributes import BYTE, MULTIPLIER, REQUANTIZATION
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.dyadic import requantize, shift_half_up
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I16, I32, U8
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.add import check_joined
from zeroq_asr.operators.multiply.cases import mul_wide_cases
from zeroq_asr.registry import (
    OWN,
    Condition,
    IntegerOperator,
    Kernel,
)

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend

#: bits of a product that are rounded away
_CUT = 8
#: |a·(b − zb)| < 2^15·255 leaves 2^15 after the cut; times this, 28 bits
_LARGEST_MULTIPLIER = 1 << 13


def mul_wide_requant(
    f: Backend[V], a: V, b: V, *, zb: int, m: int, c: int, zy: int, lo: int, hi: int, type: str
) -> V:
    """y = clamp(half_even((half_up(a·(b − zb) / 2^8)·m + zy·2^c) / 2^c), lo, hi).

    a int32 [B, C, T] in [−2^15, 2^15), b uint8 of a shape that broadcasts.  The zero point is inside the
    rounding.
    """
    product = shift_half_up(f, f.mul(a, f.sub(f.cast(b, I32), zb)), _CUT)
    return requantize(f, f.add(f.mul(product, m), zy << c), c=c, zero_point=0, lo=lo, hi=hi, type=type)


def _exact_if(i: Instruction, a: Interval, b: Interval) -> list[Condition]:
    attrs = i.attrs
    reach = significant(attrs["lo"], attrs["hi"], attrs["zy"])
    return [
        Condition("16 bits times bytes", b.type is U8 and a.type is I32 and I16.holds(a.min, a.max)),
        Condition(
            "p·m/2^c + z has at most 24 significant bits below saturation: (max|y| + |z| + 1)·2^c ≤ 2^24",
            reach << attrs["c"] <= 1 << 24,
            f"{reach} << {attrs['c']}",
        ),
        Condition("the multiplier is exact in float32: 1 ≤ m < 2^24", 1 <= attrs["m"] < 1 << 24),
    ]


def _carried(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    a = i.attrs
    ins = b.alike(ins)
    factor = b.carry(ins[1])
    if a["zb"]:
        factor = b.node("Sub", [factor, b.float_scalar(a["zb"])], None)
    product = b.node("Mul", [b.carry(ins[0]), factor], None)
    scaled = b.node("Mul", [product, b.float_scalar(2.0**-_CUT)], None)
    cut = b.node("Floor", [b.node("Add", [scaled, b.float_scalar(0.5)], None)], None)
    y = b.node("Mul", [cut, b.float_scalar(a["m"] / 2.0 ** a["c"])], None)
    if a["zy"]:
        y = b.node("Add", [y, b.float_scalar(a["zy"])], None)
    return replace(b.rounded(y, i), frames_first=ins[0].frames_first)


def emit_qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    """Multiply dequantized operands."""
    product = b.node("Mul", [b.real(x, name) for x, name in zip(ins, i.ins, strict=True)], None)
    return b.quantize_to(product, i.out, i.attrs["lo"], i.attrs["hi"])


def lower_product(ctx: Lowering, node: FloatNode, wide: str, gate: str) -> None:
    """Emit ``node`` as the product of a 16-bit value and a byte.

    A result of 16 bits can give its scale way, so that the ratio is m / 2^c exactly: the few bits of a
    multiplier would show in it.
    """
    left, right, target = ctx.info(wide), ctx.info(gate), ctx.activation(node)
    lo, hi = ctx.clamp(target, node.attrs.get("clamp"))
    ratio = left.scale * right.scale / target.scale * 2.0**_CUT
    c = 15
    while c > 0 and (
        ratio * 2**c > _LARGEST_MULTIPLIER or significant(lo, hi, target.zero_point) << c > 1 << 24
    ):
        c -= 1
    m = max(1, round(ratio * 2**c))
    if target.type != U8.name and ratio * 2**c >= 1:
        m = int(ratio * 2**c)
        ctx.alias(node, replace(target, scale=target.scale * ratio * 2**c / m))
    ctx.emit(
        "mul_wide_requant",
        node,
        (wide, gate),
        zb=right.zero_point,
        m=m,
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )


def significant(lo: int, hi: int, zero_point: int) -> int:
    """Largest magnitude before saturation that a float32 must hold, in units of the result."""
    return max(abs(lo), abs(hi)) + abs(zero_point) + 1


MUL_WIDE_REQUANT = IntegerOperator(
    "mul_wide_requant",
    mul_wide_requant,
    {**REQUANTIZATION, "zb": BYTE, "m": MULTIPLIER},
    zero_points={"zb": 1},
    frames=OWN,
    check=check_joined,
    kernels={
        "fused": Kernel(_carried, _exact_if, "product of 16 bits in exact floats"),
        "qdq": Kernel(emit_qdq),
    },
    # half a unit of a product cut to 16 bits, which is a whole one of an output of 16 bits
    tolerance={"mul_wide_requant": 0.5 + 0.5},
    cases=mul_wide_cases,
)
