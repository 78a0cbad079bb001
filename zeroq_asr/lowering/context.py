"""What lowering gives an operator to work with:

formats of values, constants, masks, and a way to emit instructions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from zeroq_asr.config import QuantSpec
from zeroq_asr.graph.float_graph import Clamp, FloatGraph, FloatNode
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.grid import Grid
from zeroq_asr.integer.program import ValueInfo

#: smallest and largest real value
Range = tuple[float, float]


class Lowering(Protocol):
    """The state of one lowering, as an operator's ``lower(context, node)`` sees it."""

    graph: FloatGraph
    spec: QuantSpec
    #: longest input, in frames, that the program must be proven for
    max_frames: int
    #: value → its mean a channel, float64 [C], where one was observed
    means: Mapping[str, np.ndarray]
    #: convolution → covariance of what a row of its weights is multiplied with, where one was observed
    covariances: Mapping[str, np.ndarray]

    # -- what is known of values -------------------------------------------------------------------

    def shape(self, name: str) -> Shape:
        """Channels, history of the frames, and kind of a value of the float graph."""

    def longest(self, name: str) -> int:
        """Frames of a value for the longest input."""

    def info(self, name: str) -> ValueInfo:
        """Integer format of a value that was lowered already, or planned."""

    def range(self, name: str) -> Range:
        """Smallest and largest real value; CalibrationError where none was observed or one is not finite."""

    def grid(self, node: FloatNode) -> Grid:
        """The grid of a layer's weights."""

    def is_logits(self, name: str) -> bool:
        """Whether a value is the logits, or is merely moved to become them."""

    # -- choosing formats --------------------------------------------------------------------------

    def activation(self, node: FloatNode, known: Range | None = None) -> ValueInfo:
        """Choose the integer format of a node's result, from its range or the ``known`` one."""

    def alias(self, node: FloatNode, info: ValueInfo) -> None:
        """Give a node's result a format, such as that of its operand."""

    def byte_format(self, name: str, real: Range) -> ValueInfo:
        """Return the format of bytes for a value in ``real``, of as many bits as the plan says."""

    def plan_format(self, name: str, info: ValueInfo) -> None:
        """Decide the format of a value before it is lowered; later decisions win."""

    def clamp(self, info: ValueInfo, clamp: Clamp) -> tuple[int, int]:
        """Integer saturation bounds: those of the format, tightened by a fused ReLU or Hardtanh."""

    def largest_shift(self, name: str, info: ValueInfo, bias: float = 0.0) -> int:
        """Largest c of a requantization to ``info``: that at which a float32 carries its products.

        ``bias``: the largest magnitude, in steps of the result, of what is added to them once they are
        scaled.
        """

    def narrow(self, name: str, within: Range | None = None) -> str:
        """Return the name of a value's bytes, which are emitted, once, for a value of 16 bits.

        ``within``: real bounds beyond which they saturate, besides those of the value.
        """

    # -- emitting ----------------------------------------------------------------------------------

    def constant(self, name: str, array: np.ndarray, grid: Grid | None = None) -> str:
        """Add a constant and return its name, or that of an equal one of the same kind.

        ``grid``: that of weights, whose packing stores them.
        """

    def mask(self, like: str, lengths: str) -> str:
        """Name of the time mask of ``lengths`` over as many frames as ``like`` has, emitted once."""

    def frame_table(self, name: str, like: str, table: np.ndarray, scale: float) -> str:
        """Name of a table int16 [C, T] of steps of ``scale`` for the frames of ``like``, emitted once."""

    def emit(self, op: str, node: FloatNode, ins: tuple[str, ...], **attrs: Any) -> None:
        """Append the instruction that makes the results of ``node``; ``ins`` name values and constants."""

    def shared(self, op: str, name: str, ins: tuple[str, ...], where: str, **attrs: Any) -> str:
        """Append an instruction that serves many nodes, once for equal operands; return its result.

        ``name``: of its result; values among ``ins`` are compared by what happened to their frames.
        """
