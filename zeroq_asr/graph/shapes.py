"""Shapes of a float graph's values: channels, and what happened to the frames on the way to each.

The number of frames is not known before a run.  What is known is its history, a tuple of steps (stride,
growth) from the input's number on; values of equal histories have equally many frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.frames import stepped
from zeroq_asr.registry import operator_of

#: what happened to the frames: (stride, growth) of every step; other entries are of their own kind
History = tuple[Any, ...]


@dataclass(frozen=True)
class Shape:
    """What is known of a value's shape before a run."""

    #: None where it is not known; of lengths, too
    channels: int | None = None
    #: None of lengths, and of the single frame of a mean or of a step, which broadcasts
    history: History | None = None
    #: whether it is [B, C, T, F]
    image: bool = False
    lengths: bool = False

    def after(self, stride: int, growth: int, channels: int | None) -> Shape:
        """The shape behind a step over frames: (T + growth − 1) div stride + 1 of them."""
        history = self.history
        if history is not None and (stride, growth) != (1, 0):
            history = (*history, (stride, growth))
        return replace(self, channels=channels, history=history)


def infer(graph: FloatGraph, channels: int | Mapping[str, int] | None = None) -> dict[str, Shape]:
    """Return the shape of every value, those inside of islands too.

    ``channels``: those of the first input; or real input → its channels, where there are several, all of
    equally many frames.  All other inputs are lengths.
    """
    real: Mapping[str, int | None] = (
        channels if isinstance(channels, Mapping) else {graph.inputs[0]: channels}
    )
    shapes = {
        name: Shape(real[name], None if name in graph.single else ()) if name in real else Shape(lengths=True)
        for name in graph.inputs
    }
    for state in graph.states:
        extent = state.dims[1] if len(state.dims) > 1 else None
        shapes[state.enters] = Shape(extent if isinstance(extent, int) else None, None)
    for node in graph.flat():
        operands = [shapes.get(name, Shape()) for name in node.ins]
        rule = operator_of(node).shape or widest
        made = rule(node, operands)
        shapes.update((name, made) for name in node.outs)
    return shapes


def widest(node: FloatNode, operands: list[Shape]) -> Shape:
    """Return the shape of what has the frames of its operands and the channels of the widest.

    A gate of one channel broadcasts, and so does a single frame.
    """
    known = [shape.channels for shape in operands if shape.channels is not None]
    histories = [shape.history for shape in operands if shape.history is not None]
    return Shape(
        max(known, default=None), histories[0] if histories else None, bool(operands) and operands[0].image
    )


def frames_after(frames: int, history: History) -> int:
    """Return the number of frames, at least 1, that ``frames`` of the input become."""
    for stride, growth in history:
        frames = max(stepped(frames, growth, stride), 1)
    return frames
