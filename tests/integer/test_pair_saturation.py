"""No two neighbours saturate an int16, whatever the bytes; tried on a model of the instruction itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zeroq_asr.integer.pair_saturation import bounded, excess, in_order, most, out_of_order, saturates

SEEDS = st.integers(0, 2**32 - 1)


def saturating_sum(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What ``vpmaddubsw`` and ``vpmaddwd`` make of bytes [N] and weights [O, N]."""
    pad = -len(x) % 2
    products = np.pad(x.astype(np.int64) * rows, ((0, 0), (0, pad))).reshape(len(rows), -1, 2)
    return np.clip(products.sum(axis=2), -(2**15), 2**15 - 1).sum(axis=1)


def weights(generator: np.random.Generator, outputs: int, inputs: int) -> np.ndarray:
    """8-bit weights, half of them at the ends of their range."""
    ends = generator.random((outputs, inputs)) < 0.5
    spread = generator.integers(-127, 128, (outputs, inputs))
    return np.where(ends, np.where(spread < 0, -127, 127), spread)


@given(SEEDS, st.integers(1, 40), st.integers(1, 255))
def test_bounded_neighbours_are_exact_for_any_bytes(seed: int, inputs: int, highest: int) -> None:
    generator = np.random.default_rng(seed)
    rows = bounded(weights(generator, 6, inputs), most(highest))
    for x in (np.full(inputs, highest), generator.integers(0, highest + 1, inputs)):
        np.testing.assert_array_equal(saturating_sum(x, rows), rows @ x)


@given(SEEDS, st.integers(2, 40), st.integers(130, 255))
def test_what_is_beyond_the_bound_saturates_on_some(seed: int, inputs: int, highest: int) -> None:
    rows = weights(np.random.default_rng(seed), 6, inputs)
    x = np.full(inputs, highest)
    # those of one sign; with others in front of 0 they reach the ends, too
    left, right = rows[:, 0 : inputs // 2 * 2 : 2], rows[:, 1::2]
    same = np.abs(left + right) * (left * right > 0)
    assert bool((same > most(highest)).any()) == bool(excess(rows, most(highest)).any())
    assert bool((saturating_sum(x, rows) != rows @ x).any()) <= bool(excess(rows, most(highest)).any())


def test_a_pair_one_beyond_the_bound_saturates() -> None:
    x = np.full(2, 255)
    assert most(255) == 128
    for sign in (1, -1):
        assert saturating_sum(x, sign * np.array([[64, 64]])) == sign * 128 * 255
        assert saturating_sum(x, sign * np.array([[127, 2]])) != sign * 129 * 255
        assert not saturates(sign * np.array([[[127], [1]]]), 255)
        assert saturates(sign * np.array([[[127], [2]]]), 255)
    assert not saturates(np.array([[[127], [-127]]]), 255)
    # the last of an odd number has no neighbour
    assert not saturates(np.array([[[1], [127], [127]]]), 255)


@given(SEEDS, st.integers(1, 40), st.integers(128, 254))
def test_only_what_exceeds_is_shortened(seed: int, inputs: int, limit: int) -> None:
    rows = weights(np.random.default_rng(seed), 6, inputs)
    found, over = bounded(rows, limit), excess(rows, limit).repeat(2, axis=1)
    even = inputs // 2 * 2
    assert not excess(found, limit).any()
    np.testing.assert_array_equal(found[:, even:], rows[:, even:])
    changed = np.abs(rows[:, :even]) - np.abs(found[:, :even])
    assert ((over - 1 <= 2 * changed) & (2 * changed <= over + 1)).all()
    assert (np.sign(found) == np.sign(rows)).all()
    # those that exceed add up to the limit, and to no less
    pairs = np.abs(found[:, :even]).reshape(6, -1, 2).sum(axis=2)
    assert (pairs[over[:, ::2] > 0] == limit).all()


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_kernels_sum_taps_first(outputs: int, inputs: int, height: int, width: int) -> None:
    shape = (outputs, inputs, height, width)
    weight = np.arange(np.prod(shape)).reshape(shape)
    rows = in_order(weight)
    np.testing.assert_array_equal(rows[0], weight[0].transpose(1, 2, 0).reshape(-1))
    np.testing.assert_array_equal(out_of_order(rows, shape), weight)


def test_bytes_of_fewer_bits_bear_more() -> None:
    assert most(127) >= 2 * 127
    assert most(255) < 2 * 127
    assert not saturates(np.full((1, 2, 1), 127), 127)
