"""What each ATen operator means to the capture: a handler maps abstract values to abstract values.

A handler takes the tracer and the operator's arguments in schema order, as the kinds of
``zeroq_asr.capture.tracer``, and returns NotImplemented for operands it has no meaning for.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.tracer import (
    BatchIndex,
    Lengths,
    LogProbs,
    Mask,
    Real,
    Size,
    TimeIndex,
    TimeSum,
    Tracer,
)
from zeroq_asr.graph.float_graph import ELEMENTWISE

Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler under ATen (or Python) operator names."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register


def also_handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler that is asked first; where it returns NotImplemented, the others are."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = _chain(handler, HANDLERS.get(name))
        return handler

    return register


def _chain(first: Handler, then: Handler | None) -> Handler:
    def handler(t: Tracer, *arguments: Any) -> Any:
        result = first(t, *arguments)
        return then(t, *arguments) if result is NotImplemented and then is not None else result

    return handler


def supported() -> str:
    """The operators that have a meaning, for error texts."""
    # inner names of torch and the forms that write in place say nothing new
    names = sorted(n for n in HANDLERS if not n.startswith("_") and not n.endswith("_"))
    return f"supported: {', '.join(names)}"


# -- elementwise ---------------------------------------------------------------------------------


def _unary(op: str) -> Handler:
    def handler(t: Tracer, x: Any, *options: Any) -> Any:
        # gelu's approximation, elu's constants: only the defaults have a table
        plain = all(o is None or o is False or o == "none" or (o == 1 and o is not True) for o in options)
        return t.emit(op, (x.name,), x.frames_first) if isinstance(x, Real) and plain else NotImplemented

    return handler


for _name in ELEMENTWISE:
    HANDLERS[_name] = HANDLERS[f"{_name}_"] = _unary(_name)


def _clamp(t: Tracer, x: Any, lo: Any, hi: Any) -> Any:
    if not isinstance(x, Real) or not all(isinstance(b, (int, float, type(None))) for b in (lo, hi)):
        return NotImplemented
    low, high = (None if b is None or math.isinf(b) else float(b) for b in (lo, hi))
    if any(b is not None and math.isnan(b) for b in (lo, hi)) or lo == math.inf or hi == -math.inf:
        return NotImplemented
    return x if low is high is None else t.emit("clamp", (x.name,), x.frames_first, clamp=(low, high))


@handles("relu", "relu_")
def _relu(t: Tracer, x: Any) -> Any:
    return _clamp(t, x, 0.0, None)


@handles("relu6")
def _relu6(t: Tracer, x: Any) -> Any:
    return _clamp(t, x, 0.0, 6.0)


@handles("hardtanh", "hardtanh_", "clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_")
def _hardtanh(t: Tracer, x: Any, lo: Any = None, hi: Any = None) -> Any:
    if isinstance(x, Lengths) and hi is None and lo is not None:
        # max(base + before, 0) div divisor + after is what a length step computes, if it is one by itself
        closed = Lengths(t.length_name(x)) if x.after == 0 else x
        return closed if lo <= x.after else NotImplemented
    return _clamp(t, x, lo, hi)


@handles("add", "add_")
def _add(t: Tracer, a: Any, b: Any, alpha: Any = 1) -> Any:
    if isinstance(a, (Tensor, int, float)) and isinstance(b, (Real, Lengths)):
        a, b = b, a
    if isinstance(a, Lengths) and isinstance(b, int):
        return _shift(a, b)
    if isinstance(a, Size) or isinstance(b, Size):
        return Size()
    if isinstance(a, Real) and isinstance(b, Real) and alpha == 1 and a.frames_first == b.frames_first:
        return t.emit("add", (a.name, b.name), a.frames_first)
    if isinstance(a, Real) and isinstance(b, (Tensor, int, float)) and alpha == 1:
        return _affine(t, a, 1.0, b)
    return _constant(torch.add, a, b)


@handles("sub", "sub_")
def _sub(t: Tracer, a: Any, b: Any, alpha: Any = 1) -> Any:
    if isinstance(a, Lengths) and isinstance(b, int):
        return _shift(a, -b)
    if isinstance(a, Size) or isinstance(b, Size):
        return Size()
    if isinstance(a, Real) and isinstance(b, (Tensor, int, float)) and alpha == 1:
        return _affine(t, a, 1.0, -b)
    return _constant(torch.sub, a, b)


@handles("mul", "mul_")
def _mul(t: Tracer, a: Any, b: Any) -> Any:
    if isinstance(a, (Mask, Tensor, int, float)) and isinstance(b, Real):
        a, b = b, a
    if isinstance(a, Size) or isinstance(b, Size):
        return Size()
    if isinstance(a, Real) and isinstance(b, Mask):
        return _masked(t, a, b, keep=True)
    if isinstance(a, Real) and isinstance(b, Real) and a.frames_first == b.frames_first:
        return t.emit("mul", (a.name, b.name), a.frames_first)
    if isinstance(a, Real) and isinstance(b, (Tensor, int, float)):
        return _affine(t, a, b, 0.0)
    return _constant(torch.mul, a, b)


@handles("floor_divide", "floordiv", "__floordiv__")
def _floor_divide(t: Tracer, a: Any, b: Any) -> Any:
    return _div(t, a, b, "floor")


@handles("div")
def _div(t: Tracer, a: Any, b: Any, rounding: Any = None) -> Any:
    # half of an odd length is no length: frame k lies below k + 1/2
    if isinstance(a, Lengths) and isinstance(b, int) and b > 0 and rounding is not None:
        base = a if a.divisor == 1 and a.after == 0 else Lengths(t.length_name(a))
        return replace(base, divisor=b)
    if isinstance(a, TimeSum) and isinstance(b, Lengths) and t.length_name(b) == t.length_name(a.lengths):
        source = a.source
        return t.emit("mean_time", (source.name, t.length_name(a.lengths)), source.frames_first)
    if isinstance(a, Size) or isinstance(b, Size):
        return Size()
    if isinstance(a, Real) and isinstance(b, (Tensor, int, float)) and rounding is None:
        return _affine(t, a, 1.0 / b, 0.0)
    return _constant(torch.div, a, b)


def _affine(t: Tracer, x: Real, scale: Any, shift: Any) -> Any:
    vectors = []
    for v in (scale, shift):
        v = torch.as_tensor(v, dtype=torch.float64)
        if v.numel() > 1:
            channel_last = v.dim() >= 1 and v.shape[-1] == v.numel()
            channel_first = v.dim() >= 2 and v.shape[-2] == v.numel()
            if not (channel_last if x.frames_first else channel_first):
                return NotImplemented
        vectors.append(v.flatten())
    return t.emit("affine", (x.name,), x.frames_first, scale=vectors[0], shift=vectors[1])


def _constant(function: Callable[..., Any], *operands: Any) -> Any:
    known = all(isinstance(o, (Tensor, int, float, bool)) for o in operands)
    return function(*operands) if known else NotImplemented


# -- time: lengths, indices, masks -----------------------------------------------------------------


def _shift(lengths: Lengths, by: int) -> Lengths:
    if lengths.divisor == 1 and lengths.after == 0:
        return replace(lengths, before=lengths.before + by)
    return replace(lengths, after=lengths.after + by)


@handles("arange")
def _arange(t: Tracer, *arguments: Any) -> Any:
    extents = [a for a in arguments if isinstance(a, (int, Size)) and not isinstance(a, bool)]
    if len(extents) > 2 and extents[2] != 1:
        return NotImplemented
    if extents and isinstance(extents[0], Size):
        return BatchIndex() if extents[0].batch else TimeIndex()
    if len(extents) >= 2 and extents[0] == 0 and isinstance(extents[1], Size):
        return TimeIndex()
    return NotImplemented


#: comparison of a frame index with a length → (what to add to the length, whether it is the negated mask)
_COMPARISONS = {"lt": (0, False), "le": (1, False), "ge": (0, True), "gt": (1, True)}
_MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def _comparison(name: str) -> Handler:
    def handler(t: Tracer, a: Any, b: Any) -> Any:
        key = name
        if isinstance(a, Lengths):
            a, b, key = b, a, _MIRRORED[name]
        if not isinstance(a, TimeIndex) or not isinstance(b, Lengths):
            return NotImplemented
        by, negated = _COMPARISONS[key]
        return Mask(_shift(b, by), negated)

    return handler


for _name in _COMPARISONS:
    HANDLERS[_name] = _comparison(_name)


@handles("logical_not", "bitwise_not")
def _not(t: Tracer, mask: Any) -> Any:
    return replace(mask, negated=not mask.negated) if isinstance(mask, Mask) else NotImplemented


def _masked(t: Tracer, x: Real, mask: Mask, keep: bool) -> Any:
    """Activation with the frames of the mask kept (or, if not ``keep``, cleared)."""
    if mask.negated == keep:
        return NotImplemented
    return t.emit("mask_time", (x.name, t.length_name(mask.lengths)), x.frames_first)


@handles("masked_fill", "masked_fill_")
def _masked_fill(t: Tracer, x: Any, mask: Any, value: Any) -> Any:
    if not isinstance(x, Real) or not isinstance(mask, Mask) or float(value) != 0.0:
        return NotImplemented
    return _masked(t, x, mask, keep=False)


@handles("where")
def _where(t: Tracer, mask: Any, a: Any, b: Any) -> Any:
    if not isinstance(mask, Mask):
        return NotImplemented
    real, other, keep = (a, b, True) if isinstance(a, Real) else (b, a, False)
    if not isinstance(real, Real) or isinstance(other, (Real, Mask)) or float(other) != 0.0:
        return NotImplemented
    return _masked(t, real, mask, keep)


@handles("sum")
def _sum(t: Tracer, x: Any, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if isinstance(x, Mask) and not x.negated and dims is not None and list(dims) != [0]:
        return x.lengths
    if not isinstance(x, Real) or not keepdim or dims is None or len(dims) != 1:
        return NotImplemented
    source = t.node(x)
    if dims[0] not in ((1, -2) if x.frames_first else (2, -1)) or source is None or source.op != "mask_time":
        return NotImplemented
    return TimeSum(Real(source.ins[0], x.frames_first), Lengths(source.ins[1]))


# -- moves -----------------------------------------------------------------------------------------


@handles("transpose")
def _transpose(t: Tracer, x: Any, a: int, b: int) -> Any:
    if isinstance(x, Real) and {a % 3, b % 3} == {1, 2}:
        return replace(x, frames_first=not x.frames_first)
    return x if isinstance(x, (Mask, Lengths)) else _constant_move(torch.transpose, x, a, b)


@handles("permute")
def _permute(t: Tracer, x: Any, order: Any) -> Any:
    if isinstance(x, Real) and [o % 3 for o in order] == [0, 2, 1]:
        return replace(x, frames_first=not x.frames_first)
    return _constant_move(torch.permute, x, order)


def _constant_move(function: Callable[..., Any], x: Any, *arguments: Any) -> Any:
    return function(x, *arguments) if isinstance(x, Tensor) else NotImplemented


@handles("unsqueeze")
def _unsqueeze(t: Tracer, x: Any, dim: int) -> Any:
    """Masks, lengths and indices only ever broadcast: their rank carries no meaning."""
    if isinstance(x, Tensor):
        return x.unsqueeze(dim)
    return x if isinstance(x, (Mask, Lengths, TimeIndex, BatchIndex)) else NotImplemented


@handles("squeeze", "view", "reshape", "expand", "expand_as")
def _reshape(t: Tracer, x: Any, *arguments: Any) -> Any:
    if isinstance(x, Tensor) and all(not isinstance(a, Size) for a in arguments):
        return NotImplemented
    return x if isinstance(x, (Mask, Lengths, TimeIndex, BatchIndex)) else NotImplemented


@handles("slice")
def _slice(t: Tracer, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    if start not in (None, 0) or step != 1 or not (end is None or end == 2**63 - 1):
        return NotImplemented
    return x


@handles("index_select")
def _index_select(t: Tracer, x: Any, dim: int, index: Any) -> Any:
    channel_axis = 2 if isinstance(x, Real) and x.frames_first else 1
    if not isinstance(x, Real) or dim % 3 != channel_axis or not isinstance(index, Tensor):
        return NotImplemented
    if index.dtype == torch.bool or index.dim() != 1:
        return NotImplemented
    return t.emit("take_channels", (x.name,), x.frames_first, index=tuple(index.tolist()))


@handles("index")
def _index(t: Tracer, x: Any, indices: Any) -> Any:
    if isinstance(x, Real) and len(indices) == 2 and indices[0] is None:
        return _index_select(t, x, 1, indices[1])
    return NotImplemented


@handles("to", "_to_copy", "type_as", "float", "long")
def _cast(t: Tracer, x: Any, *options: Any) -> Any:
    return x


@handles("dropout", "feature_dropout", "contiguous", "clone", "alias", "detach", "lift_fresh_copy")
def _identity(t: Tracer, x: Any, *options: Any) -> Any:
    return x


@handles("zeros_like")
def _zeros_like(t: Tracer, x: Any, *options: Any) -> Any:
    """Zeros of any shape broadcast alike."""
    return torch.zeros(()) if isinstance(x, (Real, Tensor)) else NotImplemented


@handles("getitem")
def _getitem(t: Tracer, x: Any, index: Any) -> Any:
    """The first result of an operator that returns statistics beside it."""
    return x if isinstance(x, Real) and index == 0 else NotImplemented


@handles("log_softmax", "_log_softmax")
def _log_softmax(t: Tracer, x: Any, *options: Any) -> Any:
    """Left out: integer logits leave the program, and the softmax over tokens follows them."""
    return LogProbs(x.name, True) if isinstance(x, Real) and x.frames_first else NotImplemented


@handles("sym_size", "sym_numel")
def _size(t: Tracer, x: Any, *axis: Any) -> Any:
    return Size(batch=isinstance(x, (Real, Lengths)) and axis == (0,))


@handles("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size")
def _assertion(t: Tracer, *arguments: Any) -> Any:
    return None


def _of_sizes(t: Tracer, *arguments: Any) -> Any:
    return Size() if all(isinstance(a, (Size, int)) for a in arguments) else NotImplemented


for _builtin in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg):
    HANDLERS.setdefault(_builtin.__name__, _of_sizes)
