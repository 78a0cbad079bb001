"""What `inspect_file` says of each kind of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zeroq_asr as zq
from zeroq_asr.deployment.export import METADATA_KEY


@pytest.fixture(scope="module")
def checkpoint(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    zq.save_checkpoint(small_model, path)
    return path


@pytest.fixture(scope="module")
def quantized(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> zq.Quantized:
    path = tmp_path_factory.mktemp("quantized") / "small.onnx"
    synthesis = zq.SynthesisSpec(batch=2, frames=64, iterations=1)
    return zq.quantize(
        small_model, path, spec=zq.QuantSpec(weight_bits=4, max_seconds=5), synthesis=synthesis
    )


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "weight")
    scale = helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2)))
    nodes = [
        scale,
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
        helper.make_node("Mul", ["y", "two"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="other")
    model.metadata_props.add(key="vocab", value="a" * 500)
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_checkpoint(checkpoint: Path, small_model: Any) -> None:
    found = zq.inspect_file(checkpoint)
    assert json.loads(json.dumps(found)) == found
    parameters = sum(p.numel() for p in small_model.network.parameters())
    assert found["kind"] == "checkpoint"
    assert found["name"] == "small"
    assert found["architecture"] == "conv_ctc"
    assert found["parameters"] == parameters
    assert found["float_bytes"] >= 4 * parameters
    assert found["estimated_int8_bytes"] < found["float_bytes"] / 2
    assert found["bytes"] == checkpoint.stat().st_size
    assert found["subsampling_factor"] == 2
    assert found["tokenizer"]["kind"] == "characters"
    assert found["tokenizer"]["size"] == 28
    assert found["frontend"]["features"] == 16
    first = found["layers"][0]
    assert first["path"] == "encoder.encoder.0.mconv.0.conv"
    assert (first["shape"], first["stride"], first["groups"]) == ([16, 1, 5], 2, 16)
    assert sum(layer["parameters"] for layer in found["layers"]) == parameters


def test_batch_norms_and_dead_channels(small_model: Any, tmp_path: Path) -> None:
    state = small_model.network.state_dict()
    variances = [tensor for name, tensor in state.items() if name.endswith("running_var")]
    before = variances[0][3].clone()
    variances[0][3] = 0
    try:
        zq.save_checkpoint(small_model, tmp_path / "dead.pt")
    finally:
        variances[0][3] = before
    found = zq.inspect_file(tmp_path / "dead.pt")
    assert found["batch_norms"] == len(variances)
    assert found["batch_norm_channels"] == sum(v.numel() for v in variances)
    assert found["zero_variance_channels"] == 1


def test_quantized(quantized: zq.Quantized) -> None:
    assert quantized.path is not None
    found = zq.inspect_file(quantized.path)
    assert json.loads(json.dumps(found)) == found
    assert found["kind"] == "quantized"
    assert found["verified"] is False
    assert (found["dialect"], found["target"]) == ("fused", "x86-any")
    assert found["version"] == zq.__version__
    assert found["program_sha256"] == quantized.program.digest()
    assert (found["weight_bits"], found["activation_bits"], found["max_seconds"]) == (4, 8, 5)
    assert sum(found["instructions"].values()) == len(quantized.program.code)
    # a file knows lists and no tuples
    assert found["recipe"] == json.loads(json.dumps(quantized.deployment.recipe))
    assert found["tokenizer"]["tokens"] == list(quantized.deployment.tokenizer.tokens)
    rows = {row["name"]: row for row in found["values"]}
    assert set(rows) == {i.out for i in quantized.program.code} & set(quantized.program.values)
    for name, row in rows.items():
        info = quantized.program.values[name]
        assert (row["scale"], row["zero_point"], row["type"]) == (info.scale, info.zero_point, info.type)
        assert row["range"][0] <= 0 <= row["range"][1]
    assert found["values"][0]["op"] == "quantize_input"


def test_foreign_onnx(foreign: Path) -> None:
    found = zq.inspect_file(foreign)
    assert json.loads(json.dumps(found)) == found
    assert found["kind"] == "onnx"
    assert found["inputs"] == [{"name": "x", "type": "float", "shape": ["batch", 4]}]
    assert found["outputs"] == [{"name": "z", "type": "float", "shape": ["batch", 3]}]
    assert found["opset"] == {"ai.onnx": 18}
    assert found["operators"] == {"Constant": 1, "MatMul": 1, "Mul": 1}
    assert found["parameter_bytes"] == 4 * (12 + 1)
    assert found["producer"] == "other"
    assert found["metadata"]["vocab"].endswith("… (500 characters)")


def test_damaged_account_of_itself(quantized: zq.Quantized, tmp_path: Path) -> None:
    assert quantized.path is not None
    model = onnx.load(str(quantized.path))
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = entry.value.replace('"max_seconds":5', '"max_seconds":6')
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(zq.VerificationError, match="metadata was changed"):
        zq.inspect_file(path)


@pytest.mark.parametrize("name", ["damaged.onnx", "damaged.nemo"])
def test_damaged_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x08\x08nothing that anyone wrote" * 20)
    with pytest.raises(zq.CheckpointError, match=name):
        zq.inspect_file(path)
    with pytest.raises(zq.CheckpointError, match=r"(?i)no such file"):
        zq.inspect_file(tmp_path / f"absent-{name}")


def test_loader(small_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zq.save_checkpoint(small_model, tmp_path / "weights.bin")
    (tmp_path / "inspection_loader.py").write_text(
        "import zeroq_asr as zq\ndef load(path):\n    return zq.load_checkpoint(path)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = zq.inspect_file(tmp_path / "weights.bin", loader="inspection_loader:load")
    assert found["parameters"] == sum(p.numel() for p in small_model.network.parameters())


def test_types_of_nobody_are_said_to_be_unknown(foreign: Path, tmp_path: Path) -> None:
    model = onnx.load(foreign)
    model.graph.input[0].type.tensor_type.elem_type = 99
    onnx.save(model, tmp_path / "odd.onnx")
    assert zq.inspect_file(tmp_path / "odd.onnx")["inputs"][0]["type"] == "unknown (99)"
