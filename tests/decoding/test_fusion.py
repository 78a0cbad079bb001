"""What scorers add, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from lookup_transducers import bigrams_of

from zeroq_asr.decoding.fusion import Fusion, InternalLanguageModel, LengthBonus, log_softmax
from zeroq_asr.errors import CheckpointError


def test_a_sum_weighs_its_scorers() -> None:
    target, source = bigrams_of(1, 3), bigrams_of(2, 3)
    fusion = Fusion(((0.5, target), (-0.25, source), (0.125, LengthBonus(3))))
    before = fusion.start()
    after = fusion.follow(before, 2)
    scores = fusion.scores([before, after], np.zeros((2, 1)))
    expected = [0.5 * target.function(y) - 0.25 * source.function(y) + 0.125 for y in ((), (2,))]
    np.testing.assert_allclose(scores, expected, rtol=1e-15)
    # what is handed in stays as it is, and sums are scorers themselves
    assert before == fusion.start()
    doubled = Fusion(((2.0, fusion),))
    np.testing.assert_array_equal(doubled.scores([(after,)], np.zeros((1, 1)))[0], 2 * scores[1])


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("durations", [0, 2])
def test_the_internal_model_hears_nothing_and_gives_tokens_alone(durations: int, count: int) -> None:
    generator = np.random.default_rng(0)
    weights, bias = generator.standard_normal((4, 3 + 1 + durations)), generator.standard_normal(4)

    def join(encoding: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        assert encoding.dtype == prediction.dtype == np.float32
        assert encoding.flags.c_contiguous
        assert encoding.flags.writeable
        return np.maximum(encoding + prediction + bias, 0) @ weights

    predictions = generator.standard_normal((count, 4)).astype(np.float32)
    model = InternalLanguageModel(join, np.zeros(4, np.float32), 3)
    found = model.scores([model.start()] * count, predictions)
    logits = (np.maximum(predictions + bias, 0) @ weights)[:, :3]
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0, rtol=1e-12)


def test_the_silence_of_integers_is_their_zero_point() -> None:
    def join(encoding: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        assert encoding.dtype == np.uint8
        return (encoding.astype(np.float32) - 7) @ np.ones((2, 4), np.float32) + prediction

    model = InternalLanguageModel(join, np.full(2, 7, np.uint8), 3)
    prediction = np.array([[0.0, 1.0, 2.0, 9.0]], np.float32)
    np.testing.assert_allclose(model.scores([None], prediction)[0], log_softmax(prediction[0, :3]))


def test_log_softmax_by_hand() -> None:
    halves = log_softmax(np.array([[3.0, 3.0, -np.inf]], np.float32))
    assert halves.dtype == np.float64
    np.testing.assert_array_equal(halves, [[-np.log(2), -np.log(2), -np.inf]])
    # large logits do not overflow
    np.testing.assert_allclose(log_softmax(np.array([1e30, 0.0], np.float32)), [0.0, -1e30], rtol=1e-6)


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_what_is_no_score_is_refused(row: list[float]) -> None:
    with pytest.raises(CheckpointError, match="gives scores that are not finite"):
        log_softmax(np.array([[0.0, 0.0], row], np.float32))
