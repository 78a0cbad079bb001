"""Training of a program after it was built: sections first, then the whole, as a specification says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor

from zeroq_asr.config import QuantSpec, SynthesisSpec, TrainingSpec
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.grid import grid_of
from zeroq_asr.integer.program import Program
from zeroq_asr.lowering.formats import Range
from zeroq_asr.lowering.plan import Plan, ResolvedPlan, warn_of_recurrent
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import Progress, silent
from zeroq_asr.registry import traits_of
from zeroq_asr.training.clipping import learn_clipping
from zeroq_asr.training.device import device_of, full_float32
from zeroq_asr.training.distill import distill
from zeroq_asr.training.features import training_features
from zeroq_asr.training.layers import RealLayer, is_coarse
from zeroq_asr.training.processes import processes
from zeroq_asr.training.reconstruct import reconstruct
from zeroq_asr.training.run import (
    ClippingAccount,
    DistillationAccount,
    SectionAccount,
    TrainingRun,
    WidthAccount,
)
from zeroq_asr.training.widths import shares, widths_above

#: lowers the network by a plan, with what was learned of layers, by their results, and of ranges
Relower = Callable[[Plan, Mapping[str, RealLayer], Mapping[str, Range]], Program]
#: levels of weights of one bit
_ONE_BIT = 2


@dataclass(frozen=True)
class TrainingAccount:
    """What training a program did."""

    #: pieces of features that were trained on and judged by
    trained_on: int
    judged_by: int
    #: of those sections that have weights below 8 bits; none where nothing was reconstructed
    sections: tuple[SectionAccount, ...]
    distillation: DistillationAccount | None
    #: distillations with wider weights, that of the plan's began with
    wider: tuple[WidthAccount, ...] = ()
    #: of values of few bits; None where it was not learned
    clipping: ClippingAccount | None = None

    @property
    def steps(self) -> int:
        """Steps of all distillations."""
        every = [*(one.distillation for one in self.wider), self.distillation]
        return sum(one.steps for one in every if one is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        return asdict(self)


def reconstructs(spec: QuantSpec, training: TrainingSpec, graph: FloatGraph, plan: ResolvedPlan) -> bool:
    """Whether sections are reconstructed: where some weights have one bit, unless told otherwise."""
    if training.reconstruction != "auto":
        return training.reconstruction == "on"
    holding = [node for node in graph.nodes if traits_of(node).holds_weight]
    return spec.rounding == "auto" and any(len(plan.grid(node).levels) == _ONE_BIT for node in holding)


def may_train(spec: QuantSpec, training: TrainingSpec) -> bool:
    """Whether some network's program of a format is trained: what is known before the network is."""
    if training.distills or training.clipping_steps or training.reconstruction == "on":
        return True
    if training.reconstruction == "off":
        return False
    plan = Plan.of(spec)
    one_bit = any(len(grid_of(name).levels) == _ONE_BIT for _, name in plan.weights)
    return spec.rounding == "auto" and (one_bit or plan.sensitive_bits == 1)


def coarse_layers(graph: FloatGraph, plan: ResolvedPlan) -> list[str]:
    """Results of the layers whose weights have 5 bits or fewer."""
    holding = [node for node in graph.nodes if traits_of(node).holds_weight]
    return [node.out for node in holding if is_coarse(plan.grid(node))]


def train(
    model: AsrModel,
    graph: FloatGraph,
    program: Program,
    plan: Plan,
    relower: Relower,
    utterances: Callable[[], Iterable[Tensor]],
    training: TrainingSpec,
    synthesis: SynthesisSpec,
    *,
    sectionwise: bool,
    recorded: bool,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> tuple[Program, TrainingAccount]:
    """Train a program that ``graph`` was lowered to by ``plan``; return it and the account.

    ``relower``: lowers it again by another plan, with what was learned of layers and ranges in place
    of what they had.
    ``utterances``: gives what ranges come from, [M, T] each, ``recorded`` or made.  ``sectionwise``: whether
    sections are reconstructed before the whole network is distilled.  ``run``: a file that keeps how far it
    is, from which it goes on if it is to ``resume``; removed at the end.  Raises ConfigError where no weight
    has 5 bits or fewer, for there is nothing to train, for a device that is not there, and for a file of
    another run.
    """
    device = device_of(training.device)
    resolved = plan.resolve(graph)
    coarse = coarse_layers(graph, resolved)
    if not coarse and (sectionwise or training.distills):
        problem = "no convolution or linear layer has 5 bits or fewer: there is nothing to train"
        raise ConfigError("training", problem, "say --bits w4a8, or w2a8")
    warn_of_recurrent(graph, "not trained: they stay as they are rounded")
    widths = widths_above(graph, plan, training.progressive)
    each = shares(training, len(widths) + 1)
    of = {"program": program.digest(), "training": training.to_dict(), "seed": synthesis.seed}
    kept = TrainingRun.resumed(run, of) if resume and run is not None else TrainingRun(run, of=of)
    if not processes().leads:
        kept.path = None  # all read it, one writes it
    features = training_features(
        model, utterances(), training, synthesis, recorded=recorded, progress=progress
    ).to(device)
    graph = graph.to(device)
    sections: tuple[SectionAccount, ...] = ()
    distillation = None
    wider = []
    real: Mapping[str, RealLayer] = {}
    told: Any = {"seed": synthesis.seed, "run": kept, "progress": progress}
    ranges: Mapping[str, Range] = {}
    clipping = None
    with full_float32(device):
        if training.clipping_steps:
            ended = kept.clipping()
            if ended is None:
                given = graph, program, resolved, partial(relower, plan, {}), features, training
                ended = learn_clipping(*given, seed=synthesis.seed, progress=progress)
                kept.keep_clipping(*ended)
            ranges, clipping = ended
            program = relower(plan, real, ranges) if ranges else program
        for width, part in zip(widths, each, strict=False):
            known = kept.width(width.bits)
            if known is None:
                wide, grids = relower(width.plan, real, ranges), width.plan.resolve(graph)
                made = distill(graph, wide, grids, features, part, start=real, coarse=coarse, **told)
                known = WidthAccount(width.bits, made.account), dict(made.real)
                kept.keep_width(*known)
            account, real = known
            wider.append(account)
        if widths:
            program = relower(plan, real, ranges)
        if sectionwise:
            program, sections = reconstruct(graph, program, resolved, features, training, start=real, **told)
        if training.distills:
            done = distill(graph, program, resolved, features, each[-1], start=real, **told)
            program, distillation = done.program, done.account
    kept.done()
    counts = len(features.trained), len(features.held_out)
    return program, TrainingAccount(*counts, sections, distillation, tuple(wider), clipping)
