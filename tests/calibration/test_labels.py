"""Labels that predictors and joiners are observed on: deterministic, whole, and of the sources asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trained_transducers import BLANK, JOINT, speech, trained

import zeroq_asr as zq
from zeroq_asr.calibration.labels import Decoder, Met, decode, observe_parts, sequences, steps
from zeroq_asr.capture.transducer import capture_transducer
from zeroq_asr.errors import ConfigError

MET = Met([[1, 2], [], [3]], np.zeros((4, JOINT), np.float32), np.zeros((4, JOINT), np.float32))


def decoder(*, stateless: bool = False) -> Decoder:
    model = trained(stateless=stateless)
    graphs = capture_transducer(model.network, model.example_input(), model.name)
    return Decoder(graphs.encoder, graphs.predictor, graphs.joiner, graphs.context, BLANK, (), 3)


def test_sources_of_labels() -> None:
    spec = zq.LabelSpec(label_sequences=5, label_length=3, label_seed=7)
    found = sequences(spec, MET, 8)
    assert found[:3] == MET.labels
    pieces, random = found[3:6], found[6:]
    assert sorted(label for one in pieces for label in one) == [*range(8)]
    assert ([len(one) for one in pieces], [len(one) for one in random]) == ([3, 3, 2], [3] * 5)
    assert found == sequences(spec, MET, 8)
    assert found != sequences(zq.LabelSpec(label_sequences=5, label_length=3, label_seed=8), MET, 8)
    assert sequences(zq.LabelSpec(label_sources=("decoded",)), MET, 8) == MET.labels


@pytest.mark.parametrize("stateless", [False, True])
def test_steps_hear_what_the_module_hears(stateless: bool) -> None:
    made, network = decoder(stateless=stateless), trained(stateless=stateless).network
    labels = [[1, 2, 3], [4], [0, 0]]
    longest_first = sorted(labels, key=len, reverse=True)
    batches = [given[0].shape[0] for given in steps(made, labels)]
    assert batches == [3, 3, 2, 1]
    last = [made.predictor.run(*given)[0] for given in steps(made, labels)][-1]
    state = network.predictor.start(1)
    for label in (BLANK, *longest_first[0]):
        wanted, state = network.predictor(torch.tensor([label]), state)
    torch.testing.assert_close(last[:, :, 0], wanted)


def test_decoding_by_graphs_is_that_of_the_network() -> None:
    features, _ = speech(3, 5, 2)
    met = decode(decoder(), features)
    lengths = np.full(3, features.shape[2])
    wanted = zq.TransducerRecognizer(trained()).hypotheses(features.numpy(), lengths)
    assert met.labels == [one.tokens for one in wanted]
    assert met.encoded.shape == met.predicted.shape
    assert len(met.encoded) >= 3 * 5
    predictor, joiner = observe_parts(decoder(), features, zq.LabelSpec(label_sequences=4, joint_pairs=9))
    assert {"lstm.1:cell", "projection"} <= predictor.histograms.keys()
    assert {"encoded", "predicted", "sum", "output"} <= joiner.histograms.keys()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"label_sources": ()}, "names no source of labels"),
        ({"label_sources": ("books",)}, "label_sources 'books' is not one of decoded, pieces, random"),
        ({"label_sources": "pieces"}, "label_sources must be a list of names"),
        ({"label_length": 0}, "label_length must be a whole number from 1"),
        ({"joint_pairs": True}, "joint_pairs must be a whole number"),
    ],
)
def test_specifications_that_make_no_sense(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        zq.LabelSpec(**fields)  # type: ignore[arg-type]  # wrong types are the point
    spec = zq.LabelSpec(label_sources=("pieces",), label_seed=3)
    assert zq.LabelSpec.from_dict(spec.to_dict()) == spec
