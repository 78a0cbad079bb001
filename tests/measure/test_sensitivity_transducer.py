"""The ranking of a transducer's layers: what is tried of which part, and what it costs at the scores."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from trained_transducers import speech, trained

import zeroq_asr as zq
from zeroq_asr.calibration.labels import Decoder
from zeroq_asr.measure.replays import TransducerReplay
from zeroq_asr.pipeline import prepare_transducer

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=1)
LABELS = zq.LabelSpec(label_sequences=4, label_length=5, joint_pairs=64)
NOISE = zq.CalibrationSpec("noise")
LEFT_OUT = "the weights of its lstm_step are not among the ranked"


@cache
def decoder(durations: tuple[int, ...] = ()) -> Decoder:
    model = trained(durations=durations)
    return prepare_transducer(
        model, synthesis=FAST, calibration=NOISE, labels=LABELS, check_ranges=False
    ).decoder


@pytest.mark.parametrize("durations", [(), (0, 1, 2)])
def test_a_replay_scores_the_path_and_follows_changes(durations: tuple[int, ...]) -> None:
    recognizer = zq.TransducerRecognizer(trained(durations=durations))
    features, _ = speech(1, 12, 7)
    replay = TransducerReplay(recognizer, decoder(durations), features)
    tokens, *jumps = replay.scores()
    (found,) = recognizer.hypotheses(features.numpy(), torch.tensor([features.shape[2]]).numpy())
    best = tokens.argmax(1)
    blank = recognizer.tokenizer.blank_id
    assert best[best != blank].tolist() == found.tokens
    assert [one.shape for one in jumps] == ([(len(tokens), len(durations))] if durations else [])
    for part, value in (
        ("encoder", "audio_signal"),
        ("predictor", "embedding"),
        ("predictor", "hidden_0"),
        ("joiner", "sum"),
    ):
        changed = replay.scores(part, {value: lambda x: x * 0})
        assert not torch.equal(changed[0], tokens)
        assert torch.equal(replay.scores(part, {value: lambda x: x})[0], tokens)
    weight = torch.zeros_like(decoder(durations).joiner.nodes[-1].attrs["weight"])
    (silent, *_) = replay.scores("joiner", {}, {"output": weight})
    bias = decoder(durations).joiner.nodes[-1].attrs["bias"][: blank + 1]
    torch.testing.assert_close(silent, bias.expand_as(silent))


@pytest.mark.parametrize("kind", [{}, {"durations": (0, 1, 2)}, {"stateless": True}])
def test_layers_of_every_part_are_ranked(kind: dict[str, Any]) -> None:
    model = trained(**kind)

    def ranked() -> zq.Sensitivity:
        return zq.sensitivity(model, synthesis=FAST, calibration=NOISE, labels=LABELS)

    if kind.get("stateless"):
        found = ranked()
    else:
        with pytest.warns(zq.ZeroqWarning, match=LEFT_OUT):
            found = ranked()
    assert (found.head, found.source) == ("transducer", "noise")
    assert found.frames > 10
    tried = {(layer.name, layer.kind) for layer in found.layers}
    expected = {
        ("encoder.audio_signal", "result"),
        ("encoder.projection", "weights"),
        ("predictor.projection", "weights"),
        ("joiner.output", "weights"),
    }
    expected |= {("predictor.norm", "result")} if kind.get("stateless") else {("predictor.lstm.0", "result")}
    assert expected <= tried
    # what parts hand each other, labels and scores have 16 bits or more whatever happens
    assert not {name for name, what in tried if what == "result"} & {
        "joiner.encoded",
        "joiner.predicted",
        "joiner.output",
        "predictor.labels",
        "predictor.projection",
        "encoder.projection",
    }
    assert not any(layer.can_have_16_bits for layer in found.layers)
    costs = [layer.divergence for layer in found.layers]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 0


def test_another_format_is_refused() -> None:
    for spec in (zq.QuantSpec(weight_bits=2), zq.QuantSpec(layer_bits=(("joiner*", 16),))):
        with pytest.raises(zq.ConfigError, match="transducer"):
            zq.sensitivity(trained(), spec, calibration=NOISE)
