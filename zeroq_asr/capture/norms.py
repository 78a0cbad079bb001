"""What ATen operators mean on their way to a normalization over the frames of an utterance.

An instance norm that sees valid frames alone has no operator of its own: it is a masked mean, a masked mean
of squares, and a quotient.  Each step is followed by what it computes, and the last becomes one
``instance_norm`` node; any other use of a step is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from zeroq_asr.capture.aten import also_handles
from zeroq_asr.capture.tracer import Centred, Lengths, Mask, Real, Spread, Tracer


@also_handles("sub", "sub_")
def _sub(t: Tracer, a: Any, b: Any, alpha: Any = 1) -> Any:
    """x − mean over the valid frames of x."""
    if not isinstance(a, Real) or not isinstance(b, Real) or alpha != 1 or a.frames_first != b.frames_first:
        return NotImplemented
    mean, source = t.node(b), t.node(a)
    if mean is None or mean.op != "mean_time":
        return NotImplemented
    # the mean of a masked value is that of what was masked
    masked = source is not None and source.op == "mask_time" and source.ins == mean.ins
    return Centred(a, mean.ins[1]) if masked or mean.ins[0] == a.name else NotImplemented


@also_handles("mul", "mul_")
def _mul(t: Tracer, a: Any, b: Any) -> Any:
    if isinstance(b, (Centred, Spread)) and not isinstance(a, Centred):
        a, b = b, a
    if isinstance(a, Centred) and isinstance(b, Centred):
        return _squares(a) if a == b else NotImplemented
    if isinstance(b, Mask):
        return _keep(t, a, b)
    if isinstance(a, Centred) and isinstance(b, Spread) and b.step == "inverse":
        return _instance_norm(t, a, b)
    return NotImplemented


@also_handles("pow")
def _pow(t: Tracer, x: Any, exponent: Any) -> Any:
    return _squares(x) if isinstance(x, Centred) and exponent == 2 else NotImplemented


@also_handles("square")
def _square(t: Tracer, x: Any) -> Any:
    return _squares(x) if isinstance(x, Centred) else NotImplemented


def _squares(x: Centred) -> Spread:
    return Spread(replace(x, masked=False), "kept" if x.masked else "squares")


def _keep(t: Tracer, x: Any, mask: Mask) -> Any:
    if mask.negated or not isinstance(x, (Centred, Spread)):
        return NotImplemented
    of = x if isinstance(x, Centred) else x.of
    if t.length_name(mask.lengths) != of.lengths:
        return NotImplemented
    if isinstance(x, Centred):
        return replace(x, masked=True)
    return replace(x, step="kept") if x.step in ("squares", "kept") else NotImplemented


@also_handles("masked_fill", "masked_fill_")
def _masked_fill(t: Tracer, x: Any, mask: Any, value: Any) -> Any:
    if not isinstance(x, (Centred, Spread)) or not isinstance(mask, Mask) or float(value) != 0.0:
        return NotImplemented
    return _keep(t, x, replace(mask, negated=not mask.negated))


@also_handles("sum")
def _sum(t: Tracer, x: Any, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if not isinstance(x, Spread) or x.step != "kept" or not keepdim or dims is None or len(dims) != 1:
        return NotImplemented
    along_time = dims[0] in ((1, -2) if x.of.source.frames_first else (2, -1))
    return replace(x, step="total") if along_time else NotImplemented


@also_handles("div")
def _div(t: Tracer, a: Any, b: Any, rounding: Any = None) -> Any:
    if isinstance(a, Spread) and a.step == "total" and isinstance(b, Lengths) and rounding is None:
        return replace(a, step="variance") if t.length_name(b) == a.of.lengths else NotImplemented
    if isinstance(a, Centred) and isinstance(b, Spread) and b.step == "deviation" and rounding is None:
        return _instance_norm(t, a, b)
    return NotImplemented


@also_handles("add", "add_")
def _add(t: Tracer, a: Any, b: Any, alpha: Any = 1) -> Any:
    known = isinstance(b, (int, float)) and alpha == 1
    if not isinstance(a, Spread) or a.step != "variance" or not known:
        return NotImplemented
    return replace(a, epsilon=a.epsilon + b)


@also_handles("sqrt")
def _sqrt(t: Tracer, x: Any) -> Any:
    return _root(x, "deviation")


@also_handles("rsqrt")
def _rsqrt(t: Tracer, x: Any) -> Any:
    return _root(x, "inverse")


def _root(x: Any, step: str) -> Any:
    return replace(x, step=step) if isinstance(x, Spread) and x.step == "variance" else NotImplemented


def _instance_norm(t: Tracer, x: Centred, spread: Spread) -> Any:
    """(x − mean) / sqrt(variance + epsilon); a weight and a bias behind it are folded in later."""
    count = t.shape[2 if x.source.frames_first else 1] if len(t.shape) == 3 else None
    if replace(x, masked=False) != spread.of or not isinstance(count, int):
        return NotImplemented
    result = t.emit(
        "instance_norm",
        (x.source.name, x.lengths),
        x.source.frames_first,
        weight=torch.ones(count),
        bias=torch.zeros(count),
        epsilon=spread.epsilon,
    )
    # nothing is said of the frames beyond the length, unless the network cleared them
    if not x.masked:
        return result
    return t.emit("mask_time", (result.name, x.lengths), result.frames_first)
