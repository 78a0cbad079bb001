"""What ATen operators mean that become convolutions: ``over_time`` and, of images, ``over_images``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Image, Real, Tracer

over_time, over_images = Captures(), Captures()


@over_time("conv1d", Real, Tensor)
def _conv1d(
    t: Tracer,
    x: Real,
    w: Tensor,
    b: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int = 1,
) -> Any:
    if x.frames_first:
        return NotImplemented
    left, right = 0, 0
    source = t.node(x)
    if source is not None and source.op == "pad":
        (left, right), x = source.attrs["padding"], Real(source.ins[0])
    if isinstance(padding, str):
        total = dilation[0] * (w.shape[2] - 1) if padding == "same" else 0
        left, right = left + total // 2, right + total - total // 2
    else:
        left, right = left + padding[0], right + padding[0]
    return t.emit(
        "conv1d",
        (x.name,),
        weight=w.float(),
        bias=torch.zeros(w.shape[0]) if b is None else b.float(),
        stride=stride[0],
        padding=(left, right),
        dilation=dilation[0],
        groups=groups,
    )


@over_time("convolution", Real, Tensor)
def _convolution(
    t: Tracer,
    x: Real,
    w: Tensor,
    b: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: object,
    groups: int,
) -> Any:
    if transposed or w.dim() != 3:
        return NotImplemented
    return _conv1d(t, x, w, b, stride, padding, dilation, groups)


@over_time("linear", Real, Tensor)
def _linear(t: Tracer, x: Real, w: Tensor, b: Tensor | None = None) -> Any:
    if not x.frames_first:
        return NotImplemented
    made = _conv1d(t, Real(x.name), w.unsqueeze(2), b, [1], [0], [1])
    return replace(made, frames_first=True)


@over_time("slice", Real)
def _cut(t: Tracer, x: Real, dim: int = 0, start: object = None, end: object = None, step: object = 1) -> Any:
    """Without its last frames a padded convolution is one with less padding behind."""
    if start not in (None, 0) or step != 1 or not isinstance(end, int):
        return NotImplemented
    made = t.node(x)
    along_time = dim % 3 == (1 if x.frames_first else 2)
    if end >= 0 or not along_time or made is None or made.op != "conv1d" or made.attrs["stride"] != 1:
        return NotImplemented
    left, right = made.attrs["padding"]
    if right + end < 0:
        return NotImplemented
    return t.emit("conv1d", made.ins, x.frames_first, **{**made.attrs, "padding": (left, right + end)})


@over_images("conv2d", Image, Tensor)
def _conv2d(
    t: Tracer,
    x: Image,
    w: Tensor,
    b: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int = 1,
) -> Any:
    if x.frames_first or isinstance(padding, str):
        return NotImplemented
    made = t.emit(
        "conv2d",
        (x.name,),
        weight=w.float(),
        bias=torch.zeros(w.shape[0]) if b is None else b.float(),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=groups,
    )
    return Image(made.name)


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return value[0], value[-1]
