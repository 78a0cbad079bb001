"""Smooth tables: integers whose second differences are small, stored as these.

A table of a function in fine steps bends by a unit or two from one entry to the next, so two to eight bits
hold what an entry of 16 or 32 says.  Two cumulative sums make the table again, once, as a file is loaded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from zeroq_asr.integer.packing import BYTES, PACKINGS, require_stored
from zeroq_asr.integer.types import I8, I32, U8

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.onnx_graph import GraphBuilder

#: packing of second differences → their ends, the narrowest first
_ENDS = {"2-bit codes": (-2, 1), "4-bit codes": (-8, 7), BYTES: (I8.lo, I8.hi)}
#: packing, first entry, first difference, entries
_ENCODING = re.compile(rf"smooth ({'|'.join(_ENDS)})\[(-?\d{{1,10}}),(-?\d{{1,10}}),(\d{{1,9}})\]")
#: what is added to the encoding of numerators 2^7·high + low for their two parts, and bits of the lower one
_PARTS, _LOW = (", low part", ", high part"), 7
#: fewer entries save less than their nodes take
_LEAST = 1024
#: no difference of entries up to it leaves int32
_LARGEST = 1 << 30


def smooth(entries: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Return what is stored of a table int32 [N], and its encoding; None for one that is not smooth."""
    if entries.ndim != 1 or entries.size < _LEAST or np.abs(entries.astype(np.int64)).max() >= _LARGEST:
        return None
    whole = entries.astype(np.int64)
    bends = np.concatenate(([0, 0], np.diff(whole, n=2)))
    for packing, (low, high) in _ENDS.items():
        if low <= bends.min() and bends.max() <= high:
            narrow = bends.astype(np.int8)
            stored = narrow if packing == BYTES else PACKINGS[packing].pack(narrow)
            return stored, f"smooth {packing}[{whole[0]},{whole[1] - whole[0]},{whole.size}]"
    return None


def smooth_entries(stored: np.ndarray, encoding: str) -> np.ndarray | None:
    """Return the table int32 [N] again, or a part of it uint8 [N]; None for the encoding of another kind.

    Raises ValueError, saying why, for what ``smooth`` never gives.
    """
    if (match := _ENCODING.fullmatch(_whole(encoding))) is None:
        return None
    packing, start, slope, size = match[1], int(match[2]), int(match[3]), int(match[4])
    if packing == BYTES:
        require_stored(stored, np.dtype(np.int8), (size,))
        bends = stored
    else:
        bends = PACKINGS[packing].unpack(stored, (size,))
    slopes = np.cumsum(bends, dtype=np.int64) + slope
    entries = np.cumsum(slopes) + (start - slope)
    if size < 1 or max(-entries.min(), entries.max()) >= _LARGEST:
        raise ValueError("its entries leave int32")
    if encoding.endswith(_PARTS[0]):
        return (entries & ((1 << _LOW) - 1)).astype(np.uint8)
    if encoding.endswith(_PARTS[1]):
        return (entries >> _LOW).astype(np.uint8)
    return entries.astype(np.int32)


def _whole(encoding: str) -> str:
    """The encoding of a whole table, of one or of a part."""
    return encoding.removesuffix(_PARTS[0]).removesuffix(_PARTS[1])


def smooth_numerators(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, tuple[str, str]] | None:
    """Return what is stored of numerators 2^7·high + low, and the encodings of low and of high.

    Both uint8 [N]; None where low has more than 7 bits, or the numerators are not smooth.
    """
    found = smooth(high.astype(np.int32) << _LOW | low) if int(low.max(initial=0)) < 1 << _LOW else None
    return None if found is None else (found[0], (found[1] + _PARTS[0], found[1] + _PARTS[1]))


def emit_codes(b: GraphBuilder, stored: str, encoding: str) -> str:
    """Append the nodes that make 2^8·high + low, int32 [N], of the tensor ``stored``."""
    numerators, part = emit_smooth(b, stored, _whole(encoding)), b.scalar(1 << _LOW, I32)
    raised = b.add_node("Mul", [b.add_node("Div", [numerators, part]), part])
    return b.add_node("Add", [numerators, raised])


def emit_parts(b: GraphBuilder, stored: str, encoding: str) -> tuple[str, str]:
    """Append the nodes that make low and high of numerators 2^7·high + low, uint8 [N], of ``stored``."""
    numerators, part = emit_smooth(b, stored, _whole(encoding)), b.scalar(1 << _LOW, I32)
    high = b.add_node("Div", [numerators, part])
    low = b.add_node("Sub", [numerators, b.add_node("Mul", [high, part])])
    return b.converted(low, U8), b.converted(high, U8)


def emit_smooth(b: GraphBuilder, stored: str, encoding: str) -> str:
    """Append the nodes that make the table, int32 [N], of the tensor ``stored``."""
    match = _ENCODING.fullmatch(encoding)
    assert match is not None
    packing, start, slope, size = match[1], int(match[2]), int(match[3]), int(match[4])
    bends = stored if packing == BYTES else PACKINGS[packing].emit(b, stored, (size,))
    axis = b.scalar(0, I32)
    slopes = b.add_node("CumSum", [b.converted(bends, I32), axis])
    slopes = b.add_node("Add", [slopes, b.scalar(slope, I32)])
    return b.add_node("Add", [b.add_node("CumSum", [slopes, axis]), b.scalar(start - slope, I32)])
