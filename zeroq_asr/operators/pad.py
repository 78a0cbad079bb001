"""Zeros before and behind the frames, which the convolution that reads them takes for its own padding.

It has no meaning of its own and no integer form: one that no convolution absorbs while capturing is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Real, Tracer
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.registry import Operator, register

captures = Captures()


@captures("pad", Real)
def _captured(t: Tracer, x: Real, padding: Sequence[int], *rest: object) -> Any:
    value = next((r for r in reversed(rest) if isinstance(r, (int, float))), 0)
    if x.frames_first or value != 0 or len(padding) != 2 or min(padding) < 0:
        return NotImplemented
    if any(r not in ("constant", None) for r in rest if isinstance(r, str)):
        return NotImplemented
    return t.emit("pad", (x.name,), padding=(padding[0], padding[1]))


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    return operands[0].after(1, sum(node.attrs["padding"]), operands[0].channels)


PAD = register(Operator("pad", captures=tuple(captures), shape=_shape))
