"""What ATen operators mean that become 1-D convolutions, or fold into them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.aten import also_handles
from zeroq_asr.capture.tracer import Real, Tracer


@also_handles("conv1d")
def _conv1d(
    t: Tracer, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int = 1
) -> Any:
    if not isinstance(x, Real) or x.frames_first or not isinstance(w, Tensor):
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


@also_handles("convolution")
def _convolution(
    t: Tracer, x: Any, w: Any, b: Any, s: Any, p: Any, d: Any, transposed: bool, _: Any, groups: int
) -> Any:
    if transposed or not isinstance(w, Tensor) or w.dim() != 3:
        return NotImplemented
    return _conv1d(t, x, w, b, s, p, d, groups)


@also_handles("linear")
def _linear(t: Tracer, x: Any, w: Any, b: Any = None) -> Any:
    if not isinstance(x, Real) or not x.frames_first or not isinstance(w, Tensor):
        return NotImplemented
    made = _conv1d(t, Real(x.name), w.unsqueeze(2), b, [1], [0], [1])
    return replace(made, frames_first=True)


@also_handles("constant_pad_nd", "pad")
def _pad(t: Tracer, x: Any, padding: Any, *rest: Any) -> Any:
    value = next((r for r in reversed(rest) if isinstance(r, (int, float))), 0)
    if not isinstance(x, Real) or x.frames_first or value != 0 or len(padding) != 2 or min(padding) < 0:
        return NotImplemented
    if any(r not in ("constant", None) for r in rest if isinstance(r, str)):
        return NotImplemented
    return t.emit("pad", (x.name,), padding=(padding[0], padding[1]))


@also_handles("batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(t: Tracer, x: Any, w: Any, b: Any, mean: Any, var: Any, *rest: Any) -> Any:
    numbers = [r for r in rest if isinstance(r, float)]
    training = any(r is True for r in rest[:1])
    if not isinstance(x, Real) or x.frames_first or not isinstance(mean, Tensor) or training:
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


@also_handles("slice")
def _cut(t: Tracer, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    """Without its last frames a padded convolution is one with less padding behind."""
    if not isinstance(x, Real) or start not in (None, 0) or step != 1 or not isinstance(end, int):
        return NotImplemented
    made = t.node(x)
    along_time = dim % 3 == (1 if x.frames_first else 2)
    if end >= 0 or not along_time or made is None or made.op != "conv1d" or made.attrs["stride"] != 1:
        return NotImplemented
    left, right = made.attrs["padding"]
    if right + end < 0:
        return NotImplemented
    return t.emit("conv1d", made.ins, x.frames_first, **{**made.attrs, "padding": (left, right + end)})
