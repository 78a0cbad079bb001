"""An ONNX graph as it grows, whatever the dialect: nodes, initializers, and how constants are encoded.

Each node's value carries its interval, computed by the proof's own backend, so that a spelling can use what
is known (a value that cannot be negative needs no offset before a division).  Constants of the program become
initializers, each once; ``encodings`` records how, so that the program can be read back from the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend
from zeroq_asr.integer.backends.onnx_shapes import KEEPS_TYPE, OPAQUE, Dims, infer
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import BOOL, I16, I32, I64, U8, WEIGHT_ZERO_POINT, IntType
from zeroq_asr.operators import OPS

ONNX_TYPES: dict[IntType, int] = {
    BOOL: TensorProto.BOOL,
    U8: TensorProto.UINT8,
    I16: TensorProto.INT16,
    I32: TensorProto.INT32,
    I64: TensorProto.INT64,
}
#: what is added to the encoding of pointwise weights [O, I, 1] that are stored as [I, O]
TRANSPOSED = "[I,O]"
#: encodings of the two bytes of an entry
CODES = ("low byte", "high byte")
#: operators that give one type whatever they take
_GIVES = {
    "ConvInteger": TensorProto.INT32,
    "MatMulInteger": TensorProto.INT32,
    **dict.fromkeys(("QLinearConv", "QLinearAdd", "QLinearMul"), TensorProto.UINT8),
    "MatMulIntegerToFloat": TensorProto.FLOAT,
}


@dataclass(frozen=True)
class Sym:
    """A tensor of the graph: its name and the bounds of its integers.

    A program constant has no name until a primitive stores it in the encoding that it needs.
    """

    name: str
    interval: Interval
    constant: str = ""
    #: whether the tensor is float32, which holds the integers exactly
    carried: bool = False
    #: whether the tensor is [B, T, C], and not [B, C, T]
    frames_first: bool = False

    @property
    def exact(self) -> np.ndarray:
        """The array of a constant."""
        if self.interval.exact is None:
            raise ExportError(self.name, "expected a constant operand")
        return self.interval.exact


class GraphBuilder:
    """Collects nodes and initializers; a dialect adds the primitives."""

    def __init__(self, target: str = "x86-any") -> None:
        self.target = target
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        #: constant → (initializer, encoding)
        self.encodings: dict[str, tuple[str, str]] = {}
        self.proof = IntervalBackend()
        #: how often each instruction was spelled how: "QLinearConv" or "primitives"
        self.spellings: dict[str, dict[str, int]] = {}
        self._scope = self._label = ""
        self._entered = self._before = 0
        self._count = 0
        #: the file's own outputs: a layer that happens to be called so keeps its generated name
        self._names: set[str] = {"logits", "logprobs", "encoded_lengths"}
        self._shared: dict[tuple[Any, ...], Sym] = {}
        #: tensor → its shape, where it is known, and its type
        self.dims: dict[str, Dims] = {}
        self._types: dict[str, int] = {}
        #: initializer → its entries, of axes and shapes
        self._vectors: dict[str, tuple[int, ...]] = {}
        #: tensors whose shape ONNX must be told
        self._told: list[str] = []

    # -- the program -------------------------------------------------------------------------

    def instruction(self, i: Instruction, operands: list[Any]) -> Sym:
        """Spell one instruction in primitives."""
        self.enter(i)
        return self.finish(i, OPS[i.op].define(self, *operands, **i.attrs), "primitives")

    def enter(self, i: Instruction) -> None:
        """Name the nodes that follow after instruction ``i``."""
        self._entered += 1
        self._before = len(self.nodes)
        # a file of thousands of nodes would else be largely names
        self.scope(i.out, str(self._entered))
        self.proof.where = f"{i.out} ({i.op})"

    def scope(self, name: str, label: str = "") -> None:
        """Name what follows after ``name``: constants in full, tensors by ``label``."""
        self._scope, self._label, self._count = name, label or name, 0

    def finish(self, i: Instruction, result: Sym, spelling: str) -> Sym:
        """Count the spelling and give the last node's output the instruction's own name."""
        counts = self.spellings.setdefault(i.op, {})
        counts[spelling] = counts.get(spelling, 0) + 1
        made = len(self.nodes) > self._before and self.nodes[-1].output[0] == result.name
        if made and i.out not in self._names:
            self.nodes[-1].output[0] = i.out
            self._names.add(i.out)
            self._rename(result.name, i.out)
            result = replace(result, name=i.out)
        self._types[result.name] = type_of(result)
        return result

    def input(self, name: str, interval: Interval, dims: Dims) -> Sym:
        """Declare a graph input."""
        self._names.add(name)
        self.dims[name] = dims
        return Sym(name, interval)

    def tell_dims(self, name: str, dims: Dims) -> None:
        """Say what shape ``name`` has."""
        self.dims[name] = dims

    def tell(self, name: str, like: str) -> str:
        """Say that ``name`` has the shape of ``like``; returns ``name``."""
        if like in self.dims:
            self.dims[name] = self.dims[like]
        return name

    def value_infos(self) -> list[ValueInfoProto]:
        """The shapes that ONNX does not find by itself."""
        return [
            helper.make_tensor_value_info(name, self._types[name], list(self.dims[name]))
            for name in self._told
            if name in self.dims and name in self._types
        ]

    def _rename(self, old: str, new: str) -> None:
        if old in self.dims:
            self.dims[new] = self.dims.pop(old)
        if old in self._told:
            self._told[self._told.index(old)] = new

    def plain(self, v: Sym) -> Sym:
        """A tensor of the integers' own type."""
        return v

    # -- nodes and initializers --------------------------------------------------------------

    def add_node(self, op: str, inputs: list[Sym | str], domain: str = "", **attrs: Any) -> str:
        """Append a node and return its output's name."""
        self._count += 1
        output = f"{self._label}/{self._count}"
        self._names.add(output)
        names = [i if isinstance(i, str) else i.name for i in inputs]
        self._types.update((i.name, type_of(i)) for i in inputs if isinstance(i, Sym))
        self._infer(op, names, output, attrs)
        name = output if self._label == self._scope else ""
        self.nodes.append(helper.make_node(op, names, [output], name=name, domain=domain, **attrs))
        return output

    def _infer(self, op: str, names: list[str], output: str, attrs: dict[str, Any]) -> None:
        constants = [self._vectors.get(name) for name in names]
        dims = infer(op, [self.dims.get(name) for name in names], constants, attrs)
        if dims is not None:
            self.dims[output] = dims
        if op in OPAQUE:
            self._told.append(output)
        if op in _GIVES:
            self._types[output] = _GIVES[op]
        elif op == "Cast":
            self._types[output] = attrs["to"]
        elif op in KEEPS_TYPE and names[0] in self._types:
            self._types[output] = self._types[names[0]]

    def store(self, name: str, array: np.ndarray) -> str:
        """Add an initializer; equal requests under one name are one."""
        if name not in self.initializers:
            self.dims[name] = array.shape
            if array.dtype == np.int64 and array.ndim == 1 and array.size <= 8:
                self._vectors[name] = tuple(int(v) for v in array)
            self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def scalar(self, value: int, kind: IntType) -> str:
        """A shared integer scalar."""
        return self.store(f"const/{kind.name}/{value}", np.array(value, dtype=kind.name))

    def axes(self, *values: int) -> str:
        """A shared int64 vector (axes, starts, ...)."""
        return self.store(f"const/axes/{','.join(map(str, values))}", np.array(values, dtype=np.int64))

    def encode(self, v: Sym, encoding: str, array: np.ndarray) -> str:
        """Store a program constant as ``array`` and remember how it was encoded."""
        known = self.encodings.setdefault(v.constant, (v.constant, encoding))
        # a constant that instructions share may be needed in two forms; it is read back from the first
        name = v.constant if known[1] == encoding else f"{v.constant}/{encoding}"
        return self.store(name, array)

    def leave_out(self, v: Sym) -> None:
        """Remember a vector of zeros [C] of the program that no node needs."""
        zeros = f"zeros[{v.exact.size}]"
        self.encodings.setdefault(v.constant, ("", zeros))

    def weight(self, w: Sym) -> str:
        """Weights as unsigned bytes around 128: ConvInteger is several times slower with signed ones."""
        return self.encode(w, "u8+128", (w.exact.astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8))


def decode(array: np.ndarray, encoding: str) -> np.ndarray:
    """Read a program constant back from its initializer; ExportError for an unknown encoding."""
    if encoding.endswith(TRANSPOSED):
        return decode(array, encoding.removesuffix(TRANSPOSED)).T[:, :, None]
    if encoding == "u8+128":
        return (array.astype(np.int16) - WEIGHT_ZERO_POINT).astype(np.int8)
    if encoding in ("i32[C,1]", "i32[C,1,1]"):
        return array.reshape(len(array)).astype(np.int32)
    if encoding in ("i8", "u8", "i16", "i32"):
        return array
    if match := re.fullmatch(r"zeros\[(\d{1,6})\]", encoding):
        return np.zeros(int(match[1]), dtype=np.int32)
    if encoding in CODES:
        return (array.astype(np.int64) >> 8 * CODES.index(encoding) & 255).astype(np.uint8)
    if encoding == "f32 bits":
        if array.dtype != np.float32:
            raise ExportError(encoding, f"a weight of a float island is stored as {array.dtype}")
        return np.ascontiguousarray(array).view(np.int32)
    if match := re.fullmatch(r"f32/2\^(\d+)(\[C,1(,1)?\])?", encoding):
        scaled = array.astype(np.float64).reshape(-1) * 2.0 ** int(match[1])
        if np.all(scaled == np.rint(scaled)) and np.all(np.abs(scaled) < 2**31):
            return scaled.astype(np.int32)
        raise ExportError(encoding, "a stored multiplier is no multiple of its dyadic unit")
    raise ExportError(encoding, "unknown encoding of a constant", "use the version that wrote the file")


def type_of(v: Sym) -> int:
    """ONNX's number of the type of a tensor."""
    return int(TensorProto.FLOAT) if v.carried else onnx_type(v.interval.type)


def onnx_type(kind: IntType) -> int:
    """ONNX's number of a type."""
    return ONNX_TYPES[kind]
