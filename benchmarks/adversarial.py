"""Features that are hard on integers: extremes, ties of the quantizer, silence, impulses; every length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
#: one utterance [M, T] from a generator, its shape and the scale of the program's input quantizer
Make = Callable[[np.random.Generator, tuple[int, int], float], Array]

#: batches of the rounds; 0: utterances of every length, or of so many lengths from one frame to all
BATCHES = (5, 1, 2, 0)
#: utterances of a batch that has every length
EVERY = 12


def _random(scale: float) -> Make:
    return lambda g, shape, _: g.standard_normal(shape) * scale


def _extremes(size: float) -> Make:
    return lambda g, shape, _: g.choice([-size, size], shape)


def _constant(g: np.random.Generator, shape: tuple[int, int], scale: float) -> Array:
    return np.full(shape, g.choice([0.0, -0.0, 1.0, -3.0, 128 * scale, -1e30]))


def _alternating(axis: int) -> Make:
    """Full scale of the quantizer, the sign of which turns with every frame, or with every mel."""
    return lambda _, shape, scale: 512 * scale * (1.0 - 2.0 * (np.indices(shape)[axis] % 2))


def _impulses(g: np.random.Generator, shape: tuple[int, int], scale: float) -> Array:
    return np.where(g.random(shape) < 0.02, g.choice([-1e4, 1e4, 300 * scale], shape), 0.0)


def _ties(g: np.random.Generator, shape: tuple[int, int], scale: float) -> Array:
    """Halfway between two integers of the quantizer, and the floats next to it on either side."""
    ties = ((g.integers(-300, 300, shape) + 0.5).astype(np.float32) * np.float32(scale)).astype(np.float32)
    below, above = np.nextafter(ties, np.float32(-3e38)), np.nextafter(ties, np.float32(3e38))
    return np.choose(g.integers(0, 3, shape), [below, ties, above])


def _heavy(g: np.random.Generator, shape: tuple[int, int], _: float) -> Array:
    return np.clip(g.standard_cauchy(shape), -1e30, 1e30)


KINDS: dict[str, Make] = {
    "random": _random(1.0),
    "extremes of 1e30": _extremes(1e30),
    "ties": _ties,
    "random, 1e-6": _random(1e-6),
    "alternating frames": _alternating(1),
    "constant": _constant,
    "random, 1e3": _random(1e3),
    "impulses": _impulses,
    "random, 1e6": _random(1e6),
    "alternating mels": _alternating(0),
    "heavy tails": _heavy,
    "random, 1e-3": _random(1e-3),
    "extremes of 3e38": _extremes(3e38),
    "denormal": _random(1e-40),
    "extremes of 3": _extremes(3.0),
}


def features(
    seed: list[int],
    count: int,
    channels: int,
    frames: tuple[int, int],
    scale: float,
    batches: tuple[int, ...],
) -> tuple[Array, Array, str]:
    """Features [B, M, T], lengths [B], and what is in them, of round ``count`` of a seed.

    ``frames``: least and most of T.  Every kind has its turn, one an utterance.  Behind the end of an
    utterance there are zeros in some rounds, and more of its numbers in others.
    """
    g = np.random.default_rng([*seed, count])
    batch, longest = batches[count % len(batches)], int(g.integers(frames[0], frames[1] + 1))
    if batch == 0:
        batch = EVERY
        longest = max(longest, EVERY)
        lengths = np.linspace(1, longest, EVERY).astype(np.int64)
    else:
        lengths = g.integers(1, longest + 1, batch)
        # the longest of a batch fills it, the last is one frame now and then
        lengths[0] = longest if batch > 1 or g.random() < 0.5 else lengths[0]
        lengths[-1] = 1 if batch > 2 else lengths[-1]
    names = list(KINDS)
    chosen = [names[(sum(seed) + 5 * count + k) % len(names)] for k in range(batch)]
    made = np.stack([KINDS[name](g, (channels, longest), scale) for name in chosen]).astype(np.float32)
    padded = np.arange(longest)[None, None, :] >= lengths[:, None, None]
    if g.random() < 0.5:
        made = np.where(padded, np.float32(0), made)
    described = f"{batch} × {longest} frames, {', '.join(dict.fromkeys(chosen))}"
    return made, lengths, described
