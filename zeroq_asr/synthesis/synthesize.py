"""Features that a network takes for speech, made from its normalization statistics alone.

Shapes: B utterances, M mels, T frames, C channels.

Kim et al., "Integer-only Zero-shot Quantization for Efficient Speech Recognition" (arXiv
2103.16827): start from noise x [B, M, T] and move it by Adam so that at every batch
normalization the batch's channel means and variances approach the running statistics that
training left there,

    minimise over x   sum over layers  mean over channels  KL( N(m, s^2) || N(b(x), v(x)) )

with m, s^2 stored and b, v those of the normalization's input over batch and time.  No audio,
no label and no output of the network is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.config import SynthesisSpec
from zeroq_asr.config.synthesis import VOICE
from zeroq_asr.errors import SynthesisError
from zeroq_asr.model import AsrModel, TransducerModel
from zeroq_asr.progress import Progress, silent
from zeroq_asr.synthesis.fast_convolutions import FastConv
from zeroq_asr.synthesis.features import LayerAccount, SyntheticFeatures
from zeroq_asr.synthesis.made_speech import made_speech
from zeroq_asr.synthesis.objectives import Objective, find_objective, kl, within
from zeroq_asr.synthesis.speech_priors import SpeechLike
from zeroq_asr.synthesis.starts import INITIAL, waveforms
from zeroq_asr.synthesis.statistics import BatchNormObserver, Site, pool
from zeroq_asr.threads import one_thread, side_by_side

#: what a frame of a specification is for networks that read waveforms
_FRAME_SECONDS = 0.01
_REMEDY = "calibrate from audio (a manifest), from saved features, or from noise"


@one_thread()
def synthesize(
    model: AsrModel, spec: SynthesisSpec | None = None, progress: Progress = silent
) -> SyntheticFeatures:
    """Return features whose statistics inside ``model.network`` match the stored ones.

    The result is the best iterate, not the last.  The same seed gives the same bits on the same kind of
    machine, whatever its number of threads.  The network, its parameters and its buffers stay untouched.

    A network without stored statistics has nothing to match unless ``norm_prior`` or a term of
    ``synthesis.speech_priors`` is asked for: the result is what synthesis starts from, and its account is
    empty.

    Raises SynthesisError for a transducer, and when the network is in training mode, has no normalization
    that ``norm_prior`` could match or no attention for ``locality``, or the objective is not finite.
    """
    spec = SynthesisSpec.preset("default") if spec is None else spec
    compare = find_objective(spec.objective)
    if isinstance(model, TransducerModel):
        raise SynthesisError(
            model.name, "is a transducer", "prepare_transducer makes features of its encoder"
        )
    if model.network.training:
        raise SynthesisError(model.name, "the network is in training mode", "call network.eval() first")
    start = _initial(model, spec)
    parts = start.tensor_split(max(1, min(spec.groups, spec.batch // 2)))
    stopping = threading.Event()
    groups = [
        _Group(model, compare, part, spec, stopping, silent if k else progress)
        for k, part in enumerate(parts)
    ]
    progress("synthesize", 0, spec.iterations)
    with _frozen(model):
        side_by_side(_Group.match, groups, stopping)
    return SyntheticFeatures(
        torch.cat([group.best.features for group in groups]).numpy(),
        np.full(spec.batch, start.shape[2], dtype=np.int64),
        spec,
        _mean_losses([group.losses for group in groups]),
        _accounts(groups),
    )


class _Group:
    """Utterances that are matched together: a forward pass, an objective and a step of Adam of their own.

    The modes that watch the network are those of a thread, so that groups share it.
    """

    def __init__(
        self,
        model: AsrModel,
        compare: Objective,
        start: Tensor,
        spec: SynthesisSpec,
        stopping: threading.Event,
        progress: Progress,
    ) -> None:
        self.model, self.compare, self.spec = model, compare, spec
        self.stopping, self.progress = stopping, progress
        self.variable = start.detach().clone().requires_grad_()
        self.observer = BatchNormObserver(model.network, samples=spec.emphasis > 0, norms=spec.norm_prior > 0)
        self.speech = SpeechLike(model.name, spec)
        self.losses: list[float] = []
        self.best = _Best()

    def match(self) -> None:
        """Move the features until the steps are done, or nothing improves, or all are to stop."""
        spec = self.spec
        shape, steps = _shaper(self.model, spec), spec.iterations
        betas = (spec.beta1, spec.beta2)
        optimizer = torch.optim.Adam([self.variable], lr=spec.learning_rate, betas=betas)
        step_schedule = _schedule(optimizer, spec)
        with FastConv(self.model.network):
            for step in range(steps + 1):
                loss = self._forward(shape(self.variable), step)
                if loss is None or self.stopping.is_set():
                    break
                if step:
                    self.progress("synthesize", step, steps, f"loss {self.losses[-1]:.4g}")
                if step == steps or (spec.patience and step - self.best.improved >= spec.patience):
                    break
                (self.variable.grad,) = torch.autograd.grad(loss, self.variable)
                optimizer.step()
                step_schedule(self.losses[-1])
        if self.losses and len(self.losses) <= steps:
            self.progress("synthesize", steps, steps, "stopped early")

    def _forward(self, features: Tensor, step: int) -> Tensor | None:
        """Return the loss at a step, and remember it where it is the best; None where nothing is to match."""
        spec, observer = self.spec, self.observer
        lengths = torch.full((len(features),), features.shape[2], dtype=torch.int64)
        observer.clear()
        with torch.set_grad_enabled(step < spec.iterations):
            with observer, self.speech:
                logits = self.model.network(features, lengths)[0]
            moments = {**observer.moments, **observer.priors}
            loss = _total(self.compare, observer, spec, self.speech.terms(logits))
        if spec.norm_prior and spec.iterations and not moments:
            raise SynthesisError(
                self.model.name, "the network has no normalization whose statistics could be matched", _REMEDY
            )
        if loss is None:
            self.best.features = features.detach().clone()
            return None
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SynthesisError(
                self.model.name, f"the objective became {value} at step {step}", "lower the learning rate"
            )
        self.losses.append(value)
        self.best.offer(step, value, features, moments, spec.min_improvement)
        return loss


def _mean_losses(groups: list[list[float]]) -> tuple[float, ...]:
    """Return the mean over groups after each step; one that stopped early stays where it was."""
    steps = max(len(losses) for losses in groups)
    return tuple(
        sum(losses[min(k, len(losses) - 1)] for losses in groups) / len(groups) for k in range(steps)
    )


def _accounts(groups: list[_Group]) -> tuple[LayerAccount, ...]:
    """Return the account of every site, of the utterances of all groups together."""

    def pooled(all_moments: list[dict[str, tuple[Tensor, Tensor]]], name: str) -> tuple[Tensor, Tensor]:
        # a group may have an utterance more than another
        sizes = (len(group.variable) for group in groups)
        return pool([(*moments[name], size) for moments, size in zip(all_moments, sizes, strict=True)])

    first, best = [group.best.first for group in groups], [group.best.moments for group in groups]
    return tuple(
        _account(site, pooled(first, name), pooled(best, name))
        for name, site in groups[0].observer.sites.items()
        if name in best[0]
    )


def gaussian_noise(model: AsrModel, spec: SynthesisSpec | None = None) -> SyntheticFeatures:
    """Return Gaussian noise N(0, 1) of the size ``spec`` asks for: the baseline synthesis must beat.

    It is a SyntheticFeatures without steps; its account says how far noise is from the stored
    statistics, and is empty for a network that stores none.
    """
    spec = SynthesisSpec.preset("default") if spec is None else spec
    still = dataclasses.replace(spec, iterations=0, init="normal", standardize=False)
    return synthesize(model, still)


class _Best:
    """The iterate of least loss so far, with the moments it had."""

    def __init__(self) -> None:
        self.loss = math.inf
        self.features = torch.empty(0)
        self.first: dict[str, tuple[Tensor, Tensor]] = {}
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        #: the last step that lowered the loss by the share that counts, and the loss then
        self.improved = 0
        self._reference = math.inf

    def offer(
        self,
        step: int,
        loss: float,
        features: Tensor,
        moments: dict[str, tuple[Tensor, Tensor]],
        share: float,
    ) -> None:
        if loss < self.loss:
            self.loss = loss
            self.features = features.detach().clone()
            self.moments = {name: (mean.detach(), var.detach()) for name, (mean, var) in moments.items()}
        if loss < self._reference * (1 - share):
            self.improved, self._reference = step, loss
        if step == 0:
            self.first = self.moments


@contextlib.contextmanager
def _frozen(model: AsrModel) -> Iterator[None]:
    """Keep parameters out of the autograd graph, then restore what each one had."""
    had = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
    for parameter in had:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in had:
            parameter.requires_grad_(True)


def _initial(model: AsrModel, spec: SynthesisSpec) -> Tensor:
    """Return the features [B, M, T] to start from, by a generator of its own."""
    generator = torch.Generator().manual_seed(spec.seed)
    if spec.init == VOICE:
        waveform = model.frontend.is_waveform
        seconds = spec.frames * (_FRAME_SECONDS if waveform else 1 / model.frontend.frames_per_second)
        made = made_speech(model, dataclasses.replace(spec, speakers=spec.batch, seconds=seconds))
        # the frontend may give a frame more for the last window
        return torch.from_numpy(made.features[:, :, : int(made.lengths.min())])
    if model.frontend.is_waveform:
        samples = round(spec.frames * _FRAME_SECONDS * model.frontend.sample_rate)
        return waveforms((spec.batch, samples), model.frontend.sample_rate, generator)
    return INITIAL[spec.init]((spec.batch, model.frontend.features, spec.frames), generator)


def _shaper(model: AsrModel, spec: SynthesisSpec) -> Callable[[Tensor], Tensor]:
    """Return the map from the variable to features.

    With ``standardize`` and a frontend that normalizes per feature, every mel of every
    utterance has mean 0 and unbiased variance 1 over its frames, as all real features do.
    """
    if not (spec.standardize and model.frontend.normalize == "per_feature"):
        return lambda variable: variable
    return lambda variable: (
        (variable - variable.mean(dim=2, keepdim=True)) / (variable.std(dim=2, keepdim=True) + 1e-5)
    )


def _schedule(optimizer: torch.optim.Optimizer, spec: SynthesisSpec) -> Callable[[float], None]:
    """Return what to call with the loss after each step."""
    if spec.schedule == "cosine":
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(spec.iterations, 1))
        return lambda loss: cosine.step()
    if spec.schedule == "plateau":
        # the authors' code: ReduceLROnPlateau(min_lr=1e-4, patience=25)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=25, min_lr=1e-4)
        return plateau.step
    return lambda loss: None


def _total(
    compare: Objective, observer: BatchNormObserver, spec: SynthesisSpec, others: list[Tensor]
) -> Tensor | None:
    """Sum the objective over layers, and ``others``.

    With ``emphasis``, add layer l for the sample l mod B alone.

    Both remedies against samples that are all alike follow Zhang et al., "Diversifying Sample Generation
    for Accurate Data-Free Quantization" (arXiv 2103.01049): slack on the statistics (section 3.2) and
    layerwise sample enhancement (section 3.3).
    """
    parts = list(others)
    for name, moments in observer.moments.items():
        site = observer.sites[name]
        parts.append(compare(*within(spec.slack, *moments, site.mean, site.var)))
        if name in observer.samples:
            alone = within(spec.slack, *observer.samples[name], site.mean, site.var)
            parts.append(spec.emphasis * compare(*alone))
    for name, moments in observer.priors.items():
        site = observer.sites[name]
        parts.append(spec.norm_prior * compare(*within(spec.slack, *moments, site.mean, site.var)))
    return torch.stack(parts).sum() if parts else None


def _account(site: Site, first: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor]) -> LayerAccount:
    mean, var = last
    return LayerAccount(
        name=site.name,
        channels=int(site.live.sum()),
        total_channels=site.live.numel(),
        kl_before=float(kl(*first, site.mean, site.var)),
        kl_after=float(kl(mean, var, site.mean, site.var)),
        mean_mismatch=float(((mean - site.mean).abs() / site.var.sqrt()).mean()),
        std_ratio=float((var / site.var).sqrt().median()),
    )
