"""What weights are trained on, and what decides whether to keep what was learned: pieces of equal length.

Without recordings, pieces are of what the ranges come from and of made speech, and those held out of made
speech that nobody else hears.  With recordings, every eighth of them is held out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.config import SynthesisSpec, TrainingSpec
from zeroq_asr.errors import CalibrationError
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import Progress, silent
from zeroq_asr.synthesis.made_speech import made_speech

#: seeds of made speech are so far from those that ranges come from and are compared with
_TRAINED, _HELD_OUT = 500_009, 900_001
#: of recordings, one in so many is held out
_ONE_IN = 8


@dataclass(frozen=True)
class TrainingFeatures:
    """Pieces to train on and to judge by, float32 [N, M, T] each."""

    trained: Tensor
    held_out: Tensor

    def to(self, device: torch.device) -> TrainingFeatures:
        """Return them on a device."""
        return TrainingFeatures(self.trained.to(device), self.held_out.to(device))


def training_features(
    model: AsrModel,
    utterances: Iterable[Tensor],
    spec: TrainingSpec,
    synthesis: SynthesisSpec,
    *,
    recorded: bool,
    progress: Progress = silent,
) -> TrainingFeatures:
    """Return pieces of ``spec.training_seconds`` each.

    ``utterances``: what ranges come from, [M, T] each, ``recorded`` or made.  Raises CalibrationError where
    recordings are too few for one to be held out.
    """
    frames = max(8, round(spec.training_seconds * model.frontend.frames_per_second))
    given = [*utterances]
    if recorded:
        if len(given) < 2:
            raise CalibrationError(
                "training", "needs two recordings, one to judge by", "give more, or leave --calibration out"
            )
        held = [one for number, one in enumerate(given) if number % _ONE_IN == _ONE_IN - 1] or given[-1:]
        kept = [one for one in given if all(one is not other for other in held)]
        return TrainingFeatures(_stacked(kept, frames), _stacked(held, frames))

    def speech(count: int, apart: int) -> list[Tensor]:
        if not count:
            return []
        made = made_speech(
            model, dataclasses.replace(synthesis, speakers=count, seed=synthesis.seed + apart), progress
        )
        pairs = zip(made.features, made.lengths, strict=True)
        return [torch.from_numpy(np.ascontiguousarray(x[:, :length])) for x, length in pairs]

    trained = given + speech(spec.training_speakers, _TRAINED)
    return TrainingFeatures(_stacked(trained, frames), _stacked(speech(spec.held_out, _HELD_OUT), frames))


def _stacked(utterances: Iterable[Tensor], frames: int) -> Tensor:
    return torch.stack([piece for one in utterances for piece in _pieces(one, frames)])


def _pieces(utterance: Tensor, frames: int) -> Iterator[Tensor]:
    """Pieces of one utterance [M, T] that do not overlap; a shorter one is repeated until it fills one."""
    if utterance.shape[1] < frames:
        yield utterance.repeat(1, -(-frames // utterance.shape[1]))[:, :frames]
    for start in range(0, utterance.shape[1] - frames + 1, frames):
        yield utterance[:, start : start + frames]
