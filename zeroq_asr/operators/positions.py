"""Encodings of the distances between frames: the middle of one table, as wide as the utterances need."""

from __future__ import annotations

from typing import Any

import numpy as np

from zeroq_asr.operators import integer_op, lowers, qdq


@integer_op
def positions(f: Any, like: Any, table: Any) -> Any:
    """y uint8 [1, C, 2T]: the distances T down to 1 − T; the first lines up what is shifted, and is not read.

    ``like`` [B, C', T] gives the frames; ``table`` uint8 [C, 2L] holds the distances of L ≥ T frames.
    """
    return f.middle(table, like)


@qdq(positions)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    return b.define(i, ins)


@lowers("positions")
def _lower(ctx: Any, node: Any) -> None:
    target = ctx.activation(node)
    reals = node.attrs["compute"](ctx.longest(node.ins[0])).double().numpy()
    # what no pair of frames is apart
    reals = np.concatenate((np.zeros_like(reals[:, :1]), reals), axis=1)
    table = np.clip(np.rint(reals / target.scale) + target.zero_point, target.lo, target.hi)
    ctx.emit("positions", node, (node.ins[0], ctx.constant(f"{node.out}:table", table.astype(np.uint8))))
