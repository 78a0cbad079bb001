from __future__ import annotations

import numpy as np
import pytest

from zeroq_asr.decoding.greedy import greedy_ctc, greedy_ctc_batch, greedy_ctc_hypothesis
from zeroq_asr.decoding.hypothesis import Hypothesis


def scores_of(path: list[int], classes: int = 4) -> np.ndarray:
    return np.eye(classes, dtype=np.int32)[path]


@pytest.mark.parametrize(
    ("path", "length", "expected"),
    [
        ([0, 0, 3, 0, 1, 1], 6, [0, 0, 1]),
        ([0, 0, 3, 0, 1, 1], 3, [0]),
        ([3, 3, 3], 3, []),
        ([1, 2], 0, []),
        ([2], 1, [2]),
    ],
)
def test_collapses_repeats_and_drops_blanks(path: list[int], length: int, expected: list[int]) -> None:
    assert greedy_ctc(scores_of(path), length, blank_id=3) == expected


def test_integers_and_floats_agree_and_ties_go_low() -> None:
    scores = np.array([[5, 5, 1], [0, 7, 7]], dtype=np.uint8)
    assert greedy_ctc(scores, 2, 2) == greedy_ctc(scores.astype(np.float32), 2, 2) == [0, 1]


def test_results_are_plain_integers() -> None:
    assert all(type(token) is int for token in greedy_ctc(scores_of([0, 1]), 2, 3))


def test_batch_is_each_alone() -> None:
    scores = np.stack([scores_of([0, 1, 2]), scores_of([2, 2, 1])])
    assert greedy_ctc_batch(scores, np.array([3, 2]), 3) == [[0, 1, 2], [2]]


@pytest.mark.parametrize(
    ("path", "length", "tokens", "frames"),
    [([0, 0, 3, 0, 1, 1], 6, [0, 0, 1], [0, 3, 4]), ([3, 2, 2, 1], 3, [2], [1]), ([3], 1, [], [])],
)
def test_a_token_is_found_where_its_run_begins(
    path: list[int], length: int, tokens: list[int], frames: list[int]
) -> None:
    assert greedy_ctc_hypothesis(scores_of(path), length, 3) == Hypothesis(tokens, frames)
