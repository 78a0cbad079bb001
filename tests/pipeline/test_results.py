"""What Python users hold in their hands: results that fit a line, and that need no file."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import zeroq_asr as zq
from zeroq_asr.measure.evaluate import ErrorCounts

FEW = zq.SynthesisSpec(batch=2, frames=64, iterations=2)


@pytest.fixture(scope="module")
def prepared(small_model: Any) -> zq.Prepared:
    return zq.prepare(small_model, synthesis=FEW, also=[zq.QuantSpec.parse_bits("w7a8")])


@pytest.fixture(scope="module")
def result(prepared: zq.Prepared) -> zq.Quantized:
    return zq.quantize(prepared)


def one_line(result: object, *words: str) -> None:
    text = repr(result)
    assert text.startswith(f"<{type(result).__name__} "), text
    assert len(text) <= 200, text
    assert text.isprintable()
    for word in words:
        assert word in text


def test_results_fit_a_line(small_model: Any, prepared: zq.Prepared, result: zq.Quantized) -> None:
    one_line(small_model, small_model.name, f"{len(small_model.tokenizer.tokens)} characters tokens")
    one_line(prepared, small_model.name, "for w8a8, w7a8", "ranges from synthetic")
    one_line(result, small_model.name, "fused", "times as large as float", "integer-only")
    one_line(result.features, "[2, ")
    one_line(result.exported, "fused", result.program.digest()[:8])
    certificate = result.verify()
    one_line(certificate, "fused for x86-any", "integer-only and proven", "to 60 s")
    one_line(result.recognizer(), small_model.name, "to 60 s")
    one_line(zq.open_recognizer(small_model), small_model.name, "float")
    one_line(zq.Bundle.of(result.program), "network")
    counts = ErrorCounts(hits=3, substitutions=1, deletions=0, insertions=0)
    one_line(zq.Evaluation("x", counts, counts, (), 4.0, 1.0, 0.5), "25.00 % of words wrong", "of 4.0 s")
    one_line(zq.Comparison("x", "ctc", "8", "recordings", 12, 4.0, (), ()), "0 rows, on 12 utterances")
    report = zq.QualityReport("x.onnx", "x", "ctc", (), (), 0.05, 0.1, "speech", 0.0, 0.0)
    one_line(report, "5.00 % of frames differ", "confidence high")
    one_line(zq.Sensitivity("x", "ctc", "noise", 1, 1, ()), "0 layers")
    point = zq.PlanPoint((1, 0, 0), 1_500_000, 0.25)
    one_line(zq.FoundPlan(zq.Plan(), point, (point,)), "1.5 MB", "0.25 nats predicted")
    one_line(zq.FoundPlan(zq.Plan(), point, (point,), 1, 1.25), "1.5 MB", "1 value of 16 bits")
    # names come from strangers, and may be long
    odd = dataclasses.replace(small_model, name="x" * 5000 + "\x1b[2J")
    one_line(odd)


def test_a_result_is_saved_verified_and_run(result: zq.Quantized, tmp_path: Path) -> None:
    saved = result.save(tmp_path / "x.onnx")
    assert (result.path, saved.path) == (None, tmp_path / "x.onnx")
    assert saved.path.read_bytes() == result.to_bytes()
    assert len(result.to_bytes()) == result.size
    one, other = saved.verify(), result.verify()
    assert (one.file, other.file) == (str(saved.path), "bytes")
    assert dataclasses.replace(one, file="bytes") == other
    # the file is what is verified
    saved.path.write_bytes(result.to_bytes()[:-1])
    with pytest.raises(zq.VerificationError, match=r"x\.onnx"):
        saved.verify()
    with pytest.raises(zq.ConfigError, match="there is no folder"):
        result.save(tmp_path / "absent" / "x.onnx")


def test_bytes_and_results_are_files(result: zq.Quantized, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    data = result.to_bytes()
    path.write_bytes(data)
    assert dataclasses.replace(zq.verify(path), file="bytes") == zq.verify(data) == zq.verify(result)
    channels = result.deployment.frontend.features
    features = np.random.default_rng(0).standard_normal((1, channels, 40)).astype(np.float32)
    lengths = np.array([40])
    scores, _ = zq.open_recognizer(path).log_probs(features, lengths)
    for source in (data, result):
        found, _ = zq.open_recognizer(source).log_probs(features, lengths)
        assert np.array_equal(found, scores)
    with pytest.raises(zq.VerificationError, match=r"^bytes: "):
        zq.verify(data[:-1])
    with pytest.raises(zq.CheckpointError, match=r"^bytes: "):
        zq.open_recognizer(data[:100])
    with pytest.raises(zq.CheckpointError, match="bytes: are no ONNX file; write a checkpoint to a file"):
        zq.open_recognizer(b"PK\x03\x04")


def test_a_bare_module_is_told_what_surrounds_a_network(small_model: Any) -> None:
    network = small_model.network
    for work in (zq.prepare, zq.quantize, zq.load_checkpoint):
        with pytest.raises(
            zq.ConfigError, match=rf"^{type(network).__name__}: is a bare network.*zq\.AsrModel"
        ):
            work(network)
    with pytest.raises(zq.ConfigError, match="expected a path or an AsrModel, received int"):
        zq.quantize(3)  # type: ignore[arg-type]  # what it takes no number for


def test_a_network_in_training_mode_is_refused(small_model: Any) -> None:
    training = dataclasses.replace(small_model, network=copy.deepcopy(small_model.network).train())
    for work in (zq.prepare, zq.quantize, zq.open_recognizer, zq.TorchRecognizer):
        with pytest.raises(zq.ConfigError, match=r"is in training mode; call model\.network\.eval\(\) first"):
            work(training)  # type: ignore[operator]
    partly = dataclasses.replace(small_model, network=copy.deepcopy(small_model.network))
    name, norm = next((n, m) for n, m in partly.network.named_modules() if isinstance(m, nn.BatchNorm1d))
    norm.train()
    with pytest.raises(zq.ConfigError, match=rf"{name}: is in training mode"):
        zq.prepare(partly)
