from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from zeroq_asr.architectures.quartznet import ConvCtc, GroupShuffle, TimeConv, mask_frames, subsampling_factor
from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.errors import ConfigError
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.frontend import Frontend

LAYER = {"filters": 12, "kernel": [5], "repeat": 2, "stride": [1], "dilation": [1], "dropout": 0.0}
TOLERANCE = 1e-3


def network_of(encoder: dict[str, Any], *layers: dict[str, Any]) -> ConvCtc:
    """Return a network of 8 mels and 4 classes with random weights and statistics."""
    torch.manual_seed(0)
    jasper = [{**LAYER, "residual": False, **layer} for layer in layers]
    config = {
        "encoder": {"feat_in": 8, "activation": "relu", "jasper": jasper, **encoder},
        "decoder": {"feat_in": jasper[-1]["filters"], "num_classes": 3},
    }
    network = ConvCtc(config).eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            tensor.normal_()
    return network


VARIANTS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "jasper": ({}, [{"stride": [2]}, {"residual": True}]),
    "dense": (
        {},
        [{}, {"residual": True, "residual_dense": True}, {"residual": True, "residual_dense": True}],
    ),
    "separable": ({}, [{"separable": True, "residual": True}]),
    "citrinet": (
        {},
        [
            {"separable": True, "se": True, "stride": [2], "stride_last": True, "residual": True}
            | {"residual_mode": "stride_add", "se_reduction_ratio": 4}
        ],
    ),
    "groups": ({}, [{"filters": 12, "groups": 4, "separable": True}, {"groups": 3}]),
    "heads": ({}, [{"heads": 4, "separable": True, "repeat": 1}]),
    "future": ({}, [{"future_context": 1, "separable": True}, {"future_context": 0, "stride": [2]}]),
    "future dilated": ({}, [{"future_context": 1, "dilation": [2]}]),
    "future past the kernel": ({}, [{"future_context": 9}]),
    "dilated": ({}, [{"dilation": [2], "kernel": [7]}]),
    "maximum": ({}, [{"residual": True, "residual_mode": "max"}]),
    "kernel factor": ({}, [{"kernel_size_factor": 0.75, "kernel": 11}]),
    "hardtanh": ({"activation": "hardtanh"}, [{}]),
    "swish": ({"activation": "swish"}, [{"se": True}]),
    "selu": ({"activation": "selu"}, [{}]),
    "scalars": ({}, [{"kernel": 5, "stride": 2, "dilation": 1}]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_batch_never_changes_a_result(name: str) -> None:
    encoder, layers = VARIANTS[name]
    network = network_of(encoder, *layers)
    x, lengths = torch.randn(2, 8, 40), torch.tensor([40, 23])
    logits, encoded = network(x, lengths)
    assert logits.shape[0] == 2
    assert logits.shape[2] == 4
    assert encoded[0] == logits.shape[1]
    alone, one = network(x[1:, :, :23], lengths[1:])
    assert one[0] == encoded[1] == alone.shape[1]
    torch.testing.assert_close(logits[1, : one[0]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["jasper", "dense", "citrinet", "groups", "heads", "future"])
def test_exports_with_free_batch_and_time(name: str) -> None:
    encoder, layers = VARIANTS[name]
    network = network_of(encoder, *layers)
    auto = torch.export.Dim.AUTO
    example = torch.randn(2, 8, 40), torch.tensor([40, 23])
    program = torch.export.export(
        network, example, dynamic_shapes=({0: auto, 2: auto}, {0: auto}), strict=False
    )
    x, lengths = torch.randn(3, 8, 57), torch.tensor([57, 1, 30])
    for ours, theirs in zip(network(x, lengths), program.module()(x, lengths), strict=True):
        torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize("mode", ["batch", "group", "instance", "layer"])
@pytest.mark.parametrize("masked", [True, False])
def test_normalizations_and_masks(mode: str, masked: bool) -> None:
    network = network_of({"normalization_mode": mode, "norm_groups": 4, "conv_mask": masked}, {})
    logits, lengths = network(torch.randn(1, 8, 20), torch.tensor([20]))
    assert logits.shape == (1, 20, 4)
    assert lengths.tolist() == [20]
    weight = "encoder.encoder.0.mconv.0" + (".conv" if masked else "") + ".weight"
    assert weight in network.state_dict()


def test_heads_share_kernels() -> None:
    conv = TimeConv(12, 12, 5, padding=(2, 2), groups=12, heads=4)
    x, lengths = torch.randn(2, 12, 9), torch.tensor([9, 9])
    # four heads side by side, three groups of channels as a batch
    expected = F.conv1d(x.reshape(6, 4, 9), conv.weight, padding=2, groups=4).reshape(2, 12, 9)
    torch.testing.assert_close(conv(x, lengths)[0], expected)


def test_shuffle_interleaves_groups() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1)
    assert GroupShuffle(2, 6)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_mask_zeroes_padding_only() -> None:
    masked = mask_frames(torch.ones(2, 3, 5), torch.tensor([5, 2]))
    assert masked.sum(dim=(1, 2)).tolist() == [15, 6]
    assert not masked[1, :, 2:].any()


def test_subsampling_counts_every_stride() -> None:
    layers = [{"stride": [2], "repeat": 1}, {"stride": 2, "repeat": 3, "stride_last": True}]
    assert subsampling_factor({"encoder": {"jasper": layers}}) == 4
    assert subsampling_factor({"encoder": {"jasper": [{"stride": [2], "repeat": 3}]}}) == 8


@pytest.mark.parametrize(
    ("encoder", "layer", "problem"),
    [
        ({"activation": "mish"}, {}, "mish"),
        ({"normalization_mode": "power"}, {}, "power"),
        ({}, {"residual_mode": "multiply"}, "multiply"),
        ({}, {"stride": [2], "dilation": [2]}, "both"),
        ({}, {"heads": 4}, "heads"),
        ({}, {"heads": 5, "separable": True}, "heads"),
        ({}, {"groups": 5}, "groups"),
        ({}, {"repeat": 10**9}, "repeat"),
        ({}, {"filters": 10**9, "groups": 2}, "filters"),
        ({}, {"filters": "many"}, r"encoder\.jasper\[0\]\.filters: must be"),
        ({"jasper": []}, {}, "a list of 1 to 1000 sections"),
    ],
)
def test_refuses_what_is_no_network(encoder: dict[str, Any], layer: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        network_of(encoder, layer)


def test_missing_options_are_named(conv_config: dict[str, Any]) -> None:
    broken = copy.deepcopy(conv_config)
    del broken["encoder"]["jasper"][0]["filters"]
    with pytest.raises(ConfigError, match=r"encoder\.jasper\[0\]\.filters: is missing"):
        ConvCtc(broken)


@pytest.mark.parametrize("name", ["quartznet_tiny", "jasper_tiny", "citrinet_tiny", "quartznet15x5"])
def test_reproduces_nemo(name: str, test_data: Path, utterance: Callable[[str], Path]) -> None:
    model = load_checkpoint(test_data / "models" / f"{name}.nemo")
    frontend = Frontend(model.frontend)
    reference = np.load(test_data / "models" / f"{name}.npz")
    assert model.subsampling_factor == 2
    count = sum(key.startswith("utt") for key in reference)
    assert count >= 2
    for i in range(count):
        waveform = load_audio(utterance(str(reference[f"utt{i}"])), model.frontend.sample_rate)
        if name.endswith("_tiny"):
            waveform = waveform[: 4 * model.frontend.sample_rate]
        features, length = frontend(waveform)
        assert length == reference[f"features_len{i}"]
        logits, encoded = model.network(torch.from_numpy(features)[None], torch.tensor([length]))
        assert encoded.tolist() == reference[f"encoded_len{i}"].tolist()
        log_probs = torch.log_softmax(logits, dim=-1)[0].numpy()
        differences = [
            float(np.abs(ours - reference[f"{key}{i}"]).max())
            for key, ours in (("features", features), ("log_probs", log_probs))
        ]
        print(f"{name} utterance {i}: features {differences[0]:.2g}, log-probabilities {differences[1]:.2g}")
        assert max(differences) < TOLERANCE
