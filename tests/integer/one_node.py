"""One node, lowered between given formats and run: what the tolerance of an operator is measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zeroq_asr.config import QuantSpec
from zeroq_asr.graph.float_graph import Clamp, FloatGraph, FloatNode
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.dyadic import MAX_SHIFT
from zeroq_asr.integer.grid import Grid, symmetric
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.lowering.context import Lowering, Range
from zeroq_asr.registry import INTEGER_OPERATORS, OPERATORS


class OneNode(Lowering):
    """Just enough of a lowering to lower one node between given formats."""

    def __init__(
        self, target: ValueInfo, *sources: ValueInfo, weight_bits: int = 8, nonlinearity: str = "table"
    ) -> None:
        self.graph = FloatGraph((), (), ())
        self.sources = dict(zip("abcde", sources, strict=False))
        self.target = target
        self.max_frames = 3000
        self.widths: dict[str, int] = {}
        self.means: Mapping[str, np.ndarray] = {}
        self.covariances: Mapping[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.emitted: tuple[str, tuple[str, ...], dict[str, Any]] = ("", (), {})
        self.spec = QuantSpec(weight_bits=weight_bits, nonlinearity=nonlinearity)

    def info(self, name: str) -> ValueInfo:
        return self.sources[name]

    def largest_shift(self, name: str, info: ValueInfo, bias: float = 0.0) -> int:
        reach = max(abs(info.lo - info.zero_point), info.hi - info.zero_point)
        return min(MAX_SHIFT, 24 - math.ceil(reach + bias).bit_length())

    def shape(self, name: str) -> Shape:
        return Shape(self.widths.get(name), ())

    def longest(self, name: str) -> int:
        return self.max_frames

    def grid(self, node: FloatNode) -> Grid:
        return symmetric(self.spec.weight_bits)

    def activation(self, node: FloatNode, known: Range | None = None) -> ValueInfo:
        return self.target

    def clamp(self, info: ValueInfo, clamp: Clamp) -> tuple[int, int]:
        return info.lo, info.hi

    def narrow(self, name: str, within: Range | None = None) -> str:
        return name

    def alias(self, node: FloatNode, info: ValueInfo) -> None:
        self.sources[node.out] = info

    def constant(self, name: str, array: np.ndarray, grid: Grid | None = None) -> str:
        self.constants[name] = array
        return name

    def mask(self, like: str, lengths: str) -> str:
        return "mask"

    def frame_table(self, name: str, like: str, table: np.ndarray, scale: float) -> str:
        return self.constant(name, table[None].astype(np.int32))

    def emit(self, op: str, node: FloatNode, ins: tuple[str, ...], **attrs: Any) -> None:
        self.emitted = (op, ins, attrs)

    def lower_and_run(self, op: str, ins: tuple[str, ...], env: dict[str, Any], **attrs: Any) -> np.ndarray:
        """Lower a node, and run the last instruction that it became on integers."""
        lower = OPERATORS[op].lower
        assert lower is not None
        lower(self, FloatNode(op, "y", ins, attrs, "layer"))
        name, operands, found = self.emitted
        values = {**env, **self.constants}
        made: np.ndarray = INTEGER_OPERATORS[name].define(
            NumpyBackend(), *(values[o] for o in operands), **found
        )
        return made


def byte(scale: float, zero_point: int) -> ValueInfo:
    return ValueInfo("uint8", scale, zero_point, 0, 255)


def wide(scale: float) -> ValueInfo:
    return ValueInfo("int32", scale, 0, -32767, 32767)


def real(q: np.ndarray, info: ValueInfo) -> np.ndarray:
    return info.scale * (q.astype(np.float64) - info.zero_point)


def distance(q: np.ndarray, wanted: np.ndarray, info: ValueInfo) -> float:
    """Largest error in output steps, of real values brought into the output's range."""
    ideal = np.clip(wanted / info.scale + info.zero_point, info.lo, info.hi)
    return float(np.abs(q - ideal).max())


def word(scale: float) -> ValueInfo:
    return ValueInfo("int32", scale, 0, -32768, 32767)
