"""A layer whose integers are trained: latent weights, a step a channel and a bias, as the program reads them.

With ratio = s_y·2^-c / s_x (``operators.convolution.weights``) a channel's weights are m·ratio·q, q on the
layer's grid and m a whole number.  So its step is dyadic whatever is learned: what is trained is a latent
q and the logarithm of m, rounded on the way in.  Gradients pass rounding as if it were not there (the
straight-through estimator, Bengio et al., arXiv 1308.3432; learned steps: Esser et al., arXiv 1902.08153).
"""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.dyadic import largest_shift
from zeroq_asr.integer.grid import Grid
from zeroq_asr.integer.program import Instruction, Program
from zeroq_asr.integer.types import I32
from zeroq_asr.lowering.plan import ResolvedPlan
from zeroq_asr.operators.convolution.weights import as_bytes, corrected_bias

#: how far a latent weight starts from its integer at most, of the way to the next cell: it is to round to it
_NEAR = 0.98
#: an int32 bias stays below this, so that a sum with it is one, too
_LARGEST_BIAS = 2**30
#: levels of a grid of 5 bits: rounding to more loses nothing that training could give back
_COARSE = 32
#: steps of a layer's result that are the unit of its bias
_BIAS_UNIT = 16.0


@dataclass(frozen=True)
class Integers:
    """What a layer's instruction reads, and what it means, which gradients pass through."""

    #: int8, of the weight's shape; int32 [O]; int32 [O]
    weight: Tensor
    bias: Tensor
    multiplier: Tensor
    #: real weights and biases that they stand for
    real_weight: Tensor
    real_bias: Tensor


@dataclass(frozen=True)
class Learned:
    """The constants of a layer: weight int8 [O, ...], bias and multiplier int32 [O]."""

    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    #: whether its accumulator needs to be clamped before it is multiplied
    saturate: bool

    def integers(self, device: torch.device) -> Integers:
        """Return what the instruction reads, on a device; nothing of it is trained."""
        arrays = self.weight, self.bias, self.multiplier
        weight, bias, multiplier = (torch.from_numpy(array).to(device) for array in arrays)
        return Integers(weight, bias, multiplier, torch.empty(0), torch.empty(0))


@dataclass(frozen=True)
class RealLayer:
    """What was learned of a layer in real values, on the CPU, for others to begin with."""

    #: [O, I/groups, ...]: before rounding, and as its integers have it
    weight: Tensor
    rounded: Tensor
    #: [O]
    bias: Tensor


class TrainedLayer(nn.Module):
    """The weights, steps and biases of one layer of a program, ready to be trained where its node's are.

    ``rounding``: whether weights and steps are trained, and not the biases alone.  ``start``: the weights
    that it begins with, in place of the node's.
    """

    def __init__(
        self,
        node: FloatNode,
        instruction: Instruction,
        program: Program,
        grid: Grid,
        *,
        rounding: bool,
        start: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.name, self.grid, self.rounding = node.out, grid, rounding
        self.instruction = instruction
        self._kept = False
        constants = [program.constants[name] for name in instruction.ins[1:4]]
        device = node.attrs["weight"].device
        self.given = (node.attrs["weight"] if start is None else start).to(device)
        integers, bias, multiplier = (
            torch.from_numpy(array.astype(np.float64)).to(device) for array in constants
        )
        attrs = instruction.attrs
        source = as_bytes(program.values[instruction.ins[0]])
        target = program.values[instruction.out]
        self.reach = max(source.hi - source.zero_point, source.zero_point)
        self.ratio = target.scale / 2.0 ** attrs["c"] / source.scale
        self.input_scale, self.bias_unit = source.scale, _BIAS_UNIT * target.scale
        self.most = _largest_multiplier(attrs["lo"], attrs["hi"], attrs["zy"], attrs["c"])
        self.across = (-1, *(1,) * (integers.dim() - 1))
        self.start_multiplier = multiplier
        step = (multiplier * self.ratio).reshape(self.across)
        wanted = self.given.double() / step
        below, above = _cells(grid, integers)
        latent = wanted.clamp(integers - _NEAR * below, integers + _NEAR * above)
        self.start: Tensor
        self.register_buffer("start", integers.float())
        # the cells of the outermost levels are as wide beyond them as within
        self.low = 1.5 * grid.levels[0] - 0.5 * grid.levels[1]
        self.high = 1.5 * grid.levels[-1] - 0.5 * grid.levels[-2]
        self.latent = nn.Parameter(latent.float(), requires_grad=rounding)
        self.log_step = nn.Parameter(torch.zeros(len(integers), device=device), requires_grad=rounding)
        self.start_bias = bias * multiplier * self.ratio * source.scale
        self.bias = nn.Parameter(torch.zeros(len(integers), device=device))

    def integers(self) -> Integers:
        """Return the integers that the latent values stand for."""
        if self.rounding and not self._kept:
            nearest = nearest_level(self.latent, self.grid)
            weight = self.latent.clamp(self.low, self.high)
            weight = weight + (nearest - weight).detach()
            wanted = self.start_multiplier * self.log_step.double().exp()
            whole = wanted.round().clamp(1, self.most)
            multiplier = wanted + (whole - wanted).detach()
        else:
            nearest = weight = self.start
            whole = multiplier = self.start_multiplier
        step = multiplier * self.ratio
        bias = self.start_bias if self._kept else self.start_bias + self.bias.double() * self.bias_unit
        unit = (whole * self.ratio * self.input_scale).detach()
        offset = (bias / unit).round().clamp(-_LARGEST_BIAS, _LARGEST_BIAS).detach()
        return Integers(
            nearest.detach().to(torch.int8),
            offset.to(torch.int32),
            whole.detach().to(torch.int32),
            weight * step.float().reshape(self.across),
            (bias + (offset * unit - bias).detach()).float(),
        )

    def keep_start(self) -> None:
        """Stay with the integers that the program had."""
        self._kept = True

    @torch.no_grad()
    def settle(self) -> None:
        """Keep latent weights where gradients reach them: within half a step of the grid's ends."""
        self.latent.clamp_(self.low, self.high)

    @torch.no_grad()
    def learned(self) -> Learned:
        """Return what was learned, as constants of a program."""
        made = self.integers()
        weight, bias, multiplier = (one.cpu().numpy() for one in (made.weight, made.bias, made.multiplier))
        sums = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1) * self.reach
        products = (sums + np.abs(bias.astype(np.int64))) * multiplier
        return Learned(weight, bias, multiplier, bool(products.max() > I32.hi // 2))

    @torch.no_grad()
    def real(self) -> RealLayer:
        """Return what was learned in real values."""
        made = self.integers()
        step = (made.multiplier.double() * self.ratio).reshape(self.across)
        weight = self.latent.clamp(self.low, self.high) * step if self.rounding else self.given
        parts = weight.double(), made.weight * step, made.real_bias
        return RealLayer(*(one.detach().to("cpu", copy=True) for one in parts))


def trained_layers(
    nodes: list[FloatNode],
    program: Program,
    plan: ResolvedPlan,
    *,
    start: Mapping[str, RealLayer] | None = None,
    coarse: Container[str] = (),
) -> list[TrainedLayer]:
    """Return the layers of ``nodes``, each with an instruction of its own: the coarse ones to be rounded.

    ``start``: what others learned of layers, to begin with.  ``coarse``: those that are rounded whatever
    their grid.
    """
    code, start = {instruction.out: instruction for instruction in program.code}, start or {}
    return [
        TrainedLayer(
            node,
            code[node.out],
            program,
            plan.grid(node),
            rounding=node.out in coarse or is_coarse(plan.grid(node)),
            start=start[node.out].weight if node.out in start else None,
        )
        for node in nodes
    ]


def is_coarse(grid: Grid) -> bool:
    """Whether a grid has so few levels that training what lies on it pays: those of 5 bits."""
    return len(grid.levels) <= _COARSE


def nearest_level(latent: Tensor, grid: Grid) -> Tensor:
    """Return the nearest level of every entry, as ``Grid.nearest`` does, of latent [O, ...]."""
    low, high = grid.levels[0], grid.levels[-1]
    if high - low == len(grid.levels) - 1:
        return latent.detach().round().clamp(low, high)
    # the middle between two levels is a multiple of a half: between which of these an entry lies tells its
    # level, many times as fast as a search
    table, first = _nearest_of_halves(grid)
    last = len(table) - 1
    # a training that diverges is to be judged like any other, and not kept
    place = (2 * latent.detach()).ceil_().sub_(first).clamp_(0, last).nan_to_num_(nan=last)
    chosen = table.to(latent).index_select(0, place.to(torch.int32).reshape(-1))
    return chosen.reshape(latent.shape)


@functools.lru_cache(maxsize=64)
def _nearest_of_halves(grid: Grid) -> tuple[Tensor, int]:
    """The nearest levels of entries in ((first + i − 1) / 2, (first + i) / 2], and ``first``."""
    first, last = 2 * grid.levels[0], 2 * grid.levels[-1]
    ends = np.arange(first, last + 1) / 2
    levels = np.array(grid.levels)
    places = np.searchsorted((levels[:-1] + levels[1:]) / 2, ends)
    return torch.from_numpy(levels[places].astype(np.float32)), first


def _cells(grid: Grid, integers: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the cell of each level reaches below and above it, of entries that are levels."""
    levels = torch.tensor(grid.levels, dtype=integers.dtype, device=integers.device)
    half = (levels[1:] - levels[:-1]) / 2
    place = torch.searchsorted(levels, integers.contiguous())
    return torch.cat([half[:1], half])[place], torch.cat([half, half[-1:]])[place]


def with_learned(program: Program, learned: Mapping[str, Learned]) -> Program:
    """Return a program with what was ``learned`` of layers, by result, in place of what they had."""
    constants, packings, code = dict(program.constants), dict(program.packings), []
    for instruction in program.code:
        layer = learned.get(instruction.out)
        if layer is None:
            code.append(instruction)
            continue
        arrays = layer.weight, layer.bias, layer.multiplier
        attrs = {**instruction.attrs, "saturate": layer.saturate}
        # others may have read an equal constant under the same name
        names = tuple(f"{instruction.out}:{what}" for what in ("weight", "bias", "multiplier"))
        constants |= dict(zip(names, arrays, strict=True))
        if (packing := program.packings.get(instruction.ins[1])) is not None:
            packings[names[0]] = packing
        ins = (instruction.ins[0], *names, *instruction.ins[4:])
        code.append(replace(instruction, ins=ins, attrs=attrs))
    used = {name for instruction in code for name in instruction.ins}
    return replace(
        program,
        code=code,
        constants={name: array for name, array in constants.items() if name in used},
        packings={name: packing for name, packing in packings.items() if name in used},
    )


def with_real(
    graph: FloatGraph, learned: Mapping[str, RealLayer], means: Mapping[str, np.ndarray] | None
) -> FloatGraph:
    """Return a graph with what was ``learned`` of layers, by result, in place of what they had.

    ``means``: value → its mean a channel, if lowering corrects biases by them: what was learned of a bias
    made up for rounding, which it must not do twice.
    """

    def changed(node: FloatNode) -> FloatNode:
        layer = learned.get(node.out)
        if layer is None:
            return node
        weight, rounded = (one.double() for one in (layer.weight, layer.rounded))
        mean = None if means is None else means.get(node.ins[0])
        before, after = (one.flatten(2).numpy() for one in (rounded, weight))
        bias = corrected_bias(layer.bias.double().numpy(), before, after, mean, node.attrs["groups"])
        return replace(node, attrs={**node.attrs, "weight": weight, "bias": torch.from_numpy(bias)})

    return graph.with_nodes([changed(node) for node in graph.nodes])


def _largest_multiplier(lo: int, hi: int, zero_point: int, c: int) -> int:
    """The largest m for which a shift by ``c`` still has room (``largest_shift``)."""
    low, high = 1, 2**31 - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if largest_shift(lo, hi, zero_point, middle) >= c else (low, middle - 1)
    return low
