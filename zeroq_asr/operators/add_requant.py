"""Sum of activations, each with its own scale, and its requantization.

y = z_y + Σ (s_i / s_y)·(q_i − z_i).  Scales of activations are given, so each ratio is rounded to
m_i / 2^c; the integer program is the definition.  With one operand it is a plain requantization,
with a clamp it is a ReLU or a Hardtanh.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zeroq_asr.integer.dyadic import MAX_SHIFT, requantize
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.operators import Condition, fused, integer_op, lowers, qdq


@integer_op
def add_requant(
    f: Any, *xs: Any, zx: tuple[int, ...], m: tuple[int, ...], c: int, zy: int, lo: int, hi: int, type: str
) -> Any:
    """y = clamp(half_even((Σ (x_i − zx_i)·m_i + zy·2^c) / 2^c), lo, hi), x_i uint8 [B, C, T] or int32.

    The zero point is inside the rounding, as in ONNX Runtime's QLinearAdd.
    """
    total = None
    for x, z, factor in zip(xs, zx, m, strict=True):
        term = f.mul(f.sub(f.cast(x, I32), z), factor)
        total = term if total is None else f.add(total, term)
    return requantize(f, f.add(total, zy << c), c=c, zero_point=0, lo=lo, hi=hi, type=type)


def significant(m: tuple[int, ...], c: int) -> int:
    """Largest magnitude, in units of 2^-c, that a float32 sum of the products can meet."""
    return 255 * (sum(abs(factor) for factor in m) + (1 << c))


def _exact_if(i: Any, *xs: Any) -> list[Condition]:
    a = i.attrs
    if _bytes(i, xs):
        reach = significant(a["m"], a["c"])
        return [Condition("bytes: 255·(Σm + 2^c) ≤ 2^24", reach <= 1 << 24, f"{reach}")]
    given = list(zip(xs, a["zx"], a["m"], strict=True))
    reach = sum(max(abs(x.min - z), abs(x.max - z)) * m for x, z, m in given)
    reach += max(abs(a["zy"]), abs(a["lo"]), abs(a["hi"])) << a["c"]
    # zero points are taken away last: what is added up before is larger
    parts = sum(max(abs(x.min), abs(x.max), z) * m for x, z, m in given)
    return [
        Condition("Σ|x − z_x|·m + max|y|·2^c ≤ 2^24", reach <= 1 << 24, f"{reach}"),
        Condition("Σ max(|x|, z_x)·m ≤ 2^24", parts <= 1 << 24, f"{parts}"),
    ]


def _bytes(i: Any, xs: Any) -> bool:
    return i.attrs["type"] == U8.name and all(x.type is U8 for x in xs)


@fused(add_requant, exact_if=_exact_if)
def _qlinear_add(b: Any, i: Any, ins: list[Any]) -> Any:
    a = i.attrs
    ins = b.alike(ins)
    if len(ins) == 2 and _bytes(i, [x.interval for x in ins]):
        operands: list[Any] = []
        for x, z, factor in zip(ins, a["zx"], a["m"], strict=True):
            operands += [x, b.float_scalar(factor / 2.0 ** a["c"]), b.scalar(z, U8)]
        operands += [b.float_scalar(1.0), b.scalar(a["zy"], U8)]
        y = b.node("QLinearAdd", operands, U8, domain="com.microsoft")
        return replace(b.clip_u8(y, a["lo"], a["hi"]), frames_first=ins[0].frames_first)
    b.called("sum in exact floats")
    # any other: float32 carries the same exact dyadics, and what rounds it rounds half to even
    total = None
    for x, factor in zip(ins, a["m"], strict=True):
        term = b.carry(x)
        if factor != 1 << a["c"]:
            term = b.node("Mul", [term, b.float_scalar(factor / 2.0 ** a["c"])], None)
        total = term if total is None else b.node("Add", [total, term], None)
    constant = -sum(z * factor for z, factor in zip(a["zx"], a["m"], strict=True)) / 2.0 ** a["c"]
    # the zero point inside the rounding
    constant += a["zy"]
    if constant:
        total = b.node("Add", [total, b.float_scalar(constant)], None)
    return replace(b.rounded(total, i), frames_first=ins[0].frames_first)


@qdq(add_requant)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    total = b.real(ins[0], i.ins[0])
    for x, name in zip(ins[1:], i.ins[1:], strict=True):
        total = b.node("Add", [total, b.real(x, name)], None)
    return b.quantize_to(total, i.out, i.attrs["lo"], i.attrs["hi"])


@lowers("add", "relu", "clamp")
def _lower(ctx: Any, node: Any) -> None:
    sources, target = [ctx.info(name) for name in node.ins], ctx.activation(node)
    lo, hi = ctx.clamp(target, node.attrs.get("clamp"))
    ratios = [s.scale / target.scale for s in sources]
    narrow = U8.holds(lo, hi) and all(s.type == U8.name for s in sources)
    reaches = [max(s.hi - s.zero_point, s.zero_point - s.lo) for s in sources]
    for c in range(MAX_SHIFT, -1, -1):
        m = tuple(max(1, round(ratio * 2**c)) for ratio in ratios)
        most = sum(factor * reach for factor, reach in zip(m, reaches, strict=True))
        fits = significant(m, c) <= 1 << 24 if narrow else most <= I32.hi // 4
        if fits and (max(abs(lo), hi) << c) <= I32.hi // 4:
            break
    # the fewer bits, the more a float32 can carry
    while c > 0 and all(factor % 2 == 0 for factor in m):
        m, c = tuple(factor // 2 for factor in m), c - 1
    ctx.emit(
        "add_requant",
        node,
        node.ins,
        zx=tuple(s.zero_point for s in sources),
        m=m,
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )
