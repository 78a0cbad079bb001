"""Moves that change no integer: channel order, axis order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zeroq_asr.operators import fused, integer_op, lowers, moves, qdq


@integer_op
def take_channels(f: Any, x: Any, *, index: tuple[int, ...]) -> Any:
    """y[:, i] = x[:, index[i]]; a channel shuffle."""
    return f.take_channels(x, index)


@integer_op
def transpose(f: Any, x: Any, *, perm: tuple[int, ...]) -> Any:
    """Permute the axes."""
    return f.transpose(x, perm)


@fused(take_channels, exact_if=moves)
def _gathered(b: Any, i: Any, ins: list[Any]) -> Any:
    (x,) = ins
    index = b.channel_index(i.attrs["index"])
    return replace(x, name=b.node("Gather", [x, index], None, axis=2 if x.frames_first else 1))


@fused(transpose, exact_if=moves, kernel="Transpose")
def _turned(b: Any, i: Any, ins: list[Any]) -> Any:
    (x,) = ins
    if tuple(i.attrs["perm"]) == (0, 2, 1):
        # what one calls channels is what the other calls frames
        return replace(x, frames_first=not x.frames_first)
    return replace(x, name=b.node("Transpose", [b.channels_first(x)], None, perm=list(i.attrs["perm"])))


@qdq(take_channels)
@qdq(transpose)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    return b.define(i, ins)


@lowers("take_channels")
def _lower_take(ctx: Any, node: Any) -> None:
    ctx.alias(node, ctx.info(node.ins[0]))
    ctx.emit("take_channels", node, node.ins, index=tuple(node.attrs["index"]))


@lowers("transpose")
def _lower_transpose(ctx: Any, node: Any) -> None:
    ctx.alias(node, ctx.info(node.ins[0]))
    ctx.emit("transpose", node, node.ins, perm=tuple(node.attrs["perm"]))
