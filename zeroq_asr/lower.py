"""Float graph + ranges → integer program.

Each operator's own lowering lives beside its definition in ``integer/ops``; this module gives them
what they share: the integer format of every value, the constants, and one time mask a length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zeroq_asr.config import QuantSpec
from zeroq_asr.errors import CalibrationError, UnsupportedOperatorError
from zeroq_asr.float_graph import FloatGraph, FloatNode, frame_counts
from zeroq_asr.integer.ops import LOWERINGS
from zeroq_asr.integer.program import Instruction, Program, ValueInfo
from zeroq_asr.integer.types import activation_range, signed_range

#: Logits are 16 bits wide, so they can afford a range twice the one that was seen: clipping the best
#: token costs words, a coarser step of 2^-15 of the range costs nothing.
LOGIT_MARGIN = 2.0

Range = tuple[float, float]


def lower(
    graph: FloatGraph,
    ranges: Mapping[str, Range],
    spec: QuantSpec,
    *,
    channels: int,
    max_frames: int,
    means: Mapping[str, np.ndarray] | None = None,
    covariances: Mapping[str, np.ndarray] | None = None,
) -> Program:
    """Lower every node.  ``ranges`` maps each value to its smallest and largest real value.

    ``channels``: mels of the input; ``max_frames``: longest input the program must be proven for;
    ``means``: input of a convolution → its mean a channel [C], to correct biases by; ``covariances``: a
    convolution → covariance of its inputs, to round its weights by.
    Raises CalibrationError for a value without a range, UnsupportedOperatorError for an operator
    without a lowering.
    """
    check_operators(graph)
    context = Lowering(graph, ranges, spec, max_frames, means or {}, covariances or {})
    context.quantize_input()
    for node in graph.nodes:
        LOWERINGS[node.op](context, node)
    return Program(
        inputs=graph.inputs,
        outputs=graph.outputs,
        code=context.code,
        constants=context.constants,
        values=context.values,
        channels=channels,
        max_frames=max_frames,
    )


def check_operators(graph: FloatGraph) -> None:
    """Raise UnsupportedOperatorError for the first node that has no lowering."""
    for node in graph.nodes:
        if node.op not in LOWERINGS:
            raise UnsupportedOperatorError(
                node.where or node.out,
                f"operator {node.op} has no integer lowering",
                f"supported: {', '.join(sorted(LOWERINGS))}",
            )


class Lowering:
    """The state of one lowering, as the operators' own ``lower`` functions see it."""

    def __init__(
        self,
        graph: FloatGraph,
        ranges: Mapping[str, Range],
        spec: QuantSpec,
        max_frames: int,
        means: Mapping[str, np.ndarray],
        covariances: Mapping[str, np.ndarray],
    ) -> None:
        self.graph = graph
        self.ranges = ranges
        self.spec = spec
        self.max_frames = max_frames
        self.means = means
        self.covariances = covariances
        self.code: list[Instruction] = []
        self.constants: dict[str, np.ndarray] = {}
        self.values: dict[str, ValueInfo] = {}
        #: float value → integer value of another name
        self._quantized: dict[str, str] = {}
        self._masks: dict[tuple[str, Any], str] = {}
        self._frames = frame_counts(graph)
        self._wide = self._logit_values()

    def _logit_values(self) -> set[str]:
        """The logits and what is merely moved to become them."""
        producer = self.graph.producer()
        names = {self.graph.outputs[0]}
        node = producer.get(self.graph.outputs[0])
        while node is not None and node.op in ("transpose", "take_channels", "mask_time"):
            names.add(node.ins[0])
            node = producer.get(node.ins[0])
        return names

    def quantize_input(self) -> None:
        """Emit the way in."""
        name = self.graph.inputs[0]
        if name in self._wide:
            raise UnsupportedOperatorError(
                self.graph.outputs[0],
                "the logits are the features themselves, merely moved",
                "end the network in a convolution or a linear layer",
            )
        info = self._format(name, self._range(name))
        integer = f"{name}:quantized"
        self.values[integer] = info
        self._quantized[name] = integer
        scale = float(np.float32(info.scale))
        attrs = {"scale": scale, "zero_point": info.zero_point, "lo": info.lo, "hi": info.hi}
        self.values[integer] = ValueInfo(info.type, scale, info.zero_point, info.lo, info.hi)
        self.code.append(Instruction("quantize_input", integer, (name,), attrs, "input"))

    def info(self, name: str) -> ValueInfo:
        """Integer format of a value that was lowered already."""
        return self.values[self._quantized.get(name, name)]

    def activation(self, node: FloatNode, known: Range | None = None) -> ValueInfo:
        """Choose the integer format of a node's result, from its range or the ``known`` one."""
        info = self._format(node.out, known or self._range(node.out))
        self.values[node.out] = info
        return info

    def alias(self, node: FloatNode, info: ValueInfo) -> None:
        """Give a node's result the format of its operand."""
        self.values[node.out] = info

    def clamp(self, info: ValueInfo, clamp: tuple[float | None, float | None] | None) -> tuple[int, int]:
        """Integer saturation bounds: those of the format, tightened by a fused ReLU or Hardtanh."""
        lo, hi = info.lo, info.hi
        low, high = clamp or (None, None)
        if low is not None:
            lo = max(lo, min(hi, round(low / info.scale) + info.zero_point))
        if high is not None:
            hi = min(hi, max(lo, round(high / info.scale) + info.zero_point))
        return lo, hi

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add a constant and return its name."""
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def mask(self, like: str, lengths: str) -> str:
        """Name of the time mask of ``lengths`` over as many frames as ``like`` has, emitted once."""
        key = (lengths, self._frames[like])
        if key not in self._masks:
            count = sum(known == lengths for known, _ in self._masks)
            name = f"{lengths}:mask" if count == 0 else f"{lengths}:mask:{count + 1}"
            source = self._quantized.get(like, like)
            self.code.append(Instruction("time_mask", name, (source, lengths), {}, "mask"))
            self._masks[key] = name
        return self._masks[key]

    def emit(self, op: str, node: FloatNode, ins: tuple[str, ...], **attrs: Any) -> None:
        """Append the instruction that makes ``node.out``."""
        operands = tuple(self._quantized.get(name, name) for name in ins)
        self.code.append(Instruction(op, node.out, operands, attrs, node.where))

    def _range(self, name: str) -> Range:
        if name not in self.ranges:
            raise CalibrationError(name, "was never observed", "calibrate on the captured graph")
        # plain floats, for the program is written as JSON
        lo, hi = (float(end) for end in self.ranges[name])
        if not (np.isfinite(lo) and np.isfinite(hi)):
            raise CalibrationError(name, f"has a range of [{lo}, {hi}]", "check the weights and the features")
        return lo, hi

    def _format(self, name: str, real: Range) -> ValueInfo:
        # zero must be representable exactly: padding and masks insert it
        lo, hi = min(real[0], 0.0), max(real[1], 0.0)
        if name in self._wide:
            low, high = signed_range(self.spec.logit_bits)
            peak = max(-lo, hi) * LOGIT_MARGIN
            return ValueInfo("int32", peak / high if peak > 0 else 1.0, 0, low, high)
        low, high = activation_range(self.spec.activation_bits)
        if hi == lo:
            return ValueInfo("uint8", 1.0, 0, low, high)
        scale = (hi - lo) / high
        return ValueInfo("uint8", scale, round(-lo / scale), low, high)
