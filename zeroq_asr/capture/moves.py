"""Moves of activations that are no operator of the graph, and what leaves a value as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zeroq_asr.capture.dispatch import handles
from zeroq_asr.capture.tracer import (
    BatchIndex,
    Lengths,
    LogProbs,
    Mask,
    Real,
    Size,
    TimeIndex,
    TimeMajor,
    Tracer,
    Zeros,
)

#: what only ever broadcasts: the rank of these carries no meaning
_RANKLESS = (Mask, Lengths, TimeIndex, BatchIndex)


@handles("transpose", Real)
def _transpose(t: Tracer, x: Real, a: int, b: int) -> Any:
    order = [0, 1, 2]
    order[a], order[b] = order[b], order[a]
    return _permute(t, x, order)


@handles("permute", Real)
def _permute(t: Tracer, x: Real, order: Any) -> Any:
    order = [o % 3 for o in order]
    if order == [0, 2, 1]:
        return replace(x, frames_first=not x.frames_first)
    return TimeMajor(x.name) if order == ([1, 0, 2] if x.frames_first else [2, 0, 1]) else NotImplemented


@handles("transpose", TimeMajor)
def _transpose_back(t: Tracer, x: TimeMajor, a: int, b: int) -> Any:
    order = [0, 1, 2]
    order[a], order[b] = order[b], order[a]
    return _permute_back(t, x, order)


@handles("permute", TimeMajor)
def _permute_back(t: Tracer, x: TimeMajor, order: Any) -> Any:
    order = [o % 3 for o in order]
    return Real(x.name, order == [1, 0, 2]) if order in ([1, 0, 2], [1, 2, 0]) else NotImplemented


@handles("zeros", list)
def _zeros(t: Tracer, extents: list[Any], *options: object) -> Any:
    """The first state of a recurrence."""
    whole = [isinstance(e, int) and not isinstance(e, bool) for e in extents]
    batch = len(extents) == 3 and isinstance(extents[1], Size) and extents[1].batch
    return Zeros() if batch and whole == [True, False, True] else NotImplemented


@handles("identity", object)
@handles("cast", object)
@handles("transpose", (Mask, Lengths))
def _same(t: Tracer, x: object, *options: object) -> object:
    return x


for _name in ("unsqueeze", "squeeze", "reshape", "expand", "expand_as"):
    handles(_name, _RANKLESS)(_same)


@handles("slice", object)
def _slice(
    t: Tracer, x: object, dim: int = 0, start: object = None, end: object = None, step: object = 1
) -> Any:
    """All there is."""
    whole = start in (None, 0) and step == 1 and (end is None or end == 2**63 - 1)
    return x if whole else NotImplemented


@handles("getitem", Real)
def _getitem(t: Tracer, x: Real, index: object) -> Any:
    """The first result of an operator that returns statistics beside it."""
    return x if index == 0 else NotImplemented


@handles("log_softmax", Real)
def _log_softmax(t: Tracer, x: Real, *options: object) -> Any:
    """Left out: integer logits leave the program, and the softmax over tokens follows them."""
    return LogProbs(x.name, True) if x.frames_first else NotImplemented
