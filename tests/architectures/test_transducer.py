from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_transducers import TOKENS, nemo_config
from torch import nn

from zeroq_asr.architectures.transducer import (
    LstmPredictor,
    StatelessPredictor,
    Transducer,
    conformer_transducer,
)
from zeroq_asr.capture.capture import capture
from zeroq_asr.checkpoints import load_model
from zeroq_asr.deployment.transducer import TransducerRecognizer
from zeroq_asr.errors import ConfigError
from zeroq_asr.model import TransducerModel

#: of an encoding, a prediction or a log-probability of NeMo's
TOLERANCE = 1e-3
NEMO = {
    # name → layers of the LSTM, durations
    "conformer_rnnt_tiny": (2, ()),
    "fastconformer_tdt_tiny": (2, (0, 1, 2, 3, 4)),
    "fastconformer_hybrid_tiny": (1, ()),
}


def config_of(durations: tuple[int, ...] = (), **changes: Any) -> dict[str, Any]:
    config = nemo_config(durations=durations, **changes)
    config["decoder"]["vocab_size"] = len(TOKENS)
    config["decoding"] = {"durations": list(durations), "max_symbols": 3}
    return {name: config[name] for name in ("encoder", "decoder", "joint", "decoding")}


def network_of(**options: Any) -> Transducer:
    torch.manual_seed(0)
    return conformer_transducer(config_of(**options)).eval().requires_grad_(False)


@pytest.mark.parametrize("name", NEMO)
def test_every_part_computes_what_nemo_does(test_data: Path, name: str) -> None:
    model = load_model(test_data / "models" / f"{name}.nemo", head="transducer")
    assert isinstance(model, TransducerModel)
    network = model.network
    assert isinstance(network.predictor, LstmPredictor)
    assert (network.predictor.lstm.num_layers, network.durations) == NEMO[name]
    expected = np.load(test_data / "models" / f"{name}.npz")
    count = sum(key.startswith("utt") for key in expected.files)
    assert count >= 2
    recognizer = TransducerRecognizer(model)
    for i in range(count):
        features = torch.from_numpy(expected[f"features{i}"])[None]
        lengths = torch.from_numpy(expected[f"features_len{i}"].astype(np.int64))
        labels = [model.tokenizer.blank_id, *expected[f"joint_targets{i}"][0].tolist()]
        with torch.inference_mode():
            encoded, ends = network.encoder.body(features, lengths)
            projected, _ = network.encoder(features, lengths)
            hidden, joined = [], []
            state = network.predictor.start(1)
            for label in labels:
                before, _ = network.predictor.hidden(torch.tensor([label]), state)
                predicted, state = network.predictor(torch.tensor([label]), state)
                hidden.append(before[0])
                joined.append(network.joiner(projected[0], predicted))
        frames = int(expected[f"encoded_len{i}"][0])
        assert ends.tolist() == [frames]
        for found, name_ in (
            (encoded[0, :frames].T, "encoded"),
            (torch.stack(hidden, 1), "decoder_out"),
        ):
            theirs = expected[f"{name_}{i}"]
            theirs = theirs[:, :frames] if name_ == "encoded" else theirs
            np.testing.assert_allclose(found.numpy(), theirs, atol=TOLERANCE, rtol=0)
        # on the CPU NeMo's joint network ends in a softmax over all that it gives
        scores = torch.log_softmax(torch.stack(joined, 1), -1)[:frames].numpy()
        np.testing.assert_allclose(scores, expected[f"joint{i}"][:frames], atol=TOLERANCE, rtol=0)
        (found,) = recognizer.hypotheses(features.numpy(), lengths.numpy())
        assert found.tokens == expected[f"greedy{i}"].tolist()
        if f"timestamps{i}" in expected:
            assert found.frames == expected[f"timestamps{i}"].tolist()


@pytest.mark.parametrize(("name", "bias"), [*zip(NEMO, (0.9, 0.8, 0.6), strict=True)])
def test_a_batch_never_changes_what_is_recognised(test_data: Path, name: str, bias: float) -> None:
    model = load_model(test_data / "models" / f"{name}.nemo", head="transducer")
    assert isinstance(model, TransducerModel)
    # these weights are random, and never say the blank without
    with torch.no_grad():
        model.network.joiner.output.bias[model.tokenizer.blank_id] += bias
    features, lengths = (tensor.numpy() for tensor in model.example_input(120))
    recognizer = TransducerRecognizer(model)
    both = recognizer.hypotheses(features, lengths)
    _, ends = model.network.encoder(*model.example_input(120))
    for found, end in zip(both, ends.tolist(), strict=True):
        assert 0 < len(set(found.frames)) < end
    for row, length in enumerate(lengths.tolist()):
        alone = recognizer.hypotheses(features[row : row + 1, :, :length], lengths[row : row + 1])
        assert alone == [both[row]]


def test_the_encoder_is_captured_with_the_projection_as_its_last_layer() -> None:
    network = network_of()
    example = (torch.randn(2, 16, 64), torch.tensor([64, 48]))
    # the capture itself compares the graph with the module
    graph = capture(network.encoder, example, "encoder")
    assert network.encoder(*example)[0].shape == (2, 16, 10)
    last = [node for node in graph.nodes if "weight" in node.attrs][-1]
    weight = last.attrs["weight"].reshape(10, 8)
    torch.testing.assert_close(weight, network.encoder.projection.weight, check_dtype=False)


def test_steps_of_the_predictor_are_the_lstm_of_the_whole() -> None:
    predictor = network_of().predictor
    assert isinstance(predictor, LstmPredictor)
    labels = torch.randint(0, 6, (7, 3))
    state = predictor.start(3)
    assert [part.shape for part in state] == [(2, 3, 12), (2, 3, 12)]
    assert not any(part.any() for part in state)
    hidden, _ = predictor.lstm(predictor.embedding(labels))
    for step, row in enumerate(labels):
        found, state = predictor(row, state)
        torch.testing.assert_close(found, predictor.projection(hidden[step]))


@pytest.mark.parametrize("context", [1, 2, 3])
@pytest.mark.parametrize("mode", [None, "layer"])
def test_the_stateless_predictor_reads_the_last_labels(context: int, mode: str | None) -> None:
    config = config_of(stateless=True)
    config["decoder"] |= {"context_size": context, "normalization_mode": mode}
    predictor = conformer_transducer(config).eval().requires_grad_(False).predictor
    assert isinstance(predictor, StatelessPredictor)
    # half of 12 channels shared out evenly, the latest label has the rest
    sizes = [table.embedding_dim for table in predictor.embeddings]
    assert sizes == {1: [12], 2: [9, 3], 3: [8, 2, 2]}[context]
    labels = [5, 1, 4, 0, 2]
    state = predictor.start(1)
    for step, label in enumerate(labels):
        found, state = predictor(torch.tensor([label]), state)
        history = [5, 5, 5, *labels[: step + 1]]
        parts = [table(torch.tensor(history[-1 - back])) for back, table in enumerate(predictor.embeddings)]
        whole = torch.cat(parts)
        if mode:
            whole = (whole - whole.mean()) / torch.sqrt(whole.var(unbiased=False) + 1e-5)
        torch.testing.assert_close(found[0], predictor.projection(whole))
        assert state[0].shape == (context - 1, 1)


@pytest.mark.parametrize(("name", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid)])
def test_the_joiner_is_activation_and_output(name: str, kind: type[nn.Module]) -> None:
    config = config_of(durations=(0, 1))
    config["joint"]["jointnet"]["activation"] = name
    joiner = conformer_transducer(config).requires_grad_(False).joiner
    assert isinstance(joiner.activation, kind)
    a, b = torch.randn(4, 10), torch.randn(4, 10)
    assert joiner(a, b).shape == (4, 5 + 1 + 2)
    torch.testing.assert_close(joiner(a, b), joiner.output(kind()(a + b)))


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("decoder", {"normalization_mode": "layer"}, "decoder.normalization_mode: 'layer' is not supported"),
        ("decoder", {"blank_as_pad": False}, "decoder.blank_as_pad: False is not supported"),
        ("decoder", {"vocab_size": 2}, "decoder.vocab_size: is 2, joint.num_classes is 5"),
        ("decoder", {"context_size": 2}, "decoder.context_size: is an unknown option"),
        ("decoder", {"_target_": "a.GRUDecoder"}, "decoder: GRUDecoder is not supported; supported: RNNTDec"),
        ("prednet", {"rnn_hidden_size": 20}, "decoder.prednet.rnn_hidden_size: 20 is not supported"),
        ("prednet", {"bidirectional": True}, "decoder.prednet.bidirectional: is an unknown option"),
        ("prednet", {"pred_rnn_layers": 0}, "decoder.prednet.pred_rnn_layers: must be .* got 0"),
        ("joint", {"_target_": "a.HATJoint"}, "joint: HATJoint is not supported; supported: RNNTJoint"),
        ("joint", {"num_extra_outputs": 2}, "joint.num_extra_outputs: is 2, decoding names 0 durations"),
        ("joint", {"gate": 1}, "joint.gate: is an unknown option"),
        ("jointnet", {"activation": "gelu"}, "joint.jointnet.activation: 'gelu' is not supported"),
        ("jointnet", {"encoder_hidden": 9}, "joint.jointnet.encoder_hidden: is 9, the encoder gives 8"),
        ("jointnet", {"pred_hidden": 9}, "joint.jointnet.pred_hidden: is 9, the predictor gives 12"),
        ("jointnet", {"bias": False}, "joint.jointnet.bias: is an unknown option"),
        ("decoding", {"durations": [0, -1]}, "decoding.durations: must be a list of whole numbers"),
        ("decoding", {"max_symbols": 0}, "decoding.max_symbols: must be .* got 0"),
        ("encoder", {"att_context_size": [70, 13]}, "encoder.att_context_size"),
    ],
)
def test_what_is_not_supported_is_named(section: str, changes: dict[str, Any], words: str) -> None:
    config = copy.deepcopy(config_of())
    places = {
        **{name: config[name] for name in ("encoder", "decoder", "joint", "decoding")},
        "prednet": config["decoder"]["prednet"],
        "jointnet": config["joint"]["jointnet"],
    }
    places[section].update(changes)
    with pytest.raises(ConfigError, match=words.replace(".", r"\.").replace(r"\.*", ".*")):
        conformer_transducer(config)


def test_sections_that_nobody_reads_are_named() -> None:
    with pytest.raises(ConfigError, match="spec_augment: is an unknown option"):
        conformer_transducer({**config_of(), "spec_augment": {}})
