"""Learned clipping: where values of few bits end, trained for what the network says in the end.

The ends of a value's range are learned as PACT has it (Choi et al., arXiv 1805.06085), with the gradient of
the step of Esser et al. (arXiv 1902.08153): of what is clipped to an end, and of what is rounded to a step.
The float network is run with a program's weights and with its values of few bits rounded; then the network is
lowered anew with the ranges that were found, so that scales stay as dyadic as they were.  What the new
program says of held-out features decides whether it is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from zeroq_asr.config import TrainingSpec
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program, ValueInfo
from zeroq_asr.integer.types import U8
from zeroq_asr.lowering.formats import Range
from zeroq_asr.lowering.plan import ResolvedPlan
from zeroq_asr.progress import Progress, silent
from zeroq_asr.registry import traits_of
from zeroq_asr.threads import one_thread
from zeroq_asr.training.features import TrainingFeatures
from zeroq_asr.training.layers import trained_layers
from zeroq_asr.training.run import ClippingAccount
from zeroq_asr.training.sections import real
from zeroq_asr.training.trainer import mean_over

#: steps of a value of so few bits that where it ends matters
_FEW = 15


class LearnedEnds(nn.Module):
    """The ends of a value's range, in the logarithm: none changes its sign, and one that is 0 stays so."""

    def __init__(self, info: ValueInfo, device: torch.device) -> None:
        super().__init__()
        self.levels = info.hi - info.lo
        ends = [(end - info.zero_point) * info.scale for end in (info.lo, info.hi)]
        self.start = torch.tensor(ends, device=device)
        self.grown = nn.Parameter(torch.zeros(2, device=device))

    def forward(self, value: Tensor) -> Tensor:
        """Return a value rounded to its steps, with gradients to it and to both ends."""
        low, high = self.start * self.grown.exp()
        step = (high - low) / self.levels
        zero = _rounded(-low / step)
        return ((_rounded(value / step) + zero).clamp(0, self.levels) - zero) * step

    @torch.no_grad()
    def range(self) -> Range:
        """Return the ends."""
        low, high = (self.start.double() * self.grown.double().exp()).tolist()
        return low, high


def _rounded(value: Tensor) -> Tensor:
    return value + (value.round() - value).detach()


def few_valued(graph: FloatGraph, program: Program) -> dict[str, ValueInfo]:
    """Return the values of a float graph that have 4 bits or fewer in its program, with their formats."""
    formats = {name: program.values.get(name) for node in graph.nodes for name in node.outs}
    return {
        name: info
        for name, info in formats.items()
        if info is not None and info.type == U8.name and 0 < info.hi - info.lo <= _FEW
    }


@one_thread()
def learn_clipping(
    graph: FloatGraph,
    program: Program,
    plan: ResolvedPlan,
    relower: Callable[[Mapping[str, Range]], Program],
    features: TrainingFeatures,
    spec: TrainingSpec,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[dict[str, Range], ClippingAccount]:
    """Learn the ranges of a program's values of few bits in ``spec.clipping_steps`` steps.

    ``relower``: the program with some ranges in place of others.  It computes where ``features`` and the
    tensors of ``graph`` are.  Returns the ranges of values, none where the program does no better with them,
    and an account.  Raises ConfigError where no value has 4 bits or fewer.
    """
    formats = few_valued(graph, program)
    if not formats:
        problem = "no value has 4 bits or fewer: there is no clipping to learn"
        raise ConfigError("training", problem, "say --bits w4a4, or leave clipping_steps out")
    device = features.trained.device
    change = {name: LearnedEnds(info, device) for name, info in formats.items()}
    made = {instruction.out for instruction in program.code}
    nodes = [node for node in graph.nodes if traits_of(node).holds_weight and node.out in made]
    layers = {layer.name: layer.integers() for layer in trained_layers(nodes, program, plan)}
    attrs = {
        name: {"weight": one.real_weight.detach(), "bias": one.real_bias.detach()}
        for name, one in layers.items()
    }

    def lengths(batch: Tensor) -> Tensor:
        return torch.full((len(batch),), batch.shape[2], device=device)

    def wanted(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.log_softmax(graph.forward(batch, lengths(batch))[0], -1)

    def judged(tried: Program) -> float:
        backend, meaning = TorchBackend(device), tried.values[tried.output("logits").value]

        @torch.no_grad()
        def part(rows: list[Tensor]) -> float:
            found = real(tried.run(backend, rows[0], lengths(rows[0]))[0], meaning)
            return float(_divergence(wanted(rows[0]), found))

        return mean_over((features.held_out,), spec.training_batch, part)  # type: ignore[arg-type]

    optimizer = torch.optim.Adam([one.grown for one in change.values()], lr=spec.clipping_rate)
    generator = torch.Generator().manual_seed(seed)
    progress("clip", 0, spec.clipping_steps)
    for step in range(spec.clipping_steps):
        chosen = torch.randperm(len(features.trained), generator=generator)[: spec.training_batch]
        batch = features.trained[chosen.to(device)]
        found = graph.forward(batch, lengths(batch), attrs=attrs, change=change)[0]
        optimizer.zero_grad()
        _divergence(wanted(batch), found).backward()
        slowed = 0.5 * (1 + math.cos(math.pi * step / spec.clipping_steps))
        for group in optimizer.param_groups:
            group["lr"] = spec.clipping_rate * slowed
        optimizer.step()
        progress("clip", step + 1, spec.clipping_steps)
    ranges = {name: one.range() for name, one in change.items()}
    before, after = judged(program), judged(relower(ranges))
    account = ClippingAccount(len(ranges), spec.clipping_steps, before, min(before, after))
    return (ranges if after < before else {}), account


def _divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """Mean over frames of the divergence from log-probabilities of what logits give."""
    return (wanted.exp() * (wanted - torch.log_softmax(found, -1))).sum(-1).mean()
