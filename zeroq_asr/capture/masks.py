"""What ATen operators mean on masks and lengths as general libraries write them.

A mask made for any attention is looked up by the numbers of utterances and frames, combined with conditions
that always hold, and reduced from pairs of frames to frames; lengths pass through real numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.aten import also_handles
from zeroq_asr.capture.tracer import BatchIndex, Lengths, Mask, Real, TimeIndex, Tracer, Unrounded

# -- conditions ----------------------------------------------------------------------------------------


@also_handles("index")
def _index(t: Tracer, x: Any, indices: Any) -> Any:
    """Every utterance's own row, every frame's own entry: the mask itself."""
    whole = len(indices) == 2 and isinstance(indices[0], BatchIndex) and isinstance(indices[1], TimeIndex)
    return x if isinstance(x, Mask) and whole else NotImplemented


@also_handles("ge")
def _ge(t: Tracer, a: Any, b: Any) -> Any:
    """No frame has a number below zero."""
    holds = isinstance(a, TimeIndex) and isinstance(b, int) and b <= 0
    return torch.tensor(True) if holds else NotImplemented


@also_handles("new_ones")
def _new_ones(t: Tracer, x: Any, size: Any, *options: Any) -> Any:
    """Ones of any shape broadcast alike."""
    condition = isinstance(x, TimeIndex) and torch.bool in options
    return torch.tensor(True) if condition else NotImplemented


@also_handles("__and__", "bitwise_and", "logical_and")
def _and(t: Tracer, a: Any, b: Any) -> Any:
    if isinstance(b, Tensor):
        a, b = b, a
    always = isinstance(a, Tensor) and a.dtype == torch.bool and bool(a.all())
    return b if always and isinstance(b, Mask) else NotImplemented


@also_handles("add")
def _add(t: Tracer, a: Any, b: Any, alpha: Any = 1) -> Any:
    """No frame number changes by 0, and the floor of a length by a whole number."""
    if not isinstance(b, (int, float)) or b != int(b) or alpha != 1:
        return NotImplemented
    if isinstance(a, Unrounded):
        return Unrounded(replace(a.lengths, after=a.lengths.after + int(b)))
    return a if isinstance(a, TimeIndex) and b == 0 else NotImplemented


@also_handles("sub")
def _sub(t: Tracer, a: Any, b: Any, alpha: Any = 1) -> Any:
    return _add(t, a, -b, alpha) if isinstance(b, (int, float)) else NotImplemented


@also_handles("all")
def _all(t: Tracer, x: Any, axis: int = 0, keepdim: bool = False) -> Any:
    """No pair of a frame is valid: the frame is not.  Some axis of frames must be left for it to say so."""
    return x if isinstance(x, Mask) and x.negated and None in t.shape else NotImplemented


@also_handles("repeat")
def _repeat(t: Tracer, x: Any, counts: Any) -> Any:
    """Over channels, a mask is as it was; over frames it would be another one."""
    pairs = list(zip(counts, t.shape, strict=False))
    over_channels = len(counts) == len(t.shape) and all(n == 1 or isinstance(size, int) for n, size in pairs)
    return x if isinstance(x, Mask) and over_channels else NotImplemented


@also_handles("index_put", "index_put_")
def _index_put(t: Tracer, x: Any, indices: Any, value: Any, accumulate: bool = False) -> Any:
    """x[mask] = 0."""
    mask = indices[0] if len(indices) == 1 else None
    zero = isinstance(value, Tensor) and value.numel() == 1 and float(value) == 0.0
    if not isinstance(x, Real) or not isinstance(mask, Mask) or not mask.negated or not zero or accumulate:
        return NotImplemented
    return t.emit("mask_time", (x.name, t.length_name(mask.lengths)), x.frames_first)


# -- lengths -------------------------------------------------------------------------------------------


@also_handles("div")
def _div(t: Tracer, a: Any, b: Any, rounding: Any = None) -> Any:
    if not isinstance(a, Lengths) or not isinstance(b, int) or b <= 0 or rounding is not None:
        return NotImplemented
    base = a if a.divisor == 1 and a.after == 0 else Lengths(t.length_name(a))
    return Unrounded(replace(base, divisor=b))


@also_handles("floor")
def _floor(t: Tracer, x: Any) -> Any:
    return x.lengths if isinstance(x, Unrounded) else NotImplemented
