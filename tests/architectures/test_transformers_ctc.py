"""What stands in for parts of transformers' networks computes what they do, an utterance at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from zeroq_asr.architectures.transformers_ctc import (
    InstanceNorm,
    MaskedConv,
    RelativePositions,
    _reading,
    receptive_field,
)
from zeroq_asr.checkpoints import load_checkpoint

LENGTHS = torch.tensor([30, 17, 1])


def test_instance_norm_is_the_group_norm_of_each_alone() -> None:
    norm = nn.GroupNorm(6, 6, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 5 * torch.randn(3, 6, 30) + 2
    with _reading(LENGTHS):
        found = InstanceNorm(norm)(x)
    # a lone frame has no spread: torch refuses it, and it becomes the bias
    for row, length in enumerate(LENGTHS.tolist()[:2]):
        expected = norm(x[row : row + 1, :, :length])[0]
        torch.testing.assert_close(found[row, :, :length], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[2, :, 0], norm.bias)


def test_masked_convolution_is_that_of_each_alone() -> None:
    conv = nn.Conv1d(4, 4, 5, padding=2, groups=4)
    x = torch.randn(3, 4, 30)
    with _reading(LENGTHS):
        found = MaskedConv(conv)(x)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = conv(x[row : row + 1, :, :length])[0]
        torch.testing.assert_close(found[row, :, :length], expected)


def test_positions_are_those_of_transformers() -> None:
    module = pytest.importorskip("transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer")
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2ConformerConfig(hidden_size=12, num_attention_heads=2)
    theirs = module.Wav2Vec2ConformerRelPositionalEmbedding(config)
    for frames in (1, 7, 40):
        x = torch.zeros(2, frames, 12)
        torch.testing.assert_close(RelativePositions()(x), theirs(x))


def test_receptive_field() -> None:
    assert receptive_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)) == (400, 320)
    assert receptive_field((), ()) == (1, 1)


def test_threads_do_not_disturb_each_other(huggingface_folder: Callable[[str], Path]) -> None:
    network = load_checkpoint(huggingface_folder("conformer")).network
    inputs = [(torch.randn(2, 1, n), torch.tensor([n, n // 2])) for n in (400, 700, 1000, 1300)]
    expected = [network(*pair)[0] for pair in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: network(*pair)[0], inputs * 3))
    for a, b in zip(found, expected * 3, strict=True):
        torch.testing.assert_close(a, b)
