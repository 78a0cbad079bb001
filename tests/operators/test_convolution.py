"""Integer weights of convolutions: how close they come to the real ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zeroq_asr.integer.grid import symmetric
from zeroq_asr.integer.pair_saturation import excess
from zeroq_asr.operators.convolution.weights import quantize_weight

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_bounded_weights_are_finer_than_those_of_seven_bits(seed: int) -> None:
    w = np.random.default_rng(seed).standard_normal((8, 176))

    def error(bits: int, together: int | None) -> float:
        q, m = quantize_weight(w, 1e-4, symmetric(bits), together)
        assert together is None or not excess(q.astype(np.int64), together).any()
        return float((((q * (m * 1e-4)[:, None]) - w) ** 2).sum())

    # seven bits are among what is tried, up to where the multiplier is rounded
    assert error(8, None) < error(8, 128) < 1.01 * error(7, None)
