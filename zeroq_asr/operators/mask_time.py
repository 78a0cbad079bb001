"""Masks over time: frames at or beyond an utterance's length become zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Image, Mask, Real, Tracer
from zeroq_asr.graph.float_graph import FloatNode, valid_frames
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.attributes import BYTE
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.program import Instruction
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import Case, edge_bytes, with_lengths
from zeroq_asr.registry import (
    ALWAYS,
    OWN,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    moves,
    register,
    spelled,
)

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend


def _meaning(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.where(valid_frames(x, lengths), x, 0.0)


# -- capture ---------------------------------------------------------------------------------------

captures = Captures()


def _masked(t: Tracer, x: Real, mask: Mask, *, keep: bool) -> Any:
    """Activation with the frames of the mask kept (or, if not ``keep``, cleared)."""
    if mask.negated == keep:
        return NotImplemented
    return t.emit("mask_time", (x.name, t.length_name(mask.lengths)), x.frames_first)


@captures("mul", Real, Mask)
def _mul(t: Tracer, x: Real, mask: Mask) -> Any:
    return _masked(t, x, mask, keep=True)


@captures("mul", Mask, Real)
def _mul_turned(t: Tracer, mask: Mask, x: Real) -> Any:
    return _masked(t, x, mask, keep=True)


@captures("mul", Image, Mask)
def _mul_image(t: Tracer, image: Image, mask: Mask) -> Any:
    if mask.negated:
        return NotImplemented
    made = t.emit("mask_time", (image.name, t.length_name(mask.lengths)))
    return replace(image, name=made.name)


@captures("mul", Mask, Image)
def _mul_image_turned(t: Tracer, mask: Mask, image: Image) -> Any:
    return _mul_image(t, image, mask)


@captures("masked_fill", Real, Mask)
def _masked_fill(t: Tracer, x: Real, mask: Mask, value: Any) -> Any:
    return _masked(t, x, mask, keep=False) if float(value) == 0.0 else NotImplemented


@captures("where", Mask, Real)
def _where_kept(t: Tracer, mask: Mask, x: Real, other: Any) -> Any:
    if isinstance(other, (Real, Mask)) or float(other) != 0.0:
        return NotImplemented
    return _masked(t, x, mask, keep=True)


@captures("where", Mask, (Tensor, int, float), Real)
def _where_cleared(t: Tracer, mask: Mask, other: Any, x: Real) -> Any:
    return _masked(t, x, mask, keep=False) if float(other) == 0.0 else NotImplemented


@captures("index_put", Real)
def _index_put(t: Tracer, x: Real, indices: Any, value: Any, accumulate: bool = False) -> Any:
    """x[mask] = 0."""
    mask = indices[0] if len(indices) == 1 else None
    zero = isinstance(value, Tensor) and value.numel() == 1 and float(value) == 0.0
    if not isinstance(mask, Mask) or not mask.negated or not zero or accumulate:
        return NotImplemented
    return t.emit("mask_time", (x.name, t.length_name(mask.lengths)), x.frames_first)


def _spelling(w: Writer, node: FloatNode) -> None:
    x, lengths = node.ins
    first = w.has_frames(x)
    axes = (2,) if first else (1, 3) if w.shapes[x].image else (1,)
    source = w.frames(x) if first else x
    w.done(node, w.add("Where", [w.mask(x, lengths, *axes), source, w.store(0.0)]), first)


# -- integers --------------------------------------------------------------------------------------


def time_mask(f: Backend[V], x: V, lengths: V) -> V:
    """Bool [B, 1, T]: frame < length; x [B, C, T] gives T, lengths int64 [B]."""
    return f.time_mask(x, lengths)


def mask_time(f: Backend[V], x: V, mask: V, *, zx: int) -> V:
    """y = x where the mask is true, else zx, the integer that means zero; x uint8 [B, C, T]."""
    return f.select(mask, x, zx)


def mask_image(f: Backend[V], x: V, mask: V, *, zx: int) -> V:
    """y = x where the mask is true, else zx; x uint8 [B, C, T, F], mask bool [B, 1, T]."""
    return f.select(f.rearrange(mask, "b 1 t -> b 1 t 1"), x, zx)


def _where(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    x, mask = b.alike(ins)
    zero = b.float_scalar(i.attrs["zx"]) if x.carried else b.scalar(i.attrs["zx"], x.interval.type)
    return replace(x, name=b.node("Where", [mask, x, zero], None))


def _where_image(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    x, mask = ins
    b.called("Where")
    kept = b.rearrange(mask, "b 1 t -> b 1 t 1")
    # a Min of bytes would be faster, but ONNX Runtime has had it only since 1.24
    return replace(x, name=b.node("Where", [kept, x, b.scalar(i.attrs["zx"], x.interval.type)], None))


def _qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    return _kept(b, i, ins[0], ins[1])


def _qdq_image(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    return _kept(b, i, ins[0], b.rearrange(ins[1], "b 1 t -> b 1 t 1"))


def _kept(b: OnnxQdqBackend, i: Instruction, x: Sym, mask: Sym) -> Sym:
    """Choose between floats: runtimes take a choice between bytes apart from the pairs around it."""
    kept = b.node("Where", [mask, b.real(x, i.ins[0]), b.float_scalar(0.0)], None)
    return b.quantize_to(kept, i.out)


def _lower(ctx: Lowering, node: FloatNode) -> None:
    source = ctx.info(node.ins[0])
    ctx.alias(node, source)
    op = "mask_image" if ctx.shape(node.ins[0]).image else "mask_time"
    ctx.emit(op, node, (node.ins[0], ctx.mask(node.ins[0], node.ins[1])), zx=source.zero_point)


# -- parity ----------------------------------------------------------------------------------------


def _time_mask_cases() -> Iterator[Case]:
    inputs = [{k: v for k, v in one.items() if k != "mask"} for one in with_lengths()]
    yield Case("time_mask", "unequal", {}, ("x", "lengths"), inputs)


def _mask_time_cases() -> Iterator[Case]:
    inputs = [{k: v for k, v in one.items() if k != "lengths"} for one in with_lengths()]
    for zx in (0, 128, 255):
        yield Case("mask_time", f"zero-point-{zx}", {"zx": zx}, ("x", "mask"), inputs, kernel="Where")


def _mask_image_cases() -> Iterator[Case]:
    for zx in (0, 128, 255):
        inputs = []
        for frames, lengths in ((1, [1]), (40, [40, 1, 23, 39]), (7, [900, 3])):
            kept = np.arange(frames)[None, :] < np.array(lengths)[:, None]
            x = edge_bytes((len(lengths), 2, frames, 5), frames, zx)
            inputs.append({"x": x, "mask": kept[:, None, :]})
        yield Case("mask_image", f"zero-point-{zx}", {"zx": zx}, ("x", "mask"), inputs, kernel="Where")


MASK_TIME = register(
    Operator(
        "mask_time",
        _meaning,
        captures=tuple(captures),
        traits=Traits(moves=True, reads_wide=ALWAYS, light=True, masks=True),
        spelling=_spelling,
        lower=_lower,
        integers=(
            IntegerOperator(
                "time_mask",
                time_mask,
                {},
                kernels={"qdq": Kernel(spelled)},
                makes_mask=True,
                frames=OWN,
                tolerance={"time_mask": 0.0},
                cases=_time_mask_cases,
            ),
            IntegerOperator(
                "mask_time",
                mask_time,
                {"zx": BYTE},
                zero_points={"zx": 0},
                moves=0,
                frames=OWN,
                clears_behind=True,
                kernels={"fused": Kernel(_where, moves), "qdq": Kernel(_qdq)},
                tolerance={"mask_time": 0.0},
                cases=_mask_time_cases,
            ),
            IntegerOperator(
                "mask_image",
                mask_image,
                {"zx": BYTE},
                zero_points={"zx": 0},
                moves=0,
                frames=OWN,
                clears_behind=True,
                kernels={"fused": Kernel(_where_image, moves), "qdq": Kernel(_qdq_image)},
                tolerance={"mask_image": 0.0},
                cases=_mask_image_cases,
            ),
        ),
        unseen=lambda node, operand, result: {node.ins[1]} | result,
    )
)
