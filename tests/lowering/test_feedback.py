"""Rounding by feedback: never worse than it must be, better where inputs are correlated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroq_asr.integer.grid import Grid
from zeroq_asr.integer.pair_saturation import excess
from zeroq_asr.operators.convolution.feedback import DAMPING, round_by_feedback, weighted_gain


def correlated(generator: np.random.Generator, inputs: int, rank: int) -> np.ndarray:
    """Covariance of inputs that share ``rank`` causes, as the channels of a network do."""
    mixing = generator.normal(size=(inputs, rank))
    return mixing @ mixing.T / rank + 0.01 * np.eye(inputs)


def grid_of(limit: int) -> Grid:
    return Grid(f"±{limit}", tuple(range(-limit, limit + 1)))


def error(weight: np.ndarray, q: np.ndarray, scale: np.ndarray, covariance: np.ndarray) -> float:
    off = weight - q * scale[:, None]
    return float(np.einsum("oi,ij,oj->", off, covariance, off))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    inputs=st.integers(1, 150),
    limit=st.sampled_from([1, 3, 7, 31, 127]),
)
def test_integers_within_the_limit(seed: int, inputs: int, limit: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(5, inputs))
    scale = np.abs(weight).max(axis=1) / limit
    q = round_by_feedback(weight, scale, correlated(generator, inputs, 4), grid_of(limit))
    assert np.all(q == np.rint(q))
    assert np.abs(q).max() <= limit


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), inputs=st.integers(1, 150), most=st.integers(127, 254))
def test_neighbours_within_their_limit(seed: int, inputs: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.laplace(size=(5, inputs))
    scale = np.abs(weight).max(axis=1) / 127
    for covariance in (correlated(generator, inputs, 4), np.zeros((inputs, inputs))):
        q = round_by_feedback(weight, scale, covariance, grid_of(127), most)
        assert np.abs(q).max() <= 127
        assert not excess(q, most).any()


@pytest.mark.parametrize("limit", [1, 7, 127])
def test_without_correlation_it_is_rounding_to_nearest(limit: int) -> None:
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(8, 100))
    scale = np.abs(weight).max(axis=1) / limit
    covariance = np.diag(generator.uniform(0.1, 10, 100))
    nearest = np.clip(np.rint(weight / scale[:, None]), -limit, limit)
    np.testing.assert_array_equal(round_by_feedback(weight, scale, covariance, grid_of(limit)), nearest)


@pytest.mark.parametrize("limit", [1, 7, 31])
def test_correlation_is_made_use_of(limit: int) -> None:
    generator = np.random.default_rng(1)
    weight = generator.normal(size=(64, 200))
    scale = np.abs(weight).max(axis=1) / limit
    covariance = correlated(generator, 200, 20)
    nearest = np.clip(np.rint(weight / scale[:, None]), -limit, limit)
    found = round_by_feedback(weight, scale, covariance, grid_of(limit))
    assert error(weight, found, scale, covariance) < 0.5 * error(weight, nearest, scale, covariance)


def test_two_weights_by_hand() -> None:
    """The second weight makes up for the first, as far as the damped correlation says."""
    covariance = np.array([[2.0, 1.9], [1.9, 2.0]])
    weight, scale = np.array([[0.45, 0.3]]), np.ones(1)
    damped = covariance + DAMPING * 2.0 * np.eye(2)
    # the first falls to 0; the best second weight given that is 0.3 + 0.45 · Σ01 / Σ11
    best = 0.3 + 0.45 * damped[0, 1] / damped[1, 1]
    assert best > 0.5
    np.testing.assert_array_equal(round_by_feedback(weight, scale, covariance, grid_of(7)), [[0.0, 1.0]])


def test_inputs_that_never_vary() -> None:
    weight, scale = np.array([[0.4, 0.6, -2.4]]), np.ones(1)
    np.testing.assert_array_equal(
        round_by_feedback(weight, scale, np.zeros((3, 3)), grid_of(2)), [[0.0, 1.0, -2.0]]
    )


@given(st.integers(0, 2**32 - 1))
def test_gain_is_of_the_damped_signal(seed: int) -> None:
    generator = np.random.default_rng(seed)
    weight, mixing = generator.standard_normal((3, 5)), generator.standard_normal((5, 5))
    covariance = mixing @ mixing.T
    np.testing.assert_allclose(weighted_gain(weight, 0.8 * weight, covariance), 0.8)
    # what is added across the signal is no gain
    damped = covariance + DAMPING * np.diag(covariance).mean() * np.eye(5)
    across = generator.standard_normal((3, 5))
    signal = weight @ damped
    across -= ((across * signal).sum(1) / (signal**2).sum(1))[:, None] * signal
    np.testing.assert_allclose(weighted_gain(weight, weight + across, covariance), 1.0)


def test_no_signal_has_no_gain() -> None:
    weight = np.array([[1.0, -1.0], [0.0, 0.0]])
    assert weighted_gain(weight, np.zeros((2, 2)), np.eye(2)).tolist() == [1.0, 1.0]
    assert weighted_gain(weight, -weight, np.eye(2)).tolist() == [1.0, 1.0]
    assert weighted_gain(weight, 2 * weight, np.zeros((2, 2))).tolist() == [2.0, 1.0]
