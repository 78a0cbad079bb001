"""What is said, and the steps at which recognisers are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from trained_transducers import BLANK, speech, trained

import zeroq_asr as zq
from zeroq_asr.measure.said import Distance, Features, Path, greedy_path, hear, scores_along


def utterance(seed: int = 7, frames: int | None = None) -> Features:
    features, _ = speech(1, 12, seed)
    return features.numpy()[:, :, :frames], np.array([frames or features.shape[2]])


@pytest.mark.parametrize("durations", [(), (0, 1, 2)])
def test_a_path_is_where_greedy_decoding_asked(durations: tuple[int, ...]) -> None:
    recognizer = zq.TransducerRecognizer(trained(durations=durations))
    one = recognizer.decodable(*utterance())
    (found,) = recognizer.hypotheses(*utterance())
    path = greedy_path(recognizer, one)
    assert list(path.tokens) == found.tokens
    assert len(found.tokens) > 5
    tokens, *jumps = scores_along(recognizer, one, path)
    assert tokens.shape == (len(path.frames), BLANK + 1)
    assert [one.shape[1] for one in jumps] == ([len(durations)] if durations else [])
    np.testing.assert_allclose(np.exp(tokens).sum(1), 1)
    # its best tokens are what was said, each at its frame, and blanks between
    best = tokens.argmax(1)
    assert best[best != BLANK].tolist() == found.tokens
    assert path.frames[best != BLANK].tolist() == found.frames
    np.testing.assert_array_equal(path.said, np.cumsum(best != BLANK) - (best != BLANK))
    if not durations:
        assert path.frames[best == BLANK].tolist() == [*range(int(one.lengths[0]))]


def test_a_beam_is_scored_along_the_greedy_path() -> None:
    model = trained()
    greedy = hear(zq.TransducerRecognizer(model), utterance())
    beam = hear(zq.TransducerRecognizer(model, zq.BeamSpec(width=2)), utterance())
    assert greedy.path is not None
    assert beam.path is not None
    assert beam.path.tokens == greedy.path.tokens
    np.testing.assert_array_equal(beam.scores[0], greedy.scores[0])


def test_distances_add_up() -> None:
    model = trained(durations=(0, 1, 2))
    recognizer, other = (
        zq.TransducerRecognizer(model),
        zq.TransducerRecognizer(trained(durations=(0, 1, 2), steps=20)),
    )
    total = Distance()
    for seed in (1, 2):
        truth = hear(recognizer, utterance(seed))
        again = hear(recognizer, utterance(seed), truth.path)
        assert Distance().plus(truth, again) == Distance(len(truth.scores[0]), 0, 0.0)
        found = hear(other, utterance(seed), truth.path)
        assert found.path is truth.path
        alone = Distance().plus(truth, found)
        assert alone.divergence > 0.1
        assert alone.wrong > 0
        before, total = total, total.plus(truth, found)
        assert (total.steps, total.wrong) == (before.steps + alone.steps, before.wrong + alone.wrong)
        assert total.divergence == pytest.approx(before.divergence + alone.divergence)
        # of tokens and of durations
        first, second = (
            float((np.exp(a) * (a - b)).sum()) for a, b in zip(truth.scores, found.scores, strict=True)
        )
        assert alone.divergence == pytest.approx(first + second)


def test_nothing_to_hear_has_no_steps() -> None:
    recognizer = zq.TransducerRecognizer(trained(durations=(0, 1)))
    features, _ = utterance()
    one = recognizer.decodable(features, np.array([0]))
    path = greedy_path(recognizer, one)
    assert path.tokens == ()
    assert [part.shape for part in scores_along(recognizer, one, path)] == [(0, BLANK + 1), (0, 2)]
    said = hear(recognizer, (features, np.array([0])))
    assert (said.text, Distance().plus(said, said)) == ("", Distance())


def test_a_ctc_network_is_scored_frame_by_frame(small_model: Any) -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((1, 16, 80)).astype(np.float32), np.array([80])
    said = hear(zq.TorchRecognizer(small_model), features, Path((), np.zeros(0), np.zeros(0)))
    scores, lengths = zq.TorchRecognizer(small_model).log_probs(*features)
    assert said.path is None
    np.testing.assert_array_equal(said.scores[0], scores[0, : lengths[0]])
