"""What synthesis starts from, by name: features [B, M, T] from a seeded generator.

A new start is one decorated function here; its name is then valid in ``SynthesisSpec.init``, once
``config.INITS`` lists it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
