"""Models whose weights one file cannot hold, and those that it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from zeroq_asr.deployment import float_files
from zeroq_asr.deployment.float_files import File, held, put, size, source

WEIGHT = np.random.default_rng(0).standard_normal((30, 20)).astype(np.float32)
INPUT = np.random.default_rng(1).standard_normal((2, 30)).astype(np.float32)


@pytest.fixture
def model() -> onnx.ModelProto:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("x", 30), ("y", 20))
    )
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(file: File) -> np.ndarray:
    session = ort.InferenceSession(source(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": INPUT})[0])


@pytest.mark.parametrize(("most", "files"), [(2400, 0), (2399, 2)])
def test_a_model_is_held_where_one_file_can(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, files: int
) -> None:
    plain = run(model.SerializeToString())
    monkeypatch.setattr(float_files, "MOST", most)
    (tmp_path / "made").mkdir()
    (tmp_path / "other").mkdir()
    made = held(model, tmp_path / "made")
    assert isinstance(made, bytes) == (files == 0)
    assert len([*(tmp_path / "made").iterdir()]) == files
    # the model keeps its weights
    np.testing.assert_array_equal(run(model.SerializeToString()), plain)
    assert size(made) >= WEIGHT.nbytes
    np.testing.assert_array_equal(run(made), plain)
    put(made, tmp_path / "other" / "again.onnx")
    np.testing.assert_array_equal(run(tmp_path / "other" / "again.onnx"), plain)
