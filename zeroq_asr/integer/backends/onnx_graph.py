"""The graph of a program, whatever the dialect: its instructions' names, and how its constants are encoded.

Constants of the program become initializers, each once; ``encodings`` records how, so that ``decode`` reads
the program back from the file.  Where a packing stores a constant, its nodes make the integers, and what a
kernel needs of them is derived by further nodes; all depend on constants alone, so that ONNX Runtime computes
them once, as it loads a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from onnx import AttributeProto, NodeProto, helper

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.onnx_nodes import NodeBuilder, Sym, onnx_type, type_of
from zeroq_asr.integer.grid import BYTES, PACKINGS, Packing
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32, WEIGHT_ZERO_POINT

__all__ = ["CODES", "TRANSPOSED", "GraphBuilder", "Sym", "decode", "onnx_type", "type_of"]

#: what is added to the encoding of pointwise weights [O, I, 1] that are stored as [I, O]
TRANSPOSED = "[I,O]"
#: encodings of the two bytes of an entry
CODES = ("low byte", "high byte")
#: the encoding of a constant that a packing stores: the packing's name, and the shape
_PACKED = re.compile(r"packed (.+)\[(\d{1,9}(?:,\d{1,9}){0,7})\]")
#: encodings that hold the integers themselves, in one shape or another
_WHOLE = re.compile(r"u8\+128|(u8|i8|i16|i32)(\[C(,1)+\])?")


class GraphBuilder(NodeBuilder):
    """Collects what instructions become; a dialect adds the primitives."""

    def __init__(self, target: str = "x86-any") -> None:
        super().__init__()
        self.target = target
        #: constant → (initializer, encoding)
        self.encodings: dict[str, tuple[str, str]] = {}
        #: constant → name of the packing that stores it; none: as bytes
        self.packings: Mapping[str, str] = {}
        #: how often each instruction was spelled how: "QLinearConv" or "primitives"
        self.spellings: dict[str, dict[str, int]] = {}
        #: instructions so far; nodes and shared tensors before the one at hand
        self._entered = self._before = self._known = 0
        #: constant and encoding → the tensor that is derived from what its packing's nodes make
        self._derived: dict[tuple[str, str], str] = {}

    # -- instructions ------------------------------------------------------------------------

    def enter(self, i: Instruction) -> None:
        """Name the nodes that follow after instruction ``i``."""
        self._entered += 1
        self._before, self._known = len(self._nodes), len(self._shared)
        # a file of thousands of nodes would else be largely names
        self.scope(i.out, str(self._entered))
        self.proof.where = f"{i.out} ({i.op})"

    def finish(self, i: Instruction, results: tuple[Sym, ...], spelling: str) -> tuple[Sym, ...]:
        """Count the spelling and give what the nodes make the instruction's own names."""
        counts = self.spellings.setdefault(i.op, {})
        counts[spelling] = counts.get(spelling, 0) + 1
        names: dict[str, str] = {}
        for out, result in zip(i.outs, results, strict=True):
            if result.name not in names and out not in self._names and self._renamed(i, result.name, out):
                names[result.name] = out
        results = tuple(replace(v, name=names[v.name]) if v.name in names else v for v in results)
        self._types.update((v.name, type_of(v)) for v in results)
        return results

    def _renamed(self, i: Instruction, old: str, new: str) -> bool:
        """Rename a tensor if a node of this instruction makes it: the last; of several results any."""
        nodes = self._nodes[self._before :] if i.others else self._nodes[self._before :][-1:]
        if not any(old in node.output for node in nodes):
            return False
        _rename(nodes, old, new)
        self._names.add(new)
        if old in self.dims:
            self.dims[new] = self.dims.pop(old)
        if old in self._told:
            self._told[self._told.index(old)] = new
        # what this instruction has kept for others under the old name
        added = [*islice(reversed(self._shared), max(0, len(self._shared) - self._known))]
        for key in added:
            if self._shared[key].name == old:
                self._shared[key] = replace(self._shared[key], name=new)
        return True

    def plain(self, v: Sym) -> Sym:
        """A tensor [B, C, T] of the integers' own type."""
        return v

    # -- constants ---------------------------------------------------------------------------

    def encode(self, v: Sym, encoding: str, array: np.ndarray) -> str:
        """Store a program constant as ``array`` and remember how it was encoded.

        Where a packing stores it, ``array`` is what nodes make of the packed one.
        """
        packing = PACKINGS.get(self.packings.get(v.constant, BYTES))
        if packing is not None:
            return self._packed(v, packing, encoding, array)
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

    def _packed(self, v: Sym, packing: Packing, encoding: str, array: np.ndarray) -> str:
        """The tensor of a packed constant in an encoding, made once."""
        integers = self._derived.get((v.constant, ""))
        if integers is None:
            integers = self._derived[v.constant, ""] = self._unpacked(v, packing)
        key = (v.constant, encoding)
        if key not in self._derived:
            with self.before_all(v.constant, f"{v.constant}/{encoding}"):
                self._derived[key] = self._encoded(v, integers, encoding, array)
            self._types[self._derived[key]] = helper.np_dtype_to_tensor_dtype(array.dtype)
        return self._derived[key]

    def _unpacked(self, v: Sym, packing: Packing) -> str:
        """Store a constant as its packing does; returns the int32 tensor that the packing's nodes make."""
        shape, stored = v.exact.shape, packing.pack(v.exact)
        if not np.array_equal(packing.unpack(stored, shape), v.exact):
            problem = f"the packing {packing.name!r} does not give its integers again"
            raise ExportError(v.constant, problem, "choose a grid whose levels it can store")
        self.encodings[v.constant] = (v.constant, f"packed {packing.name}[{','.join(map(str, shape))}]")
        with self.before_all(v.constant, f"{v.constant}/unpacked"):
            made = packing.emit(self, self.store(v.constant, stored), shape)
        self.dims[made], self._types[made] = shape, onnx_type(I32)
        return made

    def _encoded(self, v: Sym, integers: str, encoding: str, array: np.ndarray) -> str:
        """Nodes that encode an int32 tensor of a constant's own shape."""
        kind = encoding.removesuffix(TRANSPOSED)
        if not _WHOLE.fullmatch(kind):
            raise ExportError(v.constant, f"a packed constant cannot be encoded as {encoding!r}")
        name = integers
        if kind != encoding:
            rows = self.add_node("Reshape", [name, self.axes(*v.exact.shape[:2])])
            name = self.add_node("Transpose", [rows], perm=[1, 0])
        elif array.shape != v.exact.shape:
            name = self.add_node("Reshape", [name, self.axes(*array.shape)])
        if kind == "u8+128":
            name = self.add_node("Add", [name, self.scalar(WEIGHT_ZERO_POINT, I32)])
        if array.dtype == np.int32:
            return name
        return self.add_node("Cast", [name], to=helper.np_dtype_to_tensor_dtype(array.dtype))


def decode(array: np.ndarray, encoding: str) -> np.ndarray:
    """Read a program constant back from its initializer; ExportError for an unknown encoding."""
    if match := _PACKED.fullmatch(encoding):
        return _unpack(array, match[1], tuple(int(extent) for extent in match[2].split(",")))
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


def _unpack(array: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The integers of a packed constant, as int8."""
    if name not in PACKINGS:
        raise ExportError(name, "unknown packing of a constant", "register the grid that it belongs to")
    try:
        integers = PACKINGS[name].unpack(array, shape)
    except (ValueError, IndexError) as error:
        raise ExportError(name, f"what is stored is no constant of shape {list(shape)}") from error
    return integers.astype(np.int8)


def _rename(nodes: Sequence[NodeProto], old: str, new: str) -> None:
    """Give a tensor another name wherever nodes, or graphs inside of them, make or take it."""
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _rename(attribute.g.node, old, new)
