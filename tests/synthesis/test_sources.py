"""What features are made from, by name, and what a network gets if nobody says."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.errors import ZeroqWarning
from zeroq_asr.synthesis.made_speech import made_speech
from zeroq_asr.synthesis.sources import make_features, source_for
from zeroq_asr.synthesis.synthesize import synthesize

#: the module; the function has the same name
PREPARE = importlib.import_module("zeroq_asr.pipeline.prepare")
FEW = zq.SynthesisSpec(batch=2, frames=64, iterations=1, speakers=2, seconds=1.0)


def with_frontend(model: Any, normalize: str | None) -> Any:
    return dataclasses.replace(model, frontend=dataclasses.replace(model.frontend, normalize=normalize))


def without_statistics(model: Any) -> Any:
    """The model with layer norms, in effect, where it had batch norms."""
    network = copy.deepcopy(model.network)
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm1d):
                setattr(module, name, torch.nn.Identity())
    return dataclasses.replace(model, network=network.eval())


def test_statistics_are_matched_where_they_are_stored(small_model: Any) -> None:
    assert source_for(small_model) == "synthetic"
    assert source_for(without_statistics(small_model)) == "speech"
    # matching starts from normalized features, which this frontend does not give
    assert source_for(with_frontend(small_model, None)) == "speech"
    for source in ("synthetic", "speech", "both", "noise"):
        assert source_for(without_statistics(small_model), source) == source


@pytest.mark.parametrize("normalize", ["per_feature", None])
def test_matching_may_start_from_made_speech(small_model: Any, normalize: str | None) -> None:
    model = with_frontend(small_model, normalize)
    start = dataclasses.replace(FEW, init="voice", iterations=0)
    made = made_speech(model, dataclasses.replace(FEW, seconds=FEW.frames / model.frontend.frames_per_second))
    found = synthesize(model, start)
    np.testing.assert_array_equal(found.features, made.features[:, :, : found.features.shape[2]])
    assert abs(found.features.shape[2] - FEW.frames) <= 1
    moved = synthesize(model, dataclasses.replace(start, iterations=5))
    assert min(moved.losses) < found.losses[0]


def test_both_are_the_utterances_of_both(small_model: Any) -> None:
    matched, speech = synthesize(small_model, FEW), made_speech(small_model, FEW)
    both = make_features(small_model, FEW, "both")
    assert both.account == matched.account
    assert both.lengths.tolist() == [*matched.lengths, *speech.lengths]
    for k, length in enumerate(both.lengths):
        of = matched.features[k] if k < len(matched.lengths) else speech.features[k - len(matched.lengths)]
        np.testing.assert_array_equal(both.features[k, :, :length], of[:, :length])


def test_the_recipe_says_what_auto_stood_for(small_model: Any) -> None:
    for model, source in ((small_model, "synthetic"), (with_frontend(small_model, None), "speech")):
        made = zq.quantize(model, spec=zq.QuantSpec(max_seconds=2), synthesis=FEW)
        assert made.deployment.recipe["calibration"]["source"] == source


def test_ranges_that_miss_speech_are_told_of(small_model: Any) -> None:
    # log-mels as they are lie about −9; noise lies about 0
    model = with_frontend(small_model, None)
    noise = zq.CalibrationSpec("noise")
    with pytest.warns(ZeroqWarning, match="of what speech would reach.*say --calibration speech"):
        made = zq.quantize(model, spec=zq.QuantSpec(max_seconds=2), synthesis=FEW, calibration=noise)
    told = made.to_dict()["shortfall"]
    assert told["blind"]
    assert told["median"] > 0.05
    assert told["worst"][0]["share"] == max(one.share for one in made.shortfalls)
    speech = zq.quantize(model, spec=zq.QuantSpec(max_seconds=2), synthesis=FEW)
    assert speech.to_dict()["shortfall"] is None


def test_made_speech_joins_matched_features_that_fall_short(
    small_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = zq.QuantSpec(max_seconds=2)
    alone = zq.quantize(small_model, spec=spec, synthesis=FEW)
    assert alone.joined_for is None
    # as if nothing were near enough
    monkeypatch.setattr(PREPARE, "BLIND", -1.0)
    joined = zq.quantize(small_model, spec=spec, synthesis=FEW)
    assert joined.deployment.recipe["calibration"]["source"] == "both"
    assert joined.to_dict()["speech_joined_for"] == joined.joined_for
    assert joined.joined_for is not None
    assert joined.shortfalls == ()
    both = zq.quantize(small_model, spec=spec, synthesis=FEW, calibration=zq.CalibrationSpec("both"))
    assert (joined.program.digest(), joined.deployment) == (both.program.digest(), both.deployment)
    assert joined.program.digest() != alone.program.digest()
    # whoever names a source gets it, and is told
    with pytest.warns(ZeroqWarning, match="of what speech would reach"):
        named = zq.quantize(
            small_model, spec=spec, synthesis=FEW, calibration=zq.CalibrationSpec("synthetic")
        )
    assert (named.joined_for, named.program.digest()) == (None, alone.program.digest())


@pytest.mark.parametrize("check_ranges", [True, False])
def test_what_nobody_named_is_compared_anyway(
    small_model: Any, monkeypatch: pytest.MonkeyPatch, check_ranges: bool
) -> None:
    monkeypatch.setattr(PREPARE, "BLIND", -1.0)
    prepared = zq.prepare(small_model, synthesis=FEW, check_ranges=check_ranges)
    assert prepared.calibration.source == "both"
