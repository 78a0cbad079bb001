"""Recordings that are too long are cut where they are quiet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeroq_asr.speech.pauses import LEAST, cut_at_pauses

RATE = 1000


def test_what_is_short_enough_stays_whole() -> None:
    assert cut_at_pauses(np.ones(3000, np.float32), RATE, 3.0) == [(0, 3000)]
    assert cut_at_pauses(np.zeros(0, np.float32), RATE, 3.0) == [(0, 0)]


def test_the_cut_is_in_the_middle_of_the_pause() -> None:
    samples = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    samples[1900:2100] *= 0.01
    ((first, cut), (start, end)) = cut_at_pauses(samples, RATE, 3.0)
    assert (first, cut, end) == (0, start, 5000)
    assert abs(cut - 2000) <= 10
    # a pause before half of the longest piece would make more pieces than there need be
    samples[500:900] = 0
    assert cut_at_pauses(samples, RATE, 3.0)[0][1] == cut


@given(
    count=st.integers(0, 20_000),
    longest=st.floats(0.05, 8.0),
    seed=st.integers(0, 2**32 - 1),
    loudness=st.sampled_from([0.0, 1e-3, 1.0, 1e15]),
)
def test_pieces_follow_each_other_and_fit(count: int, longest: float, seed: int, loudness: float) -> None:
    samples = (np.random.default_rng(seed).standard_normal(count) * loudness).astype(np.float32)
    pieces = cut_at_pauses(samples, RATE, longest)
    most = int(longest * RATE)
    assert (pieces[0][0], pieces[-1][1]) == (0, count)
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(pieces))
    assert all(end - start <= most for start, end in pieces)
    if len(pieces) > 1:
        assert all(end - start >= most // 2 for start, end in pieces[:-1])
        assert pieces[-1][1] - pieces[-1][0] >= min(int(LEAST * RATE), most // 2)


@pytest.mark.parametrize("loudness", [0.0, 1.0])
def test_equally_quiet_spans_give_few_pieces(loudness: float) -> None:
    samples = np.full(9500, loudness, np.float32)
    assert cut_at_pauses(samples, RATE, 3.0)[:2] == [(0, 3000), (3000, 6000)]
