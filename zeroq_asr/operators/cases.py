"""Parity cases: instructions with adversarial operands, which every interpreter must agree on.

A case is one instruction, its constants, and one or more sets of inputs of different batch sizes and
lengths.  They come with the records of integer operators (``IntegerOperator.cases``), those of operators from
outside the package too, and the parity tests run each through numpy, torch, intervals and both exact ONNX
dialects.  Here is what the generators share.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from zeroq_asr.registry import Attrs

Arrays = dict[str, np.ndarray]
#: longest sequence that the proofs of the cases assume
MAX_FRAMES = 1000


@dataclass(frozen=True)
class Case:
    """``out = op(*order, **attrs)``; ``order`` names constants and inputs."""

    op: str
    name: str
    attrs: Attrs
    order: tuple[str, ...]
    inputs: list[Arrays]
    constants: Arrays = field(default_factory=dict)
    #: the kernel that the fused dialect must use, or "primitives"
    kernel: str = "primitives"
    #: bounds of inputs that are not whole bytes
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Name in the test report."""
        return f"{self.op}-{self.name}"


def edge_bytes(shape: tuple[int, ...], seed: int, zero: int = 0, hi: int = 255) -> np.ndarray:
    """Bytes up to ``hi`` of which half are extremes and neighbours of the zero point."""
    generator = np.random.default_rng(seed)
    edges = np.clip([0, 1, zero - 1, zero, zero + 1, hi - 1, hi], 0, hi)
    random = generator.integers(0, hi + 1, shape)
    return np.where(generator.random(shape) < 0.5, random, generator.choice(edges, shape)).astype(np.uint8)


def edge_words(shape: tuple[int, ...], seed: int, lo: int, hi: int) -> np.ndarray:
    """Integers of up to 16 bits of which half are extremes and neighbours of zero and of the ends."""
    generator = np.random.default_rng(seed)
    edges = np.clip([lo, lo + 1, -1, 0, 1, hi - 1, hi], lo, hi)
    random = generator.integers(lo, hi + 1, shape)
    return np.where(generator.random(shape) < 0.5, random, generator.choice(edges, shape)).astype(np.int32)


def sequences(channels: int, shortest: int, zero: int = 0, hi: int = 255, seed: int = 0) -> list[Arrays]:
    """Input sets x [B, C, T] of several batch sizes and lengths, with constant extremes among them."""
    odd = edge_bytes((3, channels, shortest + 6), seed + 1, zero, hi)
    odd[0], odd[1, :, ::2] = hi, 0
    return [
        {"x": edge_bytes((1, channels, shortest), seed, zero, hi)},
        {"x": odd},
        {"x": np.zeros((2, channels, shortest + 1), dtype=np.uint8)},
    ]


def pairs(copies: int = 1) -> Arrays:
    """Every pair of bytes once, a and b [1, 256, 256]."""
    a, b = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    return {"a": a[None].astype(np.uint8), "b": b[None].astype(np.uint8)}


def with_lengths(channels: int = 3, zero: int = 0) -> list[Arrays]:
    """Sequences of unequal lengths, among them 1, all frames, and more frames than there are."""
    shapes = [((1, channels, 1), [1]), ((4, channels, 40), [40, 1, 23, 39]), ((2, channels, 7), [900, 3])]
    sets = []
    for seed, (shape, lengths) in enumerate(shapes):
        count = np.array(lengths, dtype=np.int64)
        mask = (np.arange(shape[2])[None, :] < count[:, None])[:, None, :]
        sets.append({"x": edge_bytes(shape, seed, zero), "mask": mask, "lengths": count})
    sets[1]["x"][0], sets[1]["x"][1] = 255, 0
    return sets


#: bounds of 16 bits
WIDE = (-32768, 32767)


def frames_of(channels: int, lo: int, hi: int, seed: int) -> list[np.ndarray]:
    """Columns [C] of every kind that normalization finds hard."""
    generator = np.random.default_rng(seed)
    middle = (lo + hi) // 2
    alternating = np.where(np.arange(channels) % 2, lo, hi)
    outlier = np.full(channels, middle)
    outlier[0] = hi
    low_outlier = np.full(channels, hi)
    low_outlier[-1] = lo
    nearly = np.full(channels, lo)
    nearly[channels // 2] = lo + 1
    return [
        np.zeros(channels) + middle,
        np.full(channels, lo),
        np.full(channels, hi),
        alternating,
        outlier,
        low_outlier,
        nearly,
        # a few units around one value
        middle + generator.integers(-2, 3, channels),
        generator.integers(lo, hi + 1, channels),
        generator.choice([lo, hi], channels),
        np.clip(np.rint(generator.standard_normal(channels) * (hi - lo) / 12 + middle), lo, hi),
        np.clip(np.rint(generator.standard_cauchy(channels) * (hi - lo) / 500 + middle), lo, hi),
    ]
