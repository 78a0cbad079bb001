"""What features miss of the ranges on made speech."""

from __future__ import annotations

import pytest
import torch
from float_graphs import HIDDEN, MELS, Builder

from zeroq_asr.calibration.calibrate import Observations, observe
from zeroq_asr.calibration.shortfall import BLIND, Shortfall, median_shortfall, shortfalls, summary


def test_a_share_is_of_the_range_on_speech() -> None:
    assert Shortfall("x", 0, 1, 0, 1).share == 0
    assert Shortfall("x", -5, 5, 0, 1).share == 0
    assert Shortfall("x", 0, 3, 0, 4).share == 0.25
    assert Shortfall("x", -1, 3, -2, 6).share == pytest.approx(3 / 8)
    # nothing in common
    assert Shortfall("x", 0, 1, -10, -9).share == pytest.approx(10)
    # a value that never moves has no range to miss
    assert Shortfall("x", 2, 2, 2, 2).share == 0


def test_the_median_decides() -> None:
    values = tuple(Shortfall(f"v{k}", 0, 1 - k / 10, 0, 1) for k in range(5))
    assert median_shortfall(values) == pytest.approx(0.2)
    assert median_shortfall(()) == 0
    told = summary(values)
    assert told is not None
    assert told["blind"]
    assert told["median"] > BLIND
    assert [one["name"] for one in told["worst"]] == ["v4", "v3", "v2"]
    assert summary(()) is None
    fine = summary(values[:1])
    assert fine is not None
    assert not fine["blind"]


def test_values_are_those_of_the_network() -> None:
    b = Builder()
    graph = b.graph(b.linear("audio_signal", MELS, HIDDEN))

    def heard(scale: float) -> Observations:
        return observe(graph, [torch.linspace(-scale, scale, 40).reshape(MELS, 5)])

    found = shortfalls(heard(1.0), heard(2.0))
    assert {one.name for one in found} == set(heard(1.0).histograms)
    entering = found[0]
    assert (entering.low, entering.speech_high) == (-1.0, 2.0)
    assert entering.share == pytest.approx(0.25)
