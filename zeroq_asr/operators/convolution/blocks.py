"""The first convolution of a subsampling, over blocks of two by two in place of single numbers.

ONNX Runtime copies the bytes under a kernel one by one where there is one channel, which takes longer than
their products.  Of [B, 1, T, F] the blocks of two frames and two frequencies are four channels of half as
many frames and frequencies.  A 3 × 3 kernel with stride 2 and one entry of padding reads, of every axis,
entries 2t − 1, 2t and 2t + 1: the second of block t − 1 and all of block t.  So it is a 2 × 2 kernel with
stride 1 over the blocks, with weights of 0 for the firsts of block t − 1, and the very same sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I8, I64, U8, IntType
from zeroq_asr.operators.convolution.kernels import linear_convolution
from zeroq_asr.registry import Attrs

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym

_TAPS, _STRIDE = 3, 2


def is_first(b: Kernels, i: Instruction, ins: list[Sym]) -> bool:
    """Whether a convolution is the one described above, of a known number of frequencies."""
    a, (x, w, *_) = i.attrs, ins
    return bool(
        a["type"] == U8.name
        and w.exact.shape[1:] == (1, _TAPS, _TAPS)
        and a["groups"] == 1
        and tuple(a["strides"]) == (_STRIDE, _STRIDE)
        and tuple(a["pads"]) == (1, 1)
        and tuple(a["dilations"]) == (1, 1)
        and isinstance(b.dims.get(x.name, (None,))[-1], int)
    )


def blocks_of(weight: np.ndarray) -> np.ndarray:
    """Return weights [O, 1, 3, 3] as those over blocks [O, 4, 2, 2]; a block's numbers go row by row."""
    padded = np.pad(weight, ((0, 0), (0, 0), (1, 0), (1, 0)))
    parts = padded.reshape(len(weight), 2, _STRIDE, 2, _STRIDE)
    return parts.transpose(0, 2, 4, 1, 3).reshape(len(weight), _STRIDE**2, 2, 2)


def by_blocks(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    """QLinearConv over blocks of x uint8 [B, 1, T, F], whose frames and frequencies are made even."""
    x, w, bias, m = ins
    a = i.attrs
    b.called("QLinearConv")
    batch, _, count, frequencies = b.dims[x.name]
    odd = int(frequencies) % _STRIDE
    half, across = _half(count), (int(frequencies) + odd) // _STRIDE

    def told(name: str, *dims: int | str, kind: IntType = U8) -> str:
        b.tell_dims(name, dims, kind)
        return name

    frames = b.node("Shape", [x], None, start=2, end=3)
    missing = b.node("Mod", [frames, b.scalar(_STRIDE, I64)], None)
    ends = b.node("Concat", [b.axes(0, 0, 0, 0, 0, 0), missing, b.axes(odd)], None, axis=0)
    even = b.node("Pad", [x, ends, b.scalar(a["zx"], U8)], None)
    whole = half * _STRIDE if isinstance(half, int) else f"({half}*{_STRIDE})"
    told(even, batch, 1, whole, across * _STRIDE)
    parts = b.node("Reshape", [even, b.axes(0, -1, _STRIDE, across, _STRIDE)], None)
    told(parts, batch, half, _STRIDE, across, _STRIDE)
    turned = b.node("Transpose", [parts], None, perm=[0, 1, 3, 2, 4])
    blocks = b.node("Reshape", [turned, b.axes(0, 0, 0, _STRIDE**2)], None)
    told(blocks, batch, half, across, _STRIDE**2)
    weight, zero = b.kernel_weight(x, w, 1, a["zx"], blocks_of(w.exact))
    # constants, which ONNX Runtime turns once
    outputs, kind = len(w.exact), I8 if zero == b.scalar(0, I8) else U8
    padded = b.node("Pad", [weight, b.axes(0, 0, 1, 1, 0, 0, 0, 0), zero], None)
    told(padded, outputs, 1, 2 * _STRIDE, 2 * _STRIDE, kind=kind)
    split = b.node("Reshape", [padded, b.axes(-1, 2, _STRIDE, 2, _STRIDE)], None)
    told(split, outputs, 2, _STRIDE, 2, _STRIDE, kind=kind)
    joined = b.node("Transpose", [split], None, perm=[0, 2, 4, 1, 3])
    last = b.node("Reshape", [joined, b.axes(-1, _STRIDE**2, 2, 2)], None)
    weight = told(last, outputs, _STRIDE**2, 2, 2, kind=kind)
    layout: Attrs = {
        "kernel_shape": [2, 2],
        "pads": [1, 1, 0, 0],
        "strides": [1, 1],
        "dilations": [1, 1],
        "channels_last": 1,
    }
    y = linear_convolution(b, i, blocks, (weight, zero), bias, m, "com.microsoft", layout)
    back = b.node("Transpose", [y], U8, perm=[0, 3, 1, 2])
    return b.clip_u8(back, a["lo"], a["hi"])


def _half(extent: int | str) -> int | str:
    """⌈extent / 2⌉, in the words in which the extent of any such convolution is told."""
    return (extent - 1) // _STRIDE + 1 if isinstance(extent, int) else f"(({extent}-1)/{_STRIDE}+1)"
