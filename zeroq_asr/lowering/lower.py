"""Float graph + ranges → integer program.

Each operator's own lowering lives beside its definition in ``integer/ops``; this module gives them
what they share: the integer format of every value, the constants, and one time mask a length.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zeroq_asr.config import QuantSpec
from zeroq_asr.errors import CalibrationError, UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode, channel_counts, frame_counts, images
from zeroq_asr.integer.dyadic import MAX_SHIFT
from zeroq_asr.integer.program import Instruction, Program, ValueInfo
from zeroq_asr.integer.types import U8, signed_range
from zeroq_asr.lowering.formats import aligned_scales, byte_format, named_values, wide_formats, within_reach
from zeroq_asr.lowering.keep_float import float_body, with_islands
from zeroq_asr.operators import LOWERINGS
from zeroq_asr.operators.rotate import distinct
from zeroq_asr.operators.table import FACTORS

#: Logits are 16 bits wide, so they can afford a range twice the one that was seen: clipping the best
#: token costs words, a coarser step of 2^-15 of the range costs nothing.
LOGIT_MARGIN = 2.0

#: operators of the float graph that read values of 16 bits; all others read bytes
TAKES_WIDE = (
    *("add", "layer_norm", "instance_norm", "mask_time", "take_channels", "transpose", "length_step"),
    "float_island",
)
#: those that read 16 bits exactly where the user asked for them: it costs them time
TAKES_NAMED = ("conv1d", "conv2d", "clamp", "mul", "image", "flatten", *FACTORS)

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
    waveform: bool = False,
) -> Program:
    """Lower every node, those that ``spec`` keeps in float as islands.

    ``ranges`` maps each value to its smallest and largest real value.
    ``channels``: mels of the input; ``max_frames``: longest input the program must be proven for;
    ``means``: input of a convolution → its mean a channel [C], to correct biases by; ``covariances``: a
    convolution → covariance of its inputs, to round its weights by; ``waveform``: the input is one, and
    gets 16 bits.
    Raises CalibrationError for a value without a range, UnsupportedOperatorError for an operator
    without a lowering.
    """
    graph = with_islands(graph, spec.keep_float)
    check_operators(graph)
    context = Lowering(graph, ranges, spec, channels, max_frames, means or {}, covariances or {}, waveform)
    context.quantize_input()
    for node in graph.nodes:
        LOWERINGS[node.op](context, context.with_bytes(node))
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
        channels: int,
        max_frames: int,
        means: Mapping[str, np.ndarray],
        covariances: Mapping[str, np.ndarray],
        waveform: bool = False,
    ) -> None:
        self.graph = graph
        self.spec = spec
        self.max_frames = max_frames
        self.means = dict(means)
        self.covariances = covariances
        self.code: list[Instruction] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self.values: dict[str, ValueInfo] = {}
        #: float value → integer value of another name
        self._quantized: dict[str, str] = {}
        self._masks: dict[tuple[str, Any], str] = {}
        self._tables: dict[tuple[Any, ...], str] = {}
        self._frames = frame_counts(graph)
        self._logits = self._logit_values()
        self._channels = channel_counts(graph, channels)
        self._images = images(graph)
        self._named = named_values(graph, spec.layer_bits)
        trimmed = within_reach(graph, ranges, spec.activation_bits, self._named)
        self.ranges = trimmed if spec.flat_ends else ranges
        if waveform:
            # its loudest samples lie far above most: the first convolution reads 16 bits
            self._named |= {graph.inputs[0]}
            for node in graph.nodes:
                if node.op == "mask_time" and node.ins[0] in self._named:
                    self._named.add(node.out)
        self._formats = self._planned_formats()

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
        if name in self._logits:
            raise UnsupportedOperatorError(
                self.graph.outputs[0],
                "the logits are the features themselves, merely moved",
                "end the network in a convolution or a linear layer",
            )
        info = self._formats.get(name) or self._format(name, self._range(name))
        integer = f"{name}:quantized"
        self.values[integer] = info
        self._quantized[name] = integer
        scale = self.single(info.scale)
        attrs: dict[str, Any] = {"scale": scale, "zero_point": info.zero_point}
        attrs |= {"lo": info.lo, "hi": info.hi, "type": info.type}
        self.values[integer] = ValueInfo(info.type, scale, info.zero_point, info.lo, info.hi)
        self.code.append(Instruction("quantize_input", integer, (name,), attrs, "input"))

    def info(self, name: str) -> ValueInfo:
        """Integer format of a value that was lowered already."""
        return self.values[self._quantized.get(name, name)]

    def activation(self, node: FloatNode, known: Range | None = None) -> ValueInfo:
        """Choose the integer format of a node's result, from its range or the ``known`` one."""
        info = self._formats.get(node.out) or self._format(node.out, known or self._range(node.out))
        self.values[node.out] = info
        return info

    def largest_shift(self, name: str, info: ValueInfo, bias: float = 0.0) -> int:
        """Largest c of a requantization to ``info``: that at which a float32 carries its products.

        ``bias``: the largest magnitude, in steps of the result, of what is added to them once they are
        scaled.  The logits, which no float kernel makes, have their bits for finer weights.
        """
        if name in self._logits:
            return MAX_SHIFT
        reach = max(abs(info.lo - info.zero_point), info.hi - info.zero_point)
        return max(0, min(MAX_SHIFT, 24 - math.ceil(reach + bias).bit_length()))

    def channels(self, name: str) -> int:
        """Channels of a value of the float graph."""
        return self._channels[name]

    def is_image(self, name: str) -> bool:
        """Whether a value of the float graph is [B, C, T, F]."""
        return name in self._images

    def longest(self, name: str) -> int:
        """Frames of a value for the longest input."""
        frames = self.max_frames
        for stride, growth in self._frames[name]:
            frames = max((frames + growth - 1) // stride + 1, 1)
        return frames

    def with_bytes(self, node: FloatNode) -> FloatNode:
        """``node`` with narrow copies of the wide values that it reads and cannot take."""
        if node.op in TAKES_WIDE:
            return node
        exact = self._named if node.op in TAKES_NAMED else ()
        ins = tuple(name if name in exact else self.narrow(name) for name in node.ins)
        return dataclasses.replace(node, ins=ins)

    def narrow(self, name: str, within: Range | None = None) -> str:
        """Return the name of a value's bytes, which are emitted, once, for a wide value.

        ``within``: real bounds beyond which they saturate, besides those of the value.
        """
        info = self.values.get(name)
        if info is None or info.type == U8.name or name in self._logits:
            return name
        out = f"{name}:bytes" if within is None else f"{name}:between"
        if out not in self.values:
            self._channels[out], self._frames[out] = self._channels[name], self._frames[name]
            if name in self.means:
                self.means[out] = self.means[name]
            lo, hi = self._range(name)
            if within is not None:
                lo, hi = max(lo, within[0]), min(hi, within[1])
            self._formats[out] = self._format(name, (lo, hi), unit=info.scale)
            where = next(n.where for n in self.graph.nodes if n.out == name)
            LOWERINGS["add"](self, FloatNode("add", out, (name,), {}, where))
        return out

    def _planned_formats(self) -> dict[str, ValueInfo]:
        """Formats that one value cannot choose by itself."""
        ranges = {name: self._range(name) for name in self.ranges}
        formats = wide_formats(self.graph, ranges, self._named)
        formats = {name: info for name, info in formats.items() if name not in self._logits}
        names = {
            name for n in self.graph.nodes if n.op == "attention" for name in n.ins if name in self.ranges
        }
        bytes_ = {name: self._format(name, self._range(name)) for name in sorted(names)}
        for node in self.graph.nodes:
            if node.op == "attention" and len(node.ins) == 6:
                # both queries are one product plus a vector each: at one scale they share its weights
                pair = [self._range(name) for name in (node.ins[0], node.ins[4])]
                both = min(low for low, _ in pair), max(high for _, high in pair)
                for name in (node.ins[0], node.ins[4]):
                    formats[name] = bytes_[name] = self._format(name, both)
        for name, scale in aligned_scales(self.graph, bytes_, self._channels).items():
            info = bytes_[name]
            formats[name] = dataclasses.replace(info, scale=scale)
        return formats

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

    def float_body(self, node: FloatNode) -> tuple[str, list[str], list[str], dict[str, np.ndarray]]:
        """The ONNX body of a float island: see ``zeroq_asr.lowering.keep_float.float_body``."""
        longest = [self.longest(n.ins[0]) for n in node.attrs["nodes"] if n.op == "positions"]
        return float_body(
            node,
            lengths={name for name in node.ins if name not in self._channels},
            channels=self._channels,
            frames=self._frames,
            images=self._images,
            longest=max(longest, default=1),
        )

    def single(self, scale: float) -> float:
        """A scale as float32 holds it."""
        return float(np.float32(scale))

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add a constant and return its name, or that of an equal one of the same kind."""
        array = np.ascontiguousarray(array)
        key = (name.rpartition(":")[2], array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name
            self.constants[name] = array
        return self._known[key]

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

    def frame_table(self, name: str, like: str, table: np.ndarray, scale: float) -> str:
        """Name of a table int16 [C, T] of steps of ``scale`` for the frames of ``like``, emitted once."""
        kept, rows, signs = distinct(table)
        source = self._quantized.get(like, like)
        ins = self.constant(f"{name}:table", kept), self.constant(f"{name}:signs", signs)
        key = (ins, rows, self._frames[like])
        if key not in self._tables:
            reach = int(np.abs(table).max(initial=1))
            self.values[name] = ValueInfo("int32", scale, 0, -reach, reach)
            self.code.append(Instruction("frame_table", name, (source, *ins), {"rows": rows}, "positions"))
            self._tables[key] = name
        return self._tables[key]

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

    def _format(self, name: str, real: Range, unit: float | None = None) -> ValueInfo:
        """Format of a value; ``unit``: the scale of what it is rounded from, its own a short multiple."""
        if name in self._logits:
            low, high = signed_range(self.spec.logit_bits)
            peak = max(-real[0], real[1], 0.0) * LOGIT_MARGIN
            return ValueInfo("int32", peak / high if peak > 0 else 1.0, 0, low, high)
        return byte_format(real, self.spec.activation_bits, unit)
