"""The row of plans that a search went along, from 8 bits on down, as files keep it beside the plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zeroq_asr.config.checks import from_dict, real, whole
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

_WHERE = "row of plans"
#: more layers, bytes or nats than any network has
_MOST = 1 << 53


@dataclass(frozen=True)
class PlanPoint:
    """One plan of a row: what it is predicted to be, and what was measured of it."""

    #: layers whose weights have so many bits: 8, 4 and 2
    layers: tuple[int, int, int]
    #: of the file: about, or as it was built
    bytes: int
    #: sum over layers of the divergence that rounding each alone costs, in nats a frame
    predicted: float
    #: divergence of the integer program on made features less that of 8 bits, if it was run
    measured: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layers, list | tuple) or len(self.layers) != 3:
            raise ConfigError(_WHERE, f"layers must be three numbers, got {shown(self.layers)}")
        for count in self.layers:
            whole(_WHERE, "a number of layers", count, 0, _MOST)
        # JSON has no tuples
        object.__setattr__(self, "layers", tuple(self.layers))
        whole(_WHERE, "bytes", self.bytes, 0, _MOST)
        real(_WHERE, "predicted", self.predicted, at_least=0.0, at_most=_MOST)
        if self.measured is not None:
            real(_WHERE, "measured", self.measured, at_least=-_MOST, at_most=_MOST)


@dataclass(frozen=True)
class PlanRow:
    """The plans of a search, each smaller than the one before, and the place of the chosen one."""

    points: tuple[PlanPoint, ...]
    chosen: int
    #: values that the search gave 16 bits, in every plan
    wide_values: int = 0
    #: by how much they multiply the products of the layers, as counted
    products: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.points, list | tuple) or not self.points:
            raise ConfigError(_WHERE, f"points must be a list of plans, got {shown(self.points)}")
        points = (p if isinstance(p, PlanPoint) else from_dict(PlanPoint, p) for p in self.points)
        object.__setattr__(self, "points", tuple(points))
        whole(_WHERE, "chosen", self.chosen, 0, len(self.points) - 1)
        whole(_WHERE, "wide_values", self.wide_values, 0, _MOST)
        real(_WHERE, "products", self.products, at_least=1.0, at_most=_MOST)

    @property
    def of_values(self) -> str:
        """What the search did to values, in words; "" where nothing."""
        if not self.wide_values:
            return ""
        values = "1 value has" if self.wide_values == 1 else f"{self.wide_values} values have"
        return f"{values} 16 bits by the search: {self.products:.2f} times the products, as counted"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlanRow:
        """Return the row that ``to_dict`` wrote; ConfigError for anything else."""
        return from_dict(cls, data)
