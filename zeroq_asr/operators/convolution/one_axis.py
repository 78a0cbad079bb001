"""Convolution over time (full, pointwise, depthwise, grouped, strided, dilated) and its requantization.

How its integers are chosen is derived in ``weights``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from zeroq_asr.graph.float_graph import Clamp, FloatNode, clamped
from zeroq_asr.graph.linear import is_pointwise
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.attributes import BYTE
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.frames import growth_of
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import U8
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.convolution.captured import over_time
from zeroq_asr.operators.convolution.cases import conv_cases
from zeroq_asr.operators.convolution.kernels import (
    emit_kernel,
    emit_product,
    exact_if,
    is_product,
    layout_1d,
    qdq_1d,
)
from zeroq_asr.operators.convolution.requantization import (
    ONE_AXIS,
    check,
    constants,
    frames_read,
    requantized,
)
from zeroq_asr.operators.convolution.weights import emit_convolution
from zeroq_asr.operators.convolution.wide import CONV_WIDE_REQUANT
from zeroq_asr.registry import ALWAYS, NAMED, IntegerOperator, Kernel, Operator, Traits, register

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym


def _meaning(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    groups: int,
    clamp: Clamp = None,
) -> Tensor:
    # a depthwise convolution runs several times faster in torch as a 2-D one of height 1
    y = F.conv2d(
        F.pad(x, padding).unsqueeze(2), weight.unsqueeze(2), bias, (1, stride), 0, (1, dilation), groups
    )
    return clamped(y.squeeze(2), clamp)


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    a = node.attrs
    growth = growth_of(sum(a["padding"]), a["dilation"], a["weight"].shape[2])
    return operands[0].after(a["stride"], growth, a["weight"].shape[0])


def _spelling(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    weight, bias = a["weight"].numpy(), w.store(a["bias"].numpy())
    left, right = a["padding"]
    pointwise = weight.shape[2] == 1 and a["groups"] == 1 and a["stride"] == 1 and left == right == 0
    # of a single frame Conv is the faster one in float, and ConvInteger many times slower than MatMulInteger
    single = w.shapes[node.ins[0]].history is None
    if pointwise and (w.has_frames(node.ins[0]) or (w.quantizable and single)):
        product = w.add("MatMul", [w.frames(node.ins[0]), w.store(weight[:, :, 0].T)])
        w.done(node, w.add("Add", [product, bias]), True)
        return
    source = w.channels(node.ins[0])
    depthwise = weight.shape[1] == 1 and a["groups"] > 1
    if w.flat or not depthwise:
        y = w.add(
            "Conv",
            [source, w.store(weight), bias],
            group=a["groups"],
            strides=[a["stride"]],
            pads=[left, right],
            dilations=[a["dilation"]],
        )
        w.done(node, y, False)
        return
    axis = w.axes(2)
    y = w.add(
        "Conv",
        [w.add("Unsqueeze", [source, axis]), w.store(weight[:, :, None]), bias],
        group=a["groups"],
        strides=[1, a["stride"]],
        pads=[0, left, 0, right],
        dilations=[1, a["dilation"]],
    )
    w.done(node, w.add("Squeeze", [y, axis]), False)


def _scales_alone(node: FloatNode) -> bool:
    """Whether every channel is made of one number of its own, or of the only one there is."""
    return tuple(node.attrs["weight"].shape[1:]) == (1, 1)


def conv_requant(
    f: Backend[V],
    x: V,
    w: V,
    bias: V,
    m: V,
    *,
    zx: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
    saturate: bool,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    groups: int,
) -> V:
    """y = clamp(half_even(acc · m / 2^c) + zy, lo, hi) with acc = conv(x − zx, w) + bias.

    x uint8 [B, I, T]; w [O, I/groups, K], |w| ≤ 127; bias int32 [O]; m int32 [O] ≥ 1.
    ``saturate`` clamps the accumulator first where acc·m could leave int32; it changes no output.
    """
    acc = f.conv(
        x, w, zero_point=zx, strides=(stride,), pads=(padding,), dilations=(dilation,), groups=groups
    )
    return requantized(f, acc, bias, m, 1, c=c, zy=zy, lo=lo, hi=hi, type=type, saturate=saturate)


def _fused(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    if i.attrs["type"] != U8.name and is_product(i, *ins[1:]):
        return emit_product(b, i, ins)
    return emit_kernel(b, i, ins, layout_1d(i))


def _lower(ctx: Lowering, node: FloatNode) -> None:
    a = node.attrs
    layout = {name: a[name] for name in ("stride", "dilation", "groups")}
    padding = tuple(a["padding"])
    emit_convolution(ctx, "conv_requant", "conv_wide_requant", node, padding=padding, **layout)


CONV_REQUANT = IntegerOperator(
    "conv_requant",
    conv_requant,
    {**ONE_AXIS, "zx": BYTE},
    constants(1),
    frames=frames_read,
    zero_points={"zx": 0},
    check=check,
    kernels={"fused": Kernel(_fused, exact_if), "qdq": Kernel(qdq_1d)},
    # the weight scale is chosen dyadic, so nothing but the output is rounded
    tolerance={"conv_requant": 0.5},
    cases=conv_cases,
)

CONV1D = register(
    Operator(
        "conv1d",
        _meaning,
        captures=tuple(over_time),
        shape=_shape,
        traits=Traits(
            framewise=is_pointwise,
            takes_clamp=True,
            reads_wide=NAMED,
            makes_wide=ALWAYS,
            holds_weight=True,
            light=_scales_alone,
        ),
        spelling=_spelling,
        lower=_lower,
        integers=(CONV_REQUANT, CONV_WIDE_REQUANT),
    )
)
