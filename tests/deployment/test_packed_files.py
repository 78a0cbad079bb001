"""Files whose weights take fewer than 8 bits: their integers, what they need, and what is refused."""

from __future__ import annotations

import base64
import bz2
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from integer.programs import random_program, subsampling_of
from onnx import TensorProto, numpy_helper
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app
from zeroq_asr.deployment import export as exporting
from zeroq_asr.deployment.export import METADATA_KEY, export
from zeroq_asr.deployment.inspection import inspect_file
from zeroq_asr.deployment.metadata import Deployment, metadata_digest, own_text, read_own
from zeroq_asr.deployment.recognizer import open_recognizer
from zeroq_asr.deployment.runtimes import OPSETS, oldest_runtime, too_new
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.grid import GRIDS, grid_of
from zeroq_asr.integer.packing import BYTES
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

NOISE = zq.CalibrationSpec("noise")
PACKED = [name for name, grid in GRIDS.items() if grid.packing != BYTES]
OPSET_OF = {"int4": 21, "int2": 25, "2-bit odd codes": 18, "1-bit codes": 18} | {
    f"{bits}-bit logistic codes": 18 for bits in (2, 4)
}


@pytest.fixture(scope="module")
def prepared(small_model: Any) -> Any:
    return zq.prepare(small_model, calibration=NOISE)


@pytest.fixture(scope="module")
def quantized(prepared: Any) -> Callable[[str], zq.Quantized]:
    made: dict[str, zq.Quantized] = {}

    def of(grid: str) -> zq.Quantized:
        if grid not in made:
            spec = zq.QuantSpec(layer_grids=(("*", grid),), rounding="nearest")
            made[grid] = zq.quantize(prepared, spec=spec)
        return made[grid]

    return of


def inputs() -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(0).standard_normal((3, 16, 60)).astype(np.float32)
    return features, np.array([60, 41, 2], dtype=np.int64)


def logits_of(data: bytes) -> Any:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(
        ["logits", "encoded_lengths"], dict(zip(("audio_signal", "length"), inputs(), strict=True))
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_every_interpreter_gives_the_same_integers(
    grid: str, quantized: Callable[[str], zq.Quantized], tmp_path: Path
) -> None:
    made = quantized(grid)
    program, packing = made.program, grid_of(grid).packing
    assert {*program.packings.values()} == ({packing} - {BYTES})
    wanted = program.run(NumpyBackend(), *inputs())
    found = {"torch": [v.numpy() for v in program.run(TorchBackend(), *map(torch.from_numpy, inputs()))]}
    for dialect in ("strict", "fused"):
        path = tmp_path / f"{dialect}.onnx"
        path.write_bytes(export(program, made.deployment, dialect).to_bytes())
        certificate = zq.verify(path)
        assert certificate.program_sha256 == program.digest()
        assert certificate.float_tensors == []
        found[dialect] = logits_of(path.read_bytes())
    for results in found.values():
        for a, b in zip(wanted, results, strict=True):
            np.testing.assert_array_equal(a, b)
    # qdq rounds in its own way, whatever stores the weights
    plain = dataclasses.replace(program, packings={})
    both = [logits_of(export(one, made.deployment, "qdq").to_bytes()) for one in (program, plain)]
    np.testing.assert_array_equal(both[0][0], both[1][0])


def test_a_float_island_keeps_the_first_opset(prepared: Any, tmp_path: Path, small_model: Any) -> None:
    layer = prepared.graph.nodes[-2].where
    for grid in PACKED:
        spec = zq.QuantSpec(layer_grids=(("*", grid),), keep_float=(layer,), rounding="nearest")
        made = zq.quantize(small_model, tmp_path / "f.onnx", spec=spec, calibration=NOISE)
        assert {name.split()[-1] for name in made.program.packings.values()} == {"codes"}
        assert zq.verify(tmp_path / "f.onnx").islands
        assert made.exported.model.opset_import[0].version == 18
    later = dataclasses.replace(made.program, packings=dict.fromkeys(made.program.packings, "int4"))
    with pytest.raises(zq.ProofError, match="the packing int4 cannot stand in a file with a float island"):
        export(later, made.deployment, "fused")


# -- what a file needs -----------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["int4", "logistic4", "ternary", "binary"])
def test_a_file_says_what_it_needs(
    grid: str, quantized: Callable[[str], zq.Quantized], tmp_path: Path
) -> None:
    made, path = quantized(grid), tmp_path / "small.onnx"
    model = export(made.program, made.deployment, "fused").model
    path.write_bytes(model.SerializeToString(deterministic=True))
    name = grid_of(grid).packing
    opset = next(opset for opset in OPSETS if opset.version == OPSET_OF[name])
    assert (model.opset_import[0].version, model.ir_version) == (opset.version, opset.ir_version)
    certificate, found = zq.verify(path), inspect_file(path)
    count = len(made.program.packings)
    assert (
        certificate.onnxruntime
        == found["onnxruntime"]
        == oldest_runtime(model, made.program, "fused")
        == opset.runtime
    )
    assert certificate.packings == {name: (opset.runtime, count)}
    assert found["packings"] == {name: [opset.runtime, count]}
    assert found["stored_bytes"] == sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert own_of(model)["onnxruntime"] == opset.runtime
    for command in ("verify", "inspect"):
        result = CliRunner().invoke(app, [command, str(path)], env={"COLUMNS": "200"})
        assert result.exit_code == 0
        shown = " ".join(result.output.split())
        assert (
            f"ONNX Runtime {opset.runtime} or later; weights of {count} as {name} ({opset.runtime})" in shown
        )


def test_a_file_that_is_too_new_is_refused_in_one_line(
    quantized: Callable[[str], zq.Quantized], tmp_path: Path
) -> None:
    made, path = quantized("ternary"), tmp_path / "new.onnx"
    model = export(made.program, made.deployment, "fused").model
    data = model.SerializeToString()
    assert too_new(data, "1.24.0") is too_new(data, "1.31.1") is too_new(b"\xff", "1.0") is None
    problem, remedy = too_new(data, "1.23.2") or ("", "")
    assert problem == "is of opset 25, which needs ONNX Runtime 1.24 or later, 1.23.2 is installed"
    assert "pip install --upgrade 'onnxruntime>=1.24'" in remedy
    model.opset_import[0].version = 99
    path.write_bytes(model.SerializeToString())
    match = r"opset 99, too new for ONNX Runtime .*; upgrade both"
    with pytest.raises(zq.CheckpointError, match=match) as caught:
        open_recognizer(path)
    assert "\n" not in str(caught.value)


# -- 8 bits ----------------------------------------------------------------------------------------


def test_a_file_that_packs_nothing_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, quantized: Callable[[str], zq.Quantized]
) -> None:
    monkeypatch.setattr(exporting, "__version__", "0")
    program = random_program(3)
    surroundings = Deployment(
        "m", FrontendConfig(features=4), Tokenizer(tuple("ab"), "characters"), 1.0, subsampling_of(program)
    )
    for dialect, digest in DIGESTS.items():
        data = export(program, surroundings, dialect).to_bytes()
        assert hashlib.sha256(data).hexdigest() == digest, dialect
    model = export(quantized("int8").program, quantized("int8").deployment, "fused").model
    own = own_of(model)
    assert (own["format"], model.opset_import[0].version, model.ir_version) == (2, 18, 8)
    assert "onnxruntime" not in own
    assert '"program":' in text_of(model)
    assert TensorProto.INT32 in {i.data_type for i in model.graph.initializer if i.name.endswith(":bias")}


#: of files as they were before any weight took less than a byte
DIGESTS = {
    "strict": "29cfaffffd2dd4a288a9d20d8811f999ba1fee56fec3ea7c822b8c8582d88761",
    "fused": "4b17147abb163f4f2ba8a0758cdee42df4d6d1b008199801bf9f8d133e1e950f",
}


# -- forgeries -------------------------------------------------------------------------------------


def text_of(model: onnx.ModelProto) -> str:
    return next(p.value for p in model.metadata_props if p.key == METADATA_KEY)


def own_of(model: onnx.ModelProto) -> dict[str, Any]:
    return read_own("file", text_of(model))


def written(model: onnx.ModelProto, text: str) -> onnx.ModelProto:
    next(p for p in model.metadata_props if p.key == METADATA_KEY).value = text
    return model


def refused(model: onnx.ModelProto, path: Path, match: str) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
    with pytest.raises(zq.VerificationError, match=match) as caught:
        zq.verify(path)
    assert "\n" not in str(caught.value)


def weight_of(model: onnx.ModelProto, program: Any) -> onnx.TensorProto:
    return next(i for i in model.graph.initializer if i.name in program.packings)


@pytest.fixture(params=["int4", "logistic4", "int2", "binary"])
def file(request: pytest.FixtureRequest, quantized: Callable[[str], zq.Quantized]) -> Any:
    made = quantized(request.param)
    model = onnx.ModelProto()
    model.CopyFrom(export(made.program, made.deployment, "fused").model)
    return model, made.program


def test_every_flipped_bit_is_found(file: Any, tmp_path: Path) -> None:
    model, program = file
    tensor = weight_of(model, program)
    whole = tensor.raw_data
    for bit in (0, 3, 8 * len(whole) // 2, 8 * len(whole) - 1):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        tensor.raw_data = bytes(data)
        refused(model, tmp_path / "flipped.onnx", "does not match|beyond the last|differs from")
    tensor.raw_data = whole
    for vector in model.graph.initializer:
        if vector.name.startswith("0/vectors/") and vector.data_type != TensorProto.INT64:
            whole = vector.raw_data
            vector.raw_data = bytes([whole[0] ^ 1]) + whole[1:]
            refused(model, tmp_path / "flipped.onnx", "does not match")
            vector.raw_data = whole


MALFORMED: dict[str, Callable[[onnx.TensorProto], object]] = {
    "another shape": lambda t: t.dims.__setitem__(0, t.dims[0] - 1),
    "fewer bytes": lambda t: setattr(t, "raw_data", t.raw_data[:-1]),
    "more bytes": lambda t: setattr(t, "raw_data", t.raw_data + b"\0"),
    "another type": lambda t: t.CopyFrom(numpy_helper.from_array(np.zeros((2, 2), np.int16), t.name)),
    "floats": lambda t: t.CopyFrom(numpy_helper.from_array(np.zeros(4, np.float32), t.name)),
    "a type of other bits": lambda t: t.CopyFrom(
        numpy_helper.from_array(np.zeros([*t.dims], np.int8), t.name)
        if t.data_type in (TensorProto.INT4, TensorProto.INT2)
        else numpy_helper.from_array(np.zeros((1, *t.dims), np.uint8), t.name)
    ),
    "an unknown type": lambda t: setattr(t, "data_type", TensorProto.UINT4),
    "nothing": lambda t: setattr(t, "raw_data", b""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_constants_are_refused_by_name(name: str, file: Any, tmp_path: Path) -> None:
    model, program = file
    tensor = weight_of(model, program)
    MALFORMED[name](tensor)
    refused(model, tmp_path / "odd.onnx", tensor.name.replace(".", r"\."))


@pytest.mark.parametrize(
    "encoding",
    ["packed int4[1,1]", "packed evil[1]", "packed int4[]", "i32 in int8", "packed 1-bit codes[99999,9]"],
)
def test_a_forged_encoding_is_refused_by_name(encoding: str, file: Any, tmp_path: Path) -> None:
    model, program = file
    own, name = own_of(model), next(iter(program.packings))
    own["encodings"][name][1] = encoding
    own["metadata_sha256"] = metadata_digest(own)
    refused(written(model, own_text(own)), tmp_path / "forged.onnx", name.replace(".", r"\."))


def compressed(data: bytes) -> str:
    return base64.b85encode(data).decode()


def test_the_compressed_program_is_one_text(file: Any, tmp_path: Path) -> None:
    model, _ = file
    text = text_of(model)
    outer = json.loads(text)
    within = bz2.decompress(base64.b85decode(outer["compressed"]))
    assert own_of(model).keys() >= json.loads(within).keys() == {"program", "encodings"}
    assert 4 * len(outer["compressed"]) < len(within)
    for value in (
        5,
        None,
        "",
        "é",
        compressed(b"evil"),
        compressed(bz2.compress(within)[:-4]),
        compressed(bz2.compress(within) + b"x"),
        compressed(bz2.compress(b"[]")),
        compressed(bz2.compress(b"{}")),
        compressed(bz2.compress(b"[" * 100_000)),
        compressed(bz2.compress(b'{"program": NaN, "encodings": {}}')),
        compressed(bz2.compress(bytes(1 << 27))),
    ):
        changed = json.dumps({**outer, "compressed": value})
        refused(written(model, changed), tmp_path / "odd.onnx", "its program cannot be read")
    twice = json.dumps({**outer, "program": {}})
    refused(written(model, twice), tmp_path / "odd.onnx", "its program cannot be read")
    # another spelling of the same text
    other = json.dumps({**outer, "compressed": compressed(bz2.compress(within, 1))})
    refused(written(model, other), tmp_path / "odd.onnx", "metadata 'zeroq_asr' was changed")
    for field, value in (("onnxruntime", 5), ("format", 2), ("format", 4)):
        own = read_own("file", text) | {field: value}
        own["metadata_sha256"] = metadata_digest(own)
        changed = own_text(own | {"format": 3}) if field != "format" else own_text(own)
        if field == "format":
            changed = json.dumps({**outer, field: value, "metadata_sha256": own["metadata_sha256"]})
        refused(written(model, changed), tmp_path / "odd.onnx", "damaged|upgrade")
