"""The opset of a file, and the oldest ONNX Runtime that runs it.

A file is of the first opset unless what it holds needs a later one: 4-bit weights are of type INT4, 2-bit
ones of INT2, each of which ONNX has since an opset of its own.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from zeroq_asr.integer.backends.onnx_loops import every_node
from zeroq_asr.integer.packing import BYTES, FIRST_OPSET, needs_opset
from zeroq_asr.integer.program import Program


@dataclass(frozen=True)
class Opset:
    """An opset that files are of."""

    version: int
    ir_version: int
    #: the oldest release of ONNX Runtime that runs our files of it, with packed weights
    runtime: str


#: BitwiseAnd and Shape slices need opset 18.  What unpacks weights runs since 1.24, which casts INT4 and
#: knows opset 25 with its INT2
OPSETS = (Opset(FIRST_OPSET, 8, "1.24"), Opset(21, 10, "1.24"), Opset(25, 13, "1.24"))
#: where nothing is packed.  Before 1.22, ONNX Runtime gives two of the nodes that it fuses the Slices of
#: attention into one name, and refuses the graph
_UNPACKED = {"fused": "1.20", "strict": "1.22", "qdq": "1.22"}
#: of integers of these types Equal is known since 1.21; it is how primitives round half to even, which stand
#: in a fused file wherever no kernel is exact
_NARROW, _SINCE = {TensorProto.INT16, TensorProto.UINT8, TensorProto.INT8}, "1.21"


def opset_of(version: int) -> Opset:
    """Return the first of ``OPSETS`` that has all of a version; StopIteration for a later one."""
    return next(opset for opset in OPSETS if opset.version >= version)


def packings_of(program: Program) -> dict[str, tuple[str, int]]:
    """Return what a program's constants are stored by, beside bytes.

    Packing → the oldest ONNX Runtime that runs a file with it, and how many constants it stores.
    """
    counts = Counter(packing for packing in program.packings.values() if packing != BYTES)
    return {name: (opset_of(needs_opset(name)).runtime, count) for name, count in sorted(counts.items())}


def oldest_runtime(model: onnx.ModelProto, program: Program, dialect: str) -> str:
    """Return the oldest release of ONNX Runtime that runs a file of ours; "" for a later opset than ours."""
    version = standard_opset(model)
    if version > OPSETS[-1].version:
        return ""
    packs = any(packing != BYTES for packing in program.packings.values())
    if packs:
        return opset_of(version).runtime
    least = [_UNPACKED[dialect], *([_SINCE] if compares_narrow(model) else [])]
    return max(least, key=release)


def compares_narrow(model: onnx.ModelProto) -> bool:
    """Whether any node, within others too, compares with a constant of fewer than 32 bits."""
    narrow = {tensor.name for tensor in model.graph.initializer if tensor.data_type in _NARROW}
    nodes = every_node(model.graph)
    return any(node.op_type == "Equal" and narrow.intersection(node.input) for node in nodes)


def standard_opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model imports; 0 for none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def too_new(model: str | bytes, installed: str) -> tuple[str, str] | None:
    """Say why an ONNX Runtime of this version cannot know a file's opset, and what to do; none if it should.

    ``model``: the file's name, or what is in it.
    """
    try:
        found = (
            onnx.load_model_from_string(model)
            if isinstance(model, bytes)
            else onnx.load_model(os.fspath(model), load_external_data=False)
        )
    except (DecodeError, ValueError, RuntimeError, RecursionError, OSError):
        return None
    version, newest = standard_opset(found), OPSETS[-1]
    if version > newest.version:
        remedy = "upgrade both: pip install --upgrade zeroq-asr onnxruntime"
        return f"is of opset {version}, too new for ONNX Runtime {installed}", remedy
    needed = opset_of(version).runtime
    if version <= FIRST_OPSET or release(installed) >= release(needed):
        return None
    problem = f"is of opset {version}, which needs ONNX Runtime {needed} or later, {installed} is installed"
    return problem, f"upgrade it: pip install --upgrade 'onnxruntime>={needed}'"


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a release, to compare it by."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
