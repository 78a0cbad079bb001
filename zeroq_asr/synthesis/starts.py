"""What synthesis starts from, by name: features [B, M, T] from a seeded generator.

A new start is one decorated function here; its name is then valid in ``SynthesisSpec.init``, once
``config.INITS`` lists it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Size = tuple[int, int, int]
Initial = Callable[[Size, torch.Generator], Tensor]

#: starts by name
INITIAL: dict[str, Initial] = {}


def initial(function: Initial) -> Initial:
    """Register ``function`` in ``INITIAL`` under its own name."""
    INITIAL[function.__name__] = function
    return function


@initial
def normal(size: Size, generator: torch.Generator) -> Tensor:
    """N(0, 1), independent."""
    return torch.randn(size, generator=generator)


@initial
def uniform(size: Size, generator: torch.Generator) -> Tensor:
    """U(-0.3, 0.3), independent, as in the code of Kim et al. (kssteven418/Q-ASR)."""
    return torch.rand(size, generator=generator) * 0.6 - 0.3


@initial
def student(size: Size, generator: torch.Generator) -> Tensor:
    """Student's t with 4 degrees of freedom, of variance 1: heavy tails, independent."""
    chi_squared = (torch.randn((4, *size), generator=generator) ** 2).sum(dim=0)
    return torch.randn(size, generator=generator) / (chi_squared / 4).sqrt() / 2.0**0.5


@initial
def smooth(size: Size, generator: torch.Generator) -> Tensor:
    """Noise of variance 1 correlated over some ten frames and five mels, as log-mel features are."""
    return _standardized(_smoothed(normal(size, generator), frames=9, mels=5), (1, 2))


@initial
def speech(size: Size, generator: torch.Generator) -> Tensor:
    """What per-feature normalized log-mels of speech have in common, whoever speaks.

    Stretches of activity and of pause (some 100 frames; a third is pause, a low plateau with little
    variation), bands of energy that drift (smooth over ten frames and five mels), and for every mel of
    every utterance mean 0 and variance 1, which the frontend's own normalization sees to.
    """
    batch, _, frames = size
    drift = _smoothed(torch.randn((batch, 1, frames), generator=generator), frames=61, mels=1)
    active = (_standardized(drift, (1, 2)) > -0.43).float()
    bands = _standardized(_smoothed(normal(size, generator), frames=9, mels=5), (1, 2))
    hiss = torch.randn(size, generator=generator)
    return _standardized(active * (2.0 + bands) + 0.3 * hiss, (2,))


def waveforms(size: tuple[int, int], rate: int, generator: torch.Generator) -> Tensor:
    """Waveforms [B, 1, N] of variance 1 that have in common with speech what needs no speaker.

    A source whose pitch drifts between 80 and 250 Hz, all harmonics equally strong, or hiss; three
    resonances that wander between 250 and 3800 Hz; syllables of some 4 a second, a third of the time pause; a
    faint noise.
    Speech is far from Gaussian: its largest samples lie at some ten deviations, as they do here.
    """
    batch, samples = size
    # what drifts is drawn 100 times a second
    points = max(samples * 100 // rate, 8) + 1

    def drifting(low: float, high: float, width: int) -> Tensor:
        slow = _smoothed(torch.randn((batch, 1, points), generator=generator), frames=width, mels=1)
        share = torch.special.ndtr(_standardized(slow, (2,)))
        curve = low * (high / low) ** share
        return nn.functional.interpolate(curve, samples, mode="linear", align_corners=True)[:, 0]

    cycles = (drifting(80.0, 250.0, 61) / rate).double().cumsum(dim=1)
    pulses = (cycles.floor().diff(dim=1, prepend=cycles[:, :1].floor()) > 0).float() * 8.0
    hiss = torch.randn((batch, samples), generator=generator)
    voiced = drifting(0.001, 1.0, 31)
    source = voiced * pulses + (1 - voiced) * 0.5 * hiss
    sound = torch.zeros_like(source)
    window = torch.hann_window(rate // 50, periodic=False)
    for low, high in ((250.0, 900.0), (800.0, 2400.0), (2000.0, 3800.0)):
        # a resonance is a decaying wave at its frequency, which the source starts again and again
        phase = (drifting(low, high, 31) / rate).cumsum(dim=1) * 2 * math.pi
        decay = window[len(window) // 2 :][None, None] ** 4
        shaped = nn.functional.pad(source[:, None] * torch.exp(1j * -phase)[:, None], (decay.shape[2] - 1, 0))
        parts = [nn.functional.conv1d(part, decay.flip(2)) for part in (shaped.real, shaped.imag)]
        sound += (torch.complex(*parts)[:, 0] * torch.exp(1j * phase)).real
    loudness = drifting(0.01, 3.0, 25) * (drifting(0.1, 10.0, 61) > 0.5)
    sound = _standardized((sound * loudness)[:, None], (2,))
    return _standardized(sound + 0.01 * torch.randn((batch, 1, samples), generator=generator), (2,))


def _smoothed(noise: Tensor, *, frames: int, mels: int) -> Tensor:
    """Sum the neighbourhood of ``frames`` and ``mels`` weighted by Hann windows."""
    for axis, width in ((2, frames), (1, mels)):
        taps = torch.hann_window(width + 2, periodic=False)[1:-1]
        # by circular sums: the ends are treated like the middle
        noise = torch.stack([tap * noise.roll(k - width // 2, dims=axis) for k, tap in enumerate(taps)]).sum(
            dim=0
        )
    return noise


def _standardized(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return (x - x.mean(dim=axes, keepdim=True)) / x.std(dim=axes, keepdim=True)
