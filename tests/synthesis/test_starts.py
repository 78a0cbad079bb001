"""What synthesis starts from: seeded, of the right size and moments."""

from __future__ import annotations

import pytest
import torch

from zeroq_asr.config import INITS
from zeroq_asr.config.synthesis import VOICE
from zeroq_asr.synthesis.starts import INITIAL

SIZE = (4, 64, 512)


def make(name: str, seed: int = 0) -> torch.Tensor:
    return INITIAL[name](SIZE, torch.Generator().manual_seed(seed))


def test_every_start_can_be_asked_for() -> None:
    assert set(INITS) == {*INITIAL, VOICE}


@pytest.mark.parametrize("name", INITIAL)
def test_starts_are_seeded_and_finite(name: str) -> None:
    x = make(name)
    assert x.shape == SIZE
    assert bool(torch.isfinite(x).all())
    assert torch.equal(x, make(name))
    assert not torch.equal(x, make(name, seed=1))
    assert len({tuple(u.flatten()[:8].tolist()) for u in x}) == SIZE[0]


@pytest.mark.parametrize("name", ["normal", "smooth", "student", "speech"])
def test_variance_is_one(name: str) -> None:
    assert float(make(name).std()) == pytest.approx(1.0, abs=0.03)


def test_student_has_heavy_tails() -> None:
    assert float(make("student").abs().max()) > 2 * float(make("normal").abs().max())


def test_smooth_and_speech_are_correlated_over_time_and_mels() -> None:
    for name in ("smooth", "speech"):
        x = make(name)
        for a, b in ((x[..., 1:], x[..., :-1]), (x[:, 1:], x[:, :-1])):
            assert float((a * b).mean()) > 0.5


def test_speech_has_pauses_and_the_frontends_own_normalization() -> None:
    x = make("speech")
    torch.testing.assert_close(x.mean(dim=2), torch.zeros(SIZE[:2]), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(dim=2), torch.ones(SIZE[:2]), atol=1e-4, rtol=0)
    loudness = x.mean(dim=1)
    quiet = (loudness < -0.5).float().mean(dim=1)
    assert bool(((quiet > 0.1) & (quiet < 0.6)).all())
