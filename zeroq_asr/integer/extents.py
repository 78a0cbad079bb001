"""Extents of values: a number, or what strides and padding leave of the frames of a port.

Layers in a row nest floors, ⌊(⌊(n + a) / s⌋ + b) / r⌋ = ⌊(n + a + s·b) / (s·r)⌋, so each number of frames
has one normal form, and two are equal for every input if, and only if, their forms are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Extent:
    """times · ⌊(n + plus) / by⌋, where n is the number that the free extent ``of`` of a port stands for."""

    of: str
    plus: int = 0
    by: int = 1
    times: int = 1

    def __str__(self) -> str:
        text = self.of if not self.plus else f"{self.of}{self.plus:+}"
        text = text if self.by == 1 else f"⌊({text})/{self.by}⌋"
        return text if self.times == 1 else f"{self.times}·{text}"

    @property
    def least(self) -> int:
        """The smallest n of which anything is left."""
        return max(1, self.by - self.plus)

    def at(self, n: int) -> int:
        """The number itself, nothing where n is too small."""
        return self.times * max((n + self.plus) // self.by, 0)

    def shifted(self, by: int) -> Extent | None:
        """This and ``by`` more; None for what is no longer of this form."""
        return replace(self, plus=self.plus + by * self.by) if self.times == 1 else None

    def divided(self, by: int) -> Extent | None:
        """The floor of this divided by ``by``; None for what is no longer of this form."""
        return replace(self, by=self.by * by) if self.times == 1 else None

    def multiplied(self, by: int) -> Extent:
        """This so many times."""
        return replace(self, times=self.times * by)


Dim = int | Extent


def stepped_dim(dim: Dim, growth: int, stride: int) -> Dim | None:
    """Return what a convolution leaves, as ``frames.stepped`` does; None for what has no form."""
    if isinstance(dim, int):
        return (dim + growth - 1) // stride + 1
    if growth == 0 and stride == 1:
        return dim
    moved = dim.shifted(growth - 1 + stride)
    return None if moved is None else moved.divided(stride)


def multiplied(dim: Dim, by: int) -> Dim:
    """Return an extent so many times."""
    return dim * by if isinstance(dim, int) else dim.multiplied(by)


def at(dim: Dim, sizes: Mapping[str, int]) -> int:
    """Return the number that an extent is for free extents of such ``sizes``."""
    return dim if isinstance(dim, int) else dim.at(sizes[dim.of])


def count(dims: Sequence[Dim], sizes: Mapping[str, int]) -> int:
    """Return how many entries a value has."""
    return math.prod(at(dim, sizes) for dim in dims)


def spelled(dims: Sequence[Dim]) -> str:
    """Return a shape as errors show it."""
    return f"[{', '.join(map(str, dims))}]"
