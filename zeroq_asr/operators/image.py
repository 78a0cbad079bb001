"""Images: features as one channel over time and frequency, and back to channels over time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zeroq_asr.operators import fused, integer_op, lowers, moves, qdq


@integer_op
def image(f: Any, x: Any) -> Any:
    """[B, M, T] → [B, 1, T, M]: mels become the frequencies of one channel."""
    return f.image(x)


@integer_op
def flatten(f: Any, x: Any, *, channels: int) -> Any:
    """[B, C, T, F] → [B, C·F, T], frequencies innermost; ``channels`` = C·F."""
    return f.merge(f.transpose(x, (0, 1, 3, 2)), channels)


@fused(flatten, exact_if=moves)
def _frames_first(b: Any, i: Any, ins: list[Any]) -> Any:
    turned = b.node("Transpose", ins, None, perm=[0, 2, 1, 3])
    y = b.node("Reshape", [turned, b.axes(0, 0, i.attrs["channels"])], None)
    return replace(ins[0], name=y, frames_first=True)


@qdq(image)
@qdq(flatten)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    return b.define(i, ins)


@lowers("image")
def _lower_image(ctx: Any, node: Any) -> None:
    ctx.alias(node, ctx.info(node.ins[0]))
    ctx.emit("image", node, node.ins)


@lowers("flatten")
def _lower_flatten(ctx: Any, node: Any) -> None:
    ctx.alias(node, ctx.info(node.ins[0]))
    ctx.emit("flatten", node, node.ins, channels=node.attrs["channels"])
