"""Convolution over time and frequency, and its requantization: as that over time alone, see ``one_axis``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from zeroq_asr.graph.float_graph import Clamp, FloatNode, clamped
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.attributes import BYTE
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.frames import growth_of
from zeroq_asr.integer.program import Instruction
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.convolution.blocks import by_blocks, is_first
from zeroq_asr.operators.convolution.captured import over_images
from zeroq_asr.operators.convolution.image_cases import conv2d_cases
from zeroq_asr.operators.convolution.kernels import emit_kernel, exact_if, layout_2d, qdq_2d
from zeroq_asr.operators.convolution.requantization import (
    TWO_AXES,
    check,
    constants,
    frames_read,
    requantized,
)
from zeroq_asr.operators.convolution.weights import emit_convolution
from zeroq_asr.operators.convolution.wide import CONV2D_WIDE_REQUANT
from zeroq_asr.registry import NAMED, IntegerOperator, Kernel, Operator, Traits, register

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym


def _meaning(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    clamp: Clamp = None,
) -> Tensor:
    return clamped(F.conv2d(x, weight, bias, stride, padding, dilation, groups), clamp)


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    a = node.attrs
    growth = growth_of(2 * a["padding"][0], a["dilation"][0], a["weight"].shape[2])
    return operands[0].after(a["stride"][0], growth, a["weight"].shape[0])


def _spelling(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    time, frequency = a["padding"]
    y = w.add(
        "Conv",
        [node.ins[0], w.store(a["weight"].numpy()), w.store(a["bias"].numpy())],
        group=a["groups"],
        strides=list(a["stride"]),
        pads=[time, frequency, time, frequency],
        dilations=list(a["dilation"]),
    )
    w.done(node, y, False)


def conv2d_requant(
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
    strides: tuple[int, int],
    pads: tuple[int, int],
    dilations: tuple[int, int],
    groups: int,
) -> V:
    """y = clamp(half_even(acc · m / 2^c) + zy, lo, hi) with acc = conv(x − zx, w) + bias.

    x uint8 [B, I, T, F]; w [O, I/groups, K, L], |w| ≤ 127; bias int32 [O]; m int32 [O] ≥ 1.  Strides, pads of
    either side and dilations are of time and of frequency.
    """
    both = ((pads[0], pads[0]), (pads[1], pads[1]))
    acc = f.conv(x, w, zero_point=zx, strides=strides, pads=both, dilations=dilations, groups=groups)
    return requantized(f, acc, bias, m, 2, c=c, zy=zy, lo=lo, hi=hi, type=type, saturate=saturate)


def _fused(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    if is_first(b, i, ins):
        return by_blocks(b, i, ins)
    return emit_kernel(b, i, ins, layout_2d(i))


def _lower(ctx: Lowering, node: FloatNode) -> None:
    strides, pads, dilations = (tuple(node.attrs[name]) for name in ("stride", "padding", "dilation"))
    emit_convolution(
        ctx,
        "conv2d_requant",
        "conv2d_wide_requant",
        node,
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=node.attrs["groups"],
    )


CONV2D_REQUANT = IntegerOperator(
    "conv2d_requant",
    conv2d_requant,
    {**TWO_AXES, "zx": BYTE},
    constants(2),
    frames=frames_read,
    zero_points={"zx": 0},
    check=check,
    kernels={"fused": Kernel(_fused, exact_if), "qdq": Kernel(qdq_2d)},
    tolerance={"conv2d_requant": 0.5},
    cases=conv2d_cases,
)

CONV2D = register(
    Operator(
        "conv2d",
        _meaning,
        captures=tuple(over_images),
        shape=_shape,
        traits=Traits(takes_clamp=True, reads_wide=NAMED, makes_wide=NAMED, holds_weight=True),
        spelling=_spelling,
        lower=_lower,
        integers=(CONV2D_REQUANT, CONV2D_WIDE_REQUANT),
    )
)
