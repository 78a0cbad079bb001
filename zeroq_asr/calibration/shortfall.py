"""Whether ranges can be trusted: what features miss of what made speech reaches.

Two sources that know nothing of each other, features made to match stored statistics and speech made by a
model of the voice, agree about the ranges of a network that both understand.  Where features are noise to the
network, or start from numbers that its frontend never gives, most of its values stay far within the range
that speech takes.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from zeroq_asr.calibration.calibrate import Observations

#: median shortfall of values beyond which ranges are not to be trusted: 0.00 to 0.03 for features matched to
#: stored statistics, but 0.13 where matching ended badly, with one seed of three on QuartzNet15x5; 0.07 to
#: 0.33 for noise, 0.23 for features of hama that nothing is matched to (benchmarks/blind.py)
BLIND = 0.05


@dataclass(frozen=True)
class Shortfall:
    """One value: how far it goes on the features that ranges come from, and on made speech."""

    name: str
    low: float
    high: float
    speech_low: float
    speech_high: float

    @property
    def share(self) -> float:
        """What of the range on speech lies outside at the worse end: 0 for nothing, near 1 for most of it."""
        missed = max(self.low - self.speech_low, self.speech_high - self.high, 0.0)
        return missed / max(self.speech_high - self.speech_low, 1e-30)


def shortfalls(found: Observations, speech: Observations) -> tuple[Shortfall, ...]:
    """Return every value that both observed, in the order of the network."""
    return tuple(
        Shortfall(name, own.min, own.max, other.min, other.max)
        for name, own in found.histograms.items()
        if (other := speech.histograms.get(name)) is not None
    )


def summary(values: tuple[Shortfall, ...], worst: int = 3) -> dict[str, Any] | None:
    """Return the median, whether ranges are blind, and the worst values, as JSON values; None of nothing."""
    if not values:
        return None
    median = median_shortfall(values)
    ordered = sorted(values, key=lambda value: -value.share)[:worst]
    told = [{**asdict(value), "share": value.share} for value in ordered]
    return {"median": median, "blind": median > BLIND, "worst": told}


def median_shortfall(values: tuple[Shortfall, ...]) -> float:
    """Return the median share by which values fall short; 0 for none."""
    return statistics.median(value.share for value in values) if values else 0.0
