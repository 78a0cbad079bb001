from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zeroq_asr.architectures.conformer import (
    ConformerCtc,
    relative_positions,
    relative_shift,
    subsampling_factor,
)
from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.errors import ConfigError

TOLERANCE = 1e-3
Make = Callable[..., ConformerCtc]
VARIANTS: dict[str, dict[str, Any]] = {
    "striding": {},
    "dw_striding": {"subsampling": "dw_striding", "subsampling_factor": 8, "xscaling": False},
    "two": {"subsampling_factor": 2, "subsampling_conv_channels": -1},
    "no biases": {"use_bias": False},
    "layer norm": {"conv_norm_type": "layer_norm"},
    "wide feed-forward": {"ff_expansion_factor": 8, "att_context_size": [-1, -1]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_batch_never_changes_a_result(conformer_of: Make, name: str) -> None:
    network = conformer_of(**VARIANTS[name])
    x, lengths = torch.randn(3, 16, 90), torch.tensor([90, 37, 62])
    logits, encoded = network(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, one = network(x[row : row + 1, :, :length], lengths[row : row + 1])
        assert one[0] == encoded[row] == alone.shape[1]
        torch.testing.assert_close(logits[row, : one[0]], alone[0], atol=1e-5, rtol=1e-5)


def test_the_shift_lines_up_distances() -> None:
    frames = 5
    distances = torch.arange(frames - 1, -frames, -1.0)
    scores = distances.expand(2, 3, frames, -1)
    shifted = relative_shift(scores)
    index = torch.arange(frames)
    expected = (index[:, None] - index[None, :]).float()
    torch.testing.assert_close(shifted, expected.expand(2, 3, frames, frames))


def test_positions_are_sines_of_distances() -> None:
    found = relative_positions(4, 6, torch.device("cpu"))
    assert found.shape == (7, 6)
    torch.testing.assert_close(found[3], torch.tensor([0.0, 1, 0, 1, 0, 1]))  # distance 0 in the middle
    assert found[0, 0] == pytest.approx(np.sin(3))
    assert found[6, 1] == pytest.approx(np.cos(-3))


def test_subsampling_factor() -> None:
    assert subsampling_factor({"encoder": {"subsampling_factor": 8}}) == 8
    assert subsampling_factor({"encoder": {}}) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"self_attention_model": "rel_pos_local_attn"}, "self_attention_model: 'rel_pos_local_attn'"),
        ({"att_context_size": [128, 128]}, "att_context_size"),
        ({"att_context_style": "chunked_limited"}, "att_context_style"),
        ({"conv_context_size": "causal"}, "conv_context_size"),
        ({"causal_downsampling": True}, "causal_downsampling"),
        ({"subsampling": "vggnet"}, "encoder.subsampling: 'vggnet'"),
        ({"subsampling_factor": 3}, "encoder.subsampling_factor: 3"),
        ({"conv_norm_type": "group_norm8"}, "encoder.conv_norm_type: 'group_norm8'"),
        ({"conv_kernel_size": 8}, "must be odd"),
        ({"n_heads": 5}, "does not split into 5 heads"),
        ({"n_layers": 0}, "encoder.n_layers: must be .* got 0"),
        ({"d_model": "wide"}, "encoder.d_model: must be .* got 'wide'"),
    ],
)
def test_what_is_not_supported_is_named(conformer_of: Make, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        conformer_of(**changes)


def test_a_missing_option_is_named() -> None:
    config = {"encoder": {"feat_in": 16, "n_layers": 1}, "decoder": {}}
    with pytest.raises(ConfigError, match=r"encoder\.d_model: is missing"):
        ConformerCtc(config)


@pytest.mark.parametrize(
    "name", ["conformer_ctc_tiny", "conformer_ctc_bpe_tiny", "fastconformer_ctc_tiny", "conformer_ctc_small"]
)
def test_log_probabilities_are_those_of_nemo(test_data: Path, name: str) -> None:
    model = load_checkpoint(test_data / "models" / f"{name}.nemo")
    assert model.architecture == "conformer_ctc"
    expected = np.load(test_data / "models" / f"{name}.npz")
    count = sum(key.startswith("utt") for key in expected.files)
    assert count >= 2
    for i in range(count):
        features = torch.from_numpy(expected[f"features{i}"])[None]
        lengths = torch.from_numpy(expected[f"features_len{i}"].astype(np.int64))
        with torch.inference_mode():
            logits, encoded = model.network(features, lengths)
        frames = int(expected[f"encoded_len{i}"][0])
        assert encoded.tolist() == [frames]
        found = torch.log_softmax(logits, -1)[0, :frames].numpy()
        np.testing.assert_allclose(found, expected[f"log_probs{i}"][:frames], atol=TOLERANCE, rtol=0)
