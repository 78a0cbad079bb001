"""Files for long recordings loop over blocks of scores: the same integers, verified like others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from small_transducers import nemo_config, nemo_state

import zeroq_asr as zq
from zeroq_asr.deployment.export import Export, export, export_bundle, write_bundle
from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends import onnx_loops
from zeroq_asr.integer.backends.onnx_loops import every_graph
from zeroq_asr.speech.pauses import cut_at_pauses

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


def test_float_spellings_see_none_however_long(made: zq.Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = export(made.program, made.deployment, "qdq")
    monkeypatch.setattr(onnx_loops, "WHOLE", 30)
    monkeypatch.setattr(onnx_loops, "LARGEST", 0)
    found = export(made.program, made.deployment, "qdq")
    assert "If" not in operators(found)
    assert found.to_bytes() == whole.to_bytes()
    logits(found.to_bytes(), 400)


def test_what_no_loop_bears_is_refused(made: zq.Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_loops, "WHOLE", 0)
    for rows in ("BLOCK", "LONG_BLOCK"):
        monkeypatch.setattr(onnx_loops, rows, 15)
    with pytest.raises(ExportError, match=r"251 frames to each other, at most 224 .* --max-seconds"):
        export(made.program, made.deployment, "fused")


def transducer(write_nemo: Callable[..., Path], seconds: float) -> zq.QuantizedTransducer:
    config = nemo_config(durations=(0, 1, 2))
    path = write_nemo(config, nemo_state(config), name="transducer.nemo")
    return zq.quantize_transducer(path, synthesis=FAST, spec=zq.QuantSpec(max_seconds=seconds))


def test_a_transducers_encoder_loops_too(
    write_nemo: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = transducer(write_nemo, 10.0)
    monkeypatch.setattr(onnx_loops, "WHOLE", 30)
    monkeypatch.setattr(onnx_loops, "LARGEST", 0)
    monkeypatch.setattr(onnx_loops, "BLOCK", 17)
    features = np.random.default_rng(0).standard_normal((2, 16, 1000)).astype(np.float32)
    given = (features, np.array([1000, 400]))
    wanted = zq.IntegerTransducer.of_programs(made.bundle, made.deployment).hypotheses(*given)
    assert all(one.tokens for one in wanted)
    for dialect in ("fused", "strict"):
        exports = export_bundle(made.bundle, made.deployment, dialect)
        assert operators(exports["encoder"]).count("Loop") == 1
        write_bundle(tmp_path / dialect, exports, made.deployment)
        zq.verify(tmp_path / dialect)
        assert zq.IntegerTransducer.of_folder(tmp_path / dialect).hypotheses(*given) == wanted


def test_a_transducer_hears_what_is_too_long_in_pieces(
    write_nemo: Callable[..., Path], tmp_path: Path
) -> None:
    made = transducer(write_nemo, 4.0)
    recognizer = zq.IntegerTransducer.of_programs(made.bundle, made.deployment)
    samples = np.random.default_rng(0).standard_normal(16000 * 10).astype(np.float32) * 0.1
    # pauses, at which it is cut
    for second in (3, 6, 9):
        samples[16000 * second : 16000 * second + 4800] = 0.0
    with pytest.warns(zq.ZeroqWarning, match=r"lasts 10 s, .* cut at pauses into 3 pieces"):
        (found,) = zq.recognize(recognizer, [samples])
    starts = [word.start for word in found.words]
    assert starts == sorted(starts)
    assert starts[-1] > 4.0
    pieces = [samples[first:end] for first, end in cut_at_pauses(samples, 16000, 4.0)]
    texts = [one.text for one in zq.recognize(recognizer, pieces)]
    assert len(texts) == 3
    assert found.text == " ".join(text for text in texts if text)
