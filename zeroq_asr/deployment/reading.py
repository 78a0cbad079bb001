"""An ONNX file of ours, read: parsed within limits, and its program rebuilt from what it holds.

The program's instructions come from the metadata, its constants from the initializers, where they are
stored once.  Nothing outside of the file is opened, and nothing of it is believed: whether the graph is what
the program exports is for ``zeroq_asr.deployment.verify`` to say.
"""

from __future__ import annotations

import math
import os
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, numpy_helper

from zeroq_asr.checkpoints import kind_of
from zeroq_asr.deployment.export import METADATA_KEY, Deployment, check_surroundings
from zeroq_asr.deployment.metadata import read_own
from zeroq_asr.deployment.optimized import is_optimized
from zeroq_asr.errors import CheckpointError, ExportError, ProofError, VerificationError, ZeroqError
from zeroq_asr.files import read_file
from zeroq_asr.integer.backends.onnx_graph import decode
from zeroq_asr.integer.float_parts import islands
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.wellformed import check
from zeroq_asr.lines import shown

CHECKPOINT_REMEDY = "name what `zeroq-asr quantize` made of it"
REMEDY = "do not trust this file; quantize the checkpoint again"
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
                raise VerificationError(where, "qdq cannot hold what is kept in float", REMEDY)
            return program, deployment, own
        digest = program.digest()
        check_surroundings(program, deployment, check(program))
    except VerificationError:
        raise
    except ProofError as error:
        raise VerificationError(where, f"the program is not proven: {error}", REMEDY) from None
    except ExportError as error:
        raise VerificationError(where, f"its program and what surrounds it differ: {error}", REMEDY) from None
    except ZeroqError as error:
        raise VerificationError(where, f"its program cannot be read back: {error}", REMEDY) from None
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
        raise VerificationError(where, problem, REMEDY) from None
    if own["program_sha256"] != digest:
        raise VerificationError(
            where, "a weight, bias or multiplier was changed: the program's hash does not match", REMEDY
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
            raise VerificationError(where, "weights are stored outside of the file", REMEDY)
        if tensor.name in arrays:
            raise VerificationError(where, f"two tensors are called {shown(tensor.name)}", REMEDY)
        # what the shape says must be there before room is made for it
        bits = math.prod(tensor.dims) * _STORED.get(tensor.data_type, 0)
        if tensor.data_type not in _STORED or -(-bits // 8) != len(tensor.raw_data):
            problem = f"the tensor {shown(tensor.name)} does not hold what its shape says"
            raise VerificationError(where, f"{problem}: {shown(list(tensor.dims))}", REMEDY)
        arrays[tensor.name] = numpy_helper.to_array(tensor)
    return arrays


def load_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Parse an ONNX file; VerificationError if it is none, CheckpointError if it cannot be read."""
    return parsed(read_bytes(path), os.fspath(path))


@runtime_checkable
class InMemory(Protocol):
    """An ONNX file that need not have been written, such as what ``quantize`` returns."""

    def to_bytes(self) -> bytes:
        """Return what would be written."""


#: an ONNX file, by its name, by what is in it, or as a result that can be written
OnnxSource = str | os.PathLike[str] | bytes | InMemory
#: what errors call bytes that have no name
UNNAMED = "bytes"


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return what is in an ONNX file, as long as one can be; CheckpointError if it cannot be read."""
    return read_file(path, CheckpointError, _LARGEST)


def bytes_of(source: OnnxSource) -> tuple[str, bytes | None]:
    """Return what errors call a source, and its bytes; None for the name of a file, which is to be read."""
    if isinstance(source, InMemory):
        return UNNAMED, source.to_bytes()
    if isinstance(source, bytes):
        return UNNAMED, source
    return os.fspath(source), None


def parsed(data: bytes, where: str) -> onnx.ModelProto:
    """Return the model of an ONNX file's bytes; VerificationError, about ``where``, if they are none."""
    kind = kind_of(data[:1024])
    if kind:
        raise VerificationError(where, f"is {kind}, an ONNX file was expected", CHECKPOINT_REMEDY)
    if is_optimized(data):
        problem = "was optimized by ONNX Runtime for one release and processor: nothing can be proven of it"
        raise VerificationError(where, problem, "name the file that it was made of")
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
