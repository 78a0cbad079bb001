"""The graph of a program, whatever the dialect: its instructions' names, and how its constants are encoded.

Constants of the program become initializers, each once; ``encodings`` records how, so that ``decode`` reads
the program back from the file.  Where a packing stores a constant, its nodes make the integers, and what a
kernel needs of them is derived by further nodes; all depend on constants alone, so that ONNX Runtime computes
them once, as it loads a file.

In a file that packs weights at all, biases and multipliers are stored in the narrowest type that holds them,
where that saves more bytes than the nodes that widen them take.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from onnx import TensorProto, helper

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.onnx_defaults import leave_out_defaults
from zeroq_asr.integer.backends.onnx_nodes import NodeBuilder, Sym, onnx_type, rename, type_of
from zeroq_asr.integer.packing import BYTES, FIRST_OPSET, PACKINGS, Packing, needs_opset
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.sinusoids import emit_sinusoids, sinusoid_entries, sinusoids
from zeroq_asr.integer.smooth import emit_parts, emit_smooth, smooth, smooth_entries, smooth_numerators
from zeroq_asr.integer.types import I8, I16, I32, U8, WEIGHT_ZERO_POINT, IntType

__all__ = ["CODES", "TRANSPOSED", "GraphBuilder", "Sym", "decode", "onnx_type", "type_of"]

#: what is added to the encoding of pointwise weights [O, I, 1] that are stored as [I, O]
TRANSPOSED = "[I,O]"
#: encodings of the two bytes of an entry
CODES = ("low byte", "high byte")
#: encoding → how a table is stored in fewer bytes, and the nodes that make it again
_TABLES = {"i32": (smooth, emit_smooth), "u8": (sinusoids, emit_sinusoids)}
#: the encoding of a constant that a packing stores: the packing's name, and the shape
_PACKED = re.compile(r"packed (.+)\[(\d{1,9}(?:,\d{1,9}){0,7})\]")
#: encodings that hold the integers themselves, in one shape or another
_WHOLE = re.compile(r"u8\+128|(u8|i8|i16|i32)(\[C(,1)+\])?")
#: those of int32 vectors, which may be stored in fewer bits, and what then stands in their place: a type, and
#: which entries of the tensor
_VECTOR = re.compile(r"(i32|f32/2\^(\d{1,2}))(\[C(,1)+\])?")
_NARROW = "i32 in "
_PIECE = re.compile(_NARROW + r"(int8|int16)\[(\d{1,9}):(\d{1,9})\]")
#: bytes that must be saved so that a vector is worth a place there
_WORTH = 64


@dataclass
class _Vectors:
    """Vectors of one type and one encoding, which are stored as one tensor."""

    name: str
    parts: list[np.ndarray] = field(default_factory=list)
    #: of what the nodes make of the parts
    names: list[str] = field(default_factory=list)


class GraphBuilder(NodeBuilder):
    """Collects what instructions become; a dialect adds the primitives."""

    #: whether nodes may make tables: they need int64, and what runs the file must compute it once
    makes_tables = True

    def __init__(self, target: str = "x86-any") -> None:
        super().__init__()
        self.target = target
        #: constant → (initializer, encoding)
        self.encodings: dict[str, tuple[str, str]] = {}
        #: constant → name of the packing that stores it; none: as bytes
        self.packings: Mapping[str, str] = {}
        #: whether the file is of a bundle, whose parts are as short as they can be
        self.short = False
        #: how often each instruction was spelled how: "QLinearConv" or "primitives"
        self.spellings: dict[str, dict[str, int]] = {}
        #: instructions so far; nodes and shared tensors before the one at hand
        self._entered = self._before = self._known = 0
        #: constant and encoding → the tensor that is derived from what is stored of it
        self._derived: dict[tuple[str, str], str] = {}
        #: narrow type and encoding → the vectors that are stored so
        self._vectors_of: dict[tuple[str, str], _Vectors] = {}

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
        rename(nodes, {old: new})
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

    def shorten(self, extents: Container[str]) -> dict[str, str]:
        """Name tensors by a letter or two, also those that store constants; returns name → new name.

        And leave out what nodes mean all the same.
        """
        names = super().shorten(extents)
        leave_out_defaults(self.nodes, self.opset, self.initializers)
        self.encodings = {k: (names.get(name, name), told) for k, (name, told) in self.encodings.items()}
        return names

    def plain(self, v: Sym) -> Sym:
        """A tensor [B, C, T] of the integers' own type."""
        return v

    def frames(self, v: Sym) -> str:
        """T of a tensor [B, C, T] or [B, C, T, F], int64 [1]."""
        return self.add_node("Shape", [v], start=2, end=3)

    # -- constants ---------------------------------------------------------------------------

    @property
    def opset(self) -> int:
        """The opset that the packings of the constants need."""
        return max(map(needs_opset, self.packings.values()), default=FIRST_OPSET)

    @property
    def packs(self) -> bool:
        """Whether a packing stores any constant."""
        return any(packing != BYTES for packing in self.packings.values())

    @property
    def compact(self) -> bool:
        """Whether constants are stored in as few bytes as nodes of constants alone can make them of."""
        return self.short or self.packs

    def encode(self, v: Sym, encoding: str, array: np.ndarray) -> str:
        """Store a program constant as ``array`` and remember how it was encoded.

        Where a packing stores it, ``array`` is what nodes make of the packed one.
        """
        packing = PACKINGS.get(self.packings.get(v.constant, BYTES))
        if packing is not None:
            return self._packed(v, packing, encoding, array)
        if self.compact and (made := self._made_table(v, encoding)):
            return made
        if self.compact and (kind := _narrowest(v.exact, encoding)) is not None:
            return self._piece(v, kind, encoding, array)
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
            with self._ahead_of_all(v):
                self._derived[key] = self._encoded(v, integers, encoding, array)
            self._types[self._derived[key]] = helper.np_dtype_to_tensor_dtype(array.dtype)
        return self._derived[key]

    def _made_table(self, v: Sym, encoding: str) -> str:
        """The tensor of a table that nodes make of fewer bytes; "" for any other constant."""
        key = (v.constant, encoding)
        if encoding not in _TABLES or not self.makes_tables:
            return ""
        if key not in self._derived:
            store, emit = _TABLES[encoding]
            if (found := store(v.exact)) is None:
                return ""
            stored, told = found
            self.encodings.setdefault(v.constant, (v.constant, told))
            with self._ahead_of_all(v):
                self._derived[key] = emit(self, self.store(v.constant, stored), told)
            self.tell_made(self._derived[key], v.exact)
        return self._derived[key]

    def numerators(self, high: Sym, low: Sym) -> None:
        """Have two tables of bytes made of what both are of, 2^7·high + low, where that takes fewer."""
        if not (self.compact and self.makes_tables) or (high.constant, "u8") in self._derived:
            return
        if (made := smooth_numerators(high.exact, low.exact)) is None:
            return
        stored, encodings = made
        with self._ahead_of_all(high):
            name = self.store(high.constant, stored)
            for table, told, part in zip(
                (low, high), encodings, emit_parts(self, name, encodings[0]), strict=True
            ):
                self.encodings.setdefault(table.constant, (name, told))
                self._derived[table.constant, "u8"] = part
                self.tell_made(part, table.exact)

    def tell_made(self, name: str, array: np.ndarray) -> None:
        """Say that nodes of constants alone make ``array``."""
        self.dims[name], self._types[name] = array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)

    @contextmanager
    def _ahead_of_all(self, v: Sym) -> Iterator[None]:
        """Append nodes of a constant, numbered, since a file of few bytes would else be largely names."""
        with self.before_all(v.constant, f"0/{len(self._derived)}"):
            yield

    def _piece(self, v: Sym, kind: IntType, encoding: str, array: np.ndarray) -> str:
        """A piece of the tensor in which all vectors of one narrow type and one encoding are stored."""
        key = (v.constant, encoding)
        if key not in self._derived:
            empty = _Vectors(f"0/vectors/{len(self._vectors_of)}")
            place = self._vectors_of.setdefault((kind.name, encoding), empty)
            start = sum(part.size for part in place.parts)
            stored = f"{_NARROW}{kind.name}[{start}:{start + array.size}]"
            self.encodings.setdefault(v.constant, (place.name, stored))
            name = self._derived[key] = f"{place.name}/{len(place.parts)}"
            place.parts.append(v.exact.astype(kind.name).reshape(array.shape))
            place.names.append(name)
            self.dims[name], self._types[name] = array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)
        return self._derived[key]

    def store_vectors(self) -> None:
        """Store what the pieces are of, and the nodes that widen and split it: once, behind all instructions.

        A node for each would take longer to load than all weights.
        """
        for (_, encoding), place in self._vectors_of.items():
            with self.before_all(place.name, f"{place.name}/wide"):
                whole = self.store(place.name, np.concatenate(place.parts))
                wide = self._widened(whole, encoding)
                sizes = self.store(f"{place.name}/sizes", np.array([len(part) for part in place.parts]))
                self._nodes.append(helper.make_node("Split", [wide, sizes], place.names, axis=0))

    def _widened(self, name: str, encoding: str) -> str:
        """An int32 tensor of a narrower one, or float32 quotients by a power of two."""
        match = _VECTOR.fullmatch(encoding)
        assert match is not None
        if match[2] is None:
            return self.converted(name, I32)
        unit = 2.0 ** -int(match[2])
        real = self.add_node("Cast", [name], to=TensorProto.FLOAT)
        return self.add_node("Mul", [real, self.store(f"const/float/{unit!r}", np.array(unit, np.float32))])

    def _unpacked(self, v: Sym, packing: Packing) -> str:
        """Store a constant as its packing does; returns the int8 tensor that the packing's nodes make."""
        shape, stored = v.exact.shape, packing.pack(v.exact)
        if not np.array_equal(packing.unpack(stored, shape), v.exact):
            problem = f"the packing {packing.name!r} does not give its integers again"
            raise ExportError(v.constant, problem, "choose a grid whose levels it can store")
        self.encodings[v.constant] = (v.constant, f"packed {packing.name}[{','.join(map(str, shape))}]")
        with self._ahead_of_all(v):
            made = packing.emit(self, self.store(v.constant, stored), shape)
        self.dims[made], self._types[made] = shape, onnx_type(I8)
        return made

    def _encoded(self, v: Sym, integers: str, encoding: str, array: np.ndarray) -> str:
        """Nodes that encode an int8 tensor of a constant's own shape."""
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
            # of a byte in two's complement, the same as adding 128
            return self.add_node("BitwiseXor", [self.converted(name, U8), self.scalar(WEIGHT_ZERO_POINT, U8)])
        if array.dtype == np.int8:
            return name
        return self.add_node("Cast", [name], to=helper.np_dtype_to_tensor_dtype(array.dtype))


def _narrowest(integers: np.ndarray, encoding: str) -> IntType | None:
    """The narrowest type to store an int32 vector in, or none where that does not pay."""
    if integers.dtype != np.int32 or integers.ndim != 1 or not _VECTOR.fullmatch(encoding):
        return None
    lo, hi = int(integers.min(initial=0)), int(integers.max(initial=0))
    for kind, width in ((I8, 1), (I16, 2)):
        if kind.holds(lo, hi) and (integers.itemsize - width) * integers.size > _WORTH:
            return kind
    return None


def decode(array: np.ndarray, encoding: str) -> np.ndarray:
    """Read a program constant back from its initializer; ExportError for an unknown encoding."""
    if match := _PACKED.fullmatch(encoding):
        return _unpack(array, match[1], tuple(int(extent) for extent in match[2].split(",")))
    if match := _PIECE.fullmatch(encoding):
        start, end = int(match[2]), int(match[3])
        if array.dtype != match[1] or not start < end <= array.size:
            raise ExportError(encoding, f"what is stored is {array.dtype} {list(array.shape)}")
        return array.reshape(-1)[start:end].astype(np.int32)
    if (made := _made_again(array, encoding)) is not None:
        return made
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


def _made_again(array: np.ndarray, encoding: str) -> np.ndarray | None:
    """The table that nodes make of what is stored; None for an encoding of another kind."""
    try:
        made = smooth_entries(array, encoding)
        return sinusoid_entries(array, encoding) if made is None else made
    except ValueError as error:
        raise ExportError(encoding, f"what is stored is no such table: {error}") from None


def _unpack(array: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The integers of a packed constant, as int8."""
    if name not in PACKINGS:
        raise ExportError(name, "unknown packing of a constant", "register the grid that it belongs to")
    try:
        integers = PACKINGS[name].unpack(array, shape)
    except (ValueError, IndexError) as error:
        raise ExportError(
            f"packing {name}", f"what is stored is no constant of shape {list(shape)}: {error}"
        ) from None
    return integers.astype(np.int8)
