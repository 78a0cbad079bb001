"""Normalization of every frame over its channels: y = γ·(x − μ) / √(σ² + ε) + β, without a float.

With C channels of integers x, d = 2^7·x − 2^7·μ, the mean cut to 7 binary places.  A frame's d are cut to b
bits and a sign, e = d / k with k = ⌊max|d| / 2^b⌋ + 1, so that loud and quiet frames are equally fine; b is
the largest for which Σ e² has 31 bits.  Then with

    V = Σ e² + ⌊4^7·C·ε / (s_x²·k²)⌋ + 1           (+ 1: a frame of equal channels has a root, too)
    r = ⌊2^23 / √V⌋,   (x − μ)/σ = e·r·√C / 2^23

No |e| exceeds √V, so no |e·r| exceeds 2^23, which bounds of each factor could not know.  The root is that of
an integer, exact to the last bit.  r has 17 bits at most: where channels are not all equal √V exceeds 2^6.

Every product has at most 24 bits and every quotient is that of integers a float holds, so that float32, and
float64 for the root, may carry them all: IEEE 754 rounds quotients and roots correctly, and what is rounded
correctly does not cross an integer here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Real, Tracer
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.attributes import COUNT, REQUANTIZATION, whole
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.dyadic import MAX_SHIFT, requantize
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32, I64, U8
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.layer_norm.cases import layer_norm_cases
from zeroq_asr.registry import (
    ALWAYS,
    OWN,
    Condition,
    Constant,
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

#: binary places of the mean, bits of e·r, of r at most, and what is shifted out of e·r
_PLACES, _UNIT, _LARGEST_ROOT, _CUT = 7, 23, 17, 9
#: largest magnitude of a multiplier: 14 bits of e·r / 2^9 times this are 24
_LARGEST = 1 << 10
_LARGEST_EPSILON = (1 << 39) - 1


def bits_of(channels: int) -> int:
    """b: bits of which a sum of ``channels`` squares fits int32."""
    return next(b for b in range(11, -1, -1) if channels * ((1 << b) - 1) ** 2 <= I32.hi)


def _meaning(x: Tensor, *, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return F.layer_norm(x.transpose(1, 2), weight.shape, weight, bias, epsilon).transpose(1, 2)


captures = Captures()


@captures("layer_norm", Real)
def _captured(
    t: Tracer,
    x: Real,
    shape: list[int],
    w: Tensor | None = None,
    b: Tensor | None = None,
    epsilon: float = 1e-5,
    *_: object,
) -> Any:
    if not x.frames_first or len(shape) != 1:
        return NotImplemented
    count = shape[0]
    weight = torch.ones(count) if w is None else w.float()
    bias = torch.zeros(count) if b is None else b.float()
    return t.emit("layer_norm", (x.name,), True, weight=weight, bias=bias, epsilon=float(epsilon))


def _spelling(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    inputs = [w.frames(node.ins[0]), w.store(a["weight"].numpy()), w.store(a["bias"].numpy())]
    w.done(node, w.add("LayerNormalization", inputs, axis=-1, epsilon=a["epsilon"]), True)


# -- integers --------------------------------------------------------------------------------------


def layer_norm(
    f: Backend[V],
    x: V,
    m: V,
    bias: V,
    *,
    channels: int,
    epsilon: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> V:
    """y = clamp(half_even((((e·r) >> 9)·m + bias) / 2^c) + zy, lo, hi), see above.

    x [B, C, T] uint8, or int32 of 16 bits; m and bias int32 [C], |m| ≤ 2^10; ``epsilon`` 4^7·C·ε/s_x² < 2^39.
    """
    bits = bits_of(channels)
    x = f.cast(x, I32)
    total = f.mul(f.cast(f.reduce(x, "sum", "channels", channels), I64), 1 << _PLACES)
    d = f.sub(f.mul(x, 1 << _PLACES), f.cast(f.quotient(total, channels), I32))
    k = f.add(f.shift_right(f.reduce(d, "peak", "channels", channels), bits), 1)
    # bounds cannot know what k was made for
    e = f.clamp(f.quotient(d, k), 1 - (1 << bits), (1 << bits) - 1)
    energy = f.cast(f.reduce(f.square(e), "sum", "channels", channels), I64)
    k = f.cast(k, I64)
    energy = f.add(f.add(energy, f.quotient(epsilon, f.mul(k, k))), 1)
    r = f.isqrt(f.quotient(1 << 2 * _UNIT, energy))
    r = f.cast(f.clamp(r, 0, 1 << _LARGEST_ROOT), I32)
    largest = 1 << _UNIT - _CUT
    z = f.clamp(f.shift_right(f.mul(e, r), _CUT), -largest, largest)
    v = f.add(f.mul(z, f.per_channel(m)), f.per_channel(bias))
    return requantize(f, v, c=c, zero_point=zy, lo=lo, hi=hi, type=type)


def _exact_if(i: Instruction, x: Interval, m: Interval, bias: Interval) -> list[Condition]:
    a = i.attrs
    total = a["channels"] * max(x.max, -x.min)
    spread = (x.max - x.min + 1) << _PLACES
    reach = max(abs(a["lo"] - a["zy"]), abs(a["hi"] - a["zy"]))
    factor = int(np.abs(np.asarray(m.exact)).max())
    largest = max(int(abs(np.asarray(v.exact).astype(np.int64)).max()) for v in (m, bias))
    return [
        Condition("C·max|x| ≤ 2^24", total <= 1 << 24, f"{total}"),
        Condition("(max x − min x + 1)·2^7 ≤ 2^24", spread <= 1 << 24, f"{spread}"),
        Condition("|m| ≤ 2^10 and |bias| ≤ 2^24", factor <= _LARGEST and largest <= 1 << 24),
        Condition("(y − z_y)·2^c ≤ 2^24", reach << a["c"] <= 1 << 24, f"{reach << a['c']}"),
    ]


def _carried(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    a = i.attrs
    channels, unit = a["channels"], 2.0**-_PLACES

    def node(op: str, *operands: str) -> str:
        return b.node(op, list(operands), None)

    def over_channels(op: str, value: str) -> str:
        return b.node(op, [value, b.axes(-1)], None, keepdims=1)

    def single(value: float) -> str:
        return str(b.float_scalar(value))

    def double(value: float) -> str:
        return str(b.double_scalar(value))

    x = b.carry(b.frames_first(ins[0]))
    total = b.to_double(over_channels("ReduceSum", x))
    # in steps of x what else counts 2^-7
    mean = b.to_float(b.to_int32(node("Div", total, double(channels * unit))))
    d = node("Sub", x, node("Mul", mean, single(unit)))
    peak = over_channels("ReduceMax", node("Abs", d))
    k = node("Floor", node("Mul", peak, single(2.0 ** -bits_of(channels) / unit)))
    k = node("Add", k, single(1))
    cut = b.to_int32(node("Div", d, node("Mul", k, single(unit))))
    # a sum of 31 bits at most
    energy = b.to_double(over_channels("ReduceSumSquare", cut))
    k = b.to_double(k)
    # ⌊ε / k²⌋ + 1
    bias = node("Ceil", node("Div", double(a["epsilon"] + 1), node("Mul", k, k)))
    root = node("Sqrt", node("Div", double(1 << 2 * _UNIT), node("Add", energy, bias)))
    # beyond 17 bits there is no e but 0 to be multiplied
    r = b.to_float(node("Mul", node("Floor", root), double(2.0**-_CUT)))
    z = node("Floor", node("Mul", b.to_float(cut), r))
    v = node("Mul", z, b.multiplier(ins[1], a["c"]))
    if ins[2].exact.any():
        v = node("Add", v, b.multiplier(ins[2], a["c"]))
    else:
        b.leave_out(ins[2])
    return replace(b.quantized(v, i), frames_first=True)


def _qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    a = i.attrs
    x, m, bias = ins
    source, target = b.info(i.ins[0]), b.info(i.out)
    step = target.scale / 2.0 ** a["c"]
    gamma = m.exact * step * 2.0 ** (_UNIT - _CUT) / math.sqrt(a["channels"])
    beta = (bias.exact - m.exact / 2) * step
    epsilon = a["epsilon"] / 4.0**_PLACES / a["channels"] * source.scale**2
    last = b.add_node("Transpose", [b.real(x, i.ins[0])], perm=[0, 2, 1])
    operands = [last, b.real_vector(f"{i.out}/gamma", gamma), b.real_vector(f"{i.out}/beta", beta)]
    y = b.node("LayerNormalization", operands, None, axis=-1, epsilon=epsilon)
    return b.quantize_to(b.node("Transpose", [y], None, perm=[0, 2, 1]), i.out, a["lo"], a["hi"])


def _check(view: Checked) -> None:
    takes = view.attrs["channels"]
    view.require_rows(takes, "m", "bias")
    view.require(view.operands[:1] == [takes], f"takes {takes} channels, its operand has {view.operands}")


# -- lowering --------------------------------------------------------------------------------------


def _lower(ctx: Lowering, node: FloatNode) -> None:
    a = node.attrs
    source, target = ctx.info(node.ins[0]), ctx.activation(node)
    lo, hi = ctx.clamp(target, a.get("clamp"))
    gamma, beta = (np.asarray(a[name], dtype=np.float64) for name in ("weight", "bias"))
    channels = len(gamma)
    epsilon = a["epsilon"] * channels * 4.0**_PLACES / source.scale**2
    # a unit of z is 2^9 / 2^23 of √C deviations
    ratio = gamma * math.sqrt(channels) / 2.0 ** (_UNIT - _CUT) / target.scale
    room = 24 - max(abs(lo - target.zero_point), hi - target.zero_point).bit_length()
    c = min(MAX_SHIFT, room)
    while c > 0 and np.abs(np.rint(ratio * 2.0**c)).max() > _LARGEST:
        c -= 1
    m = np.clip(np.rint(ratio * 2.0**c), -_LARGEST, _LARGEST)
    bias = beta / target.scale * 2.0**c
    if bias.any() or target.type != U8.name:
        # z was cut downwards, by half a unit on average; to bytes alone it is not worth an addition
        bias = np.clip(np.rint(bias + m / 2), -(1 << 24), 1 << 24)
    ctx.emit(
        "layer_norm",
        node,
        (
            node.ins[0],
            ctx.constant(f"{node.out}:multiplier", m.astype(np.int32)),
            ctx.constant(f"{node.out}:bias", bias.astype(np.int32)),
        ),
        channels=channels,
        epsilon=min(round(epsilon), _LARGEST_EPSILON),
        c=c,
        zy=target.zero_point,
        lo=lo,
        hi=hi,
        type=target.type,
    )


LAYER_NORM = register(
    Operator(
        "layer_norm",
        _meaning,
        captures=tuple(captures),
        traits=Traits(
            framewise=True, reads_wide=ALWAYS, makes_wide=ALWAYS, normalizes=True, shifts_channels=True
        ),
        spelling=_spelling,
        lower=_lower,
        integers=(
            IntegerOperator(
                "layer_norm",
                layer_norm,
                {**REQUANTIZATION, "channels": COUNT, "epsilon": whole(0, _LARGEST_EPSILON, "0 ≤ ε < 2^39")},
                frames=OWN,
                constants={1: Constant("m", np.int32, 1), 2: Constant("bias", np.int32, 1)},
                check=_check,
                kernels={
                    "fused": Kernel(_carried, _exact_if, "layer norm in exact floats"),
                    "qdq": Kernel(_qdq),
                },
                tolerance={
                    # a 2^10th of a frame's peak is cut off, of 127 steps; multipliers have 9 to 10 bits
                    "layer_norm": 0.5 + 0.2,
                    # where a channel stands out by tens of deviations the others are left few bits to be
                    # squared, and the frame's deviation is known to 1%: of 127 steps, and of 2^14
                    "layer_norm, of bytes": 0.5 + 0.2 + 127 / 90,
                    "layer_norm, 16 bits": 2**14 / 2**7,
                },
                cases=layer_norm_cases,
            ),
        ),
    )
)
