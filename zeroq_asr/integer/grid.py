"""Grids of weights: the integers that a layer's weights may be, with the packing that stores them.

Layers know neither grids nor packings (``integer/packing.py``): they are given int8 integers on some grid,
and a dialect asks for a constant's tensor, packed or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zeroq_asr.config.choices import GRID_OF_BITS
from zeroq_asr.errors import ConfigError
from zeroq_asr.integer.packing import (
    BITS,
    BYTES,
    INT2,
    INT4,
    LOGISTIC2,
    LOGISTIC2_CODES,
    LOGISTIC4,
    LOGISTIC4_CODES,
    ODD2,
    ODD_CODES,
    PACKINGS,
    Packing,
    register_packing,
)
from zeroq_asr.integer.types import weight_limit

__all__ = [
    "BYTES",
    "GRIDS",
    "PACKINGS",
    "Grid",
    "Packing",
    "grid_of",
    "register_grid",
    "symmetric",
    "unregister_grid",
]


@dataclass(frozen=True)
class Grid:
    """The integers that a layer's weights may be, each within ±127."""

    name: str
    #: in rising order, at least two
    levels: tuple[int, ...]
    #: name of the packing that stores them
    packing: str = BYTES

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if len(self.levels) < 2 or not rising or max(-self.levels[0], self.levels[-1]) > 127:
            shown = ", ".join(map(str, self.levels[:8]))
            raise ConfigError(
                f"grid {self.name}", "needs two or more rising levels within ±127", f"it has {shown}"
            )

    @property
    def limit(self) -> int:
        """The largest magnitude of a level."""
        return max(-self.levels[0], self.levels[-1])

    def nearest(self, real: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the nearest level of every entry, as float64; halfway, that of the even place.

        ``out``: an array that may be overwritten, also ``real`` itself; the result may be it.
        """
        low, high = self.levels[0], self.levels[-1]
        if high - low == len(self.levels) - 1:
            rounded: np.ndarray = np.rint(real, out=out)
            return np.clip(rounded, low, high, out=rounded)
        levels = np.array(self.levels, dtype=np.float64)
        return levels[np.searchsorted((levels[:-1] + levels[1:]) / 2, real)]

    def holds(self, integers: np.ndarray) -> bool:
        """Whether every entry is a level."""
        return bool(np.isin(integers, self.levels).all())


#: grids by name
GRIDS: dict[str, Grid] = {}
#: packings that the package comes with
_SHIPPED = frozenset(PACKINGS)


def register_grid(grid: Grid, packing: Packing | None = None) -> Grid:
    """Add a grid, and the packing that it names if it is new; returns the grid.

    Raises ConfigError where a name is taken, or the packing that the grid names is not known.
    """
    if grid.name in GRIDS or (packing is not None and packing.name in (BYTES, *PACKINGS)):
        raise ConfigError(
            "register_grid", f"{grid.name!r}, or its packing, is registered already", "name it anew"
        )
    if packing is not None:
        register_packing(packing)
    if grid.packing not in (BYTES, *PACKINGS):
        raise ConfigError("register_grid", f"there is no packing {grid.packing!r}", "give it beside the grid")
    GRIDS[grid.name] = grid
    return grid


def unregister_grid(grid: Grid) -> None:
    """Take a grid out again, and its packing if no other grid names it."""
    del GRIDS[grid.name]
    if grid.packing not in _SHIPPED and all(other.packing != grid.packing for other in GRIDS.values()):
        PACKINGS.pop(grid.packing, None)


def grid_of(name: str) -> Grid:
    """Return a grid by its name; ConfigError, which lists them, if there is none."""
    if name not in GRIDS:
        raise ConfigError("grid", f"there is no grid {name!r}", f"choose one of {', '.join(GRIDS)}")
    return GRIDS[name]


def symmetric(bits: int) -> Grid:
    """Return the symmetric grid of ``bits`` = 1 to 8 bits.

    With 3 bits, or 5 and more, it is that of integers without the lowest, ±(2^(bits−1) − 1).  With 4 and 2
    its levels are those that lose least of a logistic density (Max, "Quantizing for Minimum Distortion",
    1960; Lloyd, 1982), whose tails lie between a normal density's and Laplace's, as those of trained weights.
    The largest level is 64: no two products of u8 × s8 saturate (``integer.pair_saturation``).
    """
    return GRIDS[GRID_OF_BITS[bits]]


def _packing(bits: int) -> str:
    """The narrowest packing of integers of so many bits that loads about as fast as bytes do.

    Three bits are stored in four, and five to seven in a byte: denser codes that do not divide a byte take
    two to three times as long to load.
    """
    return INT2 if bits <= 2 else INT4 if bits <= 4 else BYTES


for _bits in range(8, 1, -1):
    _limit = weight_limit(_bits)
    register_grid(Grid(f"int{_bits}", tuple(range(-_limit, _limit + 1)), _packing(_bits)))
for _bits in range(7, 1, -1):
    _levels = tuple(range(-(1 << (_bits - 1)), 1 << (_bits - 1)))
    register_grid(Grid(f"full{_bits}", _levels, _packing(_bits)))
register_grid(Grid("logistic4", LOGISTIC4, LOGISTIC4_CODES))
register_grid(Grid("logistic2", LOGISTIC2, LOGISTIC2_CODES))
register_grid(Grid("midrise2", ODD2, ODD_CODES))
register_grid(Grid("ternary", (-1, 0, 1), INT2))
register_grid(Grid("binary", (-1, 1), BITS))
