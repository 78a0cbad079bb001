"""Greedy CTC: frame scores to token identifiers.

Shapes: B batch, S encoded frames, V tokens with the blank among them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from zeroq_asr.decoding.hypothesis import Hypothesis


def greedy_ctc(scores: npt.NDArray[Any], length: int, blank_id: int) -> list[int]:
    """Return the best token of each frame with repeats collapsed and blanks dropped.

    ``scores`` [S, V], integers or floats, higher is better; frames at or after ``length`` are
    padding.  A tie goes to the lower identifier.
    """
    return greedy_ctc_hypothesis(scores, length, blank_id).tokens


def greedy_ctc_hypothesis(scores: npt.NDArray[Any], length: int, blank_id: int) -> Hypothesis:
    """Return what `greedy_ctc` returns, with the first frame of the run that each token stands for."""
    best = np.asarray(scores)[:length].argmax(axis=-1)
    first_of_run = np.ones(len(best), dtype=bool)
    first_of_run[1:] = best[1:] != best[:-1]
    kept = np.flatnonzero(first_of_run & (best != blank_id))
    return Hypothesis(best[kept].tolist(), kept.tolist())


def greedy_ctc_batch(
    scores: npt.NDArray[Any], lengths: npt.NDArray[np.integer[Any]], blank_id: int
) -> list[list[int]]:
    """Apply `greedy_ctc` to scores [B, S, V] with lengths [B]."""
    return [greedy_ctc(one, int(length), blank_id) for one, length in zip(scores, lengths, strict=True)]
