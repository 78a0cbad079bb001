"""Depthwise convolutions whose sums float32 carries: exact below 2^24, whatever the order they are made in.

ONNX Runtime has no fast depthwise kernel that gives more than bytes: its ConvInteger takes one channel after
the other, several times slower than Conv over two axes, which takes a block of channels at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zeroq_asr.integer.types import U8
from zeroq_asr.registry import Attrs

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym

#: above it float32 leaves integers out
_EXACT = 1 << 24


def is_carried(w: Sym, bias: Sym, groups: int) -> bool:
    """Whether a convolution is depthwise, and float32 holds its sums of bytes: 255·Σ|w| + |bias| ≤ 2^24."""
    weight = np.abs(w.exact.astype(np.int64))
    sums = U8.hi * weight.reshape(len(weight), -1).sum(axis=1) + np.abs(bias.exact.astype(np.int64))
    return weight.shape[1] == 1 and len(weight) == groups > 1 and int(sums.max()) <= _EXACT


def emit_carried(b: Kernels, x: Sym, w: Sym, zero_point: int, layout: Attrs) -> str:
    """Conv in float32 of bytes less ``zero_point``.

    ``layout``: strides, pads, dilations, group and kernel_shape.
    """
    x = b.channels_first(x)
    real = b.shared(("carried bytes", x.name, zero_point), lambda: _centred(b, x, zero_point))
    weight = b.shared(("carried weights", w.constant), lambda: _weight(b, x, w, layout["group"]))
    if w.exact.ndim == 4:
        return b.add_node("Conv", [real, weight], **layout)
    y = b.add_node("Conv", [b.add_node("Unsqueeze", [real, b.axes(2)]), weight], **_flat(layout))
    return b.add_node("Squeeze", [y, b.axes(2)])


def _centred(b: Kernels, x: Sym, zero_point: int) -> str:
    real = b.to_float(x)
    return b.add_node("Sub", [real, b.float_scalar(zero_point)]) if zero_point else real


def _weight(b: Kernels, x: Sym, w: Sym, groups: int) -> str:
    """Weights as float32 of a convolution over two axes: the file has bytes, which are cast at load."""
    weight = b.to_float(b.kernel_weight(x, w, groups, None)[0])
    return weight if w.exact.ndim == 4 else b.add_node("Unsqueeze", [weight, b.axes(2)])


def _flat(layout: Attrs) -> Attrs:
    """The layout over time as one over two axes, of which the first has one entry."""
    left, right = layout["pads"]
    return {
        **layout,
        "strides": [1, *layout["strides"]],
        "pads": [0, left, 0, right],
        "dilations": [1, *layout["dilations"]],
        "kernel_shape": [1, *layout["kernel_shape"]],
    }
