"""How a normalization over the frames of an utterance is recognised, step by step.

An instance norm that sees valid frames alone has no operator of its own: it is a masked mean, a masked mean
of squares, and a quotient.  Each step is followed by what it computes, and the last becomes one
``instance_norm`` node; any other use of a step is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Centred, Lengths, Mask, Real, Spread, Tracer

captures = Captures()


@captures("sub", Real, Real)
def _sub(t: Tracer, a: Real, b: Real, alpha: object = 1) -> Any:
    """x − mean over the valid frames of x."""
    if alpha != 1 or a.frames_first != b.frames_first:
        return NotImplemented
    mean, source = t.node(b), t.node(a)
    if mean is None or mean.op != "mean_time":
        return NotImplemented
    # the mean of a masked value is that of what was masked
    masked = source is not None and source.op == "mask_time" and source.ins == mean.ins
    return Centred(a, mean.ins[1]) if masked or mean.ins[0] == a.name else NotImplemented


@captures("mul", (Centred, Spread, Mask), (Centred, Spread, Mask))
def _mul(t: Tracer, a: Centred | Spread | Mask, b: Centred | Spread | Mask) -> Any:
    if isinstance(b, (Centred, Spread)) and not isinstance(a, Centred):
        a, b = b, a
    if isinstance(a, Centred) and isinstance(b, Centred):
        return _squares(a) if a == b else NotImplemented
    if isinstance(b, Mask):
        return _keep(t, a, b)
    if isinstance(a, Centred) and isinstance(b, Spread) and b.step == "inverse":
        return _instance_norm(t, a, b)
    return NotImplemented


@captures("pow", Centred)
def _pow(t: Tracer, x: Centred, exponent: object) -> Any:
    return _squares(x) if exponent == 2 else NotImplemented


@captures("square", Centred)
def _square(t: Tracer, x: Centred) -> Any:
    return _squares(x)


def _squares(x: Centred) -> Spread:
    return Spread(replace(x, masked=False), "kept" if x.masked else "squares")


def _keep(t: Tracer, x: Centred | Spread | Mask, mask: Mask) -> Any:
    if mask.negated or not isinstance(x, (Centred, Spread)):
        return NotImplemented
    of = x if isinstance(x, Centred) else x.of
    if t.length_name(mask.lengths) != of.lengths:
        return NotImplemented
    if isinstance(x, Centred):
        return replace(x, masked=True)
    return replace(x, step="kept") if x.step in ("squares", "kept") else NotImplemented


@captures("masked_fill", (Centred, Spread), Mask)
def _masked_fill(t: Tracer, x: Centred | Spread, mask: Mask, value: float) -> Any:
    if float(value) != 0.0:
        return NotImplemented
    return _keep(t, x, replace(mask, negated=not mask.negated))


@captures("sum", Spread)
def _sum(
    t: Tracer, x: Spread, dims: list[int] | None = None, keepdim: bool = False, dtype: object = None
) -> Any:
    if x.step != "kept" or not keepdim or dims is None or len(dims) != 1:
        return NotImplemented
    along_time = dims[0] in ((1, -2) if x.of.source.frames_first else (2, -1))
    return replace(x, step="total") if along_time else NotImplemented


@captures("div", (Centred, Spread), (Lengths, Spread))
def _div(t: Tracer, a: Centred | Spread, b: Lengths | Spread, rounding: object = None) -> Any:
    if isinstance(a, Spread) and a.step == "total" and isinstance(b, Lengths) and rounding is None:
        return replace(a, step="variance") if t.length_name(b) == a.of.lengths else NotImplemented
    if isinstance(a, Centred) and isinstance(b, Spread) and b.step == "deviation" and rounding is None:
        return _instance_norm(t, a, b)
    return NotImplemented


@captures("add", Spread, (int, float))
def _add(t: Tracer, a: Spread, b: float, alpha: object = 1) -> Any:
    if a.step != "variance" or alpha != 1:
        return NotImplemented
    return replace(a, epsilon=a.epsilon + b)


@captures("sqrt", Spread)
def _sqrt(t: Tracer, x: Spread) -> Any:
    return _root(x, "deviation")


@captures("rsqrt", Spread)
def _rsqrt(t: Tracer, x: Spread) -> Any:
    return _root(x, "inverse")


def _root(x: Spread, step: str) -> Any:
    return replace(x, step=step) if x.step == "variance" else NotImplemented


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
