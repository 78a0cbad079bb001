"""Length of a sequence after a layer that changes it."""

from __future__ import annotations

from typing import Any

from zeroq_asr.operators import integer_op, lowers, qdq


@integer_op
def length_step(f: Any, lengths: Any, *, before: int, divisor: int, after: int) -> Any:
    """max(lengths + before, 0) div divisor + after, int64 [B].

    A convolution has before = padding − dilation·(kernel − 1) − 1, divisor = stride, after = 1.
    """
    n = f.clamp(f.add(lengths, before), 0, 1 << 62)
    return f.add(f.divide(n, divisor), after)


@qdq(length_step)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    return b.define(i, ins)


@lowers("length_step")
def _lower(ctx: Any, node: Any) -> None:
    a = node.attrs
    ctx.emit("length_step", node, node.ins, before=a["before"], divisor=a["divisor"], after=a["after"])
