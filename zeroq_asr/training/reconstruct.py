"""Reconstruction: section by section, weights are trained so that integers give what floats gave.

Block reconstruction (Li et al., arXiv 2102.05426) with inputs mixed of the quantized and the float path
(QDrop: Wei et al., arXiv 2203.05740), on the integer program's own forward pass.  It starts from what
rounding by feedback found, and a section that does no better on features of another source, which it was
not trained on, stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from zeroq_asr.config import TrainingSpec
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program
from zeroq_asr.lowering.plan import ResolvedPlan
from zeroq_asr.progress import Progress, silent
from zeroq_asr.threads import one_thread
from zeroq_asr.training.features import TrainingFeatures
from zeroq_asr.training.layers import Learned, RealLayer, TrainedLayer, trained_layers, with_learned
from zeroq_asr.training.run import SectionAccount, TrainingRun
from zeroq_asr.training.sections import Around, Section, real, rounded, sections
from zeroq_asr.training.trainer import Rates, Trained, Trainer, joined, mean_over

#: how often a section is judged while it is trained
_JUDGED = 4
#: sections have seeds of their own, so many to a seed
_SEEDS = 100_003


@dataclass
class _Path:
    """What became of features at a cut: the float network's real values, and the program's integers."""

    real: Tensor
    integers: Tensor


@one_thread()
def reconstruct(
    graph: FloatGraph,
    program: Program,
    plan: ResolvedPlan,
    features: TrainingFeatures,
    spec: TrainingSpec,
    *,
    seed: int = 0,
    start: Mapping[str, RealLayer] | None = None,
    run: TrainingRun | None = None,
    progress: Progress = silent,
) -> tuple[Program, tuple[SectionAccount, ...]]:
    """Train the coarse weights of a program, and all biases beside them; return it and an account.

    It computes where ``features`` and the tensors of ``graph`` are.  On the CPU the same seed gives the same
    program on any number of threads.  ``start``: what others learned of layers, to begin
    with.  ``run``: keeps the sections that are done,
    and may hold some already.
    """
    run = TrainingRun() if run is None else run
    backend, around = TorchBackend(features.trained.device), Around(graph, program, features.trained)
    parts = sections(graph, program)
    paths = [_Path(given, given) for given in (features.trained, features.held_out)]
    size = spec.training_batch
    done: dict[str, Learned] = {}
    account = []
    progress("reconstruct", 0, len(parts))
    for number, section in enumerate(parts, start=1):
        layers = trained_layers(section.layers(), program, plan, start=start)
        targets = [joined(path.real, size, partial(_target, section, around)) for path in paths]
        learned: dict[str, Learned] = {}
        if any(layer.rounding for layer in layers):
            known = run.section(section.leaves)
            if known is None:
                work = _SectionWork(section, backend, around, layers, paths, targets, spec)
                # of its own, so that a run that goes on makes the same of it
                told = work.train(torch.Generator().manual_seed(seed * _SEEDS + number))
                learned = {layer.name: layer.learned() for layer in layers}
                run.keep_section(section.leaves, told, learned)
            else:
                told, learned = known
            account.append(told)
        done |= learned
        trained = {name: one.integers(backend.device) for name, one in learned.items()}
        for path, target in zip(paths, targets, strict=True):
            path.integers = joined(path.integers, size, partial(_integers, section, backend, around, trained))
            path.real = target
        progress("reconstruct", number, len(parts), section.leaves)
    return with_learned(program, done), tuple(account)


def _target(section: Section, around: Around, values: Tensor) -> Tensor:
    return section.target(values, around(values))


def _integers(
    section: Section, backend: TorchBackend, around: Around, trained: Trained, values: Tensor
) -> Tensor:
    return section.integers(backend, values, around(values), trained)


class _SectionWork:
    """The training of one section."""

    def __init__(
        self,
        section: Section,
        backend: TorchBackend,
        around: Around,
        layers: Sequence[TrainedLayer],
        paths: Sequence[_Path],
        targets: Sequence[Tensor],
        spec: TrainingSpec,
    ) -> None:
        self.section, self.backend, self.around, self.spec = section, backend, around, spec
        self.layers, self.paths, self.targets = layers, paths, targets
        self.trainer = Trainer(layers, Rates(spec.section_rate, spec.section_step_rate, spec.bias_rate))
        #: the variance of what the section is to give
        self.scale = float(1.0 / targets[0].var().clamp_min(1e-20))

    def train(self, generator: torch.Generator) -> SectionAccount:
        """Train, and keep what was best on held-out features."""
        spec, (path, _), (target, _) = self.spec, self.paths, self.targets
        info = self.section.program.values.get(self.section.enters)
        state, before = self.trainer.state(), self.error({})
        best = before
        every = max(1, spec.section_steps // _JUDGED)
        for step in range(1, spec.section_steps + 1):
            chosen = torch.randperm(len(target), generator=generator)[: spec.training_batch]
            chosen = chosen.to(target.device)
            given = path.integers[chosen]
            if info is not None and spec.mixed:
                clean = rounded(path.real[chosen], info)
                # drawn on the CPU: the same wherever it computes
                drawn = torch.rand(given.shape, generator=generator).to(given.device)
                given = torch.where(drawn < spec.mixed, clean, given)
            slowed = 0.5 * (1 + math.cos(math.pi * (step - 1) / spec.section_steps))
            self.trainer.step((given, target[chosen]), self.loss, slowed)
            if step % every == 0 or step == spec.section_steps:
                error = self.error(self.trainer.integers())
                if error < best:
                    best, state = error, self.trainer.state()
        self.trainer.restore(state)
        if best == before:
            # as it was, bit for bit
            for layer in self.layers:
                layer.keep_start()
        return SectionAccount(self.section.enters, self.section.leaves, len(self.layers), before, best)

    def loss(self, rows: Sequence[Tensor], trained: Trained) -> Tensor:
        """Squared error of the section's result, relative to the variance of what it is to be."""
        given, target = rows
        _, found = self.section.forward(self.backend, given, self.around(given), trained)
        return (found - target).square().mean() * self.scale

    def error(self, trained: Trained) -> float:
        """The same on held-out features, with nothing but the quantized path behind it."""
        section, info = self.section, self.section.meaning

        def part(rows: Sequence[Tensor]) -> float:
            given, target = rows
            found = section.integers(self.backend, given, self.around(given), trained)
            return float((real(found, info) - target).square().mean() * self.scale)

        return mean_over((self.paths[1].integers, self.targets[1]), self.spec.training_batch, part)
