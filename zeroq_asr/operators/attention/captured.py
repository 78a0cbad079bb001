"""How attention is recognised: by what it computes, whichever way its axes are moved in between.

Channels split into heads, a product of queries and keys, a relative shift, a mask, a softmax, a product with
values: together they become one ``attention`` node.  The check at the end of the capture is what makes this
safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Heads, Lengths, Mask, OfFrames, Real, Scores, Size, Tracer, Weights

#: a masked score is at most this: e^-1000 is nothing beside any other
_MASKED = -1000.0

captures = Captures()

# -- heads, and what depends on distances alone ---------------------------------------------------------


@captures("reshape", Real)
def _split(t: Tracer, x: Real, shape: Sequence[object] = (), *_: object) -> Any:
    if not x.frames_first or len(shape) != 4:
        return NotImplemented
    heads, size = t.shape[2:]
    if isinstance(heads, int) and isinstance(size, int):
        return Heads(x.name, heads, size=size)
    return NotImplemented


@captures("reshape", Heads)
def _join(t: Tracer, x: Heads, shape: Sequence[object] = (), *_: object) -> Any:
    if len(shape) == 4 and t.shape[1:] == _extents(x)[1:]:
        return x
    return Real(x.name, True) if x.layout == "bthe" and len(shape) == 3 else NotImplemented


def _extents(x: Heads) -> tuple[int | str | None, ...]:
    extents: dict[str, int | str | None] = {"b": "batch", "t": None, "h": x.heads, "e": x.size}
    return tuple(extents[axis] for axis in x.layout)


@captures("reshape", OfFrames)
def _reshape_table(t: Tracer, x: OfFrames, *_: object) -> Any:
    return _as_known(t, x, torch.reshape)


@captures("expand", OfFrames)
def _expand_table(t: Tracer, x: OfFrames, *_: object) -> Any:
    return _as_known(t, x, torch.Tensor.expand)


def _as_known(t: Tracer, x: OfFrames, function: Callable[..., Tensor]) -> Any:
    """Reshape or expand to the traced shape, for a batch of 1, the one extent of frames left open."""
    shape = [1 if size == "batch" else -1 if size is None else size for size in t.shape]
    if shape.count(-1) > 1:
        return NotImplemented
    return replace(x, compute=lambda frames: function(x.compute(frames), shape))


@captures("transpose", Heads)
def _transpose(t: Tracer, x: Heads, a: int, b: int) -> Any:
    order = [0, 1, 2, 3]
    order[a % 4], order[b % 4] = order[b % 4], order[a % 4]
    return _moved(x, order)


@captures("permute", Heads)
def _permute(t: Tracer, x: Heads, order: Sequence[int]) -> Any:
    return _moved(x, [o % 4 for o in order]) if len(order) == 4 else NotImplemented


def _moved(x: Heads, order: list[int]) -> Heads:
    return replace(x, layout="".join(x.layout[o] for o in order))


@captures("arange", Size, Size, int)
def _distances(t: Tracer, first: Size, last: Size, step: int, *_: object) -> Any:
    """arange(T − 1, −T, −1): the distances between T frames, falling."""
    if step != -1:
        return NotImplemented
    return OfFrames(lambda frames: torch.arange(frames - 1, -frames, -1, dtype=torch.float32))


# -- vectors and scales ---------------------------------------------------------------------------------


@captures("add", Heads, Tensor)
def _add_vector(t: Tracer, a: Heads, b: Tensor, alpha: object = 1) -> Any:
    return _affine_heads(t, a, torch.ones(()), b) if alpha == 1 else NotImplemented


@captures("mul", (Heads, Scores), (Tensor, int, float))
def _mul(t: Tracer, a: Heads | Scores, b: Tensor | float) -> Any:
    if isinstance(b, Tensor) and b.numel() == 1:
        b = float(b)
    if not isinstance(b, (int, float)):
        return NotImplemented
    if isinstance(a, Heads):
        return _affine_heads(t, a, torch.tensor(float(b)), torch.zeros(()))
    return replace(a, scale=a.scale * b) if a.lengths is None else NotImplemented


@captures("mul", (Tensor, int, float), (Heads, Scores))
def _mul_turned(t: Tracer, b: Tensor | float, a: Heads | Scores) -> Any:
    return _mul(t, a, b)


@captures("div", (Heads, Scores), (int, float))
def _div(t: Tracer, a: Heads | Scores, b: float, rounding: object = None) -> Any:
    return _mul(t, a, 1.0 / b) if rounding is None else NotImplemented


def _affine_heads(t: Tracer, x: Heads, scale: Tensor, shift: Tensor) -> Any:
    """Scale and shift the channels of split heads; a vector must be [H, E] whichever way it broadcasts."""
    vectors = []
    for vector in (scale, shift):
        if vector.numel() > 1:
            aligned = vector.reshape((1,) * (4 - vector.dim()) + tuple(vector.shape))
            order = [x.layout.index(axis) for axis in "bthe"]
            aligned = aligned.permute(order)
            if aligned.shape[:2] != (1, 1) or aligned.shape[2] != x.heads:
                return NotImplemented
        else:
            aligned = vector
        vectors.append(aligned.double().flatten())
    return replace(x, name=t.emit("affine", (x.name,), True, scale=vectors[0], shift=vectors[1]).name)


# -- scores ---------------------------------------------------------------------------------------------


@captures("matmul", Heads, Heads)
def _scores(t: Tracer, a: Heads, b: Heads) -> Any:
    fits = a.layout == "bhte" and b.layout == "bhet" and a.heads == b.heads
    return Scores(a.heads, query=a.name, key=b.name) if fits else NotImplemented


@captures("matmul", Heads, OfFrames)
def _scores_of_distances(t: Tracer, a: Heads, b: OfFrames) -> Any:
    if a.layout != "bhte":
        return NotImplemented
    return Scores(a.heads, position_query=a.name, positions=b)


@captures("add", Scores, Scores)
def _add_scores(t: Tracer, a: Scores, b: Scores, alpha: object = 1) -> Any:
    if alpha != 1:
        return NotImplemented
    content, position = (a, b) if a.query else (b, a)
    fits = content.query and content.positions is None and not position.query and position.whole
    if not fits or content.scale != position.scale or content.lengths or position.lengths:
        return NotImplemented
    return replace(
        content,
        position_query=position.position_query,
        positions=position.positions,
        steps=position.steps,
    )


def _shifted(x: Scores, *steps: int) -> Any:
    """Scores of distances after the next step of the relative shift, if it is one of ``steps``."""
    fits = x.positions is not None and not x.query and x.steps in steps
    return replace(x, steps=x.steps + 1) if fits else NotImplemented


@captures("pad", Scores)
def _pad(t: Tracer, x: Scores, padding: Sequence[object], *_: object) -> Any:
    return _shifted(x, 0) if list(padding) == [1, 0] else NotImplemented


@captures("reshape", Scores)
def _reshape_scores(t: Tracer, x: Scores, shape: Sequence[object] = (), *_: object) -> Any:
    return _shifted(x, 1, 3) if len(shape) == 4 else NotImplemented


@captures("slice", Scores)
def _slice(
    t: Tracer, x: Scores, dim: int = 0, start: object = None, end: object = None, step: int = 1
) -> Any:
    if step != 1:
        return NotImplemented
    if start in (None, 0) and (end is None or end == 2**63 - 1):
        return x
    if dim == 2 and start == 1:
        return _shifted(x, 2)
    return _shifted(x, 4) if dim == 3 and start in (None, 0) and isinstance(end, Size) else NotImplemented


@captures("masked_fill", (Scores, Weights), Mask)
def _masked_fill(t: Tracer, x: Scores | Weights, mask: Mask, value: Tensor | float) -> Any:
    if not mask.negated:
        return NotImplemented
    if isinstance(x, Scores) and x.lengths is None and float(value) <= _MASKED:
        return replace(x, lengths=mask.lengths)
    if isinstance(x, Weights) and float(value) == 0.0 and _same(t, x.scores.lengths, mask.lengths):
        return x  # those of keys are zero already, and nobody looks at those of queries
    return NotImplemented


@captures("where", Mask, Scores, (Tensor, int, float))
def _where(t: Tracer, mask: Mask, kept: Scores, value: Tensor | float) -> Any:
    return _masked_fill(t, kept, replace(mask, negated=not mask.negated), value)


def _same(t: Tracer, a: Lengths | None, b: Lengths) -> bool:
    return a is not None and t.length_name(a) == t.length_name(b)


@captures("softmax", Scores)
def _softmax(t: Tracer, x: Scores, dim: int, *_: object) -> Any:
    return Weights(x) if dim in (-1, 3) else NotImplemented


# -- the weighted mean ----------------------------------------------------------------------------------


@captures("matmul", Weights, Heads)
def _weighted(t: Tracer, a: Weights, b: Heads) -> Any:
    return _attend(t, a.scores, b) if b.layout == "bhte" else NotImplemented


def _attend(t: Tracer, scores: Scores, value: Heads) -> Any:
    if not scores.query or not scores.whole or scores.lengths is None or scores.heads != value.heads:
        return NotImplemented
    ins = [scores.query, scores.key, value.name, t.length_name(scores.lengths)]
    if scores.position_query:
        ins.append(scores.position_query)
    positions = None if scores.positions is None else _without_batch(scores.positions)
    made = t.emit(
        "attention", tuple(ins), True, heads=scores.heads, scale=float(scores.scale), positions=positions
    )
    return Heads(made.name, value.heads, "bhte", value.size)


def _without_batch(positions: OfFrames) -> OfFrames:
    """[H, E, 2T − 1] of positions that may have a batch axis of 1 in front."""

    def compute(frames: int) -> Tensor:
        table = positions.compute(frames)
        return table.reshape(table.shape[-3:])

    return replace(positions, compute=compute)


@captures("scaled_dot_product_attention", Heads, Heads, Heads)
def _scaled_dot_product_attention(
    t: Tracer,
    query: Heads,
    key: Heads,
    value: Heads,
    mask: object = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> Any:
    """The whole of attention in one operator; what is added to its scores may be that of distances."""
    if any(x.layout != "bhte" or x.heads != query.heads for x in (query, key, value)):
        return NotImplemented
    if dropout != 0.0 or causal or grouped:
        return NotImplemented
    scale = query.size**-0.5 if scale is None else scale
    content = Scores(query.heads, query=query.name, key=key.name, scale=scale)
    if isinstance(mask, Mask) and not mask.negated:
        return _attend(t, replace(content, lengths=mask.lengths), value)
    if not isinstance(mask, Scores) or mask.lengths is None:
        return NotImplemented
    scores = _add_scores(t, content, replace(mask, lengths=None))
    if scores is NotImplemented:
        return NotImplemented
    return _attend(t, replace(scores, lengths=mask.lengths), value)
