"""Masks over time: frames at or beyond an utterance's length become zero."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zeroq_asr.operators import fused, integer_op, lowers, moves, qdq


@integer_op
def time_mask(f: Any, x: Any, lengths: Any) -> Any:
    """Bool [B, 1, T]: frame < length; x [B, C, T] gives T, lengths int64 [B]."""
    return f.time_mask(x, lengths)


@integer_op
def mask_time(f: Any, x: Any, mask: Any, *, zx: int) -> Any:
    """y = x where the mask is true, else zx, the integer that means zero; x uint8 [B, C, T]."""
    return f.select(mask, x, zx)


@integer_op
def mask_image(f: Any, x: Any, mask: Any, *, zx: int) -> Any:
    """y = x where the mask is true, else zx; x uint8 [B, C, T, F], mask bool [B, 1, T]."""
    return f.select(f.of_image(mask), x, zx)


@fused(mask_time, exact_if=moves)
def _where(b: Any, i: Any, ins: list[Any]) -> Any:
    x, mask = b.alike(ins)
    zero = b.float_scalar(i.attrs["zx"]) if x.carried else b.scalar(i.attrs["zx"], x.interval.type)
    return replace(x, name=b.node("Where", [mask, x, zero], None))


@qdq(mask_image)
@qdq(time_mask)
def _qdq_time_mask(b: Any, i: Any, ins: list[Any]) -> Any:
    return b.define(i, ins)


@qdq(mask_time)
def _qdq_mask_time(b: Any, i: Any, ins: list[Any]) -> Any:
    kept = b.node("Where", [ins[1], b.real(ins[0], i.ins[0]), b.float_scalar(0.0)], None)
    return b.quantize_to(kept, i.out)


@lowers("mask_time")
def _lower(ctx: Any, node: Any) -> None:
    source = ctx.info(node.ins[0])
    ctx.alias(node, source)
    op = "mask_image" if ctx.is_image(node.ins[0]) else "mask_time"
    ctx.emit(op, node, (node.ins[0], ctx.mask(node.ins[0], node.ins[1])), zx=source.zero_point)
