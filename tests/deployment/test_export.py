"""The ONNX file: its interface, metadata, and the same integers in every dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from torch import nn

from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec
from zeroq_asr.deployment import export as export_module
from zeroq_asr.deployment.export import DIALECTS, METADATA_KEY, export
from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.model import AsrModel
from zeroq_asr.pipeline import Quantized, quantize
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

FAST = SynthesisSpec(batch=2, frames=64, iterations=2)


@pytest.fixture(scope="module")
def quantized(small_model: Any) -> Quantized:
    return quantize(small_model, synthesis=FAST)


def _session(data: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _batch(frames: int = 75, size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(0).normal(size=(size, 16, frames)).astype(np.float32) * 2
    return features, np.array([frames, frames // 2, frames // 3 + 1][:size], dtype=np.int64)


def test_a_constant_that_would_not_be_read_back_is_refused(
    quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = export_module.decode
    monkeypatch.setattr(export_module, "decode", lambda array, encoding: read(array, encoding) + 1)
    for dialect in ("fused", "strict"):
        with pytest.raises(ExportError, match=r"its encoding, .*, does not give it again"):
            export(quantized.program, quantized.deployment, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_interface(quantized: Quantized, dialect: str) -> None:
    exported = export(quantized.program, quantized.deployment, dialect)
    onnx.checker.check_model(exported.model)
    session = _session(exported.to_bytes())
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("audio_signal", "tensor(float)", ["batch", 16, "frames"]),
        ("length", "tensor(int64)", ["batch"]),
    ]
    assert [(o.name, o.type) for o in session.get_outputs()] == [
        ("logprobs", "tensor(float)"),
        ("logits", "tensor(int32)"),
        ("encoded_lengths", "tensor(int64)"),
    ]
    features, lengths = _batch()
    logprobs, logits, encoded = session.run(None, {"audio_signal": features, "length": lengths})
    assert logits.shape == logprobs.shape == (3, 38, 29)
    assert encoded.tolist() == [38, 19, 13]
    np.testing.assert_allclose(np.exp(logprobs).sum(-1), 1.0, atol=1e-5)
    scale = quantized.program.values[quantized.program.leaving[0]].scale
    real = logits * scale
    expected = real - np.log(np.exp(real).sum(-1, keepdims=True))
    np.testing.assert_allclose(logprobs, expected, atol=1e-4)


@pytest.mark.parametrize("dialect", ["fused", "strict"])
def test_exact_dialects_equal_the_reference(quantized: Quantized, dialect: str) -> None:
    features, lengths = _batch()
    expected, encoded = quantized.program.run(NumpyBackend(), features, lengths)
    session = _session(export(quantized.program, quantized.deployment, dialect).to_bytes())
    _, logits, found = session.run(None, {"audio_signal": features, "length": lengths})
    assert np.array_equal(logits, expected)
    assert np.array_equal(found, encoded)
    for i, length in enumerate(lengths):  # each utterance alone gives the integers it has in the batch
        _, alone, _ = session.run(
            None, {"audio_signal": features[i : i + 1, :, :length], "length": lengths[i : i + 1]}
        )
        assert np.array_equal(alone[0], expected[i, : encoded[i]])


def test_qdq_is_near_the_integers(quantized: Quantized) -> None:
    """Not exact by design; off by more than a few steps it would be another network."""
    features, lengths = _batch()
    expected, encoded = quantized.program.run(NumpyBackend(), features, lengths)
    session = _session(export(quantized.program, quantized.deployment, "qdq").to_bytes())
    _, logits, _ = session.run(None, {"audio_signal": features, "length": lengths})
    valid = np.arange(logits.shape[1])[None] < encoded[:, None]
    spread = expected[valid].std()
    assert np.abs(logits - expected)[valid].mean() < 0.05 * spread


def test_metadata_has_the_keys_of_other_runtimes(quantized: Quantized) -> None:
    model = export(quantized.program, quantized.deployment, "fused").model
    metadata = {p.key: p.value for p in model.metadata_props}
    assert metadata["vocab_size"] == "28"
    assert metadata["normalize_type"] == "per_feature"
    assert metadata["subsampling_factor"] == "2"
    assert metadata["model_type"] == "EncDecCTCModel"
    own = json.loads(metadata[METADATA_KEY])
    assert own["name"] == "small"
    assert own["tokenizer"]["tokens"][1] == "a"
    assert own["recipe"]["quantization"]["weight_bits"] == 8


def test_weights_are_stored_once(quantized: Quantized) -> None:
    """The file is the weights, a few bytes a channel, and a fixed amount of description."""
    count = sum(a.size for a in quantized.program.constants.values() if a.ndim == 3)
    model = export(quantized.program, quantized.deployment, "fused").model
    stored = sum(np.prod(i.dims) for i in model.graph.initializer if len(i.dims) == 3)
    assert stored == count


def test_export_is_deterministic(quantized: Quantized) -> None:
    files = [export(quantized.program, quantized.deployment, "fused").to_bytes() for _ in range(2)]
    assert files[0] == files[1]


def test_unknown_dialect_and_target_are_refused(quantized: Quantized) -> None:
    with pytest.raises(ExportError, match="fused, strict, qdq"):
        export(quantized.program, quantized.deployment, "turbo")
    with pytest.raises(ExportError, match="x86-any"):
        export(quantized.program, quantized.deployment, "fused", "z80")


def test_the_file_runs_without_this_package(quantized: Quantized, tmp_path: Path) -> None:
    """No custom operator domain beyond ONNX Runtime's own."""
    model = export(quantized.program, quantized.deployment, "fused").model
    assert {o.domain for o in model.opset_import} == {"", "com.microsoft"}
    assert {n.domain for n in model.graph.node} <= {"", "com.microsoft"}
    strict = export(quantized.program, quantized.deployment, "strict").model
    assert {n.domain for n in strict.graph.node} == {""}


@pytest.mark.parametrize("bits", ["w8a8", "w7a8", "w6a6", "w4a8", "w2a2"])
def test_bit_widths_are_values(small_model: Any, bits: str) -> None:
    quantized = quantize(small_model, synthesis=FAST, spec=QuantSpec.parse_bits(bits))
    features, lengths = _batch()
    expected, _ = quantized.program.run(NumpyBackend(), features, lengths)
    for dialect in ("fused", "strict"):
        session = _session(export(quantized.program, quantized.deployment, dialect).to_bytes())
        _, logits, _ = session.run(None, {"audio_signal": features, "length": lengths})
        assert np.array_equal(logits, expected), dialect


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("lengths", [[75, 38, 0], [76, 38, 26], [75, -1, 26], [75, 38, 10**12]])
def test_lengths_that_the_program_is_not_defined_for_are_refused(
    quantized: Quantized, dialect: str, lengths: list[int]
) -> None:
    session = _session(export(quantized.program, quantized.deployment, dialect).to_bytes())
    features, _ = _batch()
    with pytest.raises(InvalidArgument, match="length is from 1 to frames and to what is proven"):
        session.run(None, {"audio_signal": features, "length": np.array(lengths, dtype=np.int64)})


def test_the_file_itself_refuses_what_is_longer_than_proven(small_model: Any) -> None:
    short = quantize(small_model, synthesis=FAST, spec=QuantSpec(max_seconds=0.5))
    session = _session(short.exported.to_bytes())
    limit = short.program.max_frames
    features = np.zeros((1, 16, limit + 16), dtype=np.float32)
    # frames of padding are no matter
    session.run(None, {"audio_signal": features, "length": np.array([limit])})
    with pytest.raises(InvalidArgument, match="proven"):
        session.run(None, {"audio_signal": features, "length": np.array([limit + 1])})


class Clamped(nn.Module):
    """A clamp whose bounds matter, before a convolution that shows them."""

    def __init__(self, clamp: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 29, 1)
        self.clamp = clamp
        self.last = nn.Conv1d(29, 29, 1, bias=False)
        nn.init.normal_(self.first.weight, std=5.0)
        with torch.no_grad():
            self.last.weight.copy_(torch.eye(29)[:, :, None])

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.last(self.clamp(self.first(x))).transpose(1, 2), lengths


@pytest.mark.parametrize(
    ("clamp", "low", "high"), [(nn.ReLU6(), 0, 6), (nn.Hardtanh(), -1, 1), (nn.Hardtanh(-0.5, 2.0), -0.5, 2)]
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_keeps_the_bounds_of_a_clamp(
    clamp: nn.Module, low: float, high: float, dialect: str
) -> None:
    torch.manual_seed(0)
    network = Clamped(clamp).eval().requires_grad_(False)
    tokens = Tokenizer(tuple(" abcdefghijklmnopqrstuvwxyz'"), "characters")
    model = AsrModel(network, FrontendConfig(features=4), tokens, "clamped")
    made = quantize(model, synthesis=FAST, calibration=CalibrationSpec("noise"), dialect=dialect)
    x = np.random.default_rng(0).normal(size=(1, 4, 50)).astype(np.float32) * 3
    _, logits, _ = _session(made.exported.to_bytes()).run(None, {"audio_signal": x, "length": np.array([50])})
    info = made.program.values[made.program.leaving[0]]
    # an 8-bit step before, a weight's rounding behind
    step = 1.1 * (high - min(low, 0)) / 255
    assert logits.min() * info.scale == pytest.approx(low, abs=1.5 * step)
    assert logits.max() * info.scale == pytest.approx(high, abs=1.5 * step)
