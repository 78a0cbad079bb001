"""Features to calibrate on, and their file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zeroq_asr.config import SynthesisSpec
from zeroq_asr.errors import CalibrationError, ConfigError
from zeroq_asr.files import atomic_write
from zeroq_asr.lines import summary
from zeroq_asr.synthesis.saved import damaged, read_arrays


@dataclass(frozen=True)
class LayerAccount:
    """How well one batch normalization's input matches what it stored."""

    name: str
    #: live channels compared, and all of them
    channels: int
    total_channels: int
    #: channel mean of KL(stored || batch) in nats, of the initial noise and of the result
    kl_before: float
    kl_after: float
    #: channel mean of |batch mean - stored mean| / stored deviation, of the result
    mean_mismatch: float
    #: channel median of batch deviation / stored deviation, of the result
    std_ratio: float


@dataclass(frozen=True)
class SyntheticFeatures:
    """Features to calibrate on, and the account of how they were made."""

    #: float32 [B, M, T]
    features: npt.NDArray[np.float32]
    #: valid frames of each, int64 [B]
    lengths: npt.NDArray[np.int64]
    spec: SynthesisSpec
    #: the objective before the first step and after each, one more than the steps taken
    losses: tuple[float, ...] = ()
    account: tuple[LayerAccount, ...] = ()

    def __repr__(self) -> str:
        """Show the shape, and how far matching came, on one line."""
        loss = f"loss {self.losses[0]:.3g} to {self.losses[-1]:.3g}" if self.losses else ""
        return summary(self, list(self.features.shape), loss)

    def utterances(self, count: int | None = None) -> Iterator[Tensor]:
        """Give the first ``count``, or all of them, each of its own length: [M, T]."""
        pairs = zip(self.features[:count], self.lengths[:count], strict=True)
        return (torch.from_numpy(features[:, :length]) for features, length in pairs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` of plain arrays and a JSON string; ConfigError if it cannot be written."""
        note = {
            "spec": self.spec.to_dict(),
            "account": [dataclasses.asdict(layer) for layer in self.account],
        }
        with atomic_write(path) as stream:
            np.savez(
                stream,
                features=self.features,
                lengths=self.lengths,
                losses=np.asarray(self.losses, dtype=np.float64),
                note=np.asarray(json.dumps(note)),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SyntheticFeatures:
        """Read what ``save`` wrote.

        Raises CalibrationError when the file is missing, corrupt, incomplete or not finite.
        """
        arrays = read_arrays(path, ("features", "lengths", "losses", "note"))
        features, lengths, losses = (arrays[name] for name in ("features", "lengths", "losses"))
        try:
            note = json.loads(str(arrays["note"]))
            spec = SynthesisSpec.from_dict(note["spec"])
            account = tuple(_layer(layer) for layer in note["account"])
        except (ValueError, KeyError, TypeError, RecursionError, ConfigError):
            raise damaged(path, "its note does not say how it was made") from None
        _check(path, features, lengths, losses)
        return cls(features, lengths, spec, tuple(float(loss) for loss in losses), account)


def _layer(values: object) -> LayerAccount:
    """Return the account of a layer that a file holds; TypeError where it is none."""
    if not isinstance(values, dict):
        raise TypeError
    layer = LayerAccount(**values)
    numbers = (layer.kl_before, layer.kl_after, layer.mean_mismatch, layer.std_ratio)
    counts = (layer.channels, layer.total_channels)
    whole = all(type(count) is int and 0 <= count < 2**31 for count in counts)
    if not (isinstance(layer.name, str) and whole and all(type(number) is float for number in numbers)):
        raise TypeError
    return layer


def _check(
    path: str | os.PathLike[str],
    features: npt.NDArray[Any],
    lengths: npt.NDArray[Any],
    losses: npt.NDArray[Any],
) -> None:
    problem = ""
    if features.dtype != np.float32 or features.ndim != 3 or 0 in features.shape:
        problem = f"features must be float32 [B, M, T], got {features.dtype} {list(features.shape)}"
    elif lengths.dtype != np.int64 or lengths.shape != features.shape[:1]:
        problem = f"lengths must be int64 [{features.shape[0]}], got {lengths.dtype} {list(lengths.shape)}"
    elif lengths.min() < 1 or lengths.max() > features.shape[2]:
        problem = f"lengths must lie between 1 and {features.shape[2]} frames"
    elif not np.isfinite(features).all():
        problem = "features are not finite"
    elif losses.dtype != np.float64 or losses.ndim != 1:
        problem = "losses must be a vector of float64"
    if problem:
        raise CalibrationError(path, problem, "synthesize it again")
