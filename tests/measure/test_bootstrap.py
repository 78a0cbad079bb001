"""Paired bootstrap: the point, the interval, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeroq_asr.errors import ConfigError
from zeroq_asr.measure.bootstrap import paired_bootstrap

COUNTS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 30)), min_size=1, max_size=40
)


@given(COUNTS)
def test_the_point_lies_inside_and_swapping_mirrors_it(rows: list[tuple[int, int, int]]) -> None:
    a, b, n = (np.array(column) for column in zip(*rows, strict=True))
    there, back = paired_bootstrap(a, b, n, draws=400), paired_bootstrap(b, a, n, draws=400)
    assert there is not None
    assert back is not None
    assert there.value == pytest.approx(a.sum() / n.sum() - b.sum() / n.sum())
    assert there.low <= there.high
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    # a rate of one utterance bounds every draw
    gaps = (a - b) / n
    assert gaps.min() - 1e-12 <= there.low
    assert there.high <= gaps.max() + 1e-12


def test_equal_errors_differ_by_exactly_nothing() -> None:
    found = paired_bootstrap([3, 0, 2], [3, 0, 2], [10, 5, 7])
    assert found is not None
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    generator = np.random.default_rng(0)
    words = np.full(400, 20)
    a, b = generator.poisson(3.0, 400), generator.poisson(2.5, 400)
    found = paired_bootstrap(a, b, words)
    assert found is not None
    half = 1.96 * (a - b).std() / 20 / np.sqrt(400)
    assert found.high - found.value == pytest.approx(half, rel=0.08)
    assert found.value - found.low == pytest.approx(half, rel=0.08)


def test_it_is_seeded_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0)
    data = numbers.integers(9, size=50), numbers.integers(9, size=50), numbers.integers(10, 40, size=50)
    once = paired_bootstrap(*data)
    assert paired_bootstrap(*data) == once
    assert paired_bootstrap(*data, seed=1) != once
    monkeypatch.setattr("zeroq_asr.measure.bootstrap._BLOCK", 150)
    assert paired_bootstrap(*data) == once


def test_silence_has_no_rate() -> None:
    assert paired_bootstrap([1, 2], [0, 0], [0, 0]) is None
    # draws of the silent one alone are left out
    found = paired_bootstrap([1, 2], [0, 0], [0, 8])
    assert found is not None
    assert np.isfinite([found.low, found.high]).all()


def test_lists_of_different_lengths() -> None:
    with pytest.raises(ConfigError, match="one number an utterance"):
        paired_bootstrap([1, 2], [1], [3, 4])
