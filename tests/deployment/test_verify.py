"""Verification must pass what quantize wrote and refuse every change to it, with a reason."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec
from zeroq_asr.deployment.export import METADATA_KEY, export, metadata_digest
from zeroq_asr.deployment.inspection import inspect_file
from zeroq_asr.deployment.verify import load_onnx, read_program, verify
from zeroq_asr.errors import CheckpointError, ExportError, ProofError, VerificationError
from zeroq_asr.integer.proof import prove
from zeroq_asr.pipeline import Quantized, quantize

FAST = SynthesisSpec(batch=2, frames=64, iterations=2)


@pytest.fixture(scope="module")
def quantized(small_model: Any) -> Quantized:
    return quantize(small_model, synthesis=FAST)


@pytest.fixture(params=["fused", "strict"])
def file(request: pytest.FixtureRequest, quantized: Quantized, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.onnx"
    path.write_bytes(export(quantized.program, quantized.deployment, request.param).to_bytes())
    return path


def test_certificate_states_program_and_dialect(file: Path, quantized: Quantized) -> None:
    certificate = verify(file)
    assert certificate.program_sha256 == quantized.program.digest()
    assert certificate.dialect == file.stem
    # squeeze and excitation is spelled out, rounding with Equal of int16
    assert certificate.onnxruntime == {"fused": "1.21", "strict": "1.22"}[file.stem]
    assert certificate.max_seconds == 60.0
    assert certificate.proof.peak < 2**31
    assert certificate.proof.max_frames == 6001
    if certificate.dialect == "strict":
        assert certificate.kernels == {}
        assert "QLinearConv" not in certificate.nodes
    else:
        assert set(certificate.kernels) == {"QLinearConv", "QLinearAdd", "QLinearMul", "Transpose", "Where"}
        assert "2^c ≤ 2^24" in " ".join(certificate.kernels["QLinearConv"])
    assert certificate.float_tensors == []
    assert json.loads(json.dumps(certificate.to_dict()))["dialect"] == file.stem


@pytest.mark.parametrize("dialect", ["fused", "strict"])
def test_polynomials_are_certified(small_model: Any, dialect: str, tmp_path: Path) -> None:
    spec = QuantSpec(nonlinearity="polynomial")
    path = tmp_path / "polynomial.onnx"
    made = quantize(small_model, path, spec=spec, synthesis=FAST, dialect=dialect)
    assert QuantSpec.from_dict(made.deployment.recipe["quantization"]) == spec
    certificate = verify(path)
    assert "table" not in certificate.spellings
    kernel = "polynomial in exact floats" if dialect == "fused" else "primitives"
    assert certificate.spellings["polynomial_requant"].keys() == {kernel}
    if dialect == "fused":
        assert any("2^24" in statement for statement in certificate.kernels[kernel])
    for forged in ({"coefficients": [1]}, {"reach": 3}, {"coefficients": []}, {"symmetry": "any"}):
        model = onnx.load(path)
        _forge_instruction(model, "polynomial_requant", **forged)
        (tmp_path / "forged.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(VerificationError):
            verify(tmp_path / "forged.onnx")


def test_both_dialects_hold_the_same_program(quantized: Quantized) -> None:
    digests = {
        read_program(export(quantized.program, quantized.deployment, d).model)[0].digest()
        for d in ("fused", "strict")
    }
    assert digests == {quantized.program.digest()}


def _initializer(model: onnx.ModelProto, end: str) -> Any:
    return next(i for i in model.graph.initializer if i.name.endswith(end))


def _flip(initializer: Any, index: int = 0) -> None:
    array = numpy_helper.to_array(initializer).copy()
    flat = array.reshape(-1)
    if array.dtype == np.float32:
        flat[index] += np.float32(2.0**-16)
    else:
        flat[index] ^= 1
    initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))


def _edit(model: onnx.ModelProto, change: Callable[[dict[str, Any]], None], forge: bool) -> None:
    entry = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    own = json.loads(entry.value)
    change(own)
    if forge:
        own["metadata_sha256"] = metadata_digest(own)
    entry.value = json.dumps(own, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _swap_operator(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type in ("QLinearAdd", "BitwiseAnd"))
    node.op_type = {"QLinearAdd": "QLinearMul", "BitwiseAnd": "BitwiseOr"}[node.op_type]


def _move_padding(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if "Conv" in n.op_type)
    pads = next(a for a in node.attribute if a.name == "pads")
    pads.ints[0] += 1


def _insert_float(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Transpose")
    cast = helper.make_node("Cast", [node.input[0]], ["sneaky"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)


def _drop_node(model: onnx.ModelProto) -> None:
    del model.graph.node[len(model.graph.node) // 2]


def _instruction(own: dict[str, Any], op: str) -> dict[str, Any]:
    return next(i for i in own["program"]["code"] if i[0] == op)[3]


TAMPERINGS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "weight bit": lambda m: _flip(_initializer(m, ":weight") if _has(m, ":weight") else _byte(m)),
    "bias": lambda m: _flip(_initializer(m, ":bias")),
    "multiplier": lambda m: _flip(_initializer(m, ":multiplier")),
    "zero point": lambda m: _flip(_initializer(m, "const/uint8/128")),
    "table": lambda m: _flip(_initializer(m, ":table")),
    "logit scale": lambda m: _flip(_initializer(m, "logits/scale")),
    "operator": _swap_operator,
    "attribute": _move_padding,
    "float node": _insert_float,
    "missing node": _drop_node,
    "runtime metadata": lambda m: setattr(
        next(p for p in m.metadata_props if p.key == "vocab_size"), "value", "29"
    ),
    "added metadata": lambda m: m.metadata_props.add(key="note", value="trust me"),
    "input name": lambda m: setattr(m.graph.input[0], "name", "other"),
    "producer": lambda m: setattr(m, "producer_version", "0.0.0"),
    "tokens": lambda m: _edit(m, lambda own: own["tokenizer"]["tokens"].reverse(), forge=False),
    "frontend": lambda m: _edit(m, lambda own: own["frontend"].update(preemph=0.5), forge=False),
    "longer input": lambda m: _edit(m, lambda own: own["program"].update(max_frames=10**7), forge=True),
    "shift": lambda m: _edit(m, lambda own: _instruction(own, "conv_requant").update(c=15), forge=True),
    "hash": lambda m: _edit(m, lambda own: own.update(program_sha256="0" * 64), forge=True),
    "dialect": lambda m: _edit(
        m, lambda own: own.update(dialect={"fused": "strict", "strict": "fused"}[own["dialect"]]), forge=True
    ),
    "lost encoding": lambda m: _edit(m, lambda own: own["encodings"].popitem(), forge=True),
    "unknown instruction": lambda m: _edit(
        m, lambda own: own["program"]["code"][0].__setitem__(0, "softmax"), forge=True
    ),
    "malformed program": lambda m: _edit(m, lambda own: own.update(program=[]), forge=True),
    "promise of longer audio": lambda m: _edit(m, lambda own: own.update(max_seconds=36000.0), forge=True),
    "promise that is no number": lambda m: _edit(m, lambda own: own.update(max_seconds="long"), forge=True),
    "negative promise": lambda m: _edit(m, lambda own: own.update(max_seconds=-5), forge=True),
    "no longest input": lambda m: _edit(m, lambda own: own["program"].update(max_frames=0), forge=True),
    "zero point beyond a byte": lambda m: _forge_instruction(m, "conv_requant", zx=300),
    "shift beyond sense": lambda m: _forge_instruction(m, "conv_requant", c=10**12),
    "no groups": lambda m: _forge_instruction(m, "conv_requant", groups=0),
    "true for a number": lambda m: _forge_instruction(m, "conv_requant", stride=True),
    "scale without end": lambda m: _forge_instruction(m, "quantize_input", scale=1e300),
    "negative multiplier": lambda m: _forge_instruction(m, "mul_requant", m=-3),
    "unknown function": lambda m: _forge_instruction(m, "table", function="evil"),
    "missing attribute": lambda m: _edit(
        m, lambda own: _instruction(own, "conv_requant").pop("lo"), forge=True
    ),
    "meaning": lambda m: _edit(
        m, lambda own: next(iter(own["program"]["values"].values())).__setitem__(2, 999), forge=True
    ),
    "text that is no Unicode": lambda m: _replace_metadata(m, b'"name":"', b'"name":"\\ud800'),
    "nesting without end": lambda m: _replace_metadata(
        m, b'"name":"', b'"n":' + b"[" * 200_000 + b'"name":"'
    ),
    "a name that is no Unicode": lambda m: setattr(m, "producer_name", "zeroq-asr\u00e9"),
    "weights outside of the file": lambda m: m.graph.initializer[0].external_data.add(
        key="location", value="/etc/passwd"
    ),
    "a tensor without end": lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 40),
    "a tensor of less than nothing": lambda m: m.graph.initializer[0].dims.__setitem__(0, -1),
    "a tensor of no type": lambda m: setattr(m.graph.initializer[0], "data_type", 99),
    "a tensor twice": lambda m: m.graph.initializer.add().CopyFrom(m.graph.initializer[0]),
    "a sparse tensor": lambda m: m.graph.sparse_initializer.add(),
    "a function": lambda m: m.functions.add(name="f", domain="d"),
    "another opset": lambda m: setattr(m.opset_import[0], "version", 21),
    "its account twice": lambda m: m.metadata_props.add(key=METADATA_KEY, value="{}"),
    "other subsampling for other runtimes": lambda m: setattr(
        next(p for p in m.metadata_props if p.key == "subsampling_factor"), "value", "-1"
    ),
    "fewer tokens": lambda m: _edit(m, lambda own: own["tokenizer"]["tokens"].pop(), forge=True),
    "other mels": lambda m: _edit(m, lambda own: own["frontend"].update(features=80), forge=True),
}


def _forge_instruction(model: onnx.ModelProto, op: str, **attrs: Any) -> None:
    _edit(model, lambda own: _instruction(own, op).update(attrs), forge=True)


def _replace_metadata(model: onnx.ModelProto, old: bytes, new: bytes) -> None:
    entry = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    entry.value = entry.value.encode().replace(old, new, 1).decode()


def _has(model: onnx.ModelProto, end: str) -> bool:
    return any(i.name.endswith(end) for i in model.graph.initializer)


def _byte(model: onnx.ModelProto) -> Any:
    return next(i for i in model.graph.initializer if len(i.dims) == 3)


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found(name: str, file: Path) -> None:
    model = onnx.load(file)
    TAMPERINGS[name](model)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(VerificationError) as caught:
        verify(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) > len(str(file)) + 20
    assert "\n" not in str(caught.value)


#: field of the metadata → what is written there, with the right hash, and what is said of it
FORGERIES: dict[str, tuple[Any, str]] = {
    "subsampling_factor": (-1, "subsampling_factor must be a whole number"),
    "subsampling_factor ": ("x\n", "subsampling_factor must be a whole number"),
    "subsampling_factor  ": (3, "says that 3 frames give one encoded, the program takes 2"),
    "max_seconds": (0, "max_seconds must be a number above 0"),
    "max_seconds ": (10**400, "max_seconds must be a number above 0"),
    "max_seconds  ": (True, "max_seconds must be a number above 0"),
    "name": ("a\n\x1b[31m", "name must be a name of 1 to 1000 printable characters"),
    "name ": (5, "name must be"),
    "frontend": ([], "frontend: expected a mapping"),
    "tokenizer": (None, "tokenizer: expected a mapping"),
    "recipe": ([], "recipe must be an object"),
    "recipe ": ({"quantization": {"weight_bits": [1]}}, "weight_bits must be a whole number"),
    "recipe  ": ({"quantization": [1]}, "expected an object"),
    "recipe   ": ({"plan": 5}, "recipe.plan must be"),
    "recipe    ": ({"evil": {}}, "recipe must be made of"),
    "version": (None, "version must be"),
    "dialect": ([1], "dialect must be one of"),
    "target": ({}, "target must be one of"),
    "part": ("../x", "part must be the name of a part"),
    "encodings": ({"a": 5}, "encodings must be an object of pairs"),
    "program": ([], "program must be an object"),
    "program_sha256": (5, "program_sha256 must be 64 hexadecimal digits"),
    "format": (True, "of format True, expected 2"),
    "colour": (1, "unknown field 'colour'"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_every_field_of_the_metadata_is_checked(name: str, quantized: Quantized, tmp_path: Path) -> None:
    value, message = FORGERIES[name]
    model = export(quantized.program, quantized.deployment, "fused").model
    _edit(model, lambda own: own.update({name.strip(): value}), forge=True)
    path = tmp_path / "forged.onnx"
    path.write_bytes(model.SerializeToString())
    for read in (verify, inspect_file):
        with pytest.raises(VerificationError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


#: what is written into the program's own account, whatever its type
_PLACES: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "code": lambda p, v: p.update(code=v),
    "instruction": lambda p, v: p["code"].__setitem__(0, v),
    "operator": lambda p, v: p["code"][0].__setitem__(0, v),
    "results": lambda p, v: p["code"][0].__setitem__(1, v),
    "operands": lambda p, v: p["code"][0].__setitem__(2, [v]),
    "attributes": lambda p, v: p["code"][0].__setitem__(3, v),
    "attribute": lambda p, v: p["code"][0][3].update(zero_point=v),
    "layer": lambda p, v: p["code"][0].__setitem__(4, v),
    "port": lambda p, v: p["inputs"].__setitem__(0, v),
    "extents": lambda p, v: p["inputs"][0].update(dims=v),
    "extent": lambda p, v: p["inputs"][0]["dims"].__setitem__(1, v),
    "bound": lambda p, v: p["outputs"][0].update(lo=v),
    "states": lambda p, v: p.update(states=v),
    "values": lambda p, v: p.update(values=v),
    "meaning": lambda p, v: p["values"].update({p["code"][0][1][0]: v}),
    "scale": lambda p, v: p["values"][p["code"][0][1][0]].__setitem__(1, v),
    "frames": lambda p, v: p.update(max_frames=v),
    "packings": lambda p, v: p.update(packings=v),
    "another": lambda p, v: p.update(colour=v),
}


@pytest.mark.parametrize("dialect", ["fused", "qdq"])
@pytest.mark.parametrize("place", _PLACES)
def test_every_part_of_the_program_has_its_type(
    place: str, dialect: str, quantized: Quantized, tmp_path: Path
) -> None:
    """Whatever stands there, reading it is one error; of what is not verified, too."""
    path = tmp_path / "forged.onnx"
    made = export(quantized.program, quantized.deployment, dialect).model
    for value in (None, {"a": 1}, [[[[[1]]]]], "x\n", 1e300, -(10**30)):
        if dialect == "qdq" and (place, value) in (
            ("operands", "x\n"),
            ("operator", "x\n"),
            ("layer", "x\n"),
        ):
            continue  # its program is told, not held
        model = onnx.ModelProto()
        model.CopyFrom(made)
        _edit(model, lambda own, v=value: _PLACES[place](own["program"], v), forge=True)  # type: ignore[misc]  # a lambda's default has no type
        path.write_bytes(model.SerializeToString())
        with pytest.raises(VerificationError):
            verify(path)
        # of qdq a part that has its type is told as it is
        with pytest.raises(VerificationError) if dialect == "fused" else suppress(VerificationError):
            inspect_file(path)


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e-20, 2.0**-126])
def test_logits_mean_what_a_softmax_can_use(scale: float, quantized: Quantized) -> None:
    program = copy.deepcopy(quantized.program)
    name = program.output("logits").value
    program.values[name] = replace(program.values[name], scale=scale)
    with pytest.raises((ProofError, ExportError), match=r"its scale|the logits' scale"):
        export(program, quantized.deployment, "fused")


def test_one_flipped_byte_is_one_line(file: Path) -> None:
    """Of a text it makes no Unicode, which protocol buffers give as bytes."""
    data = file.read_bytes()
    for text in (b"vocab_size", b"encoded_lengths", METADATA_KEY.encode() + b"\x12"):
        at = data.rindex(text)
        file.write_bytes(data[: at + 2] + b"\xff" + data[at + 3 :])
        with pytest.raises(VerificationError, match="no Unicode"):
            verify(file)
        with pytest.raises(CheckpointError, match="no Unicode"):
            inspect_file(file)


@pytest.mark.parametrize("junk", [b"\x12\x03abc", b"\x12\xff\x7f" + b"A" * 16383])
def test_bytes_that_parsing_forgets_are_found(junk: bytes, file: Path) -> None:
    """A field before the one that overrides it is no part of the parsed model, but of the file."""
    file.write_bytes(junk + file.read_bytes())
    with pytest.raises(VerificationError, match="no part of its graph"):
        verify(file)


def test_the_hash_of_the_file_covers_what_surrounds_the_program(file: Path, tmp_path: Path) -> None:
    """Whoever rewrites tokens and hashes alike keeps the program's hash, but not the file's."""
    program, deployment, own = read_program(onnx.load(file))
    tokens = replace(deployment.tokenizer, tokens=deployment.tokenizer.tokens[::-1])
    forged = tmp_path / "forged.onnx"
    forged.write_bytes(
        export(program, replace(deployment, tokenizer=tokens), own["dialect"], own["target"]).to_bytes()
    )
    first, second = verify(file), verify(forged)
    assert first.program_sha256 == second.program_sha256
    assert first.file_sha256 != second.file_sha256
    assert first.file_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_bit_of_every_weight_counts(quantized: Quantized, tmp_path: Path) -> None:
    """The last weight of the last layer matters as much as the first of the first."""
    model = export(quantized.program, quantized.deployment, "fused").model
    weights = [i for i in model.graph.initializer if len(i.dims) == 3]
    for initializer in (weights[0], weights[-1]):
        for index in (0, -1):
            changed = onnx.ModelProto()
            changed.CopyFrom(model)
            _flip(next(i for i in changed.graph.initializer if i.name == initializer.name), index)
            path = tmp_path / "changed.onnx"
            path.write_bytes(changed.SerializeToString())
            with pytest.raises(VerificationError, match="hash does not match"):
                verify(path)


def test_a_consistent_forgery_is_another_program(quantized: Quantized) -> None:
    """Who rewrites weights and hashes alike gets a valid file, but never the same hash."""
    program, deployment, _ = read_program(export(quantized.program, quantized.deployment, "fused").model)
    name = next(n for n, a in program.constants.items() if a.ndim == 3)
    program.constants[name] = program.constants[name].copy()
    program.constants[name].reshape(-1)[0] ^= 1
    forged = read_program(export(program, deployment, "fused").model)[0]
    assert forged.digest() != quantized.program.digest()


def test_an_overflowing_program_is_not_proven(quantized: Quantized) -> None:
    program, deployment, _ = read_program(export(quantized.program, quantized.deployment, "fused").model)
    name = next(n for n in program.constants if n.endswith(":bias"))
    program.constants[name] = np.full_like(program.constants[name], 2**31 - 1)
    with pytest.raises(ProofError, match="int32"):
        prove(program)
    with pytest.raises(ProofError, match="int32"):
        export(program, deployment, "fused")


def test_a_sum_over_too_many_frames_is_not_proven(small_model: Any) -> None:
    """Squeeze-and-excitation sums over time: the stated length is part of the proof."""
    program = quantize(small_model, synthesis=FAST).program
    program.max_frames = 10**7
    with pytest.raises(ProofError, match="mean_requant"):
        prove(program)
    longer = quantize(small_model, synthesis=FAST, spec=QuantSpec(max_seconds=3600.0))
    assert longer.proof.max_frames == 360_001


@pytest.mark.parametrize(("target", "bound"), [("x86-any", "128"), ("x86-vnni", "VNNI"), ("arm", "ARM")])
def test_targets_say_what_they_rely_on(small_model: Any, tmp_path: Path, target: str, bound: str) -> None:
    path = tmp_path / "fast.onnx"
    quantize(small_model, path, synthesis=FAST, spec=QuantSpec(target=target))
    certificate = verify(path)
    assert bound in certificate.target_bound
    weights = [i for i in load_onnx(path).graph.initializer if len(i.dims) == 3]
    # the logits' layer runs on ConvInteger, whose weights are unsigned in every target
    assert {numpy_helper.to_array(w).dtype.name for w in weights} == {"int8", "uint8"}


def test_qdq_has_no_certificate(quantized: Quantized, tmp_path: Path) -> None:
    path = tmp_path / "qdq.onnx"
    path.write_bytes(export(quantized.program, quantized.deployment, "qdq").to_bytes())
    with pytest.raises(VerificationError, match="not exact"):
        verify(path)


@pytest.mark.parametrize("data", [b"", b"not onnx", b"\x08\x01"])
def test_what_is_no_onnx_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(data)
    with pytest.raises(VerificationError, match="ONNX"):
        verify(path)


def test_truncated_and_foreign_files_are_refused(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(VerificationError):
        verify(file)
    foreign = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    ).SerializeToString()
    file.write_bytes(foreign)
    with pytest.raises(VerificationError, match="not written by zeroq-asr"):
        verify(file)
    with pytest.raises(CheckpointError, match="there is no such file"):
        verify(tmp_path / "missing.onnx")


def test_noise_and_saved_features_give_programs_too(small_model: Any, tmp_path: Path) -> None:
    made = quantize(small_model, synthesis=FAST)
    assert made.features is not None
    made.features.save(tmp_path / "features.npz")
    again = quantize(small_model, calibration=CalibrationSpec(source=str(tmp_path / "features.npz")))
    assert again.program.digest() == made.program.digest()
    noise = quantize(small_model, synthesis=FAST, calibration=CalibrationSpec(source="noise"))
    assert noise.program.digest() != made.program.digest()
