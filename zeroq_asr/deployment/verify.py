"""Verification of what ``quantize`` wrote: is it the proven integer program that it says it is?

Two statements are made: *the integer program is proven* (the interval proof holds for every input
up to the stated length), and *the dialect* (strict: no float type between the quantizer and the
logits; fused: floats only inside the listed kernels, under conditions that make them exact).  What the
user kept in float makes a program that is not integer-only: the certificate lists these islands, and all
else is proven.

The program is rebuilt from the file itself (its instructions from the metadata, its constants from
the initializers, where they are stored once), exported again, and the result must equal the file
byte for byte; then the proof runs.  So every bit of the graph is accounted for.  Of a bundle's folder that
holds for every file, and for the list of them, which is made again from what they hold.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper

from zeroq_asr._version import __version__
from zeroq_asr.checkpoints import is_huggingface, kind_of
from zeroq_asr.deployment.export import (
    BUNDLE_FILE,
    METADATA_KEY,
    TARGET_BOUNDS,
    Deployment,
    Export,
    bundle_files,
    check_surroundings,
    export,
)
from zeroq_asr.deployment.metadata import read_own
from zeroq_asr.deployment.runtimes import oldest_runtime, packings_of, release
from zeroq_asr.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    ProofError,
    VerificationError,
    ZeroqError,
)
from zeroq_asr.files import read_file
from zeroq_asr.integer.apart import reads_behind
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_graph import decode
from zeroq_asr.integer.backends.onnx_loops import every_graph, every_node
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.float_parts import Island, islands
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.proof import Proof, prove
from zeroq_asr.integer.wellformed import check
from zeroq_asr.lines import shown

_CHECKPOINT_REMEDY = "name what `zeroq-asr quantize` made of it"
_REMEDY = "do not trust this file; quantize the checkpoint again"
#: a protocol buffer has no more bytes
_LARGEST = (1 << 31) - 1
#: types of the tensors that a file of ours holds, and their bits
_STORED = {
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT8: 8,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.INT4: 4,
    TensorProto.INT2: 2,
}


@dataclass(frozen=True)
class Certificate:
    """What ``verify`` established about a file, or about a bundle's folder."""

    #: or the folder
    file: str
    name: str
    dialect: str
    target: str
    #: what the fused kernels' products rely on; empty for strict
    target_bound: str
    #: of a bundle of several programs, that of all of them
    program_sha256: str
    #: of the whole file, tokens and frontend included; of a folder that of its list, which has those of all
    file_sha256: str
    max_seconds: float
    #: of a bundle of several programs, that which comes nearest to its limits
    proof: Proof
    #: the instruction by which an utterance's result may depend on the batch that it is in, since it may read
    #: frames behind the utterance's end; empty: none does, in any batch
    reads_behind: str
    #: ONNX operator → how many nodes
    nodes: dict[str, int]
    #: instruction → spelling → count
    spellings: dict[str, dict[str, int]]
    #: exact kernel → the conditions that hold for each of its nodes
    kernels: dict[str, list[str]] = field(default_factory=dict)
    #: what runs in float, of which nothing is proven but the bounds of its results; none: integer-only
    islands: tuple[Island, ...] = ()
    #: names of the float tensors that are neither the input, behind the logits, nor in an island
    float_tensors: list[str] = field(default_factory=list)
    #: the oldest release of ONNX Runtime that runs the file
    onnxruntime: str = ""
    #: packing of weights → the oldest release of ONNX Runtime that runs a file with it, and how many it
    #: stores; none: all are stored as bytes
    packings: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: of a bundle of several programs: part → its own certificate; of one file none
    parts: dict[str, Certificate] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as JSON values."""
        parts = {name: part.to_dict() for name, part in self.parts.items()}
        own = {**asdict(self), "integer_only": self.integer_only, "proof": self.proof.to_dict()}
        return {**own, "parts": parts}

    @property
    def integer_only(self) -> bool:
        """Whether the program computes in integers alone."""
        return not self.islands


def read_own_metadata(model: onnx.ModelProto, where: str) -> dict[str, Any]:
    """Our JSON object in a file's metadata; VerificationError if there is none or it is malformed."""
    values = [p.value for p in model.metadata_props if p.key == METADATA_KEY]
    if len(values) != 1:
        raise VerificationError(where, "was not written by zeroq-asr", "verify checks files of `quantize`")
    return read_own(where, values[0])


def read_program(model: onnx.ModelProto, where: str = "model") -> tuple[Program, Deployment, dict[str, Any]]:
    """Rebuild the program and its surroundings from a file, well-formed.  VerificationError if that fails."""
    # no number of a damaged file is worth a warning
    with np.errstate(all="ignore"):
        return _read_program(model, where)


def _read_program(model: onnx.ModelProto, where: str) -> tuple[Program, Deployment, dict[str, Any]]:
    own = read_own_metadata(model, where)
    try:
        arrays = _initializers(model, where)
        constants = {
            # what stands for no initializer is said by its encoding alone
            name: _constant(name, arrays[stored] if stored else np.zeros(0), encoding)
            for name, (stored, encoding) in own["encodings"].items()
        }
        program = Program.from_json(own["program"], constants)
        deployment = Deployment.from_dict(own)
        if own["dialect"] == "qdq":
            # which folds multipliers into scales: its program is told, not held
            if islands(program):
                raise VerificationError(where, "qdq cannot hold what is kept in float", _REMEDY)
            return program, deployment, own
        digest = program.digest()
        check_surroundings(program, deployment, check(program))
    except VerificationError:
        raise
    except ProofError as error:
        raise VerificationError(where, f"the program is not proven: {error}", _REMEDY) from None
    except ExportError as error:
        raise VerificationError(
            where, f"its program and what surrounds it differ: {error}", _REMEDY
        ) from None
    except ZeroqError as error:
        raise VerificationError(where, f"its program cannot be read back: {error}", _REMEDY) from None
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        problem = f"its program cannot be read back ({type(error).__name__}: {shown(str(error))})"
        raise VerificationError(where, problem, _REMEDY) from None
    if own["program_sha256"] != digest:
        raise VerificationError(
            where, "a weight, bias or multiplier was changed: the program's hash does not match", _REMEDY
        )
    return program, deployment, own


def _constant(name: str, array: np.ndarray, encoding: str) -> np.ndarray:
    """A constant of the program; ExportError, which names it, if what is stored is none."""
    try:
        return decode(array, encoding)
    except ExportError as error:
        raise ExportError(shown(name), f"{error.where}: {error.problem}", error.remedy) from None


def _initializers(model: onnx.ModelProto, where: str) -> dict[str, np.ndarray]:
    """The tensors that a file holds, by name; nothing outside of the file is opened."""
    arrays: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise VerificationError(where, "weights are stored outside of the file", _REMEDY)
        if tensor.name in arrays:
            raise VerificationError(where, f"two tensors are called {shown(tensor.name)}", _REMEDY)
        # what the shape says must be there before room is made for it
        bits = math.prod(tensor.dims) * _STORED.get(tensor.data_type, 0)
        if tensor.data_type not in _STORED or -(-bits // 8) != len(tensor.raw_data):
            problem = f"the tensor {shown(tensor.name)} does not hold what its shape says"
            raise VerificationError(where, f"{problem}: {shown(list(tensor.dims))}", _REMEDY)
        arrays[tensor.name] = numpy_helper.to_array(tensor)
    return arrays


def load_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Parse an ONNX file; VerificationError if it is none, CheckpointError if it cannot be read."""
    return _parsed(_read(path), os.fspath(path))


def _read(path: str | os.PathLike[str]) -> bytes:
    return read_file(path, CheckpointError, _LARGEST)


def _parsed(data: bytes, where: str) -> onnx.ModelProto:
    kind = kind_of(data[:1024])
    if kind:
        raise VerificationError(where, f"is {kind}, an ONNX file was expected", _CHECKPOINT_REMEDY)
    try:
        model = onnx.load_model_from_string(data)
    # what parses it raises DecodeError, and RuntimeError or RecursionError for nesting without end
    except (DecodeError, ValueError, RuntimeError, RecursionError):
        raise VerificationError(
            where, "is not an ONNX file, or it is damaged", "is it whole, and the right file?"
        ) from None
    if not model.graph.node:
        raise VerificationError(
            where, "is not an ONNX file, or it is empty", "is it whole, and the right file?"
        )
    if not _is_text(model):
        raise VerificationError(where, "is damaged: a text in it is no Unicode")
    return model


def _is_text(message: Message) -> bool:
    """Whether every text of a message, and of what it holds, is Unicode: else it is given as bytes."""
    for kind, value in message.ListFields():
        several = () if isinstance(value, str | bytes | int | float | Message) else value
        if kind.message_type is not None:
            if not all(map(_is_text, (value,) if isinstance(value, Message) else several)):
                return False
        elif kind.type == kind.TYPE_STRING and any(isinstance(one, bytes) for one in (value, *several)):
            return False
    return True


@dataclass(frozen=True)
class _Verified:
    """A file that is what it says: its certificate, and what it was made of."""

    certificate: Certificate
    part: str
    program: Program
    deployment: Deployment
    exported: Export


def verify(path: str | os.PathLike[str]) -> Certificate:
    """Verify what ``quantize`` or ``write_bundle`` wrote, a file or a folder, and return its certificate.

    Raises VerificationError, saying what differs, when a file is not exactly the export of the
    program that it holds, a folder not exactly the bundle of the programs in it, or a program's proof fails;
    CheckpointError when something cannot be read.
    """
    if Path(path).is_dir():
        if is_huggingface(path):
            problem = "is the folder of a Hugging Face model, an ONNX file was expected"
            raise VerificationError(path, problem, _CHECKPOINT_REMEDY)
        return _verified_folder(path)
    return _verified_file(path).certificate


def _verified_file(path: str | os.PathLike[str]) -> _Verified:
    # what is verified is what was read: nobody can change the file in between
    where, data = os.fspath(path), _read(path)
    model = _parsed(data, where)
    try:
        return _verified(model, data, where)
    except VerificationError:
        raise
    except ZeroqError as error:
        raise VerificationError(where, f"the program is not proven: {error}", _REMEDY) from None
    # a file may hold anything, so whatever reading it back raises says that it is not one of ours
    except Exception as error:
        problem = f"its program cannot be rebuilt ({type(error).__name__})"
        raise VerificationError(where, problem, _REMEDY) from None


def _verified(model: onnx.ModelProto, data: bytes, where: str) -> _Verified:
    program, deployment, own = read_program(model, where)
    dialect, target, part = (own[key] for key in ("dialect", "target", "part"))
    if dialect == "qdq":
        raise VerificationError(where, "the qdq spelling is not exact, so it has no certificate")
    # no number of a damaged file is worth a warning
    with np.errstate(all="ignore"):
        proof = prove(program)
        again = export(program, deployment, dialect, target, part)
    _require_equal(model, data, again, where, own.get("version"))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise VerificationError(where, f"is not valid ONNX ({reason})", _REMEDY) from None
    floats, backend = _float_tensors(model), again.backend
    if dialect == "strict" and floats:
        raise VerificationError(where, f"strict, but {floats[0]} is a float tensor", _REMEDY)
    kernels = backend.conditions if isinstance(backend, OnnxFusedBackend) else {}
    inside = backend.island_tensors if isinstance(backend, OnnxFusedBackend) else set()
    certificate = Certificate(
        file=where,
        name=deployment.name,
        dialect=dialect,
        target=target,
        target_bound=TARGET_BOUNDS[target] if dialect == "fused" else "",
        program_sha256=own["program_sha256"],
        file_sha256=hashlib.sha256(data).hexdigest(),
        max_seconds=deployment.max_seconds,
        proof=proof,
        reads_behind=reads_behind(program),
        nodes=dict(Counter(n.op_type for n in every_node(model.graph))),
        spellings=backend.spellings,
        kernels={kernel: list(conditions) for kernel, conditions in kernels.items()},
        islands=islands(program),
        # a kernel's multipliers, which packed ones are widened to, are constants like any others
        float_tensors=[name for name in floats if name not in inside | backend.constant_tensors],
        onnxruntime=oldest_runtime(model),
        packings=packings_of(program),
    )
    return _Verified(certificate, part, program, deployment, again)


def _verified_folder(path: str | os.PathLike[str]) -> Certificate:
    folder, where = Path(path), os.fspath(path)
    listed = _read(folder / BUNDLE_FILE)
    found: dict[str, _Verified] = {}
    for file in sorted(folder.iterdir()):
        if file.name != BUNDLE_FILE:
            found[file.name.removesuffix(".onnx")] = _verified_file(file)
    odd = [name for name, one in found.items() if one.part != name]
    if odd:
        part = found[odd[0]].part
        raise VerificationError(folder / f"{odd[0]}.onnx", f"is the part {part!r} of a bundle", _REMEDY)
    try:
        bundle = Bundle({name: one.program for name, one in found.items()})
    except ConfigError as error:
        raise VerificationError(where, error.problem, _REMEDY) from None
    first = next(iter(found.values()))
    made = bundle_files({name: one.exported for name, one in found.items()}, first.deployment)
    if made[BUNDLE_FILE] != listed:
        raise VerificationError(
            folder / BUNDLE_FILE, "does not list the files beside it as they are", _REMEDY
        )
    for name, one in found.items():
        same = one.deployment == first.deployment and one.certificate.dialect == first.certificate.dialect
        if not same or one.certificate.target != first.certificate.target:
            raise VerificationError(folder / f"{name}.onnx", "was not exported with the others", _REMEDY)
    parts = {name: one.certificate for name, one in found.items()}
    return _of_parts(where, bundle.digest(), hashlib.sha256(listed).hexdigest(), parts)


def _of_parts(where: str, digest: str, file_digest: str, parts: dict[str, Certificate]) -> Certificate:
    """One certificate of several programs: what holds of all, and where they come nearest to their limits."""
    spellings: dict[str, Counter[str]] = {}
    kernels: dict[str, dict[str, None]] = {}
    for one in parts.values():
        for op, counts in one.spellings.items():
            spellings.setdefault(op, Counter()).update(counts)
        for kernel, conditions in one.kernels.items():
            kernels.setdefault(kernel, {}).update(dict.fromkeys(conditions))
    first = next(iter(parts.values()))
    nearest = max(parts, key=lambda name: parts[name].proof.peak)
    proof = Proof(
        max_frames=max(one.proof.max_frames for one in parts.values()),
        instructions=sum(one.proof.instructions for one in parts.values()),
        peak=parts[nearest].proof.peak,
        peak_at=f"{nearest}: {parts[nearest].proof.peak_at}",
        least_frames=max(one.proof.least_frames for one in parts.values()),
    )
    return Certificate(
        file=where,
        name=first.name,
        dialect=first.dialect,
        target=first.target,
        target_bound=first.target_bound,
        program_sha256=digest,
        file_sha256=file_digest,
        max_seconds=first.max_seconds,
        proof=proof,
        reads_behind=next(
            (f"{name}: {one.reads_behind}" for name, one in parts.items() if one.reads_behind), ""
        ),
        nodes=dict(sum((Counter(one.nodes) for one in parts.values()), Counter())),
        spellings={op: dict(counts) for op, counts in spellings.items()},
        kernels={kernel: list(conditions) for kernel, conditions in kernels.items()},
        islands=tuple(island for one in parts.values() for island in one.islands),
        float_tensors=[f"{name}: {tensor}" for name, one in parts.items() for tensor in one.float_tensors],
        onnxruntime=max((one.onnxruntime for one in parts.values()), key=release),
        packings=_together(*(one.packings for one in parts.values())),
        parts=parts,
    )


def _together(*found: dict[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    """The packings of several programs."""
    together: dict[str, tuple[str, int]] = {}
    for packings in found:
        for name, (runtime, count) in packings.items():
            together[name] = (runtime, count + together.get(name, ("", 0))[1])
    return together


def _require_equal(model: onnx.ModelProto, data: bytes, again: Export, where: str, version: Any) -> None:
    expected = again.to_bytes()
    if data == expected:
        return
    if model.SerializeToString(deterministic=True) == expected:
        raise VerificationError(where, "the file holds bytes that are no part of its graph", _REMEDY)
    difference = _first_difference(model, again.model)
    if version != __version__:
        difference += f" (written by version {version}, checked by {__version__})"
    raise VerificationError(where, f"the graph is not the export of its program: {difference}", _REMEDY)


def _first_difference(found: onnx.ModelProto, expected: onnx.ModelProto) -> str:
    for kind in ("node", "initializer", "input", "output"):
        ours, theirs = getattr(found.graph, kind), getattr(expected.graph, kind)
        for a, b in zip(ours, theirs, strict=False):
            if a != b:
                return f"{kind} {a.name or a.op_type!r} differs from what the program exports"
        if len(ours) != len(theirs):
            return f"{len(ours)} {kind}s where the program exports {len(theirs)}"
    keys = {p.key: p.value for p in found.metadata_props}
    for p in expected.metadata_props:
        if keys.pop(p.key, None) != p.value:
            return f"metadata {p.key!r} was changed"
    return f"metadata {sorted(keys)} was added" if keys else "a field outside of graph and metadata differs"


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    """Float tensors produced between the input quantizer and the logits, by ONNX type inference.

    Kernels that keep float inside but take and give integers (QLinearConv) produce none; their
    scale operands are initializers.  What cannot be typed counts as float.
    """
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    # com.microsoft kernels used here give bytes but for one; ONNX itself has no inference for them
    nodes = every_node(model.graph)
    for node in nodes:
        if node.domain == "com.microsoft":
            kind = TensorProto.FLOAT if node.op_type == "MatMulIntegerToFloat" else TensorProto.UINT8
            typed.graph.value_info.append(helper.make_tensor_value_info(node.output[0], kind, None))
    inferred = onnx.shape_inference.infer_shapes(typed)
    known = [v for g in every_graph(inferred.graph) for v in (*g.value_info, *g.output)]
    types = {v.name: v.type.tensor_type.elem_type for v in known}
    behind = {"logits/float", "logits/real", "logprobs"}
    # the quantizer of a waveform, step by step
    inside = {i.name for i in model.graph.input if i.type.tensor_type.elem_type == TensorProto.FLOAT}
    for node in nodes:
        if node.op_type in ("Div", "Round", "Clip") and node.input[0] in inside:
            inside.add(node.output[0])
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    found = []
    for node in nodes:
        for name in node.output:
            kind = types.get(name, TensorProto.UNDEFINED)
            if name not in behind | inside and (kind in floats or kind == TensorProto.UNDEFINED):
                found.append(name)
    if any(n.op_type.startswith("QLinear") for n in nodes):
        return found
    scales = {i.name for i in model.graph.initializer if i.data_type in floats}
    allowed = {n.input[1] for n in nodes if n.op_type == "QuantizeLinear"} | {"logits/scale"}
    allowed |= {name for n in nodes if n.input and n.input[0] in inside for name in n.input}
    return found + sorted(scales - allowed)
