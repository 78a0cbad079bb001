"""Progressive widths: a distillation begins with wide weights and steps down to those that the plan names.

Each width starts from the real weights that the one before learned, as HuBERT's was brought to one bit (Yeh
et al., arXiv 2301.00652).  Between two widths the network is lowered anew, so that what is trained is always
an integer program, and the last of them the one that ships.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from zeroq_asr.config import TrainingSpec
from zeroq_asr.config.plan_file import EVERYTHING
from zeroq_asr.config.quantization import FINEST
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.grid import Grid, symmetric
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.registry import traits_of


@dataclass(frozen=True)
class Width:
    """A plan in which no weights that are trained have fewer than so many bits."""

    bits: int
    plan: Plan


def widths_above(graph: FloatGraph, plan: Plan, widths: Sequence[int]) -> list[Width]:
    """Return the widths, widest first, that are wider than some weights of ``plan``."""
    grids = plan.resolve(graph)
    layers = [node for node in graph.nodes if traits_of(node).holds_weight or traits_of(node).on_grid]
    found = []
    for bits in widths:
        named = {node.out: grids.grid(node) for node in layers}
        narrow = [n.out for n in layers if traits_of(n).holds_weight and bits_of(named[n.out]) < bits]
        if narrow:
            named |= dict.fromkeys(narrow, symmetric(bits))
            weights = ((EVERYTHING, FINEST), *((name, grid.name) for name, grid in named.items()))
            found.append(Width(bits, dataclasses.replace(plan, weights=weights, sensitive_bits=None)))
    return found


def bits_of(grid: Grid) -> int:
    """Return how many bits tell the levels of a grid apart."""
    return (len(grid.levels) - 1).bit_length()


def shares(spec: TrainingSpec, count: int) -> list[TrainingSpec]:
    """Return specifications of ``count`` distillations that take as long together as that of ``spec``.

    Raises ConfigError where there are fewer steps than that.
    """
    steps = spec.distillation_steps
    if steps and steps < count:
        raise ConfigError("training", f"{count} widths need a step each, there are {steps}", "allow more")
    ends = [steps * place // count for place in range(count + 1)]
    return [
        dataclasses.replace(spec, distillation=spec.distillation / count, distillation_steps=after - before)
        for before, after in itertools.pairwise(ends)
    ]
