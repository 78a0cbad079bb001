"""Sections of a network between values that all of what follows hangs on: what is reconstructed at a time.

A *cut* is a real value after which nothing that hangs on the features is read but itself: the sums of
residual streams, what leaves a subsampling.  The part of the float graph between two cuts, with the
instructions that compute the same in integers, is a section.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.graph.shapes import infer
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Instruction, Program, ValueInfo
from zeroq_asr.registry import INTEGER_OPERATORS, traits_of
from zeroq_asr.training.layers import Integers


@dataclass(frozen=True)
class Surroundings:
    """What hangs on the number of frames and the lengths alone: lengths, masks, tables of positions."""

    #: values of the float graph
    real: Mapping[str, Tensor]
    #: values of the program
    integers: Mapping[str, Tensor]


@dataclass(frozen=True)
class Section:
    """A part of a float graph from one real value to another, and its instructions."""

    #: values of the float graph
    enters: str
    leaves: str
    #: of the input ``enters`` and what hangs on the lengths alone, and the output ``leaves``
    graph: FloatGraph
    #: what computes the integers of ``leaves`` from those of ``enters``, or from the features
    code: tuple[Instruction, ...]
    program: Program

    @property
    def meaning(self) -> ValueInfo:
        """The format of what leaves."""
        return self.program.values[self.leaves]

    def layers(self) -> list[FloatNode]:
        """Nodes that hold weights and have an instruction of their own."""
        made = {instruction.out for instruction in self.code}
        return [node for node in self.graph.nodes if traits_of(node).holds_weight and node.out in made]

    @torch.no_grad()
    def integers(
        self,
        backend: TorchBackend,
        given: Tensor,
        around: Surroundings,
        trained: Mapping[str, Integers] | None = None,
        observe: Callable[[str, Tensor], None] | None = None,
    ) -> Tensor:
        """Return the integers of ``leaves``: what the program computes, with ``trained`` layers in place.

        ``given``: the integers of ``enters``, or features [B, M, T].
        """
        trained = trained or {}
        env: dict[str, Tensor] = {**around.integers, self.enters: given}
        for instruction in self.code:
            operands = [
                env[name] if name in env else backend.constant(name, self.program.constants[name])
                for name in instruction.ins
            ]
            if (layer := trained.get(instruction.out)) is not None:
                operands[1:4] = layer.weight, layer.bias, layer.multiplier
            results = backend.instruction(instruction, operands)
            env.update(zip(instruction.outs, results, strict=True))
            if observe is not None:
                observe(instruction.out, results[0])
        return env[self.leaves]

    @torch.no_grad()
    def target(self, given: Tensor, around: Surroundings) -> Tensor:
        """Return what the float network makes of real values of ``enters``."""
        (result,) = self.graph.forward(given, *self._beside(around))
        return result

    def _beside(self, around: Surroundings) -> list[Tensor]:
        return [around.real[name] for name in self.graph.inputs[1:]]

    def forward(
        self,
        backend: TorchBackend,
        given: Tensor,
        around: Surroundings,
        trained: Mapping[str, Integers],
        source: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the integers of ``leaves`` and their real values, with gradients to the ``trained`` layers.

        Forward they are the program's own integers.  Backward every value counts as what the float graph
        makes of the real values of its operands, and as constant where it saturates.  ``source``: the real
        values of ``given``, where gradients are to reach what made them.
        """
        found: dict[str, Tensor] = {}
        integers = self.integers(backend, given, around, trained, found.__setitem__)
        values = self.program.values

        def straight(name: str, info: ValueInfo) -> Callable[[Tensor], Tensor]:
            low, high = ((end - info.zero_point) * info.scale for end in (info.lo, info.hi))

            def through(value: Tensor) -> Tensor:
                # tables of distances begin with a column that nothing reads, and floats lack
                made = real(found[name], info)[..., -value.shape[-1] :]
                return _Straight.apply(value, made, low, high) if value.requires_grad else made

            return through

        change = {name: straight(name, values[name]) for name in found if name in values}
        if source is None:
            entering = values.get(self.enters)
            source = given if entering is None else real(given, entering)
        attrs = {
            name: {"weight": layer.real_weight, "bias": layer.real_bias} for name, layer in trained.items()
        }
        (result,) = self.graph.forward(source, *self._beside(around), attrs=attrs, change=change)
        return integers, result


class _Straight(torch.autograd.Function):
    """What integers stand for in place of a value: gradients pass where the value does not saturate."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, made: Tensor, low: float, high: float) -> Tensor:
        """Return ``made``."""
        ctx.save_for_backward(value)
        ctx.ends = low, high
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient between the ends, and 0 elsewhere."""
        (value,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], value, *ctx.ends), None, None, None


def real(integers: Tensor, info: ValueInfo) -> Tensor:
    """Return the real values, float32, that integers of a format stand for."""
    return integers.to(torch.float32, copy=True).sub_(info.zero_point).mul_(info.scale)


def rounded(values: Tensor, info: ValueInfo) -> Tensor:
    """Return the integers of a format nearest to real values, of its type."""
    nearest = (torch.round(values / info.scale) + info.zero_point).clamp(info.lo, info.hi)
    return nearest.to(torch.uint8 if info.type == "uint8" else torch.int32)


def sections(graph: FloatGraph, program: Program, *, least: int = 1) -> list[Section]:
    """Part a network into sections of ``least`` layers with weights each, in order; all of them cover it.

    ``graph`` takes features and lengths, as a CTC network does.
    """
    made = {instruction.out for instruction in program.code}
    shapes = infer(graph)
    cuts, begun = [graph.inputs[0]], 0
    for cut, holding in _cuts(graph, lambda name: shapes[name].lengths):
        begun += holding
        if cut == graph.outputs[0]:
            cuts.append(cut)
        elif begun >= least and cut in made:
            cuts.append(cut)
            begun = 0
    if begun == 0 and len(cuts) > 2:
        # what merely moves to become the logits is of the section before
        del cuts[-2]
    return [_section(graph, program, a, b) for a, b in itertools.pairwise(cuts)]


def _cuts(graph: FloatGraph, is_length: Callable[[str], bool]) -> list[tuple[str, int]]:
    """Values after which nothing else of the features is read, with the weights between them."""
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.ins}
    for name in graph.leaving:
        last[name] = len(graph.nodes)
    live, found, holding = {graph.inputs[0]}, [], 0
    for i, node in enumerate(graph.nodes):
        traits = traits_of(node)
        holding += traits.holds_weight
        if any(name in live for name in node.ins) and not traits.of_frames:
            live |= {name for name in node.outs if not is_length(name)}
        # a table of as many frames hangs on their number alone
        live = {name for name in live if _read_after(graph, name, i, last)}
        if len(live) == 1 and node.out in live:
            found.append((node.out, holding))
            holding = 0
    return found


def _read_after(graph: FloatGraph, name: str, place: int, last: Mapping[str, int]) -> bool:
    if last.get(name, -1) <= place:
        return False
    if name in graph.leaving:
        return True
    return any(name in node.ins and not traits_of(node).of_frames for node in graph.nodes[place + 1 :])


def surroundings(graph: FloatGraph, program: Program, features: Tensor, lengths: Tensor) -> Surroundings:
    """Return what of a network's values hangs on the shape of features [B, M, T] and on lengths [B] alone."""
    real_names, integer_names = _beside_nodes(graph), _beside_code(program)
    values = {graph.inputs[1]: lengths}
    made = {graph.inputs[1]: lengths}

    def keep(name: str, value: Tensor) -> None:
        if name in real_names:
            values[name] = value

    def keep_integers(instruction: Instruction, value: Tensor) -> None:
        if instruction.out in integer_names:
            made[instruction.out] = value

    with torch.no_grad():
        graph.forward(features, lengths, observe=keep)
        program.run(TorchBackend(features.device), features, lengths, observe=keep_integers)
    return Surroundings(values, made)


class Around:
    """Surroundings by the number of rows of a batch, whose utterances are all as long as ``features``."""

    def __init__(self, graph: FloatGraph, program: Program, features: Tensor) -> None:
        self._graph, self._program, self._features = graph, program, features[:1]
        self._known: dict[int, Surroundings] = {}

    def __call__(self, batch: Tensor) -> Surroundings:
        """Return the surroundings of a batch, of features or of what became of them."""
        rows = len(batch)
        if rows not in self._known:
            features = self._features.expand(rows, -1, -1)
            lengths = torch.full((rows,), features.shape[2], device=features.device)
            self._known[rows] = surroundings(self._graph, self._program, features, lengths)
        return self._known[rows]


def _beside_nodes(graph: FloatGraph) -> set[str]:
    nodes = [node for node in graph.nodes if traits_of(node).makes_lengths or traits_of(node).of_frames]
    return {node.out for node in nodes}


def _beside_code(program: Program) -> set[str]:
    """Results of instructions that make masks, tables or lengths."""
    known = {name for name in program.entering if program.features is None or name != program.features.value}
    for i in program.code:
        operator = INTEGER_OPERATORS[i.op]
        if operator.makes_mask or operator.of_frames or all(n in known for n in i.ins):
            known |= {*i.outs}
    return known


def _section(graph: FloatGraph, program: Program, enters: str, leaves: str) -> Section:
    beside = _beside_nodes(graph) | {*graph.inputs[1:]}
    nodes = _needed(graph.nodes, leaves, {enters, *beside})
    code = _needed(program.code, leaves, {enters, *program.constants, *_beside_code(program)})
    read = {name for node in nodes for name in node.ins}
    inputs = (enters, *sorted(read & beside))
    part = FloatGraph(inputs=inputs, outputs=(leaves,), nodes=nodes, output_ports=(leaves,))
    return Section(enters, leaves, part, tuple(code), program)


def _needed(steps: Sequence[Any], leaves: str, given: set[str]) -> list[Any]:
    """The steps, in order, that ``leaves`` is made of, but for those that make what is ``given``."""
    wanted: set[str] = {leaves}
    kept = []
    for step in reversed(steps):
        if any(name in wanted and (name not in given or name == leaves) for name in step.outs):
            kept.append(step)
            wanted |= {*step.ins} - given
    return kept[::-1]
