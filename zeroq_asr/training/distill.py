"""Distillation: the whole integer program is trained to say what its float network says.

Quantization-aware training as of Conformers in Ding et al. (arXiv 2203.15952) and of HuBERT in Yeh et al.
(arXiv 2301.00652), without a label: the loss is the divergence of the tokens' distributions from the float
network's, and the squared error of what passes between sections, and it is of the very integers that ship.
"""

from __future__ import annotations

import math
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

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
from zeroq_asr.training.layers import RealLayer, trained_layers, with_learned
from zeroq_asr.training.processes import processes
from zeroq_asr.training.run import DistillationAccount, DistillationState, TrainingRun
from zeroq_asr.training.sections import Around, sections
from zeroq_asr.training.trainer import Rates, Trained, Trainer, mean_over, state_digest

#: steps over which step sizes grow to their full size
_WARM = 20
#: times that what was learned is judged
_JUDGED = 12


@dataclass(frozen=True)
class Distilled:
    """What a distillation made."""

    program: Program
    account: DistillationAccount
    #: layers by their results
    real: Mapping[str, RealLayer]


@one_thread()
def distill(
    graph: FloatGraph,
    program: Program,
    plan: ResolvedPlan,
    features: TrainingFeatures,
    spec: TrainingSpec,
    *,
    seed: int = 0,
    start: Mapping[str, RealLayer] | None = None,
    coarse: Container[str] = (),
    run: TrainingRun | None = None,
    progress: Progress = silent,
) -> Distilled:
    """Train all weights of 5 bits or fewer and all biases of a program together.

    It computes where ``features`` and the tensors of ``graph`` are.
    It ends after ``spec.distillation_steps``, or else ``spec.distillation`` seconds, and keeps what was best
    on held-out features.  ``start``: what others learned of layers, to begin with.  ``coarse``: layers whose
    weights are trained whatever their grid.  ``run``: keeps how far it is, and may hold where it is to go on.
    Processes that torchrun started (``training.processes``) have a batch each in every step, and the clock of
    the first; ConfigError where they did not begin with the same, or do not keep the same weights.
    """
    together = processes()
    together.require_same("programs", program.digest())
    together.require_same("features", _digest(features))
    run = TrainingRun() if run is None else run
    generator = torch.Generator().manual_seed(seed)
    backend, around = TorchBackend(features.trained.device), Around(graph, program, features.trained)
    parts = sections(graph, program)
    layers = [
        layer
        for part in parts
        for layer in trained_layers(part.layers(), program, plan, start=start, coarse=coarse)
    ]
    trainer = Trainer(layers, Rates(spec.weight_rate, spec.step_rate, spec.bias_rate))

    def losses(batch: Tensor, trained: Trained) -> tuple[Tensor, Tensor]:
        """Divergence of the tokens, and mean relative squared error of what passes between sections."""
        beside = around(batch)
        integers, found, target = batch, None, batch
        hidden = torch.zeros((), device=batch.device)
        for part in parts:
            target = part.target(target, beside)
            integers, found = part.forward(backend, integers, beside, trained, found)
            if part is not parts[-1]:
                hidden = hidden + (found - target).square().mean() / target.var().clamp_min(1e-20)
        assert found is not None
        wanted = torch.log_softmax(target, -1)
        divergence = (wanted.exp() * (wanted - torch.log_softmax(found, -1))).sum(-1).mean()
        return divergence, hidden / max(1, len(parts) - 1)

    def loss(rows: Sequence[Tensor], trained: Trained) -> Tensor:
        divergence, hidden = losses(rows[0], trained)
        return divergence + spec.hidden * hidden

    @torch.no_grad()
    def judged() -> float:
        trained = trainer.integers()
        return mean_over(
            (features.held_out,), spec.training_batch, lambda rows: float(losses(rows[0], trained)[0])
        )

    kept = trainer.state()
    where = run.distillation(trainer, generator)
    if where is None:
        before = judged()
        where = DistillationState(0, 0.0, before, before, kept)
    together.require_same("runs", f"{where.step} {state_digest(trainer.state())}")
    begun = time.monotonic() - where.seconds
    next_judged = _judged_after(where.share(spec))
    progress("distill", 0, 100)
    while True:
        where.seconds = together.of_first(time.monotonic() - begun)
        share = where.share(spec)
        if share >= next_judged or share >= 1:
            together.require_same("weights", state_digest(trainer.state()))
            found = judged()
            if found < where.best:
                where.best, where.kept = found, trainer.state()
            next_judged = _judged_after(share)
        progress(
            "distill", min(100, round(100 * share)), 100, f"step {where.step}, held out {where.best:.4f}"
        )
        if share >= 1:
            break
        run.keep_distillation(trainer, generator, where)
        slowed = min(1.0, (where.step + 1) / _WARM) * 0.5 * (1 + math.cos(math.pi * share))
        count = together.count * spec.training_batch
        chosen = torch.randint(len(features.trained), (count,), generator=generator)
        own = chosen[together.rank :: together.count].to(features.trained.device)
        trainer.step((features.trained[own],), loss, slowed, together)
        where.step += 1
    trainer.restore(where.kept)
    learned = {layer.name: layer.learned() for layer in trainer.layers}
    account = DistillationAccount(where.step, where.seconds, where.before, where.best)
    made = with_learned(program, learned)
    return Distilled(made, account, {layer.name: layer.real() for layer in trainer.layers})


def _digest(features: TrainingFeatures) -> str:
    return state_digest([{"trained": features.trained.cpu(), "held out": features.held_out.cpu()}])


def _judged_after(share: float) -> float:
    """The next share of the work at which what was learned is judged: the same for a run that goes on."""
    return (math.floor(share * _JUDGED) + 1) / _JUDGED
