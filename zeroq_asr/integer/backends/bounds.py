"""Bounds of a value's integers: what the proof knows of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zeroq_asr.integer.types import IntType


@dataclass(frozen=True)
class Interval:
    """Bounds lo ≤ value ≤ hi (object arrays of Python ints) of a value of integer type ``type``."""

    lo: np.ndarray
    hi: np.ndarray
    type: IntType
    #: the array itself where the value is a constant
    exact: np.ndarray | None = None

    @staticmethod
    def of(lo: int | np.ndarray, hi: int | np.ndarray, kind: IntType) -> Interval:
        """Build an interval from ints or arrays."""
        return Interval(exact(lo), exact(hi), kind)

    @property
    def min(self) -> int:
        """Smallest possible value of any element."""
        return int(self.lo.min())

    @property
    def max(self) -> int:
        """Largest possible value of any element."""
        return int(self.hi.max())


class Known(Interval):
    """A constant, whose bounds are its own integers: Python ints only where somebody asks for them.

    Weights are read as arrays, and as Python ints would take sixteen times their bytes.
    """

    def __init__(self, exact: np.ndarray, kind: IntType) -> None:
        object.__setattr__(self, "exact", exact)
        object.__setattr__(self, "type", kind)

    @property
    def lo(self) -> np.ndarray:
        """The integers."""
        assert self.exact is not None
        return exact(self.exact)

    @property
    def hi(self) -> np.ndarray:
        """The integers."""
        return self.lo

    @property
    def min(self) -> int:
        """Smallest entry."""
        assert self.exact is not None
        return int(self.exact.min())

    @property
    def max(self) -> int:
        """Largest entry."""
        assert self.exact is not None
        return int(self.exact.max())


def exact(v: int | np.ndarray) -> np.ndarray:
    """Return Python ints, an object array."""
    return np.asarray(v).astype(object) if isinstance(v, np.ndarray) else np.array(v, dtype=object)
