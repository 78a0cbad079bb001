"""The options of NeMo's configurations: read, without effect, or refused by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.checkpoints.archive import Files
from zeroq_asr.checkpoints.nemo import parse_config
from zeroq_asr.checkpoints.weights import empty_network
from zeroq_asr.errors import CheckpointError, UnsupportedModelError

Config = dict[str, Any]
State = dict[str, torch.Tensor]
NONE = Files("x", {})
SMALL_CONFORMER = {
    "_target_": "nemo.collections.asr.modules.ConformerEncoder",
    "feat_in": 16,
    "feat_out": -1,
    "n_layers": 1,
    "d_model": 8,
    "n_heads": 2,
    "conv_kernel_size": 5,
    "subsampling_factor": 4,
}


def conformer(config: Config) -> Config:
    """Return a configuration with a Conformer for its encoder."""
    head = {**config["decoder"], "feat_in": None}
    return {**config, "encoder": dict(SMALL_CONFORMER), "decoder": head}


def network_of(config: Config) -> torch.nn.Module:
    parsed = parse_config("x.nemo", yaml.safe_dump(config).encode(), NONE)
    return empty_network("x.nemo", parsed.architecture, parsed.config)


BLOCK = {
    "se_context_size": -1,
    "se_interpolation_mode": "nearest",
    "kernel_size_factor": 1.0,
    "dropout": 0.3,
    "heads": -1,
    "future_context": -1,
    "groups": 1,
    "residual_dense": False,
    "residual_mode": "add",
}
WITHOUT_EFFECT: dict[str, tuple[str, Config]] = {
    "block": ("block", BLOCK),
    "window of no squeeze": ("block", {"se": False, "se_context_size": 16}),
    "convolutions": ("encoder", {"quantize": False, "init_mode": "xavier_uniform", "frame_splicing": 1}),
    "head": ("decoder", {"init_mode": "xavier_uniform", "add_blank": True, "num_classes": -1, "feat_in": 0}),
    "full context": ("conformer", {"att_context_size": [-1, -1], "att_context_style": "regular"}),
    "first of contexts": (
        "conformer",
        {"att_context_size": [[-1, -1], [70, 1]], "att_context_probs": [0.5, 0.5]},
    ),
    "no context": ("conformer", {"att_context_size": None, "conv_context_size": [2, 2], "feat_out": 8}),
    "training": ("conformer", {"dropout": 0.1, "dropout_att": 0.1, "stochastic_depth_drop_prob": 0.5}),
    "memory": ("conformer", {"use_pytorch_sdpa": True, "sync_max_audio_length": False, "pos_emb_max_len": 9}),
    "no reduction": ("conformer", {"reduction": None, "reduction_position": None, "reduction_factor": 1}),
    "reduction by 1": ("conformer", {"reduction": "pooling", "reduction_position": 1, "reduction_factor": 1}),
    "global": ("conformer", {"global_tokens": 0, "global_tokens_spacing": 1, "global_attn_separate": False}),
    "biases": ("conformer", {"untie_biases": False, "causal_downsampling": False}),
    "preprocessor": (
        "preprocessor",
        {"dither": 3.0, "stft_conv": True, "nb_augmentation_prob": 0.5, "rng": None, "use_torchaudio": False},
    ),
    "no second window": ("preprocessor", {"n_window_size": None, "n_window_stride": 0, "highfreq": 0}),
}
REFUSED: dict[str, tuple[str, Config, str]] = {
    "window of squeeze": (
        "block",
        {"se": True, "se_context_size": 16},
        r"jasper\[1\]\.se_context_size: a window",
    ),
    "block": ("block", {"foo": 1}, r"encoder\.jasper\[1\]\.foo: is an unknown option"),
    "aggregation": ("block", {"aggregation_mode": "sum"}, r"jasper\[1\]\.aggregation_mode: is an unknown"),
    "two kernels": ("block", {"kernel": [5, 7]}, r"jasper\[1\]\.kernel: must be a whole number"),
    "text kernel": ("block", {"kernel": "5"}, r"jasper\[1\]\.kernel: must be .* got '5'"),
    "residual": ("block", {"residual": None}, r"jasper\[1\]\.residual: must be true or false, got None"),
    "squeeze": ("block", {"se": 1}, r"jasper\[1\]\.se: must be true or false"),
    "convolutions": ("encoder", {"quantize": True}, r"encoder\.quantize: True is not supported"),
    "encoder": ("encoder", {"foo": [1], "bar": 2}, r"encoder\.bar: is an unknown option \(so are foo\)"),
    "activation": (
        "encoder",
        {"activation": ["relu"]},
        r"encoder\.activation: must be a text, got \['relu'\]",
    ),
    "splicing": ("encoder", {"frame_splicing": "x"}, r"encoder\.frame_splicing: must be"),
    "heads": ("encoder", {"jasper": {"a": 1}}, r"encoder\.jasper: must be a list"),
    "head": ("decoder", {"temperature": 2}, r"decoder\.temperature: is an unknown option"),
    "no blank": ("decoder", {"add_blank": False}, r"decoder\.add_blank: False is not supported"),
    "width": ("decoder", {"feat_in": 13}, r"decoder\.feat_in: is 13, the encoder gives 12"),
    "vocabulary": ("decoder", {"vocabulary": "abc"}, r"decoder\.vocabulary: must be a list of tokens"),
    "a token": (
        "decoder",
        {"vocabulary": ["a", True]},
        r"decoder\.vocabulary\[1\]: must be a text, got True",
    ),
    "context": ("conformer", {"att_context_size": [70, 13]}, r"encoder\.att_context_size: \[70, 13\] is not"),
    "contexts": ("conformer", {"att_context_size": [[70, 1], [-1, -1]]}, r"att_context_size"),
    "style": ("conformer", {"att_context_style": "chunked_limited"}, r"att_context_style"),
    "causal": ("conformer", {"conv_context_size": "causal"}, r"encoder\.conv_context_size: 'causal'"),
    "uneven": ("conformer", {"conv_context_size": [3, 1]}, r"encoder\.conv_context_size"),
    "downsampling": ("conformer", {"causal_downsampling": True}, r"encoder\.causal_downsampling"),
    "reduction": (
        "conformer",
        {"reduction": "pooling", "reduction_factor": 2},
        r"encoder\.reduction: 'pooling'",
    ),
    "projection": ("conformer", {"feat_out": 16}, r"encoder\.feat_out: 16 is not supported"),
    "global": ("conformer", {"global_tokens": 1}, r"encoder\.global_tokens: 1 is not supported"),
    "attention": ("conformer", {"self_attention_model": "abs_pos"}, r"encoder\.self_attention_model"),
    "scaling": ("conformer", {"xscaling": None}, r"encoder\.xscaling: must be true or false, got None"),
    "bias": ("conformer", {"use_bias": 0}, r"encoder\.use_bias: must be true or false, got 0"),
    "expansion": ("conformer", {"ff_expansion_factor": 2.5}, r"encoder\.ff_expansion_factor: must be"),
    "norm": ("conformer", {"conv_norm_type": "instance_norm"}, r"encoder\.conv_norm_type: 'instance_norm'"),
    "odd": ("conformer", {"d_model": 9, "n_heads": 3}, r"encoder\.d_model: 9 is odd"),
    "dual": ("conformer", {"conv_dual_mode": True}, r"encoder\.conv_dual_mode"),
    "channels": ("conformer", {"subsampling_conv_channels": 0}, r"encoder\.subsampling_conv_channels"),
    "stacking": ("conformer", {"subsampling": "stacking"}, r"encoder\.subsampling: 'stacking'"),
    "torchaudio": ("preprocessor", {"use_torchaudio": True}, r"preprocessor\.use_torchaudio: True is not"),
    "gradients": ("preprocessor", {"use_grads": True}, r"preprocessor\.use_grads"),
    "kind": ("preprocessor", {"kind": "waveform"}, r"preprocessor\.kind: is an unknown option"),
    "stacked": ("preprocessor", {"frame_splicing": 2}, r"preprocessor\.frame_splicing: 2 is not"),
    "maximum": ("preprocessor", {"pad_to": "max"}, r"preprocessor\.pad_to: must be .* got 'max'"),
    "lists": ("preprocessor", {"window": ["hann"]}, r"preprocessor\.window: must be a text, got \['hann'\]"),
    "normal list": (
        "preprocessor",
        {"normalize": ["per_feature"]},
        r"preprocessor\.normalize: must be a text",
    ),
    "normal": ("preprocessor", {"normalize": "mine"}, r"preprocessor\.normalize: 'mine' is not supported"),
    "guard": (
        "preprocessor",
        {"log_zero_guard_value": "small"},
        r"preprocessor\.log_zero_guard_value: must be",
    ),
    "log": ("preprocessor", {"log": "no"}, r"preprocessor\.log: must be true or false, got 'no'"),
    "digits": ("preprocessor", {"frame_splicing": 10**900}, r"preprocessor\.frame_splicing: 1000"),
    "nan": ("encoder", {"quantize": float("nan")}, r"encoder\.quantize: nan is not supported"),
    "both": (
        "preprocessor",
        {"n_window_size": 320},
        r"preprocessor\.window_size: is given, and n_window_size",
    ),
    "long": ("preprocessor", {"n_fft": "9" * 10**5}, r"preprocessor\.n_fft: must be"),
    "short": ("preprocessor", {"n_fft": 16}, r"preprocessor: n_fft = 16 is out of range"),
    "class": ("preprocessor", {"_target_": ["a", "b"]}, r"preprocessor: \['a', 'b'\] is not supported"),
    "agg": ("tokenizer", {"type": "agg", "langs": {}}, r"tokenizer\.type: 'agg' is not supported"),
    "own": ("tokenizer", {"type": "bpe", "custom_tokenizer": {}}, r"tokenizer\.custom_tokenizer"),
    "tokenizer": ("tokenizer", {"type": "bpe", "foo": 1}, r"tokenizer\.foo: is an unknown option"),
    "path": (
        "tokenizer",
        {"type": "bpe", "model_path": ["x"]},
        r"tokenizer\.model_path: must be a file name",
    ),
    "module": ("", {"transf_decoder": {"_target_": "x.Y"}}, r"'transf_decoder' is a module beside"),
    "adapters": ("", {"adapters": {"mine": {"dim": 4}}}, r"adapters are not supported"),
    "no section": ("", {"preprocessor": 3}, r"no preprocessor section"),
}


def changed(config: Config, section: str, options: Config) -> Config:
    """Return a configuration with other options in a section; "block" is the second of the encoder."""
    if section == "conformer":
        config, section = conformer(config), "encoder"
    if section == "block":
        config["encoder"]["jasper"][1].update(options)
    elif section == "":
        config.update(options)
    else:
        config[section] = {**config.get(section, {}), **options}
    return config


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_options_that_change_nothing_are_read(conv_config: Config, name: str) -> None:
    section, options = WITHOUT_EFFECT[name]
    before = network_of(conformer(conv_config) if section == "conformer" else conv_config)
    after = network_of(changed(conv_config, section, options))
    assert str(after).replace("p=0.3", "p=0.0") == str(before)


def test_absent_options_of_the_preprocessor_are_nemos_defaults() -> None:
    from zeroq_asr.checkpoints.nemo_surroundings import read_frontend
    from zeroq_asr.speech.frontend import FrontendConfig

    name = "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor"
    assert read_frontend({"_target_": name}) == FrontendConfig()


def test_a_squeeze_of_no_window_is_one_of_the_whole(conv_config: Config) -> None:
    found = [
        str(network_of(changed(conv_config, "block", {"se": True, "se_context_size": size})))
        for size in (-1, 0, -5)
    ]
    assert "SqueezeExcite" in found[0]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_are_unknown_or_not_supported_are_named(conv_config: Config, name: str) -> None:
    section, options, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=message) as caught:
        network_of(changed(conv_config, section, options))
    assert caught.value.where == "x.nemo"
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_an_option_that_is_not_supported_is_the_networks_fault(conv_config: Config) -> None:
    """And not the file's: the exit codes differ."""
    with pytest.raises(UnsupportedModelError):
        network_of(changed(conv_config, "conformer", {"causal_downsampling": True}))
    with pytest.raises(CheckpointError) as caught:
        network_of(changed(conv_config, "conformer", {"n_layers": "many"}))
    assert not isinstance(caught.value, UnsupportedModelError)


def test_the_configuration_of_a_training(conv_config: Config, conv_state: State, tmp_path: Path) -> None:
    """NeMo's own examples: one level down, with gaps, references and nulls, and numbers like 1e-5."""
    text = yaml.safe_dump(
        {"name": "mine", "model": {**conv_config, "labels": "???", "size": 16}, "trainer": {}}
    )
    for old, new in {
        "    feat_in: 16": "    feat_in: ${model.preprocessor.features}",
        "    features: 16": "    features: ${model.size}",
        "    feat_in: 12": "    feat_in: null",
        "    num_classes: 28": "    num_classes: -1",
        "    dither: 1.0e-05": "    dither: 1e-5\n    log_zero_guard_value: 1e-5\n    n_window_size: null",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "stock.yaml").write_text(text)
    torch.save({"state_dict": conv_state, "epoch": 3}, tmp_path / "last.ckpt")
    model = load_checkpoint(tmp_path / "last.ckpt", config=tmp_path / "stock.yaml")
    assert model.frontend.log_zero_guard_value == 1e-5
    assert model.network(*model.example_input())[0].shape == (2, 32, 29)


def test_references_into_lists_and_through_others(conv_config: Config) -> None:
    conv_config["sizes"] = [3, "${more.mels}"]
    conv_config["more"] = {"mels": 16}
    conv_config["encoder"]["feat_in"] = "${sizes.1}"
    conv_config["preprocessor"]["features"] = "${sizes[1]}"
    assert parse_config("x", yaml.safe_dump(conv_config).encode(), NONE).frontend.features == 16


@pytest.mark.parametrize("count", [320, 441, 1103, 163])
@pytest.mark.parametrize("rate", [16000, 22050, 44100])
def test_windows_in_samples_are_exact(conv_config: Config, count: int, rate: int) -> None:
    conv_config["preprocessor"] |= {"sample_rate": rate, "n_window_stride": count, "n_fft": 2048}
    frontend = parse_config("x", yaml.safe_dump(conv_config).encode(), NONE).frontend
    assert frontend.hop_length == count
