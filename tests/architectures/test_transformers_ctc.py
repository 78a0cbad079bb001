"""What stands in for parts of transformers' networks computes what they do, an utterance at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import zeroq_asr as zq
from zeroq_asr.architectures.transformers_ctc import (
    InstanceNorm,
    MaskedConv,
    RelativePositions,
    RotaryPositions,
    _reading,
    receptive_field,
)
from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.deployment.export import export
from zeroq_asr.integer.backends.numpy import NumpyBackend

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


def test_rotary_positions_are_those_of_transformers() -> None:
    module = pytest.importorskip("transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer")
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2ConformerConfig(hidden_size=12, num_attention_heads=2)
    theirs = module.Wav2Vec2ConformerRotaryPositionalEmbedding(config)
    for frames in (1, 7, 40):
        x = torch.zeros(2, frames, 12)
        assert torch.equal(RotaryPositions(theirs)(x), theirs(x))


def test_receptive_field() -> None:
    assert receptive_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)) == (400, 320)
    assert receptive_field((), ()) == (1, 1)


@pytest.mark.parametrize("kind", ["conformer", "rotary"])
def test_threads_do_not_disturb_each_other(huggingface_folder: Callable[[str], Path], kind: str) -> None:
    network = load_checkpoint(huggingface_folder(kind)).network
    inputs = [(torch.randn(2, 1, n), torch.tensor([n, n // 2])) for n in (400, 700, 1000, 1300)]
    expected = [network(*pair)[0] for pair in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: network(*pair)[0], inputs * 3))
    for a, b in zip(found, expected * 3, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("kind", "frames"), [("wav2vec2", 60), ("conformer", 60), ("rotary", 60), ("rotary, 20 ms", 200)]
)
def test_integers_are_the_same_everywhere_and_in_any_batch(
    huggingface_graph: Callable[[str], Any], kind: str, frames: int
) -> None:
    model, _ = huggingface_graph(kind)
    synthesis = zq.SynthesisSpec(batch=2, frames=frames, iterations=3)
    made = zq.quantize(model, spec=zq.QuantSpec(max_seconds=1.0), synthesis=synthesis)
    generator = np.random.default_rng(0)
    waves = [(generator.standard_normal(n) * 0.1).astype(np.float32) for n in (16000, 9001, 4003)]
    features, lengths = zq.Frontend(model.frontend).batch(waves)
    logits, encoded = made.program.run(NumpyBackend(), features, lengths)
    for dialect in ("fused", "strict"):
        data = export(made.program, made.deployment, dialect, "x86-any").to_bytes()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

        def run(x: np.ndarray, n: np.ndarray, session: Any = session) -> list[np.ndarray]:
            found: list[np.ndarray] = session.run(
                ["logits", "encoded_lengths"], {"audio_signal": x, "length": n}
            )
            return found

        found, counts = run(features, lengths)
        np.testing.assert_array_equal(counts, encoded)
        for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
            np.testing.assert_array_equal(found[row, :count], logits[row, :count])
            alone, (frames_alone,) = run(features[row : row + 1, :, :length], lengths[row : row + 1])
            assert frames_alone == count
            np.testing.assert_array_equal(alone[0, :count], logits[row, :count])
    # and they say what the network says
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(features), torch.from_numpy(lengths))[0].numpy()
    reals = logits * made.program.values[made.program.outputs[0].value].scale
    for row, count in enumerate(encoded):
        assert np.corrcoef(reals[row, :count].ravel(), expected[row, :count].ravel())[0, 1] > 0.9
