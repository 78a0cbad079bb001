"""Frame numbers and masks, as networks and general libraries write them.

A mask made for any attention is looked up by the numbers of utterances and frames, combined with conditions
that always hold, and reduced from pairs of frames to frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.dispatch import handles
from zeroq_asr.capture.lengths import shifted
from zeroq_asr.capture.tracer import BatchIndex, Lengths, Mask, Size, TimeIndex, Tracer


@handles("arange")
def _arange(t: Tracer, *arguments: object) -> Any:
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


def _comparison(name: str, *, mirrored: bool) -> Callable[..., Mask]:
    def handler(t: Tracer, a: Any, b: Any) -> Mask:
        by, negated = _COMPARISONS[_MIRRORED[name] if mirrored else name]
        return Mask(shifted(a if mirrored else b, by), negated)

    return handler


for _name in _COMPARISONS:
    handles(_name, TimeIndex, Lengths)(_comparison(_name, mirrored=False))
    handles(_name, Lengths, TimeIndex)(_comparison(_name, mirrored=True))


@handles("ge", TimeIndex, int)
def _ge(t: Tracer, a: TimeIndex, b: int) -> Any:
    """No frame has a number below zero."""
    return torch.tensor(True) if b <= 0 else NotImplemented


@handles("new_ones", TimeIndex)
def _new_ones(t: Tracer, x: TimeIndex, size: object, *options: object) -> Any:
    """Ones of any shape broadcast alike."""
    return torch.tensor(True) if torch.bool in options else NotImplemented


@handles("not", Mask)
def _not(t: Tracer, mask: Mask) -> Mask:
    return replace(mask, negated=not mask.negated)


@handles("and", Mask, Mask)
def _both(t: Tracer, a: Mask, b: Mask) -> Any:
    """Valid as a query and as a key: masks only ever broadcast, so both are the one mask."""
    return a if a == b and not a.negated else NotImplemented


@handles("and", Tensor, Mask)
def _and(t: Tracer, a: Tensor, b: Mask) -> Any:
    return b if a.dtype == torch.bool and bool(a.all()) else NotImplemented


@handles("and", Mask, Tensor)
def _and_turned(t: Tracer, a: Mask, b: Tensor) -> Any:
    return _and(t, b, a)


@handles("index", Mask)
def _index(t: Tracer, x: Mask, indices: Any) -> Any:
    """Every utterance's own row, every frame's own entry: the mask itself."""
    whole = len(indices) == 2 and isinstance(indices[0], BatchIndex) and isinstance(indices[1], TimeIndex)
    return x if whole else NotImplemented


@handles("all", Mask)
def _all(t: Tracer, x: Mask, axis: int = 0, keepdim: bool = False) -> Any:
    """No pair of a frame is valid: the frame is not.  Some axis of frames must be left for it to say so."""
    return x if x.negated and None in t.shape else NotImplemented


@handles("repeat", Mask)
def _repeat(t: Tracer, x: Mask, counts: Any) -> Any:
    """Over channels, a mask is as it was; over frames it would be another one."""
    pairs = list(zip(counts, t.shape, strict=False))
    over_channels = len(counts) == len(t.shape) and all(n == 1 or isinstance(size, int) for n, size in pairs)
    return x if over_channels else NotImplemented


@handles("sum", Mask)
def _sum(t: Tracer, x: Mask, dims: Any = None, keepdim: bool = False, dtype: object = None) -> Any:
    """The number of valid frames."""
    return x.lengths if not x.negated and dims is not None and list(dims) != [0] else NotImplemented
