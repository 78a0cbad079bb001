"""What OpenVINO does with 64-bit integers."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import pytest
from runtimes import required

from zeroq_asr.measure.openvino_integers import _squares, try_openvino


def test_the_plugin_computes_int64_in_32_bits() -> None:
    openvino = required("openvino")
    found = try_openvino()
    assert found is not None
    assert found.version == openvino.__version__.partition("-")[0]
    # once this holds, the pages that warn of strict files there can say so no more
    assert not found.int64


def test_onnx_runtime_computes_the_same_file_in_64() -> None:
    session = onnxruntime.InferenceSession(_squares().SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([1 << 20, 3_000_000_000], dtype=np.int64)
    assert np.array_equal(session.run(None, {"x": x})[0], x * x // 1024)


def test_without_openvino_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert try_openvino() is None
