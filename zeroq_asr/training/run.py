"""A run of training in a file, so that it can go on where it was stopped.

The file belongs to one program and one way to train it: any other is refused.  It holds tensors and numbers
and is read as such, no code.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from zeroq_asr.config import TrainingSpec
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import atomic_write_bytes, read_file
from zeroq_asr.training.layers import Learned, RealLayer
from zeroq_asr.training.trainer import State, Trainer

#: seconds between two writes of a distillation
_EVERY = 60.0
#: of a run's file
_VERSION = 2
_LARGEST = 1 << 34


@dataclass(frozen=True)
class SectionAccount:
    """What reconstructing a section did."""

    enters: str
    leaves: str
    #: with weights
    layers: int
    #: squared error of its result on held-out features over the variance of the float network's, with what
    #: it began with and with what was kept
    before: float
    after: float


@dataclass(frozen=True)
class ClippingAccount:
    """What learning where values end did."""

    #: of few bits
    values: int
    steps: int
    #: divergence of the tokens on held-out features, in nats a frame, before and with what was kept
    before: float
    after: float


@dataclass(frozen=True)
class DistillationAccount:
    """What distilling a program did."""

    steps: int
    seconds: float
    #: divergence of the tokens on held-out features, in nats a frame, before and with what was kept
    before: float
    after: float


@dataclass(frozen=True)
class WidthAccount:
    """What distilling a program of wider weights did, for the next to begin with."""

    bits: int
    distillation: DistillationAccount


@dataclass
class DistillationState:
    """How far a distillation is."""

    step: int
    seconds: float
    #: divergence on held-out features at its start, and the least since
    before: float
    best: float
    #: what was learned when it was least
    kept: State

    def share(self, spec: TrainingSpec) -> float:
        """The share of the work that is done."""
        if spec.distillation_steps:
            return self.step / spec.distillation_steps
        return self.seconds / spec.distillation


class TrainingRun:
    """What a run has done so far, kept in a file if it has one."""

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, of: Mapping[str, Any] | None = None
    ) -> None:
        """``of``: what the run belongs to, in JSON values: what it began with, and how it trains."""
        self.path = None if path is None else Path(path)
        self._data: dict[str, Any] = {"version": _VERSION, "of": dict(of or {}), "sections": {}, "widths": {}}
        self._written = 0.0

    @classmethod
    def resumed(cls, path: str | os.PathLike[str], of: Mapping[str, Any]) -> TrainingRun:
        """Return the run in a file; ConfigError where there is none, or it belongs to another."""
        run = cls(path, of=of)
        data = read_file(path, ConfigError, _LARGEST)
        try:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            version, owner = found["version"], found["of"]
        except Exception as error:  # whatever damaged bytes make of it
            raise ConfigError(
                path, "is no run of training, or it is damaged", "leave out --resume"
            ) from error
        if version != _VERSION or owner != run._data["of"]:
            differ = [name for name in {*owner, *of} if owner.get(name) != of.get(name)]
            problem = f"is the run of another {' and '.join(sorted(differ)) or 'version'}"
            raise ConfigError(path, problem, "say what it was begun with, or leave out --resume")
        run._data = found
        return run

    def clipping(self) -> tuple[dict[str, tuple[float, float]], ClippingAccount] | None:
        """Return what was learned of where values end, if it is done."""
        found = self._data.get("clipping")
        return None if found is None else (found["ranges"], ClippingAccount(**found["account"]))

    def keep_clipping(self, ranges: Mapping[str, tuple[float, float]], account: ClippingAccount) -> None:
        """Keep what was learned of where values end."""
        self._data["clipping"] = {"ranges": dict(ranges), "account": asdict(account)}
        self._write()

    def section(self, leaves: str) -> tuple[SectionAccount, dict[str, Learned]] | None:
        """Return what was learned of a section, if it is done."""
        found = self._data["sections"].get(leaves)
        if found is None:
            return None
        learned = {
            name: Learned(weight.numpy(), bias.numpy(), multiplier.numpy(), saturate)
            for name, (weight, bias, multiplier, saturate) in found["learned"].items()
        }
        return SectionAccount(**found["account"]), learned

    def keep_section(self, leaves: str, account: SectionAccount, learned: Mapping[str, Learned]) -> None:
        """Keep what was learned of a section."""
        tensors = {
            name: (*map(torch.from_numpy, (one.weight, one.bias, one.multiplier)), one.saturate)
            for name, one in learned.items()
        }
        self._data["sections"][leaves] = {"account": asdict(account), "learned": tensors}
        self._write()

    def width(self, bits: int) -> tuple[WidthAccount, dict[str, RealLayer]] | None:
        """Return what was learned with weights of so many bits, if it is done."""
        found = self._data["widths"].get(bits)
        if found is None:
            return None
        real = {name: RealLayer(*tensors) for name, tensors in found["real"].items()}
        return WidthAccount(bits, DistillationAccount(**found["account"])), real

    def keep_width(self, account: WidthAccount, real: Mapping[str, RealLayer]) -> None:
        """Keep what was learned with weights of so many bits; the next distillation is at its start."""
        tensors = {name: (one.weight, one.rounded, one.bias) for name, one in real.items()}
        self._data["widths"][account.bits] = {"account": asdict(account.distillation), "real": tensors}
        self._data.pop("distillation", None)
        self._write()

    def distillation(self, trainer: Trainer, generator: torch.Generator) -> DistillationState | None:
        """Return how far the distillation is, and bring the trainer there; None at its start."""
        found = self._data.get("distillation")
        if found is None:
            return None
        trainer.restore(found["state"])
        trainer.optimizer.load_state_dict(found["optimizer"])
        generator.set_state(found["generator"])
        return DistillationState(**found["where"])

    def keep_distillation(
        self, trainer: Trainer, generator: torch.Generator, where: DistillationState, *, now: bool = False
    ) -> None:
        """Keep how far the distillation is, once a minute, or ``now``."""
        if self.path is None or (time.monotonic() - self._written < _EVERY and not now):
            return
        self._data["distillation"] = {
            "state": trainer.state(),
            "optimizer": trainer.optimizer.state_dict(),
            "generator": generator.get_state(),
            "where": vars(where),
        }
        self._write()

    def done(self) -> None:
        """Remove the file: its work is in the program."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self.path is None:
            return
        buffer = io.BytesIO()
        torch.save(self._data, buffer)
        atomic_write_bytes(self.path, buffer.getvalue())
        self._written = time.monotonic()
