"""Files for long recordings loop over blocks of scores: the same integers, verified like others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import zeroq_asr as zq
from zeroq_asr.deployment.export import Export, export
from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends import onnx_loops
from zeroq_asr.integer.backends.onnx_loops import every_graph

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=3)


@pytest.fixture(scope="module")
def model(conformer_of: Callable[..., Any]) -> zq.AsrModel:
    return zq.AsrModel(
        network=conformer_of(),
        frontend=zq.FrontendConfig(features=16),
        tokenizer=zq.Tokenizer(("a", "b", "c", "d")),
        name="conformer",
        architecture="conformer_ctc",
        config={"encoder": {}, "decoder": {}},
        subsampling_factor=4,
    )


@pytest.fixture(scope="module")
def made(model: zq.AsrModel) -> zq.Quantized:
    return zq.quantize(model, synthesis=FAST, spec=zq.QuantSpec(max_seconds=10.0))


def logits(data: bytes, frames: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(frames).standard_normal((2, 16, frames)).astype(np.float32)
    feed = {"audio_signal": x, "length": np.array([frames, max(frames // 2, 1)])}
    found: np.ndarray = session.run(["logits"], feed)[0]
    return found


def operators(exported: Export) -> list[str]:
    return [n.op_type for graph in every_graph(exported.model.graph) for n in graph.node]


@pytest.mark.parametrize("dialect", ["fused", "strict"])
def test_a_file_with_loops_gives_the_same_integers(
    made: zq.Quantized, dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export(made.program, made.deployment, dialect)
    monkeypatch.setattr(onnx_loops, "WHOLE", 30)
    monkeypatch.setattr(onnx_loops, "LARGEST", 0)
    monkeypatch.setattr(onnx_loops, "BLOCK", 17)
    looped = export(made.program, made.deployment, dialect)
    assert operators(looped).count("Loop") == 2
    # up to 251 frames behind the subsampling, in blocks of 17
    for frames in (1, 60, 67, 400, 1000):
        np.testing.assert_array_equal(
            logits(looped.to_bytes(), frames), logits(whole.to_bytes(), frames), err_msg=str(frames)
        )
    path = tmp_path / "long.onnx"
    path.write_bytes(looped.to_bytes())
    certificate = zq.verify(path)
    # what is inside counts, and in strict holds no float
    assert certificate.nodes["MatMulInteger"] > 0
    assert (certificate.float_tensors == []) == (dialect == "strict")


def test_ten_minutes_loop_and_ten_seconds_do_not(model: zq.AsrModel, made: zq.Quantized) -> None:
    long = zq.quantize(model, synthesis=FAST, spec=zq.QuantSpec(max_seconds=600.0))
    assert ["Loop" in operators(quantized.exported) for quantized in (made, long)] == [False, True]
    np.testing.assert_array_equal(
        logits(long.exported.to_bytes(), 900), logits(made.exported.to_bytes(), 900)
    )


def test_hardware_of_others_sees_no_loop_for_a_minute(model: zq.AsrModel) -> None:
    minute = zq.quantize(model, synthesis=FAST)
    found = [export(minute.program, minute.deployment, dialect) for dialect in ("fused", "strict", "qdq")]
    assert ["If" in operators(one) for one in found] == [True, False, False]


def test_what_no_loop_bears_is_refused(made: zq.Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_loops, "WHOLE", 0)
    for rows in ("BLOCK", "LONG_BLOCK"):
        monkeypatch.setattr(onnx_loops, rows, 15)
    with pytest.raises(ExportError, match=r"251 frames to each other, at most 224 .* --max-seconds"):
        export(made.program, made.deployment, "fused")
