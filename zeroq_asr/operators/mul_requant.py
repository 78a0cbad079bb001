"""Product of two activations and its requantization.

y = z_y + (s_a·s_b / s_y)·(q_a − z_a)(q_b − z_b), the ratio rounded to m / 2^c.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.operators import Condition, fused, integer_op, lowers, qdq
from zeroq_asr.operators.mul_wide_requant import lower_product, mul_wide_requant

#: A product of two centred bytes has 16 bits, the multiplier gets 13: their product fits int32.
_LARGEST_MULTIPLIER = 1 << 13


@integer_op
def mul_requant(
    f: Any, a: Any, b: Any, *, za: int, zb: int, m: int, c: int, zy: int, lo: int, hi: int, type: str
) -> Any:
    """y = clamp(half_even(((a − za)(b − zb)·m + zy·2^c) / 2^c), lo, hi).

    a uint8 [B, C, T], b uint8 of a shape that broadcasts.  The zero point is inside the rounding.
    """
    product = f.mul(f.sub(f.cast(a, I32), za), f.sub(f.cast(b, I32), zb))
    return requantize(f, f.add(f.mul(product, m), zy << c), c=c, zero_point=0, lo=lo, hi=hi, type=type)


def _exact_if(i: Any, a: Any, b: Any) -> list[Condition]:
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


@fused(mul_requant, exact_if=_exact_if)
def _qlinear_mul(b: Any, i: Any, ins: list[Any]) -> Any:
    a = i.attrs
    ins = b.alike(ins)
    operands = [
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


@qdq(mul_wide_requant)
@qdq(mul_requant)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    product = b.node("Mul", [b.real(x, name) for x, name in zip(ins, i.ins, strict=True)], None)
    return b.quantize_to(product, i.out, i.attrs["lo"], i.attrs["hi"])


@lowers("mul")
def _lower(ctx: Any, node: Any) -> None:
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
