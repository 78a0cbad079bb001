"""Tables of sinusoids of distances, stored as what they are made by, and the entries that are made otherwise.

Relative positions (arXiv 1901.02860) are sines and cosines of distances, of wavelengths from 2π to
10000 · 2π.  Of a table uint8 [D, 2L] for L frames a file stores one amplitude, and entries that integer
arithmetic does not give as the table has them, since frameworks compute angles in float32; integer nodes make
the table as a file is loaded.  A phase has 32 bits of a turn: the highest 8 look a sine and a cosine up, the
rest turn these by β, with sin β = β − β³/6 and cos β = 1 − β²/2.

    entry = ⌊(A·sin + 2^45) / 2^46⌋ + z, saturated: A has 16 binary places, sines have 30
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Context, Decimal
from typing import TYPE_CHECKING

import numpy as np

from zeroq_asr.integer.packing import require_stored
from zeroq_asr.integer.types import I32, I64, U8

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.onnx_graph import GraphBuilder

#: rows, columns, amplitude, zero point, corrections
_ENCODING = re.compile(r"sinusoids\[(\d{1,5}),(\d{1,7}),(\d{1,9}),(\d{1,3}),(\d{1,7})\]")
#: a place and its entry make one int32
_MOST = 1 << 23
#: bytes of the nodes, beside what is stored
_NODES = 2048
#: bits of a turn, and those that are looked up
_TURN, _COARSE = 32, 8
_PLACES, _AMPLITUDE = 30, 16
#: bits of a unit of an entry
_UNIT = _PLACES + _AMPLITUDE
_WAVE = 10_000
_PI = Decimal("3.14159265358979323846264338327950288")
#: π / 2 in 2^-20: 2^30 a radian are so many 2^-32 of a turn
_QUARTER = 1_647_099


def sinusoids(table: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Return what is stored of a table uint8 [D, 2L], and its encoding; None where that does not pay.

    Column j is that of the distance L − j; the first stands for none and has the zero point in every row.
    """
    fits = table.dtype == np.uint8 and table.ndim == 2 and not any(extent % 2 for extent in table.shape)
    if not fits or not 0 < table.size < _MOST or (table[:, 0] != table[0, 0]).any():
        return None
    rows, columns = table.shape
    zero = int(table[0, 0])
    # of others than sinusoids a few columns tell
    some = np.unique(np.linspace(1, columns - 1, 32, dtype=np.int64))
    amplitude = _amplitude(table[:, some], _sines(rows, columns, some), zero)
    if (_entries(_sines(rows, columns, some), amplitude, zero) != table[:, some]).mean() > 0.1:
        return None
    sines = _sines(rows, columns, np.arange(columns))
    amplitude = _amplitude(table[:, 1:], sines[:, 1:], zero)
    made = _entries(sines, amplitude, zero).reshape(-1)
    places = np.flatnonzero(made != table.reshape(-1))
    stored = (places << 8 | table.reshape(-1)[places]).astype(np.int32)
    if stored.nbytes + _NODES + 4 * rows > table.nbytes:
        return None
    return stored, f"sinusoids[{rows},{columns},{amplitude},{zero},{places.size}]"


def sinusoid_entries(stored: np.ndarray, encoding: str) -> np.ndarray | None:
    """Return the table uint8 [D, 2L] again; None for the encoding of another kind.

    Raises ValueError, saying why, for what ``sinusoids`` never gives.
    """
    if (match := _ENCODING.fullmatch(encoding)) is None:
        return None
    rows, columns, amplitude, zero, count = map(int, match.groups())
    if (
        rows % 2
        or columns % 2
        or not 0 < rows * columns < _MOST
        or zero > U8.hi
        or amplitude >= 1 << (8 + _AMPLITUDE)
    ):
        raise ValueError(f"no table is {encoding}")
    require_stored(stored, np.dtype(np.int32), (count,))
    places, entries = stored.astype(np.int64) >> 8, stored & 255
    if count and (places[0] < 0 or (np.diff(places) <= 0).any() or places[-1] >= rows * columns):
        raise ValueError("its places do not rise within the table")
    made = _entries(_sines(rows, columns, np.arange(columns)), amplitude, zero).reshape(-1)
    made[places] = entries
    return made.reshape(rows, columns)


# -- the arithmetic ------------------------------------------------------------------------------------


def _frequencies(rows: int) -> np.ndarray:
    """2^32 of a turn for each distance, of every row, int32 [D, 1]: two rows have one, sine and cosine."""
    context = Context(prec=40)
    logarithm = Decimal(_WAVE).ln(context)
    found = []
    for row in range(0, rows, 2):
        radians = context.exp(context.multiply(logarithm, context.divide(Decimal(-row), Decimal(rows))))
        turns = context.divide(context.multiply(radians, Decimal(1 << _TURN)), 2 * _PI)
        found += [int(turns.to_integral_value())] * 2
    return np.array(found, dtype=np.int32)[:, None]


def _phases(rows: int) -> np.ndarray:
    """A quarter of a turn for the cosines, int32 [D, 1]."""
    return np.array([0, 1 << (_TURN - 2)] * (rows // 2), dtype=np.int32)[:, None]


def _circle() -> np.ndarray:
    """Sines with 30 binary places in the middles of 256 parts of a turn, int32."""
    parts = 1 << _COARSE
    return np.array(
        [round(math.sin(2 * math.pi * (k + 0.5) / parts) * (1 << _PLACES)) for k in range(parts)], np.int32
    )


def _cut(v: np.ndarray, bits: int) -> np.ndarray:
    """v / 2^bits, cut toward zero, as ONNX divides."""
    return np.where(v < 0, -(-v >> bits), v >> bits)


def _sines(rows: int, columns: int, some: np.ndarray) -> np.ndarray:
    """Sines with 30 binary places, int64 [D, columns that are asked for]."""
    distances = columns // 2 - some.astype(np.int64)
    phase = (distances * _frequencies(rows).astype(np.int64) + _phases(rows)) % (1 << _TURN)
    part, rest = phase >> (_TURN - _COARSE), phase % (1 << (_TURN - _COARSE))
    beta = _cut((rest - (1 << (_TURN - _COARSE - 1))) * _QUARTER, 20)
    half_square = _cut(beta * beta, _PLACES + 1)
    sine = beta - _third(_cut(beta * half_square, _PLACES))
    cosine = (1 << _PLACES) - half_square
    circle = _circle().astype(np.int64)
    quarter = 1 << (_COARSE - 2)
    return _cut(circle[part] * cosine + circle[(part + quarter) % (1 << _COARSE)] * sine, _PLACES)


def _third(v: np.ndarray) -> np.ndarray:
    """v / 3, cut toward zero."""
    return np.where(v < 0, -(-v // 3), v // 3)


def _entries(sines: np.ndarray, amplitude: int, zero: int) -> np.ndarray:
    """Entries, uint8."""
    raised = sines * amplitude + ((2 * zero + 1) << (_UNIT - 1))
    return np.clip(_cut(raised, _UNIT), U8.lo, U8.hi).astype(np.uint8)


def _amplitude(table: np.ndarray, sines: np.ndarray, zero: int) -> int:
    """The amplitude, with 16 binary places, that gives the most entries: each says where it lies between."""
    known = (np.abs(sines) > 1 << (_PLACES - 1)) & (table > U8.lo) & (table < U8.hi)
    if not known.any():
        return 0
    twice = 2 * (table[known].astype(np.int64) - zero)
    size, sign = np.abs(sines[known]), np.sign(sines[known])
    ends = [np.sort(((twice * sign + end) << (_UNIT - 1)) // size) for end in (-1, 1)]
    fit = np.searchsorted(ends[0], ends[0], "right") - np.searchsorted(ends[1], ends[0], "left")
    return int(np.clip(ends[0][fit.argmax()], 0, (1 << (8 + _AMPLITUDE)) - 1))


# -- nodes ---------------------------------------------------------------------------------------------


def emit_sinusoids(b: GraphBuilder, stored: str, encoding: str) -> str:
    """Append the nodes that make the table, uint8 [D, 2L], of the tensor ``stored``."""
    match = _ENCODING.fullmatch(encoding)
    assert match is not None
    rows, columns, amplitude, zero, _ = map(int, match.groups())

    def of(op: str) -> Callable[[str, str], str]:
        return lambda left, right: b.add_node(op, [left, right])

    add, sub, mul, div, rest = (of(op) for op in ("Add", "Sub", "Mul", "Div", "Mod"))

    def whole(value: int) -> str:
        return b.scalar(value, I64)

    def wide(name: str, array: np.ndarray) -> str:
        return b.converted(b.store(f"const/sinusoids/{name}", array), I64)

    half = columns // 2
    distances = b.add_node("Range", [whole(half), whole(half - columns), whole(-1)])
    turns = mul(wide(f"frequencies/{rows}", _frequencies(rows)), distances)
    phase = rest(add(turns, wide(f"phases/{rows}", _phases(rows))), whole(1 << _TURN))
    fine = whole(1 << (_TURN - _COARSE))
    part = div(phase, fine)
    beta = sub(rest(phase, fine), whole(1 << (_TURN - _COARSE - 1)))
    beta = div(mul(beta, whole(_QUARTER)), whole(1 << 20))
    half_square = div(mul(beta, beta), whole(1 << (_PLACES + 1)))
    third = div(div(mul(beta, half_square), whole(1 << _PLACES)), whole(3))
    circle = wide("circle", _circle())
    ahead = rest(add(part, whole(1 << (_COARSE - 2))), whole(1 << _COARSE))
    turned = add(
        mul(b.add_node("Gather", [circle, part]), sub(whole(1 << _PLACES), half_square)),
        mul(b.add_node("Gather", [circle, ahead]), sub(beta, third)),
    )
    sines = div(turned, whole(1 << _PLACES))
    raised = add(mul(sines, whole(amplitude)), whole((2 * zero + 1) << (_UNIT - 1)))
    entries = b.converted(div(raised, whole(1 << _UNIT)), I32)
    bounded = b.add_node("Max", [b.add_node("Min", [entries, b.scalar(U8.hi, I32)]), b.scalar(U8.lo, I32)])
    flat = b.add_node("Reshape", [bounded, b.axes(-1)])
    byte = b.scalar(256, I32)
    corrected = b.add_node("ScatterElements", [flat, div(stored, byte), rest(stored, byte)], axis=0)
    return b.add_node("Reshape", [b.converted(corrected, U8), b.axes(rows, columns)])
