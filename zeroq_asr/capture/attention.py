"""What ATen operators mean on images, heads and scores: 2-D convolutions, layer norms and attention.

Attention is recognised by what it computes: channels split into heads, a product of queries and keys, a
relative shift, a mask, a softmax, a product with values; whichever way its axes are moved in between, it
becomes one ``attention`` node.  The check at the end of the capture is what makes this safe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.aten import also_handles
from zeroq_asr.capture.tracer import (
    Heads,
    Image,
    Lengths,
    Mask,
    OfFrames,
    Real,
    Scores,
    Size,
    Tracer,
    Weights,
)

#: a masked score is at most this: e^-1000 is nothing beside any other
_MASKED = -1000.0


# -- images: 2-D convolutions over time and frequency -------------------------------------------------


@also_handles("unsqueeze")
def _image(t: Tracer, x: Any, dim: int) -> Any:
    if not isinstance(x, Real) or not x.frames_first or dim != 1:
        return NotImplemented
    return Image(t.emit("image", (x.name,)).name)


@also_handles("conv2d")
def _conv2d(
    t: Tracer, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int = 1
) -> Any:
    if not isinstance(x, Image) or x.frames_first or not isinstance(w, Tensor) or isinstance(padding, str):
        return NotImplemented
    made = t.emit(
        "conv2d",
        (x.name,),
        weight=w.float(),
        bias=torch.zeros(w.shape[0]) if b is None else b.float(),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=groups,
    )
    return Image(made.name)


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[-1])


@also_handles("relu", "relu_")
def _relu(t: Tracer, x: Any) -> Any:
    if not isinstance(x, Image):
        return NotImplemented
    return replace(x, name=t.emit("clamp", (x.name,), clamp=(0.0, None)).name)


@also_handles("mul", "mul_")
def _masked_image(t: Tracer, a: Any, b: Any) -> Any:
    image, mask = (a, b) if isinstance(a, Image) else (b, a)
    if not isinstance(image, Image) or not isinstance(mask, Mask) or mask.negated:
        return NotImplemented
    made = t.emit("mask_time", (image.name, t.length_name(mask.lengths)))
    return replace(image, name=made.name)


# -- normalization, gates -----------------------------------------------------------------------------


@also_handles("layer_norm", "native_layer_norm")
def _layer_norm(
    t: Tracer, x: Any, shape: Any, w: Any = None, b: Any = None, epsilon: float = 1e-5, *_: Any
) -> Any:
    if not isinstance(x, Real) or not x.frames_first or len(shape) != 1:
        return NotImplemented
    count = shape[0]
    weight = torch.ones(count) if w is None else w.float()
    bias = torch.zeros(count) if b is None else b.float()
    return t.emit("layer_norm", (x.name,), True, weight=weight, bias=bias, epsilon=float(epsilon))


@also_handles("glu")
def _glu(t: Tracer, x: Any, dim: int = -1) -> Any:
    """a · sigmoid(b) of the two halves of the channels, each made by its own rows where it can be."""
    if not isinstance(x, Real) or dim % 3 != (2 if x.frames_first else 1):
        return NotImplemented
    source = t.node(x)
    if source is None or source.op != "conv1d" or source.attrs["groups"] != 1:
        return NotImplemented
    half = source.attrs["weight"].shape[0] // 2
    parts = []
    for rows in (slice(0, half), slice(half, None)):
        own = {"weight": source.attrs["weight"][rows], "bias": source.attrs["bias"][rows]}
        parts.append(t.emit("conv1d", source.ins, x.frames_first, **{**source.attrs, **own}))
    gate = t.emit("sigmoid", (parts[1].name,), x.frames_first)
    return t.emit("mul", (parts[0].name, gate.name), x.frames_first)


# -- moves ---------------------------------------------------------------------------------------------


@also_handles("view", "reshape", "_unsafe_view")
def _view(t: Tracer, x: Any, shape: Any = (), *_: Any) -> Any:
    if isinstance(x, Real) and x.frames_first and len(shape) == 4:
        heads, size = t.shape[2:]
        if isinstance(heads, int) and isinstance(size, int):
            return Heads(x.name, heads, size=size)
        return NotImplemented
    if isinstance(x, Heads) and len(shape) == 4 and t.shape[1:] == _extents(x)[1:]:
        return x
    if isinstance(x, Heads) and x.layout == "bthe" and len(shape) == 3:
        return Real(x.name, True)
    if isinstance(x, Image) and x.frames_first and len(shape) == 3 and isinstance(t.shape[2], int):
        return Real(t.emit("flatten", (x.name,), channels=t.shape[2]).name, True)
    if isinstance(x, OfFrames):
        return _as_known(t, x, torch.reshape)
    return _shifted(x, (1, 3)) if len(shape) == 4 else NotImplemented


def _extents(x: Heads) -> tuple[int | str | None, ...]:
    extents: dict[str, int | str | None] = {"b": "batch", "t": None, "h": x.heads, "e": x.size}
    return tuple(extents[axis] for axis in x.layout)


@also_handles("expand")
def _expand(t: Tracer, x: Any, *_: Any) -> Any:
    return _as_known(t, x, torch.Tensor.expand) if isinstance(x, OfFrames) else NotImplemented


def _as_known(t: Tracer, x: OfFrames, function: Callable[..., Tensor]) -> Any:
    """Reshape or expand to the traced shape, for a batch of 1, the one extent of frames left open."""
    shape = [1 if size == "batch" else -1 if size is None else size for size in t.shape]
    if shape.count(-1) > 1:
        return NotImplemented
    return replace(x, compute=lambda frames: function(x.compute(frames), shape))


@also_handles("transpose")
def _transpose(t: Tracer, x: Any, a: int, b: int) -> Any:
    order = [0, 1, 2, 3]
    order[a % 4], order[b % 4] = order[b % 4], order[a % 4]
    return _moved(x, order)


@also_handles("permute")
def _permute(t: Tracer, x: Any, order: Any) -> Any:
    return _moved(x, [o % 4 for o in order]) if len(order) == 4 else NotImplemented


def _moved(x: Any, order: list[int]) -> Any:
    if isinstance(x, Heads):
        return replace(x, layout="".join(x.layout[o] for o in order))
    if isinstance(x, Image) and order == [0, 2, 1, 3]:
        return replace(x, frames_first=not x.frames_first)
    return NotImplemented


# -- attention -----------------------------------------------------------------------------------------


@also_handles("add", "add_")
def _add(t: Tracer, a: Any, b: Any, alpha: Any = 1) -> Any:
    if isinstance(a, Heads) and isinstance(b, Tensor) and alpha == 1:
        return _affine_heads(t, a, torch.ones(()), b)
    if isinstance(a, Scores) and isinstance(b, Scores) and alpha == 1:
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
    return NotImplemented


@also_handles("mul", "mul_")
def _mul(t: Tracer, a: Any, b: Any) -> Any:
    if isinstance(b, (Heads, Scores)):
        a, b = b, a
    if isinstance(b, Tensor) and b.numel() == 1:
        b = float(b)
    if not isinstance(b, (int, float)):
        return NotImplemented
    if isinstance(a, Heads):
        return _affine_heads(t, a, torch.tensor(float(b)), torch.zeros(()))
    return replace(a, scale=a.scale * b) if isinstance(a, Scores) and a.lengths is None else NotImplemented


@also_handles("div")
def _div(t: Tracer, a: Any, b: Any, rounding: Any = None) -> Any:
    known = isinstance(b, (int, float)) and rounding is None
    return _mul(t, a, 1.0 / b) if known and isinstance(a, (Heads, Scores)) else NotImplemented


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


@also_handles("matmul", "bmm")
def _matmul(t: Tracer, a: Any, b: Any) -> Any:
    if isinstance(a, Heads) and a.layout == "bhte":
        if isinstance(b, Heads) and b.layout == "bhet" and a.heads == b.heads:
            return Scores(a.heads, query=a.name, key=b.name)
        if isinstance(b, OfFrames):
            return Scores(a.heads, position_query=a.name, positions=b)
    if isinstance(a, Weights) and isinstance(b, Heads) and b.layout == "bhte":
        return _attend(t, a.scores, b)
    return NotImplemented


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


@also_handles("scaled_dot_product_attention")
def _scaled_dot_product_attention(
    t: Tracer,
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: Any = None,
    grouped: bool = False,
) -> Any:
    """The whole of attention in one operator; what is added to its scores may be that of distances."""
    heads = (query, key, value)
    if not all(isinstance(x, Heads) and x.layout == "bhte" and x.heads == query.heads for x in heads):
        return NotImplemented
    if dropout != 0.0 or causal or grouped:
        return NotImplemented
    scale = query.size**-0.5 if scale is None else scale
    content = Scores(query.heads, query=query.name, key=key.name, scale=scale)
    if isinstance(mask, Mask) and not mask.negated:
        return _attend(t, replace(content, lengths=mask.lengths), value)
    if not isinstance(mask, Scores) or mask.lengths is None:
        return NotImplemented
    scores = _add(t, content, replace(mask, lengths=None))
    if scores is NotImplemented:
        return NotImplemented
    return _attend(t, replace(scores, lengths=mask.lengths), value)


def _shifted(x: Any, steps: tuple[int, ...]) -> Any:
    """Scores of distances after the next step of the relative shift, if it is one of ``steps``."""
    fits = isinstance(x, Scores) and x.positions is not None and not x.query and x.steps in steps
    return replace(x, steps=x.steps + 1) if fits else NotImplemented


@also_handles("constant_pad_nd", "pad")
def _pad(t: Tracer, x: Any, padding: Any, *_: Any) -> Any:
    return _shifted(x, (0,)) if list(padding) == [1, 0] else NotImplemented


@also_handles("slice")
def _slice(t: Tracer, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    if not isinstance(x, Scores) or step != 1:
        return NotImplemented
    if start in (None, 0) and (end is None or end == 2**63 - 1):
        return x
    if dim == 2 and start == 1:
        return _shifted(x, (2,))
    return _shifted(x, (4,)) if dim == 3 and start in (None, 0) and isinstance(end, Size) else NotImplemented


@also_handles("__and__", "bitwise_and", "logical_and")
def _both(t: Tracer, a: Any, b: Any) -> Any:
    """Valid as a query and as a key: masks only ever broadcast, so both are the one mask."""
    return a if isinstance(a, Mask) and a == b and not a.negated else NotImplemented


@also_handles("masked_fill", "masked_fill_")
def _masked_fill(t: Tracer, x: Any, mask: Any, value: Any) -> Any:
    if not isinstance(mask, Mask) or not mask.negated:
        return NotImplemented
    if isinstance(x, Scores) and x.lengths is None and float(value) <= _MASKED:
        return replace(x, lengths=mask.lengths)
    if isinstance(x, Weights) and float(value) == 0.0 and _same(t, x.scores.lengths, mask.lengths):
        return x  # those of keys are zero already, and nobody looks at those of queries
    return NotImplemented


@also_handles("where")
def _where(t: Tracer, mask: Any, kept: Any, value: Any) -> Any:
    if not isinstance(mask, Mask) or not isinstance(kept, Scores) or isinstance(value, Scores):
        return NotImplemented
    return _masked_fill(t, kept, replace(mask, negated=not mask.negated), value)


def _same(t: Tracer, a: Lengths | None, b: Lengths) -> bool:
    return a is not None and t.length_name(a) == t.length_name(b)


@also_handles("softmax", "_softmax")
def _softmax(t: Tracer, x: Any, dim: int, *_: Any) -> Any:
    return Weights(x) if isinstance(x, Scores) and dim in (-1, 3) else NotImplemented


@also_handles("arange")
def _distances(t: Tracer, *arguments: Any) -> Any:
    """arange(T − 1, −T, −1): the distances between T frames, falling."""
    extents = arguments[:3]
    if len(extents) < 3 or extents[2] != -1 or not all(isinstance(e, Size) for e in extents[:2]):
        return NotImplemented
    return OfFrames(lambda frames: torch.arange(frames - 1, -frames, -1, dtype=torch.float32))
