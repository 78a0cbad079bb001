"""Where ranges come from and how they are chosen (see ``zeroq_asr.calibration.calibrate``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zeroq_asr.config.checks import choice, flag, from_dict, real, text, whole
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

#: Matching means and variances says nothing about tails: the extremes of made features fall short of
#: speech's.  Chosen by agreement with float on train-clean-100 speech under babble noise
#: (benchmarks/ranges.py, docs/experiments.md).
MADE_MARGIN = 1.1
#: what features are made from; "auto": matched features where a network stores statistics, else speech
AUTO, MATCHED, SPEECH, BOTH, NOISE = "auto", "synthetic", "speech", "both", "noise"
MADE = (AUTO, MATCHED, SPEECH, BOTH, NOISE)
METHODS = ("auto", "minmax", "percentile", "mse")


@dataclass(frozen=True)
class CalibrationSpec:
    """Where activation ranges come from and how they are chosen."""

    #: one of ``MADE``, or the path of saved features (.npz), a manifest or a folder of audio
    source: str = AUTO
    #: "minmax", "percentile", "mse" (the range of least squared rounding and clipping error), or "auto":
    #: by the bits of the activations (``resolved``)
    method: str = "auto"
    #: for ``percentile``: the share of values kept inside the range, in percent
    percentile: float = 99.99
    #: for ``percentile`` and ``mse``: histogram bins kept for a tensor, whatever the data's size
    bins: int = 2048
    #: utterances used at most; None uses all
    limit: int | None = None
    #: every range is widened by this factor; None: ``MADE_MARGIN`` for features that were made,
    #: 1 for audio
    margin: float | None = None
    #: k: the range of a normalized value reaches at least to β ± k|γ| of any channel; 0: it need not
    floor: float = 0.0
    #: widen ranges where synthetic features fall short of the stored deviations
    shortfall: bool = False
    #: of recordings with several channels: the one that is heard, from 0, or "average"; None averages, too,
    #: and says so
    channel: int | str | None = None

    def __post_init__(self) -> None:
        where = "CalibrationSpec"
        text(where, "source", self.source)
        choice(where, "method", self.method, METHODS)
        real(where, "percentile", self.percentile, above=50.0, at_most=100.0)
        whole(where, "bins", self.bins, 16, 1 << 20)
        if self.bins % 4:
            raise ConfigError(where, f"bins must be a multiple of 4, got {self.bins}")
        if self.limit is not None:
            whole(where, "limit", self.limit, 1, 1 << 31)
        if self.channel is not None and self.kind != "audio":
            problem = f"channel {shown(self.channel)} is of recordings, the source is {shown(self.source)}"
            raise ConfigError(where, problem, "leave it out")
        if isinstance(self.channel, str):
            choice(where, "channel", self.channel, ("average", "a whole number from 0"))
        elif self.channel is not None:
            whole(where, "channel", self.channel, 0, 1023)
        if self.margin is not None:
            real(where, "margin", self.margin, at_least=0.1, at_most=100.0)
        real(where, "floor", self.floor, at_least=0.0, at_most=100.0)
        flag(where, "shortfall", self.shortfall)

    def resolved(self, levels: int) -> CalibrationSpec:
        """Return the specification with the method that "auto" stands for at ``levels`` = 2^bits − 1 steps.

        With 8 bits the extremes; the coarser the step, the more it pays to clip for its sake: with 7 bits
        the percentile 99.999, with 5 and 6 bits 99.99, with fewer 99.9 (docs/experiments.md).
        """
        if self.method != "auto":
            return self
        if levels >= 255:
            return dataclasses.replace(self, method="minmax")
        kept = 99.999 if levels >= 127 else 99.99 if levels >= 31 else 99.9
        margin = 1.0 if self.margin is None else self.margin
        return dataclasses.replace(self, method="percentile", percentile=kept, margin=margin)

    @property
    def widening(self) -> float:
        """The factor that ranges are widened by."""
        if self.margin is not None:
            return self.margin
        return 1.0 if self.kind == "audio" else MADE_MARGIN

    @property
    def kind(self) -> str:
        """What ``source`` names: one of ``MADE``, "features" or "audio"."""
        if self.source in MADE:
            return self.source
        return "features" if self.source.lower().endswith(".npz") else "audio"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        values = dataclasses.asdict(self)
        if self.channel is None:
            # files that were written before there was a choice stay the same, byte for byte
            del values["channel"]
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CalibrationSpec:
        """Return the specification that ``to_dict`` wrote; ConfigError for unknown keys."""
        return from_dict(cls, data)
