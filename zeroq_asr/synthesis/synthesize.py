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
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zeroq_asr.config import SynthesisSpec
from zeroq_asr.errors import CalibrationError, ConfigError, SynthesisError
from zeroq_asr.files import atomic_write
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import Progress, silent
from zeroq_asr.synthesis.fast_convolutions import FastConv
from zeroq_asr.synthesis.objectives import Objective, find_objective, kl, within
from zeroq_asr.synthesis.saved import damaged, read_arrays
from zeroq_asr.synthesis.speech_priors import SpeechLike
from zeroq_asr.synthesis.starts import INITIAL, waveforms
from zeroq_asr.synthesis.statistics import BatchNormObserver, Site

#: what a frame of a specification is for networks that read waveforms
_FRAME_SECONDS = 0.01
_REMEDY = "calibrate from audio (a manifest), from saved features, or from noise"


@dataclass(frozen=True)
class LayerAccount:
    """How well one batch normalization's input matches what it stored."""

    name: str
    #: live channels compared, and all of them
    channels: int
    total_channels: int
    #: channel mean of KL(stored || batch) in nats, of the initial noise and of the result
    kl_before: float
    kl_after: float
    #: channel mean of |batch mean - stored mean| / stored deviation, of the result
    mean_mismatch: float
    #: channel median of batch deviation / stored deviation, of the result
    std_ratio: float


@dataclass(frozen=True)
class SyntheticFeatures:
    """Features to calibrate on, and the account of how they were made."""

    #: float32 [B, M, T]
    features: npt.NDArray[np.float32]
    #: valid frames of each, int64 [B]
    lengths: npt.NDArray[np.int64]
    spec: SynthesisSpec
    #: the objective before the first step and after each, one more than the steps taken
    losses: tuple[float, ...] = ()
    account: tuple[LayerAccount, ...] = ()

    def utterances(self, count: int | None = None) -> Iterator[Tensor]:
        """Give the first ``count``, or all of them, each of its own length: [M, T]."""
        pairs = zip(self.features[:count], self.lengths[:count], strict=True)
        return (torch.from_numpy(features[:, :length]) for features, length in pairs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` of plain arrays and a JSON string; ConfigError if it cannot be written."""
        note = {
            "spec": self.spec.to_dict(),
            "account": [dataclasses.asdict(layer) for layer in self.account],
        }
        with atomic_write(path) as stream:
            np.savez(
                stream,
                features=self.features,
                lengths=self.lengths,
                losses=np.asarray(self.losses, dtype=np.float64),
                note=np.asarray(json.dumps(note)),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SyntheticFeatures:
        """Read what ``save`` wrote.

        Raises CalibrationError when the file is missing, corrupt, incomplete or not finite.
        """
        arrays = read_arrays(path, ("features", "lengths", "losses", "note"))
        features, lengths, losses = (arrays[name] for name in ("features", "lengths", "losses"))
        try:
            note = json.loads(str(arrays["note"]))
            spec = SynthesisSpec.from_dict(note["spec"])
            account = tuple(_layer(layer) for layer in note["account"])
        except (ValueError, KeyError, TypeError, RecursionError, ConfigError):
            raise damaged(path, "its note does not say how it was made") from None
        _check(path, features, lengths, losses)
        return cls(features, lengths, spec, tuple(float(loss) for loss in losses), account)


def synthesize(
    model: AsrModel, spec: SynthesisSpec | None = None, progress: Progress = silent
) -> SyntheticFeatures:
    """Return features whose statistics inside ``model.network`` match the stored ones.

    The result is the best iterate, not the last.  The same seed gives the same bits on the same
    machine and number of threads.  The network, its parameters and its buffers stay untouched.

    A network without stored statistics has nothing to match unless ``norm_prior`` or a term of
    ``synthesis.speech_priors`` is asked for: the result is what synthesis starts from, and its account is
    empty.

    Raises SynthesisError when the network is in training mode, has no normalization that ``norm_prior`` could
    match or no attention for ``locality``, or the objective is not finite.
    """
    spec = SynthesisSpec.preset("default") if spec is None else spec
    compare = find_objective(spec.objective)
    if model.network.training:
        raise SynthesisError(model.name, "the network is in training mode", "call network.eval() first")
    variable = _initial(model, spec).requires_grad_()
    shape = _shaper(model, spec)
    lengths = torch.full((spec.batch,), variable.shape[2], dtype=torch.int64)
    observer = BatchNormObserver(model.network, samples=spec.emphasis > 0, norms=spec.norm_prior > 0)
    speech = SpeechLike(model.name, spec)
    optimizer = torch.optim.Adam([variable], lr=spec.learning_rate)
    step_schedule = _schedule(optimizer, spec)

    losses: list[float] = []
    best = _Best()
    progress("synthesize", 0, spec.iterations)
    with _frozen(model), FastConv(model.network):
        for step in range(spec.iterations + 1):
            features = shape(variable)
            observer.clear()
            with observer, speech, torch.set_grad_enabled(step < spec.iterations):
                logits = model.network(features, lengths)[0]
            with torch.set_grad_enabled(step < spec.iterations):
                moments = {**observer.moments, **observer.priors}
                loss = _total(compare, observer, spec, speech.terms(logits))
            if spec.norm_prior and spec.iterations and not moments:
                raise SynthesisError(
                    model.name, "the network has no normalization whose statistics could be matched", _REMEDY
                )
            if loss is None:  # nothing to match
                best.features = features.detach().clone()
                break
            value = float(loss.detach())
            if not math.isfinite(value):
                raise SynthesisError(
                    model.name, f"the objective became {value} at step {step}", "lower the learning rate"
                )
            losses.append(value)
            best.offer(step, value, features, moments, spec.min_improvement)
            if step:
                progress("synthesize", step, spec.iterations, f"loss {value:.4g}")
            if step == spec.iterations or (spec.patience and step - best.improved >= spec.patience):
                break
            (variable.grad,) = torch.autograd.grad(loss, variable)
            optimizer.step()
            step_schedule(value)
    if losses and len(losses) <= spec.iterations:
        progress("synthesize", spec.iterations, spec.iterations, "stopped early")
    account = tuple(
        _account(site, best.first[name], best.moments[name])
        for name, site in observer.sites.items()
        if name in best.moments
    )
    return SyntheticFeatures(best.features.numpy(), lengths.numpy(), spec, tuple(losses), account)


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


def _layer(values: object) -> LayerAccount:
    """Return the account of a layer that a file holds; TypeError where it is none."""
    if not isinstance(values, dict):
        raise TypeError
    layer = LayerAccount(**values)
    numbers = (layer.kl_before, layer.kl_after, layer.mean_mismatch, layer.std_ratio)
    counts = (layer.channels, layer.total_channels)
    whole = all(type(count) is int and 0 <= count < 2**31 for count in counts)
    if not (isinstance(layer.name, str) and whole and all(type(number) is float for number in numbers)):
        raise TypeError
    return layer


def _check(
    path: str | os.PathLike[str],
    features: npt.NDArray[Any],
    lengths: npt.NDArray[Any],
    losses: npt.NDArray[Any],
) -> None:
    problem = ""
    if features.dtype != np.float32 or features.ndim != 3 or 0 in features.shape:
        problem = f"features must be float32 [B, M, T], got {features.dtype} {list(features.shape)}"
    elif lengths.dtype != np.int64 or lengths.shape != features.shape[:1]:
        problem = f"lengths must be int64 [{features.shape[0]}], got {lengths.dtype} {list(lengths.shape)}"
    elif lengths.min() < 1 or lengths.max() > features.shape[2]:
        problem = f"lengths must lie between 1 and {features.shape[2]} frames"
    elif not np.isfinite(features).all():
        problem = "features are not finite"
    elif losses.dtype != np.float64 or losses.ndim != 1:
        problem = "losses must be a vector of float64"
    if problem:
        raise CalibrationError(path, problem, "synthesize it again")
