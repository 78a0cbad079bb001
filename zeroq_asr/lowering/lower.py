"""Float graph + ranges → integer program.

Each operator's own lowering is part of its record; this module gives them what they share, which the
protocol ``zeroq_asr.lowering.context`` describes: the integer format of every value, the constants, and one
time mask a length.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from zeroq_asr.config import QuantSpec
from zeroq_asr.config.quantization import FINEST
from zeroq_asr.errors import CalibrationError, UnsupportedOperatorError
from zeroq_asr.graph.float_graph import Clamp, FloatGraph, FloatNode
from zeroq_asr.graph.frame_tables import distinct
from zeroq_asr.graph.shapes import Shape, frames_after, infer
from zeroq_asr.integer.dyadic import MAX_SHIFT
from zeroq_asr.integer.grid import BYTES, Grid
from zeroq_asr.integer.packing import within_first_opset
from zeroq_asr.integer.program import Instruction, Program, ValueInfo
from zeroq_asr.integer.types import U8, signed_range
from zeroq_asr.lowering import formats
from zeroq_asr.lowering.context import Lowering, Range
from zeroq_asr.lowering.formats import moved_from, moves_along, wide_formats, within_reach
from zeroq_asr.lowering.keep_float import with_islands
from zeroq_asr.lowering.plan import Plan, ResolvedPlan
from zeroq_asr.lowering.ports import LOGITS, ports_of, states_of
from zeroq_asr.registry import ALWAYS, NAMED, OPERATORS, operator_of, sole, traits_of

#: Logits are 16 bits wide, so they can afford a range twice the one that was seen: clipping the best
#: token costs words, a coarser step of 2^-15 of the range costs nothing.
LOGIT_MARGIN = 2.0


def lower(
    graph: FloatGraph,
    ranges: Mapping[str, Range],
    spec: QuantSpec,
    *,
    channels: int | Mapping[str, int],
    max_frames: int,
    means: Mapping[str, np.ndarray] | None = None,
    covariances: Mapping[str, np.ndarray] | None = None,
    waveform: bool = False,
    plan: Plan | None = None,
    fixed: Mapping[str, ValueInfo] | None = None,
) -> Program:
    """Lower every node, those that ``spec`` keeps in float as islands.

    ``ranges`` maps each value to its smallest and largest real value.
    ``channels``: mels of the input, or real input → its channels; ``max_frames``: longest input the program
    must be proven for; ``means``: input of a convolution → its mean a channel [C], to correct biases by;
    ``covariances``: a convolution → covariance of its inputs, to round its weights by, those of a grid where
    that gains something; ``waveform``: the input is one, and gets 16 bits; ``plan``: grids and bits, in
    place of those of ``spec``; ``fixed``: formats of values that other programs make or read.  An input
    among these enters as the integers that it is.
    Raises CalibrationError for a value without a range, UnsupportedOperatorError for an operator
    without a lowering, ConfigError for a plan that does not fit the graph.
    """
    graph = with_islands(graph, spec.keep_float)
    check_operators(graph)
    resolved = (plan or Plan.of(spec)).resolve(graph)
    real = channels if isinstance(channels, Mapping) else {graph.inputs[0]: channels}
    context = _Context(
        graph, ranges, spec, resolved, real, max_frames, means or {}, covariances or {}, waveform, fixed or {}
    )
    for name in graph.inputs:
        if name in context.fixed:
            context.values[name] = context.fixed[name]
        elif name in real:
            context.enter(name)
    for node in graph.nodes:
        lowering = operator_of(node).lower
        assert lowering is not None
        lowering(context, context.with_bytes(node))
    inputs, outputs = ports_of(graph, context.shapes, context.values)
    return Program(
        inputs=inputs,
        outputs=outputs,
        code=context.code,
        constants=context.constants,
        values=context.values,
        max_frames=max_frames,
        states=states_of(graph, context.values),
        packings=context.packings,
    )


def check_operators(graph: FloatGraph) -> None:
    """Raise UnsupportedOperatorError for the first node that has no lowering."""
    for node in graph.nodes:
        operator = OPERATORS.get(node.op)
        if operator is None or operator.lower is None:
            known = sorted(o.name for o in OPERATORS.values() if o.lower is not None)
            raise UnsupportedOperatorError(
                node.where or node.out,
                f"operator {node.op} has no integer lowering",
                f"supported: {', '.join(known)}",
            )


class _Context(Lowering):
    """The state of one lowering."""

    def __init__(
        self,
        graph: FloatGraph,
        ranges: Mapping[str, Range],
        spec: QuantSpec,
        plan: ResolvedPlan,
        channels: Mapping[str, int],
        max_frames: int,
        means: Mapping[str, np.ndarray],
        covariances: Mapping[str, np.ndarray],
        waveform: bool,
        fixed: Mapping[str, ValueInfo],
    ) -> None:
        self.graph = graph
        self.fixed = fixed
        self.spec = spec
        self.max_frames = max_frames
        self.means = dict(means)
        # rounding to nearest loses nothing on the finest grid
        finest = {n.out for n in graph.nodes if plan.grid(n).name == FINEST and spec.rounding == "auto"}
        self.covariances = {name: found for name, found in covariances.items() if name not in finest}
        self.code: list[Instruction] = []
        self.constants: dict[str, np.ndarray] = {}
        self.packings: dict[str, str] = {}
        self.values: dict[str, ValueInfo] = {}
        #: real input → its integers, a value of another name
        self.entered: dict[str, str] = {}
        self.shapes = infer(graph, channels)
        self._plan = plan
        self._floats = any(i.computes_in_float for n in graph.nodes for i in operator_of(n).integers)
        #: array and kind → the constant that holds it
        self._known: dict[tuple[object, ...], str] = {}
        #: operator, operands and attributes → its result
        self._made: dict[tuple[object, ...], str] = {}
        #: how many of these have which name
        self._namesakes: Counter[str] = Counter()
        self._logits = self._logit_values()
        self._named = set(plan.wide)
        trimmed = within_reach(graph, ranges, plan.byte_bits, self._named)
        self._ranges = trimmed if spec.flat_ends else ranges
        if waveform:
            # its loudest samples lie far above most: the first convolution reads 16 bits
            self._named.add(graph.inputs[0])
            for node in graph.nodes:
                if traits_of(node).masks and node.ins[0] in self._named:
                    self._named.add(node.out)
        self._formats: dict[str, ValueInfo] = {}
        self._plan_formats()

    # -- what is known of values -------------------------------------------------------------------

    def shape(self, name: str) -> Shape:
        return self.shapes[name]

    def longest(self, name: str) -> int:
        return frames_after(self.max_frames, self.shapes[name].history or ())

    def info(self, name: str) -> ValueInfo:
        return self.values[self.entered.get(name, name)]

    def range(self, name: str) -> Range:
        if name not in self._ranges:
            raise CalibrationError(name, "was never observed", "calibrate on the captured graph")
        # plain floats, for the program is written as JSON
        lo, hi = (float(end) for end in self._ranges[name])
        if not (np.isfinite(lo) and np.isfinite(hi)):
            raise CalibrationError(name, f"has a range of [{lo}, {hi}]", "check the weights and the features")
        return lo, hi

    def grid(self, node: FloatNode) -> Grid:
        return self._plan.grid(node)

    def is_logits(self, name: str) -> bool:
        return name in self._logits

    def _logit_values(self) -> set[str]:
        """The logits and what is merely moved to become them."""
        if self.graph.output_ports[0] != LOGITS:
            return set()
        producer = self.graph.producer()
        names = {self.graph.outputs[0]}
        node = producer.get(self.graph.outputs[0])
        while node is not None and moves_along(node):
            names.add(node.ins[0])
            node = producer.get(node.ins[0])
        return names

    # -- choosing formats --------------------------------------------------------------------------

    def activation(self, node: FloatNode, known: Range | None = None) -> ValueInfo:
        info = self._formats.get(node.out) or self._format(node.out, known or self.range(node.out))
        self.values[node.out] = info
        return info

    def alias(self, node: FloatNode, info: ValueInfo) -> None:
        self.values[node.out] = info

    def byte_format(self, name: str, real: Range) -> ValueInfo:
        return formats.byte_format(real, self._plan.byte_bits(name))

    def plan_format(self, name: str, info: ValueInfo) -> None:
        self._formats[name] = info

    def clamp(self, info: ValueInfo, clamp: Clamp) -> tuple[int, int]:
        lo, hi = info.lo, info.hi
        low, high = clamp or (None, None)
        if low is not None:
            lo = max(lo, min(hi, round(low / info.scale) + info.zero_point))
        if high is not None:
            hi = min(hi, max(lo, round(high / info.scale) + info.zero_point))
        return lo, hi

    def largest_shift(self, name: str, info: ValueInfo, bias: float = 0.0) -> int:
        # no float kernel makes the logits, which have their bits for finer weights
        if name in self._logits:
            return MAX_SHIFT
        reach = max(abs(info.lo - info.zero_point), info.hi - info.zero_point)
        return max(0, min(MAX_SHIFT, 24 - math.ceil(reach + bias).bit_length()))

    def narrow(self, name: str, within: Range | None = None) -> str:
        info = self.values.get(name)
        if info is None or info.type == U8.name or name in self._logits:
            return name
        out = f"{name}:bytes" if within is None else f"{name}:between"
        if out not in self.values:
            self.shapes[out] = self.shapes[name]
            if name in self.means:
                self.means[out] = self.means[name]
            lo, hi = self.range(name)
            if within is not None:
                lo, hi = max(lo, within[0]), min(hi, within[1])
            self._formats[out] = formats.byte_format((lo, hi), self._plan.byte_bits(name), info.scale)
            where = next((n.where for n in self.graph.nodes if name in n.outs), "")
            # the sum of one value
            summing = sole("sums")
            assert summing.lower is not None
            summing.lower(self, FloatNode(summing.name, out, (name,), {}, where))
        return out

    def with_bytes(self, node: FloatNode) -> FloatNode:
        """``node`` with narrow copies of the wide values that it reads and cannot take."""
        reads = traits_of(node).reads_wide
        if reads == ALWAYS:
            return node
        exact = self._named if reads == NAMED else set()
        ins = tuple(name if name in exact else self.narrow(name) for name in node.ins)
        return dataclasses.replace(node, ins=ins)

    def _plan_formats(self) -> None:
        """Decide the formats that one value cannot choose by itself."""
        ranges = {name: self.range(name) for name in self._ranges}
        wide = wide_formats(self.graph, ranges, self._named)
        self._formats = {name: info for name, info in wide.items() if name not in self._logits}
        nodes: dict[str, list[FloatNode]] = {}
        for node in self.graph.nodes:
            nodes.setdefault(node.op, []).append(node)
        for op, given in nodes.items():
            plan_formats = OPERATORS[op].plan_formats
            if plan_formats is not None:
                plan_formats(self, given)
        self._formats.update(self.fixed)
        self._plan_states()

    def _plan_states(self) -> None:
        """Give what enters again the format of what leaves, which holds both ranges."""
        producer = self.graph.producer()
        for state in self.graph.states:
            maker = producer.get(state.leaves)
            if maker is None:
                problem = f"state {state.name} leaves as it entered, or as another value does"
                raise UnsupportedOperatorError(state.leaves, problem, "let a node make what leaves")
            # of several results a state may be any
            made = moved_from(maker, producer).out if traits_of(maker).moves else state.leaves
            ends = [self.range(name) for name in (made, state.enters) if name in self._ranges]
            ends += [(state.initial, state.initial)]
            real = min(lo for lo, _ in ends), max(hi for _, hi in ends)
            self._formats.setdefault(made, self._format(made, real))
            self.values[state.enters] = self._formats[made]

    def _format(self, name: str, real: Range) -> ValueInfo:
        if name in self._logits:
            low, high = signed_range(self._plan.logit_bits)
            peak = max(-real[0], real[1], 0.0) * LOGIT_MARGIN
            return ValueInfo("int32", peak / high if peak > 0 else 1.0, 0, low, high)
        return self.byte_format(name, real)

    # -- emitting ----------------------------------------------------------------------------------

    def enter(self, name: str) -> None:
        """Emit the way in of a real input."""
        if name in self._logits:
            raise UnsupportedOperatorError(
                self.graph.outputs[0],
                "the logits are the features themselves, merely moved",
                "end the network in a convolution or a linear layer",
            )
        info = self._formats.get(name) or self._format(name, self.range(name))
        # as the file's float32 holds it
        info = dataclasses.replace(info, scale=float(np.float32(info.scale)))
        integer = f"{name}:quantized"
        self.values[integer] = info
        self.entered[name] = integer
        attrs: dict[str, Any] = {"scale": info.scale, "zero_point": info.zero_point}
        attrs |= {"lo": info.lo, "hi": info.hi, "type": info.type}
        (quantizing,) = sole("enters").integers
        self.code.append(Instruction(quantizing.name, integer, (name,), attrs, "input"))

    def constant(self, name: str, array: np.ndarray, grid: Grid | None = None) -> str:
        array = np.ascontiguousarray(array)
        packing = BYTES if grid is None else grid.packing
        if self._floats:
            # a float island's nodes mean what the first opset says of them
            packing = within_first_opset(packing)
        key = (name.rpartition(":")[2], array.dtype.str, array.shape, array.tobytes(), packing)
        if key not in self._known:
            self._known[key] = name
            self.constants[name] = array
            if packing != BYTES:
                self.packings[name] = packing
        return self._known[key]

    def mask(self, like: str, lengths: str) -> str:
        return self.shared("time_mask", f"{lengths}:mask", (like, lengths), "mask")

    def frame_table(self, name: str, like: str, table: np.ndarray, scale: float) -> str:
        kept, rows, signs = distinct(table)
        constants = self.constant(f"{name}:table", kept), self.constant(f"{name}:signs", signs)
        made = self.shared("frame_table", name, (like, *constants), "positions", rows=rows)
        if made not in self.values:
            reach = int(np.abs(table).max(initial=1))
            self.values[made] = ValueInfo("int32", scale, 0, -reach, reach)
        return made

    def emit(self, op: str, node: FloatNode, ins: tuple[str, ...], **attrs: Any) -> None:
        operands = tuple(self.entered.get(name, name) for name in ins)
        self.code.append(Instruction(op, node.out, operands, attrs, node.where, node.others))

    def shared(self, op: str, name: str, ins: tuple[str, ...], where: str, **attrs: Any) -> str:
        key = (op, tuple(map(self._likeness, ins)), tuple(sorted(attrs.items())))
        if key not in self._made:
            self._namesakes[name] += 1
            count = self._namesakes[name]
            self._made[key] = name if count == 1 else f"{name}:{count}"
            operands = tuple(self.entered.get(operand, operand) for operand in ins)
            self.code.append(Instruction(op, self._made[key], operands, attrs, where))
        return self._made[key]

    def _likeness(self, name: str) -> object:
        """What makes an operand as good as another: the history of its frames; of all else, itself."""
        shape = self.shapes.get(name)
        return name if shape is None or shape.lengths else shape.history
