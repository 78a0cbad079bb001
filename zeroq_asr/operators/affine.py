"""A scale and a shift of every channel: batch normalization, and arithmetic with constants.

It is of captured graphs alone: canonicalization folds it into what is before it, or makes it a convolution.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Real, Tracer
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.registry import Operator, Traits, register

#: kinds of constants, and how they are annotated
_CONSTANT = (Tensor, int, float)
Number = Tensor | int | float


def _meaning(x: Tensor, *, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale[:, None] + shift[:, None]


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    # a vector over one channel makes more channels
    count = max(node.attrs["scale"].numel(), node.attrs["shift"].numel(), operands[0].channels or 1)
    unknown = count == 1 and operands[0].channels is None
    return replace(operands[0], channels=None if unknown else count)


# -- capture ---------------------------------------------------------------------------------------

captures = Captures()


@captures("add", Real, _CONSTANT)
def _add(t: Tracer, x: Real, shift: Number, alpha: object = 1) -> Any:
    return _affine(t, x, 1.0, shift) if alpha == 1 else NotImplemented


@captures("add", _CONSTANT, Real)
def _added(t: Tracer, shift: Number, x: Real, alpha: object = 1) -> Any:
    return _add(t, x, shift, alpha)


@captures("sub", Real, _CONSTANT)
def _sub(t: Tracer, x: Real, shift: Number, alpha: object = 1) -> Any:
    return _affine(t, x, 1.0, -shift) if alpha == 1 else NotImplemented


@captures("mul", Real, _CONSTANT)
def _mul(t: Tracer, x: Real, scale: Number) -> Any:
    return _affine(t, x, scale, 0.0)


@captures("mul", _CONSTANT, Real)
def _multiplied(t: Tracer, scale: Number, x: Real) -> Any:
    return _affine(t, x, scale, 0.0)


@captures("div", Real, _CONSTANT)
def _div(t: Tracer, x: Real, divisor: Number, rounding: object = None) -> Any:
    return _affine(t, x, 1.0 / divisor, 0.0) if rounding is None else NotImplemented


def _affine(t: Tracer, x: Real, scale: Number, shift: Number) -> Any:
    vectors = []
    for number in (scale, shift):
        v = torch.as_tensor(number, dtype=torch.float64)
        if v.numel() > 1:
            channel_last = v.dim() >= 1 and v.shape[-1] == v.numel()
            channel_first = v.dim() >= 2 and v.shape[-2] == v.numel()
            if not (channel_last if x.frames_first else channel_first):
                return NotImplemented
        vectors.append(v.flatten())
    return t.emit("affine", (x.name,), x.frames_first, scale=vectors[0], shift=vectors[1])


@captures("batch_norm", Real)
def _batch_norm(
    t: Tracer, x: Real, w: Tensor | None, b: Tensor | None, mean: object, var: object, *rest: object
) -> Any:
    numbers = [r for r in rest if isinstance(r, float)]
    training = any(r is True for r in rest[:1])
    if x.frames_first or not isinstance(mean, Tensor) or not isinstance(var, Tensor) or training:
        return NotImplemented
    epsilon = numbers[-1]
    scale = 1.0 / torch.sqrt(var.double() + epsilon)
    if w is not None:
        scale = scale * w.double()
    shift = -mean.double() * scale
    if b is not None:
        shift = shift + b.double()
    result = t.emit("affine", (x.name,), scale=scale, shift=shift)
    # what training saw, this maps it to: N(mean, var) becomes N(β, γ²), but for epsilon
    t.promise(result, scale * mean.double() + shift, scale.abs() * var.double().sqrt())
    return result


AFFINE = register(
    Operator(
        "affine",
        _meaning,
        captures=tuple(captures),
        shape=_shape,
        traits=Traits(framewise=True, affine=True),
    )
)
