"""Sum of activations, each with its own scale, and its requantization.

y = z_y + Σ (s_i / s_y)·(q_i − z_i).  Scales of activations are given, so each ratio is rounded to
m_i / 2^c; the integer program is the definition.  With one operand it is a plain requantization,
with a clamp it is a ReLU or a Hardtanh.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Image, Real, Tracer
from zeroq_asr.graph.float_graph import Clamp, FloatNode, clamped
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.attributes import BYTE, MULTIPLIER, REQUANTIZATION
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.dyadic import MAX_SHIFT, requantize
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import Case, edge_bytes, edge_words, pairs
from zeroq_asr.registry import (
    ALWAYS,
    EVERY,
    NAMED,
    OWN,
    Attrs,
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
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend


def _meaning(*xs: Tensor, clamp: Clamp = None) -> Tensor:
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return clamped(total, clamp)


# -- capture ---------------------------------------------------------------------------------------

captures, clamps = Captures(), Captures()


@captures("add", Real, Real)
def _add(t: Tracer, a: Real, b: Real, alpha: object = 1) -> Any:
    if alpha != 1 or a.frames_first != b.frames_first:
        return NotImplemented
    return t.emit("add", (a.name, b.name), a.frames_first)


@clamps("clamp", Real)
def _clamp(t: Tracer, x: Real, lo: Any = None, hi: Any = None) -> Any:
    if not all(isinstance(b, (int, float, type(None))) for b in (lo, hi)):
        return NotImplemented
    low, high = (None if b is None or math.isinf(b) else float(b) for b in (lo, hi))
    if any(b is not None and math.isnan(b) for b in (lo, hi)) or lo == math.inf or hi == -math.inf:
        return NotImplemented
    return x if low is high is None else t.emit("clamp", (x.name,), x.frames_first, clamp=(low, high))


@clamps("relu", Real)
def _relu(t: Tracer, x: Real) -> Any:
    return _clamp(t, x, 0.0, None)


@clamps("relu6", Real)
def _relu6(t: Tracer, x: Real) -> Any:
    return _clamp(t, x, 0.0, 6.0)


@clamps("relu", Image)
def _relu_of_image(t: Tracer, x: Image) -> Any:
    return replace(x, name=t.emit("clamp", (x.name,), clamp=(0.0, None)).name)


def _spelling(w: Writer, node: FloatNode) -> None:
    (total, *rest), together = w.forms(node)
    for operand in rest:
        total = w.add("Add", [total, operand])
    w.done(node, total, together)


# -- integers --------------------------------------------------------------------------------------


def add_requant(
    f: Backend[V],
    *xs: V,
    zx: tuple[int, ...],
    m: tuple[int, ...],
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> V:
    """y = clamp(half_even((Σ (x_i − zx_i)·m_i + zy·2^c) / 2^c), lo, hi), x_i uint8 [B, C, T] or int32.

    The zero point is inside the rounding, as in ONNX Runtime's QLinearAdd.
    """
    total = None
    for x, z, factor in zip(xs, zx, m, strict=True):
        term = f.mul(f.sub(f.cast(x, I32), z), factor)
        total = term if total is None else f.add(total, term)
    assert total is not None  # there is one operand or more
    return requantize(f, f.add(total, zy << c), c=c, zero_point=0, lo=lo, hi=hi, type=type)


def significant(m: tuple[int, ...], c: int) -> int:
    """Largest magnitude, in units of 2^-c, that a float32 sum of the products can meet."""
    return 255 * (sum(abs(factor) for factor in m) + (1 << c))


def _exact_if(i: Instruction, *xs: Interval) -> list[Condition]:
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


def _bytes(i: Instruction, xs: tuple[Interval, ...]) -> bool:
    return i.attrs["type"] == U8.name and all(x.type is U8 for x in xs)


def _qlinear_add(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    a = i.attrs
    ins = b.alike(ins)
    if len(ins) == 2 and _bytes(i, tuple(x.interval for x in ins)):
        operands: list[Sym | str] = []
        for x, z, factor in zip(ins, a["zx"], a["m"], strict=True):
            operands += [x, b.float_scalar(factor / 2.0 ** a["c"]), b.scalar(z, U8)]
        operands += [b.float_scalar(1.0), b.scalar(a["zy"], U8)]
        y = b.node("QLinearAdd", operands, U8, domain="com.microsoft")
        return replace(b.clip_u8(y, a["lo"], a["hi"]), frames_first=ins[0].frames_first)
    b.called("sum in exact floats")
    # any other: float32 carries the same exact dyadics, and what rounds it rounds half to even
    total = ""
    for x, factor in zip(ins, a["m"], strict=True):
        term = b.carry(x)
        if factor != 1 << a["c"]:
            term = b.node("Mul", [term, b.float_scalar(factor / 2.0 ** a["c"])], None)
        total = b.node("Add", [total, term], None) if total else term
    constant = -sum(z * factor for z, factor in zip(a["zx"], a["m"], strict=True)) / 2.0 ** a["c"]
    # the zero point inside the rounding
    constant += a["zy"]
    if constant:
        total = b.node("Add", [total, b.float_scalar(constant)], None)
    return replace(b.rounded(total, i), frames_first=ins[0].frames_first)


def _qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    total = b.real(ins[0], i.ins[0])
    for x, name in zip(ins[1:], i.ins[1:], strict=True):
        total = b.node("Add", [total, b.real(x, name)], None)
    return b.quantize_to(total, i.out, i.attrs["lo"], i.attrs["hi"])


def _check(view: Checked) -> None:
    same = len(view.instruction.ins) == len(view.attrs["zx"]) == len(view.attrs["m"])
    view.require(same, "has as many zero points and multipliers as operands")
    check_joined(view)


def check_joined(view: Checked) -> None:
    """Require values of as many channels, or of one, which broadcasts."""
    widest = max(view.operands)
    view.require({*view.operands} <= {1, widest}, f"joins values of {view.operands} channels")


# -- lowering --------------------------------------------------------------------------------------


def _lower(ctx: Lowering, node: FloatNode) -> None:
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


# -- parity ----------------------------------------------------------------------------------------

#: what additions that are not of two bytes are called
SUM = "sum in exact floats"


def add_case(
    name: str,
    m: tuple[int, ...],
    *,
    c: int = 13,
    zx: tuple[int, ...] | None = None,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    spelled: str | None = None,
    names: tuple[str, ...] | None = None,
    bounds: dict[str, tuple[int, int]] | None = None,
) -> Case:
    """``bounds``: operands that are no whole bytes; below 0 or above 255, int32."""
    zx = zx or (128, 0, 255, 17, 200)[: len(m)]
    names = names or tuple("abcde"[: len(m)])
    distinct = sorted(set(names))
    bounds = bounds or {}

    def operand(name: str, shape: tuple[int, ...], seed: int, zero: int) -> np.ndarray:
        low, high = bounds.get(name, (0, 255))
        if low >= 0 and high <= 255:
            return np.maximum(edge_bytes(shape, seed, zero, high), np.uint8(low))
        return edge_words(shape, seed, low, high)

    inputs = [
        {n: operand(n, shape, i + 10 * len(m), zx[i]) for i, n in enumerate(distinct)}
        for shape in ((1, 3, 5), (2, 4, 33), (3, 1, 1))
    ]
    if distinct == ["a", "b"] and not bounds:
        inputs.append(pairs())
    attrs = {"zx": zx, "m": m, "c": c, "zy": zy, "lo": lo, "hi": hi, "type": kind}
    if spelled is None:
        spelled = "QLinearAdd" if len(m) == 2 else SUM
    return Case("add_requant", name, attrs, names, inputs, kernel=spelled, bounds=bounds)


def wide_additions() -> Iterator[Case]:
    """Sums of 16-bit values, which a float32 carries up to 2^24 units of 2^-c."""
    words = (-32768, 32767)
    wide: Attrs = {"zy": 0, "lo": words[0], "hi": words[1], "kind": "int32"}
    both = {"a": words, "b": words}
    for name, m, c in (("equal-scales", (1, 1), 0), ("unequal-scales", (129, 250), 7)):
        yield add_case(f"wide-{name}", m, c=c, zx=(0, 0), bounds=both, spelled=SUM, **wide)
    # Σ 32768·m + 32768·2^c = 2^24 is the last sum that is exact
    yield add_case("wide-last-exact", (200, 184), c=7, zx=(0, 0), bounds=both, spelled=SUM, **wide)
    yield add_case(
        "wide-first-inexact", (200, 185), c=7, zx=(0, 0), bounds=both, spelled="primitives", **wide
    )
    yield add_case("wide-ties", (1, 1), c=1, zx=(0, 0), bounds=both, spelled=SUM, **wide)
    yield add_case("wide-ties-odd", (3, 1), c=2, zx=(0, 0), bounds=both, spelled=SUM, **wide)
    yield add_case(
        "wide-same-twice",
        (77, 5),
        c=6,
        zx=(0, 0),
        names=("a", "a"),
        bounds={"a": words},
        spelled=SUM,
        **wide,
    )
    yield add_case("wide-one", (177,), c=8, zx=(0,), bounds={"a": words}, spelled=SUM, **wide)
    yield add_case(
        "wide-three",
        (50, 60, 70),
        c=6,
        zx=(0, 0, 0),
        bounds={**both, "c": (-9000, 9000)},
        spelled=SUM,
        **wide,
    )
    yield add_case(
        "wide-narrow-range",
        (1, 1),
        c=0,
        zx=(0, 0),
        zy=0,
        lo=-100,
        hi=99,
        kind="int32",
        bounds=both,
        spelled=SUM,
    )
    yield add_case(
        "wide-zero-points",
        (10, 11),
        c=4,
        zx=(7, 255),
        zy=99,
        lo=-32768,
        hi=32767,
        kind="int32",
        bounds=both,
        spelled=SUM,
    )
    for z in (0, 128, 255):
        mixed = {"a": words}
        yield add_case(f"byte-and-wide-{z}", (1, 60), c=0, zx=(0, z), bounds=mixed, spelled=SUM, **wide)
        yield add_case(
            f"byte-and-wide-shifted-{z}", (90, 7001), c=6, zx=(0, z), bounds=mixed, spelled=SUM, **wide
        )
        yield add_case(f"wide-to-bytes-{z}", (37, 41), c=8, zx=(0, 0), zy=z, bounds=both, spelled=SUM)
        yield add_case(
            f"wide-and-byte-to-byte-{z}",
            (1, 200),
            c=8,
            zx=(0, z),
            zy=z,
            bounds=mixed,
            spelled=SUM,
        )
    yield add_case("wide-to-4-bits", (1,), c=11, zx=(0,), zy=7, hi=15, bounds={"a": words}, spelled=SUM)
    # (x − z)·m stays below 2^24 where x·m does not, and a tie is missed
    for name, factor, spelled in (("exact", 65281, SUM), ("inexact", 129969, "primitives")):
        yield add_case(
            f"products-of-large-bytes-{name}",
            (factor,),
            c=8,
            zx=(200,),
            zy=0,
            lo=-32768,
            hi=32767,
            kind="int32",
            bounds={"a": (150, 255)},
            spelled=spelled,
        )


def _cases() -> Iterator[Case]:
    yield add_case("one", (5000,))
    yield add_case("one-identity", (1 << 13,), zx=(7,), zy=7)
    yield add_case("one-ties", (1,), c=1, zx=(128,))
    yield add_case("one-relu", (9000,), lo=128, zx=(100,))
    yield add_case("two", (8000, 7001))
    yield add_case("two-largest-exact", (1 << 13, (1 << 16) + 256 + 1 - (1 << 14)), zx=(0, 255))
    yield add_case("two-c14", (1 << 14, 1 << 14), c=14, zx=(255, 0), zy=255)
    yield add_case("two-ties", (1, 1), c=1, zx=(128, 128))
    yield add_case("two-ties-odd", (3, 1), c=2, zx=(5, 250), zy=3)
    yield add_case("two-tiny", (1, 1), zy=0)
    yield add_case("two-tiny-and-large", (1, 1 << 14), zx=(255, 255), zy=200)
    yield add_case("two-no-shift", (1, 1), c=0)
    yield add_case("two-saturating", (60000, 3), c=5, spelled="QLinearAdd")
    yield add_case("two-4-bits", (3000, 5000), zy=4, hi=15)
    yield add_case("two-relu-6", (3000, 5000), zy=0, hi=100)
    yield add_case("same-twice", (3001, 5000), names=("a", "a"))
    yield add_case("beyond-2^24", (1 << 15, 1 << 15), c=15, spelled="primitives")
    yield add_case("just-beyond-2^24", (30000, 65793 - 8192 - 30000 + 1), spelled="primitives")
    yield add_case("signed-16", (3000, 70000), zy=0, lo=-32768, hi=32767, kind="int32", spelled="primitives")
    yield add_case("u8-range-as-int32", (3000, 7000), kind="int32", spelled=SUM)
    yield from wide_additions()
    yield add_case("three", (8000, 7001, 4096))
    yield add_case("three-ties", (1, 1, 2), c=2, zx=(128, 128, 0))
    yield add_case("three-same", (100, 7001, 4096), names=("a", "b", "a"))
    yield add_case("five", (1, 8192, 3000, 12345, 6789))
    yield add_case("five-beyond", (1, 8192, 30000, 12345, 20000), spelled="primitives")


# -- records ---------------------------------------------------------------------------------------

ADD_REQUANT = IntegerOperator(
    "add_requant",
    add_requant,
    {**REQUANTIZATION, "zx": BYTE, "m": MULTIPLIER},
    zero_points={"zx": EVERY},
    frames=OWN,
    check=_check,
    kernels={"fused": Kernel(_qlinear_add, _exact_if), "qdq": Kernel(_qdq)},
    tolerance={
        # the ratios of activations are rounded to m / 2^c: half a unit of 2^-c for every step of an input
        "add_requant": 0.5 + 3 * 255 * 0.5 / 2**13,
        # integers of one scale are added as they are
        "add_requant, 16 bits of one scale": 0.0,
        "add_requant, 16 bits": 0.5 + 2 * 32767 * 0.5 / 2**14,
        "add_requant, 16 bits to bytes": 0.5 + 2 * 32767 * 0.5 / 2**16,
    },
    cases=_cases,
)

ADD = register(
    Operator(
        "add",
        _meaning,
        captures=tuple(captures),
        traits=Traits(
            framewise=True, takes_clamp=True, reads_wide=ALWAYS, makes_wide=ALWAYS, sums=True, light=True
        ),
        spelling=_spelling,
        lower=_lower,
        integers=(ADD_REQUANT,),
    )
)

CLAMP = register(
    Operator(
        "clamp",
        _meaning,
        captures=tuple(clamps),
        traits=Traits(framewise=True, reads_wide=NAMED, makes_wide=NAMED, light=True, clamps=True),
        spelling=_spelling,
        lower=_lower,
        integers=(ADD_REQUANT,),
    )
)
