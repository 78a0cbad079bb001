"""Packings: how files store integers of a few bits, and the ONNX nodes that make the integers again.

Integers of 4 and of 2 bits are tensors of ONNX's own types, which a Cast widens.  For one bit ONNX has no
type: bytes hold eight codes each, and a table of 256 rows says which integers a byte stands for.  Tables
store 4 and 2 bits, too, where levels are not evenly apart or a file must keep the first opset; their codes
lie in words of 16 bits.  ONNX Runtime computes all of it once, as it loads a file, so that what runs is the
kernel of 8-bit weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from zeroq_asr.errors import ConfigError
from zeroq_asr.integer.types import I8, I32

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.onnx_graph import GraphBuilder

#: the packing of integers that are stored as bytes, in whichever way a kernel takes them
BYTES = "bytes"
#: the opset of files in which nothing needs a later one
FIRST_OPSET = 18


@dataclass(frozen=True)
class Packing:
    """How the integers of a constant are stored in a file.

    ``pack(integers)`` gives the stored array of int8 integers of any shape, ``unpack(array, shape)`` the
    integers again, exactly; it raises ValueError, saying why, for an array that ``pack`` gives of no integers
    of that shape.  ``emit(builder, stored, shape)`` appends the ONNX nodes that do the same to the tensor
    ``stored``, in integer operators alone, and returns the name of an int8 tensor of that shape.
    """

    name: str
    pack: Callable[[np.ndarray], np.ndarray]
    unpack: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    emit: Callable[[GraphBuilder, str, tuple[int, ...]], str]
    #: the opset that these nodes need
    opset: int = FIRST_OPSET
    #: name of the packing that stores the same integers in a file of the first opset
    of_first_opset: str = ""


#: packings by name, but for ``BYTES``
PACKINGS: dict[str, Packing] = {}


def register_packing(packing: Packing) -> Packing:
    """Add a packing; returns it.  Raises ConfigError where its name is taken."""
    if packing.name in (BYTES, *PACKINGS):
        raise ConfigError("packing", f"{packing.name!r} is registered already", "name it anew")
    PACKINGS[packing.name] = packing
    return packing


def needs_opset(name: str) -> int:
    """Return the opset that a packing, or ``BYTES``, needs of a file."""
    return FIRST_OPSET if name == BYTES else PACKINGS[name].opset


def within_first_opset(name: str) -> str:
    """Return the packing to use where a file must keep the first opset; ``BYTES`` where none will do."""
    if needs_opset(name) <= FIRST_OPSET:
        return name
    return PACKINGS[name].of_first_opset or BYTES


def require_stored(array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless what is stored has this type and shape."""
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"it is {array.dtype} {list(array.shape)} where {dtype} {list(shape)} must be stored"
        )


# -- types of ONNX's own -------------------------------------------------------------------------------


def _tensors(bits: int, dtype: np.dtype, opset: int) -> Packing:
    """Integers of a type of ONNX's own, in two's complement."""

    def unpack(stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        require_stored(stored, dtype, shape)
        return stored.astype(np.int8)

    def emit(b: GraphBuilder, stored: str, shape: tuple[int, ...]) -> str:
        return b.converted(stored, I8)

    return Packing(f"int{bits}", lambda q: q.astype(dtype), unpack, emit, opset, f"{bits}-bit codes")


# -- codes in words ------------------------------------------------------------------------------------


def _codes(bits: int, levels: tuple[int, ...], name: str = "") -> Packing:
    """``levels`` by their code of ``bits`` bits, the first code of a word in its lowest bits."""
    name = name or f"{bits}-bit codes"
    # a load takes as long as its nodes write memory: indices of 32 bits are fewer with longer words, which
    # for one bit would gain less than their table costs (benchmarks/packing.py)
    dtype = np.dtype(np.uint8 if bits == 1 else np.uint16)
    each = 8 * dtype.itemsize // bits
    shifts = bits * np.arange(each)
    table = np.array(levels, dtype=np.int8)[np.arange(256)[:, None] >> shifts[: 8 // bits] & len(levels) - 1]
    code_of = np.zeros(256, dtype=np.uint8)
    code_of[np.array(levels)] = np.arange(len(levels))

    def pack(integers: np.ndarray) -> np.ndarray:
        codes = code_of[integers.reshape(-1)]
        rows = np.pad(codes, (0, -len(codes) % each)).reshape(-1, each).astype(dtype)
        return np.bitwise_or.reduce(rows << shifts.astype(dtype), axis=1)

    def unpack(stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape)
        require_stored(stored, dtype, (-(-size // each),))
        if size % each and stored[-1] >> bits * (size % each):
            raise ValueError("bits beyond the last integer are set")
        # the lower byte first, whatever the processor's order
        codes = stored.astype(dtype.newbyteorder("<")).view(np.uint8)
        return table[codes].reshape(-1)[:size].reshape(shape)

    def emit(b: GraphBuilder, stored: str, shape: tuple[int, ...]) -> str:
        rows = b.store(f"const/{name}", table)
        if each > 8 // bits:
            rows = b.once(f"{name}/rows", lambda: _rows_of_words(b, rows, table.shape[1]))
        # Gather takes a row at once: of all operators this reads the least memory
        made = b.add_node("Gather", [rows, b.converted(stored, I32)])
        size = math.prod(shape)
        if size % each:
            flat = b.add_node("Reshape", [made, b.axes(-1)])
            made = b.add_node("Slice", [flat, b.axes(0), b.axes(size)])
        return b.add_node("Reshape", [made, b.axes(*shape)])

    return Packing(name, pack, unpack, emit)


def _rows_of_words(b: GraphBuilder, rows: str, size: int) -> str:
    """The table [65536, 2·size] of what words of two bytes stand for, of a table [256, size] of bytes."""
    whole = b.axes(256, 256, size)
    low = b.add_node("Expand", [b.add_node("Reshape", [rows, b.axes(1, 256, size)]), whole])
    high = b.add_node("Expand", [b.add_node("Reshape", [rows, b.axes(256, 1, size)]), whole])
    both = b.add_node("Concat", [low, high], axis=2)
    return b.add_node("Reshape", [both, b.axes(1 << 16, 2 * size)])


#: ONNX has INT4 since opset 21, INT2 since opset 25
INT4 = register_packing(_tensors(4, np.dtype(ml_dtypes.int4), 21)).name
INT2 = register_packing(_tensors(2, np.dtype(ml_dtypes.int2), 25)).name
register_packing(_codes(4, (*range(8), *range(-8, 0))))
register_packing(_codes(2, (0, 1, -2, -1)))
BITS = register_packing(_codes(1, (-1, 1))).name
#: levels of which ONNX has no type (``integer.grid``): evenly apart, and as a logistic density wants them
ODD2 = (-3, -1, 1, 3)
LOGISTIC2 = (-64, -18, 18, 64)
LOGISTIC4 = (-64, -45, -33, -25, -18, -12, -7, -2, 2, 7, 12, 18, 25, 33, 45, 64)
ODD_CODES = register_packing(_codes(2, ODD2, "2-bit odd codes")).name
LOGISTIC2_CODES = register_packing(_codes(2, LOGISTIC2, "2-bit logistic codes")).name
LOGISTIC4_CODES = register_packing(_codes(4, LOGISTIC4, "4-bit logistic codes")).name
#: packing → weights of a byte
A_BYTE = {BYTES: 1, INT4: 2, INT2: 4, ODD_CODES: 4, LOGISTIC2_CODES: 4, LOGISTIC4_CODES: 2, BITS: 8}
