"""How near integers are to the float numbers that they stand for: value by value, and at the scores.

Shapes: S encoded frames, V tokens with the blank.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch

from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Instruction, Program, ValueInfo
from zeroq_asr.registry import operator_of

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class ValueQuality:
    """One value of the network: its float numbers against what its integers mean."""

    name: str
    #: smallest and largest real value that its integers can mean
    low: float
    high: float
    #: how far the float values reach, as a share of the range; above 1 some are clipped
    reach: float
    #: share of float values outside of the range; of what one elementwise function alone reads, of those that
    #: it does not give alike within half a step: a range may end where the function is flat
    clipped: float
    #: signal to quantization noise in dB, the noise of all that came before included; behind that function
    sqnr: float


@dataclass(frozen=True)
class Function:
    """An elementwise function that is all that reads a value, and the step of what it gives."""

    node: FloatNode
    step: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Compute it."""
        return self.node.compute([x])[0]


def functions(graph: FloatGraph, program: Program) -> dict[str, Function]:
    """Values that one elementwise function alone reads → the function.

    Their ranges end where it is flat (``zeroq_asr.lowering.formats``): what lies beyond is not lost.
    """
    consumers = graph.consumers()
    return {
        node.ins[0]: Function(node, program.values[node.out].scale)
        for node in graph.nodes
        if operator_of(node).function is not None
        and node.out in program.values
        and len(consumers[node.ins[0]]) == 1
        and node.ins[0] not in graph.leaving
    }


class ProgramMeter:
    """A program against the float graph that it was made of, run beside it over and over."""

    def __init__(
        self, graph: FloatGraph, program: Program, prefix: str = "", skipped: Collection[str] = ()
    ) -> None:
        """``prefix`` begins the names of values in figures; ``skipped``: values that are not compared."""
        self.graph, self.program, self.prefix = graph, program, prefix
        read = functions(graph, program)
        self._meters = {
            name: Meter(info, read.get(name)) for name, info in program.values.items() if name not in skipped
        }

    @torch.inference_mode()
    def run(self, real: Tensors, whole: Tensors) -> tuple[Tensors, Tensors]:
        """Run the graph on ``real`` and the program on ``whole``, inputs and states; return what leaves each.

        Every value that has a float counterpart is measured.
        """
        floats: dict[str, torch.Tensor] = {}
        made = self.graph.run(*real, observe=floats.__setitem__)

        def measure(instruction: Instruction, value: torch.Tensor) -> None:
            # the quantized input stands for the input itself
            wanted = floats.get(instruction.out.removesuffix(":quantized"))
            if wanted is not None and instruction.out in self._meters and wanted.shape == value.shape:
                self._meters[instruction.out].add(wanted, value)

        return made, self.program.run(TorchBackend(), *whole, observe=measure)

    def measured(self) -> dict[str, Meter]:
        """Return the values that were measured, by name and in the order of the program."""
        return {i.out: self._meters[i.out] for i in self.program.code if self._counted(i.out)}

    def qualities(self) -> list[ValueQuality]:
        """Return what was measured of each value."""
        return [meter.quality(f"{self.prefix}{name}") for name, meter in self.measured().items()]

    def _counted(self, name: str) -> bool:
        return name in self._meters and self._meters[name].count > 0


class Meter:
    """Power of a value and of its error, and what lies outside of its range.

    Both are those behind the function that alone reads the value, if there is one: nobody else sees it.
    """

    def __init__(self, info: ValueInfo, function: Function | None = None) -> None:
        self.info, self.function = info, function
        self.low, self.high = (info.scale * (end - info.zero_point) for end in (info.lo, info.hi))
        self.count = self.outside = 0
        self.signal = self.noise = 0.0
        #: smallest and largest float value
        self.least, self.most = math.inf, -math.inf

    def add(self, real: torch.Tensor, integer: torch.Tensor) -> None:
        """Take in a float value and the integers that stand for it, of one shape."""
        wanted = real.double()
        meant = (integer.double() - self.info.zero_point) * self.info.scale
        half = self.info.scale / 2
        self.count += wanted.numel()
        self.least, self.most = min(self.least, float(wanted.min())), max(self.most, float(wanted.max()))
        outside = (wanted < self.low - half) | (wanted > self.high + half)
        if self.function is not None:
            kept = self.function(wanted.clamp(self.low, self.high))
            wanted, meant = self.function(wanted), self.function(meant)
            outside &= (wanted - kept).abs() > self.function.step / 2
        self.outside += int(outside.sum())
        self.signal += float(wanted.square().sum())
        self.noise += float((wanted - meant).square().sum())

    def quality(self, name: str) -> ValueQuality:
        """Return what was measured."""
        exact = self.noise == 0 or self.signal == 0
        ratio = math.inf if exact else 10 * math.log10(self.signal / self.noise)
        ends = ((self.low, self.least), (self.high, self.most))
        reach = max((far / end for end, far in ends if end), default=0.0)
        return ValueQuality(name, self.low, self.high, max(reach, 0.0), self.outside / self.count, ratio)


class FrameMeter:
    """Frames whose best token differs, and the divergence of their distributions."""

    def __init__(self, scale: float = 1.0) -> None:
        """``scale``: what one unit of the second logits means."""
        self._scale = scale
        self._frames = self._wrong = 0
        self._divergence = self._bounded = 0.0

    def add(self, real: torch.Tensor, other: torch.Tensor) -> None:
        """Take in float logits [S, V] and those to compare, integers or real."""
        truth = torch.log_softmax(real.double(), dim=-1)
        found = torch.log_softmax(other.double() * self._scale, dim=-1)
        self._frames += len(truth)
        self._wrong += int((truth.argmax(-1) != found.argmax(-1)).sum())
        self._divergence += float((truth.exp() * (truth - found)).sum())
        middle = torch.logaddexp(truth, found) - math.log(2)
        both = truth.exp() * (truth - middle) + found.exp() * (found - middle)
        self._bounded += 0.5 * float(both.sum())

    @property
    def wrong(self) -> float:
        """Share of frames whose best token differs."""
        return self._wrong / max(self._frames, 1)

    @property
    def divergence(self) -> float:
        """Mean over frames, in nats."""
        return self._divergence / max(self._frames, 1)

    @property
    def bounded_divergence(self) -> float:
        """Mean over frames of the Jensen-Shannon divergence, in nats: a frame adds ln 2 to its sum at most.

        So it tells how many frames change, where few that change for good decide the other.
        """
        return self._bounded / max(self._frames, 1)
