"""NeMo's transducers and both heads of hybrids: what is read, and what is refused or warned of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_transducers import TOKENS, nemo_config, nemo_state

from zeroq_asr.architectures.transducer import LstmPredictor, StatelessPredictor
from zeroq_asr.checkpoints import load_checkpoint, load_model, save_checkpoint
from zeroq_asr.errors import CheckpointError, ConfigError, UnsupportedModelError, ZeroqWarning
from zeroq_asr.model import AsrModel, TransducerModel

Write = Callable[..., Path]
REFUSED = (
    "is a transducer, a CTC head was expected; quantize, transcribe, evaluate, compare, report, bench and "
    "inspect take transducers, without --head ctc"
)


def read(path: Path, **options: Any) -> TransducerModel:
    model = load_model(path, **options)
    assert isinstance(model, TransducerModel)
    return model


def test_weights_get_to_their_places(write_nemo: Write) -> None:
    config = nemo_config(durations=(0, 1, 2))
    state = nemo_state(config)
    network = read(write_nemo(config, dict(state))).network
    assert (network.durations, network.max_symbols) == ((0, 1, 2), 3)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert isinstance(network.predictor, LstmPredictor)
    for found, name in (
        (network.predictor.embedding.weight, "decoder.prediction.embed.weight"),
        (network.predictor.lstm.weight_hh_l1, "decoder.prediction.dec_rnn.lstm.weight_hh_l1"),
        (network.predictor.projection.bias, "joint.pred.bias"),
        (network.encoder.projection.weight, "joint.enc.weight"),
        (network.joiner.output.weight, "joint.joint_net.2.weight"),
    ):
        torch.testing.assert_close(found, state[name], atol=0, rtol=0)
    # what the modules compute with is what their state says
    labels = torch.tensor([1, 4])
    lstm = torch.nn.LSTM(12, 12, 2).requires_grad_(False)
    prefix = "decoder.prediction.dec_rnn.lstm."
    lstm.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
    expected, _ = lstm(state["decoder.prediction.embed.weight"][labels][None])
    found, _ = network.predictor.hidden(labels, network.predictor.start(2))
    torch.testing.assert_close(found, expected[0])


def test_what_surrounds_the_parts(write_nemo: Write) -> None:
    config = nemo_config()
    model = read(write_nemo(config, nemo_state(config)))
    assert (model.architecture, model.name, model.subsampling_factor) == ("conformer_transducer", "small", 4)
    assert model.tokenizer.tokens == tuple(TOKENS)
    assert model.frontend.features == 16
    assert model.float_bytes > 4 * sum(p.numel() for p in model.network.parameters())


def test_the_stateless_predictor(write_nemo: Write) -> None:
    config = nemo_config(stateless=True)
    state = nemo_state(config)
    predictor = read(write_nemo(config, dict(state))).network.predictor
    assert isinstance(predictor, StatelessPredictor)
    torch.testing.assert_close(predictor.embeddings[1].weight, state["decoder.prediction.embeds.1.weight"])


def test_a_joint_network_without_dropout(write_nemo: Write) -> None:
    config = nemo_config()
    config["joint"]["jointnet"]["dropout"] = 0.0
    state = nemo_state(config)
    assert "joint.joint_net.1.weight" in state
    read(write_nemo(config, state))


def test_classes_and_widths_may_be_left_out(write_nemo: Write) -> None:
    # a configuration of a training has neither, and refers to what is elsewhere
    config = nemo_config(durations=(0, 1))
    state = nemo_state(config)
    config["labels"] = config["joint"].pop("vocabulary")
    config["joint"]["num_classes"] = -1
    del config["decoder"]["vocab_size"]
    for name in ("encoder_hidden", "pred_hidden"):
        del config["joint"]["jointnet"][name]
    config["model_defaults"] = {"joint_hidden": 10, "tdt_durations": [0, 1], "num_tdt_durations": 2}
    config["joint"]["jointnet"]["joint_hidden"] = "${model.model_defaults.joint_hidden}"
    config["joint"]["num_extra_outputs"] = "${model.model_defaults.num_tdt_durations}"
    config["loss"]["tdt_kwargs"]["durations"] = "${model.model_defaults.tdt_durations}"
    del config["decoding"]["durations"]
    model = read(write_nemo({"model": config}, state))
    assert (model.network.durations, model.tokenizer.tokens) == ((0, 1), tuple(TOKENS))


def test_both_heads_of_a_hybrid(write_nemo: Write) -> None:
    config = nemo_config(durations=(0, 1), hybrid=True)
    state = nemo_state(config)
    path = write_nemo(config, dict(state))
    network = read(path, head="transducer").network
    torch.testing.assert_close(network.joiner.output.bias, state["joint.joint_net.2.bias"])
    for load in (load_checkpoint, load_model, lambda path: load_model(path, head="ctc")):
        with pytest.warns(ZeroqWarning, match="hybrid of a transducer and a CTC head: the head was taken"):
            model = load(path)
        assert isinstance(model, AsrModel)
        weight = model.network.state_dict()["decoder.decoder_layers.0.weight"]
        torch.testing.assert_close(weight, state["ctc_decoder.decoder_layers.0.weight"])


def test_a_transducer_is_no_ctc_network(
    write_nemo: Write, conv_config: dict[str, Any], conv_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    config = nemo_config()
    path = write_nemo(config, nemo_state(config))
    for load in (load_checkpoint, lambda path: load_model(path, head="ctc")):
        with pytest.raises(UnsupportedModelError, match=REFUSED):
            load(path)
    own = tmp_path / "own.pt"
    save_checkpoint(load_model(path), own)
    with pytest.raises(UnsupportedModelError, match=REFUSED):
        load_checkpoint(own)
    ctc = write_nemo(conv_config, conv_state)
    with pytest.raises(UnsupportedModelError, match="has no transducer's head; ask for its CTC head"):
        load_model(ctc, head="transducer")
    assert isinstance(load_model(ctc), AsrModel)
    with pytest.raises(ConfigError, match="unknown head 'rnnt'; use one of auto, ctc, transducer"):
        load_model(ctc, head="rnnt")


def test_our_own_format_keeps_a_transducer(write_nemo: Write, tmp_path: Path) -> None:
    config = nemo_config(durations=(0, 2), stateless=True)
    model = read(write_nemo(config, nemo_state(config)))
    save_checkpoint(model, tmp_path / "own.pt")
    again = read(tmp_path / "own.pt")
    assert (again.network.durations, again.network.max_symbols) == ((0, 2), 3)
    assert (again.tokenizer, again.frontend, again.config) == (model.tokenizer, model.frontend, model.config)
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda c: c["state_dict"].pop("joiner.output.bias"),
            r"1 weights are missing: joiner\.output\.bias",
        ),
        (
            lambda c: c["state_dict"].update({"predictor.lstm.weight_hh_l0": torch.zeros(48, 11)}),
            r"wrong shape: predictor\.lstm\.weight_hh_l0 \[48, 11\] instead of \[48, 12\]",
        ),
        (
            lambda c: c["config"]["joint"]["jointnet"].update(joint_hidden=11, encoder_hidden=None),
            r"wrong shape: encoder\.projection\.bias \[10\] instead of \[11\], encoder\.projection\.weight",
        ),
        (lambda c: c["config"].pop("decoding"), "decoding: is missing"),
        (
            lambda c: c["config"]["decoder"].update(vocab_size=4),
            r"decoder\.vocab_size: is 4, joint\.num_classes is 5",
        ),
    ],
)
def test_our_own_format_of_a_transducer_is_checked(
    write_nemo: Write, tmp_path: Path, damage: Callable[[Any], object], message: str
) -> None:
    config = nemo_config()
    save_checkpoint(read(write_nemo(config, nemo_state(config))), tmp_path / "own.pt")
    content = torch.load(tmp_path / "own.pt", weights_only=True)
    damage(content)
    torch.save(content, tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "own.pt")


def test_weights_beside_a_configuration(tmp_path: Path) -> None:
    config = nemo_config()
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"state_dict": nemo_state(config)}, tmp_path / "weights.ckpt")
    read(tmp_path / "weights.ckpt", config=tmp_path / "model_config.yaml")
    # and the folder of an archive
    (tmp_path / "weights.ckpt").rename(tmp_path / "model_weights.ckpt")
    torch.save(nemo_state(config), tmp_path / "model_weights.ckpt")
    read(tmp_path)


CHANGES: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "no joint": (lambda c: c.pop("joint"), CheckpointError, "has no joint section"),
    "classes": (
        lambda c: c["decoder"].update(vocab_size=7),
        CheckpointError,
        r"decoder\.vocab_size: is 7, the tokenizer has 5 tokens",
    ),
    "tokens": (
        lambda c: c["joint"].update(num_classes=7),
        CheckpointError,
        r"joint\.num_classes: is 7, the tokenizer has 5 tokens",
    ),
    "encoder": (
        lambda c: c["encoder"].update(_target_="a.ConvASREncoder"),
        UnsupportedModelError,
        "ConvASREncoder with RNNTDecoder is not supported; supported: .*ConformerEncoder with RNNTDecoder",
    ),
    "joint class": (
        lambda c: c["joint"].update(_target_="a.SampledRNNTJoint"),
        UnsupportedModelError,
        "joint: SampledRNNTJoint is not supported",
    ),
    "several blanks": (
        lambda c: c["decoding"].update(big_blank_durations=[2, 4]),
        UnsupportedModelError,
        r"decoding\.big_blank_durations: blanks of several frames are not supported",
    ),
    "loss of several blanks": (
        lambda c: c["loss"].update(loss_name="multiblank_rnnt"),
        UnsupportedModelError,
        "blanks of several frames",
    ),
    "language model": (
        lambda c: c["decoding"]["greedy"].update(ngram_lm_model="lm.arpa"),
        UnsupportedModelError,
        r"decoding\.greedy\.ngram_lm_model: is given, scores besides the network's are not supported",
    ),
    "phrases": (
        lambda c: c["decoding"]["greedy"].update(boosting_tree={"key_phrases_list": ["a"]}),
        UnsupportedModelError,
        r"decoding\.greedy\.boosting_tree: is given",
    ),
    "unknown": (
        lambda c: c["decoding"].update(lookahead=3),
        UnsupportedModelError,
        r"decoding\.lookahead: is an unknown option",
    ),
    "unknown of greedy": (
        lambda c: c["decoding"]["greedy"].update(blank_penalty=3),
        UnsupportedModelError,
        r"decoding\.greedy\.blank_penalty: is an unknown option",
    ),
    "another kind": (
        lambda c: c["decoding"].update(model_type="multiblank"),
        CheckpointError,
        r"decoding\.model_type: is 'multiblank'; supported: rnnt, tdt",
    ),
    "no durations": (
        lambda c: c["decoding"].update(model_type="tdt"),
        CheckpointError,
        r"decoding\.durations: is missing from a transducer with durations",
    ),
    "durations of text": (
        lambda c: c["decoding"].update(durations="many"),
        CheckpointError,
        r"decoding\.durations: must be a list of whole numbers",
    ),
    "surplus durations": (
        lambda c: c["decoding"].update(durations=[0, 1]),
        CheckpointError,
        r"joint\.num_extra_outputs: is 0, decoding names 2 durations",
    ),
    "mels": (lambda c: c["encoder"].update(feat_in=17), CheckpointError, "feat_in is 17, the preproc"),
    "prednet": (
        lambda c: c["decoder"].update(prednet=3),
        CheckpointError,
        r"decoder\.prednet: must be a map",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_configurations_that_do_not_fit_say_why(write_nemo: Write, name: str) -> None:
    change, kind, message = CHANGES[name]
    config = nemo_config()
    state = nemo_state(config)
    change(config)
    with pytest.raises(kind, match=message):
        load_model(write_nemo(config, state))


def test_durations_that_contradict_each_other(write_nemo: Write) -> None:
    config = nemo_config(durations=(0, 1))
    config["decoding"]["durations"] = [0, 2]
    with pytest.raises(CheckpointError, match=r"durations: is \[0, 2\], loss\.tdt_kwargs has \[0, 1\]"):
        load_model(write_nemo(config, nemo_state(config)))


def test_options_that_change_nothing(write_nemo: Write) -> None:
    config = nemo_config()
    config["decoding"] |= {"preserve_alignments": None, "temperature": 1.0, "rnnt_timestamp_type": "all"}
    config["decoding"]["greedy"] |= {
        "loop_labels": True,
        "ngram_lm_model": None,
        "boosting_tree": {"model_path": None, "context_score": 1.0},
        "max_symbols": None,
        "max_symbols_per_step": 7,
    }
    config["decoder"]["prednet"] |= {"rnn_hidden_size": -1, "forget_gate_bias": 1.0}
    config["joint"] |= {"masking_prob": -1.0, "experimental_fuse_loss_wer": None}
    assert read(write_nemo(config, nemo_state(config))).network.max_symbols == 7


def test_what_is_done_otherwise_is_said(write_nemo: Write) -> None:
    config = nemo_config()
    config["decoding"]["strategy"] = "maes"
    with pytest.warns(ZeroqWarning, match="is meant to be decoded by maes: it is decoded greedily here"):
        load_model(write_nemo(config, nemo_state(config)))
    for greedy in ({}, {"max_symbols": None}):
        config["decoding"] = {"strategy": "greedy", "greedy": greedy}
        with pytest.warns(
            ZeroqWarning, match=r"decoding\.greedy\.max_symbols is not given: 10 tokens a frame"
        ):
            assert read(write_nemo(config, nemo_state(config))).network.max_symbols == 10


def test_an_embedding_of_the_blank_is_told_of(write_nemo: Write) -> None:
    config = nemo_config()
    state = nemo_state(config)
    state["decoder.prediction.embed.weight"][-1, 3] = 0.5
    with pytest.warns(ZeroqWarning, match="its embedding of the blank is not zero"):
        model = read(write_nemo(config, state))
    assert np.isclose(float(model.network.predictor.state_dict()["embedding.weight"][-1, 3]), 0.5)


@pytest.mark.parametrize("name", ["joint.enc.weight", "decoder.prediction.dec_rnn.lstm.bias_hh_l1"])
def test_weights_that_do_not_fit_are_named(write_nemo: Write, name: str) -> None:
    config = nemo_config()
    state = nemo_state(config)
    missing = {key: value for key, value in state.items() if key != name}
    with pytest.raises(CheckpointError, match="1 weights are missing"):
        load_model(write_nemo(config, missing))
    with pytest.raises(CheckpointError, match=r"weights are surplus: joint\.gate"):
        load_model(write_nemo(config, {**state, "joint.gate": torch.zeros(3)}))
    wrong = {**state, name: torch.zeros(3)}
    with pytest.raises(CheckpointError, match="1 weights have the wrong shape"):
        load_model(write_nemo(config, wrong))


def test_names_behind_a_prefix(write_nemo: Write) -> None:
    config = nemo_config()
    state = {f"model.{name}": value for name, value in nemo_state(config).items()}
    read(write_nemo(config, state))
