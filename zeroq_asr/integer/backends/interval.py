"""The proof: the same definitions on ranges, with the actual weights.

A value is a pair of bounds, exact Python integers, one pair for the whole tensor (shape ()) or
one a channel (shape [C, 1]).  Time and batch are covered by holding for every frame.  A primitive
whose result may leave its type raises ProofError, so a program that runs here cannot overflow
for any input of the stated length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.base import Body
from zeroq_asr.integer.types import BOOL, I32, I64, U8, IntType


@dataclass(frozen=True)
class Interval:
    """Bounds lo ≤ value ≤ hi (object arrays of Python ints) of a value of integer type ``type``."""

    lo: np.ndarray
    hi: np.ndarray
    type: IntType
    #: the array itself where the value is a constant
    exact: np.ndarray | None = None

    @staticmethod
    def of(lo: int | np.ndarray, hi: int | np.ndarray, kind: IntType) -> Interval:
        """Build an interval from ints or arrays."""
        return Interval(_exact(lo), _exact(hi), kind)

    @property
    def min(self) -> int:
        """Smallest possible value of any element."""
        return int(self.lo.min())

    @property
    def max(self) -> int:
        """Largest possible value of any element."""
        return int(self.hi.max())


def _exact(v: int | np.ndarray) -> np.ndarray:
    return np.asarray(v).astype(object) if isinstance(v, np.ndarray) else np.array(v, dtype=object)


class IntervalBackend:
    """Interprets the primitives on intervals.  ``where`` names the instruction in error texts."""

    def __init__(self, max_frames: int = 0) -> None:
        self.where = "program"
        #: frames of the longest input; no sum over time runs over more, whatever lengths it is given
        self.max_frames = max_frames
        #: largest magnitude of an int32 result since it was last reset
        self.peak = 0

    def constant(self, name: str, array: np.ndarray) -> Interval:
        """Constants are known exactly."""
        flat = np.asarray(array)
        kind = U8 if flat.dtype == np.uint8 else I32
        return Interval(_exact(flat), _exact(flat), kind, exact=flat)

    def array(self, v: Interval) -> np.ndarray:
        """The constant itself."""
        if v.exact is None:
            raise ProofError(self.where, "expected a constant operand")
        return v.exact

    def per_channel(self, v: Interval, axes: int = 1) -> Interval:
        """[C] → [C, 1] or [C, 1, 1]."""
        shape = (-1, *(1,) * axes)
        return self._checked(v.lo.reshape(shape), v.hi.reshape(shape), I32, "constant")

    def per_batch(self, lengths: Interval) -> Interval:
        """Lengths as int32."""
        return self._checked(lengths.lo, lengths.hi, I32, "lengths as int32")

    def cast(self, v: Interval, to: IntType) -> Interval:
        """The value must fit the new type."""
        return self._checked(v.lo, v.hi, to, "cast")

    def add(self, a: Interval, b: Interval | int) -> Interval:
        """a + b."""
        lo, hi = self._operand(b, a.type)
        return self._checked(a.lo + lo, a.hi + hi, a.type, "add")

    def sub(self, a: Interval, b: Interval | int) -> Interval:
        """a − b."""
        lo, hi = self._operand(b, a.type)
        return self._checked(a.lo - hi, a.hi - lo, a.type, "sub")

    def mul(self, a: Interval, b: Interval | int) -> Interval:
        """a · b."""
        lo, hi = self._operand(b, a.type)
        corners = np.broadcast_arrays(a.lo * lo, a.lo * hi, a.hi * lo, a.hi * hi)
        return self._checked(np.minimum.reduce(corners), np.maximum.reduce(corners), a.type, "mul")

    def square(self, v: Interval) -> Interval:
        """The larger end squared; the smaller where zero lies outside."""
        ends = np.minimum.reduce([abs(v.lo), abs(v.hi)]), np.maximum.reduce([abs(v.lo), abs(v.hi)])
        around = np.logical_and(v.lo <= 0, v.hi >= 0)
        return self._checked(np.where(around, 0, ends[0] * ends[0]), ends[1] * ends[1], v.type, "square")

    def clamp(self, v: Interval, lo: int | np.ndarray, hi: int | np.ndarray) -> Interval:
        """Clamp to ints or to per-channel vectors [C]."""
        low, high = (_exact(b[:, None] if isinstance(b, np.ndarray) else b) for b in (lo, hi))
        return self._checked(
            np.minimum(np.maximum(v.lo, low), high), np.maximum(np.minimum(v.hi, high), low), v.type, "clamp"
        )

    def shift_right(self, v: Interval, c: int) -> Interval:
        """Floor of v / 2^c.

        Dialects without a signed shift first add a multiple of 2^(c+1) that makes v non-negative;
        there must be room for it.
        """
        if v.min < 0:
            self._checked(np.array(0, dtype=object), np.array(v.max + shift_offset(v, c)), I32, "shift")
        return self._checked(v.lo >> c, v.hi >> c, v.type, "shift")

    def bit_and(self, v: Interval, mask: int) -> Interval:
        """Bitwise and with a non-negative mask."""
        return self._checked(_exact(0), _exact(mask), v.type, "bit_and")

    def low_bits_equal(self, v: Interval, c: int, bit: int) -> Interval:
        """Either truth value, where v is within what the spellings can take."""
        if not 0 < c <= 16 or v.min < 0 or v.max >= 257 << c:
            raise ProofError(
                self.where, f"low_bits_equal needs 0 ≤ v < 257·2^c and 0 < c ≤ 16, found {v.min}, {v.max}"
            )
        return Interval.of(0, 1, BOOL)

    def set_parity(self, y: Interval, where: Interval, bit: int) -> Interval:
        """The bound that has the wrong parity moves by one."""
        if bit:
            return self._checked(y.lo, y.hi + 1 - y.hi % 2, U8, "set_parity")
        return self._checked(y.lo - y.lo % 2, y.hi, U8, "set_parity")

    def divide(self, a: Interval, b: Interval | int) -> Interval:
        """Floor division; requires a ≥ 0 and b ≥ 1."""
        lo, hi = _bounds(b)
        if a.min < 0 or int(np.min(lo)) < 1:
            raise ProofError(
                self.where,
                f"divide needs a ≥ 0 and b ≥ 1, found a ≥ {a.min}, b ≥ {int(np.min(lo))}",
                "a mean needs a frame: the network must leave one of an input of one frame",
            )
        return self._checked(a.lo // hi, a.hi // lo, a.type, "divide")

    def conv(
        self,
        x: Interval,
        w: Interval,
        *,
        zero_point: int,
        stride: int,
        padding: tuple[int, int],
        dilation: int,
        groups: int,
    ) -> Interval:
        """Σ over inputs and taps of the worst product, for any subset of taps (padding is zero)."""
        weight = self.array(w).astype(np.int64)
        channels = weight.shape[1] * groups
        # a padded frame contributes zero, so zero always belongs to the range; this also bounds
        # every partial sum, whatever order a kernel adds in
        low = np.minimum(np.broadcast_to(x.lo - zero_point, (channels, 1)), 0).astype(np.int64)[:, 0]
        high = np.maximum(np.broadcast_to(x.hi - zero_point, (channels, 1)), 0).astype(np.int64)[:, 0]
        positive, negative = np.maximum(weight, 0).sum(axis=2), np.minimum(weight, 0).sum(axis=2)
        rows = weight.shape[0] // groups
        group = np.arange(weight.shape[0]) // rows
        low, high = low.reshape(groups, -1)[group], high.reshape(groups, -1)[group]
        upper = (positive * high + negative * low).sum(axis=1)
        lower = (positive * low + negative * high).sum(axis=1)
        # kernels with unsigned operands accumulate the raw bytes before they subtract zero points
        raw = 255 * 255 * weight.shape[1] * weight.shape[2]
        self._checked(_exact(0), _exact(raw), I32, "raw accumulator")
        return self._checked(_exact(lower[:, None]), _exact(upper[:, None]), I32, "accumulator")

    def conv2d(
        self,
        x: Interval,
        w: Interval,
        *,
        zero_point: int,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Interval:
        """As ``conv``, over taps in time and frequency."""
        taps = self.array(w)
        flat = Interval(w.lo, w.hi, w.type, exact=taps.reshape(*taps.shape[:2], -1))
        whole = Interval.of(x.min, x.max, x.type)
        layout = {"stride": 1, "padding": (0, 0), "dilation": 1, "groups": groups}
        acc = self.conv(whole, flat, zero_point=zero_point, **layout)  # type: ignore[arg-type]
        return Interval(acc.lo[..., None], acc.hi[..., None], I32)

    def matmul(self, a: Interval, b: Interval, *, za: int, zb: int, terms: Interval | int) -> Interval:
        """The worst product as often as there are terms."""
        count = terms if isinstance(terms, int) else terms.max
        corners = [(p - za) * (q - zb) for p in (a.min, a.max) for q in (b.min, b.max)]
        # kernels accumulate the raw bytes before they subtract zero points
        self._checked(_exact(0), _exact(255 * 255 * count), I32, "raw accumulator")
        low, high = min(0, *corners) * count, max(0, *corners) * count
        return self._checked(_exact(low), _exact(high), I32, "accumulator")

    def heads(self, v: Interval, heads: int, size: int) -> Interval:
        """Bounds of the whole."""
        return Interval.of(v.min, v.max, v.type)

    def merge(self, v: Interval, channels: int) -> Interval:
        """Bounds of the whole."""
        return Interval.of(v.min, v.max, v.type)

    def image(self, v: Interval) -> Interval:
        """Bounds of the whole."""
        return Interval.of(v.min, v.max, v.type)

    def middle(self, table: Interval, like: Interval) -> Interval:
        """Bounds of the whole."""
        return Interval.of(table.min, table.max, table.type)

    def first_frames(self, table: Interval, like: Interval) -> Interval:
        """Bounds of each row."""
        entries = self.array(table)
        ends = entries.min(axis=1, keepdims=True), entries.max(axis=1, keepdims=True)
        return self._checked(*ends, I32, "first_frames")

    def row_blocks(
        self,
        body: Body,
        queries: Interval,
        positions: Interval | None,
        distances: Interval | None,
        *,
        heads: int,
        frames: Interval,
    ) -> Interval:
        """Bounds are those of any row."""
        result: Interval = body(queries, positions, distances)
        return result

    def relative_shift(self, v: Interval) -> Interval:
        """Nothing but a move."""
        return v

    def of_keys(self, mask: Interval) -> Interval:
        """Nothing but a move."""
        return mask

    def of_image(self, mask: Interval) -> Interval:
        """Nothing but a move."""
        return mask

    def below_peak(self, v: Interval) -> Interval:
        """From nothing to the whole spread."""
        return self._checked(_exact(0), _exact(v.max - v.min), v.type, "below_peak")

    def with_ones(self, v: Interval) -> Interval:
        """As wide as to hold a one."""
        return Interval.of(min(v.min, 1), max(v.max, 1), v.type)

    def without_ones(self, v: Interval, size: int) -> tuple[Interval, Interval]:
        """Both may be anything."""
        return v, v

    def sum_channels(self, v: Interval, channels: int) -> Interval:
        """The sum of the channels' bounds, and of any part of them."""
        lo, hi = (np.broadcast_to(_exact(end).reshape(-1), (channels,)) for end in (v.lo, v.hi))
        partial = _exact(int(np.minimum(lo, 0).sum())), _exact(int(np.maximum(hi, 0).sum()))
        self._checked(*partial, v.type, f"partial sum over {channels} channels")
        return self._checked(_exact(int(lo.sum())), _exact(int(hi.sum())), v.type, "sum over channels")

    def peak_channels(self, v: Interval) -> Interval:
        """The larger end; the smaller where zero lies outside."""
        low = max(0, v.min, -v.max)
        return self._checked(_exact(low), _exact(max(-v.min, v.max)), v.type, "peak")

    def peak_time(self, v: Interval) -> Interval:
        """The larger end; the smaller where zero lies outside."""
        return self.peak_channels(v)

    def quotient(self, a: Interval, b: Interval | int) -> Interval:
        """Extremes at the ends of the divisor; requires b ≥ 1."""
        lo, hi = _bounds(b)
        if int(np.min(lo)) < 1:
            raise ProofError(self.where, f"quotient needs b ≥ 1, found b ≥ {int(np.min(lo))}")
        corners = np.broadcast_arrays(*(_cut(p, q) for p in (a.lo, a.hi) for q in (lo, hi)))
        return self._checked(np.minimum.reduce(corners), np.maximum.reduce(corners), a.type, "quotient")

    def reciprocal(self, n: int, v: Interval) -> Interval:
        """Quotients of the ends; requires v ≥ 1."""
        if v.min < 1:
            raise ProofError(self.where, f"reciprocal needs v ≥ 1, found v ≥ {v.min}")
        self._checked(_exact(0), _exact(n), v.type, "dividend")
        return self._checked(_exact(n // v.max), _exact(n // v.min), v.type, "reciprocal")

    def isqrt(self, v: Interval) -> Interval:
        """Roots of the ends."""
        if v.min < 1 or v.max >= 1 << 52:
            raise ProofError(self.where, f"isqrt needs 1 ≤ v < 2^52, found {v.min}, {v.max}")
        return self._checked(_exact(math.isqrt(v.min)), _exact(math.isqrt(v.max)), v.type, "isqrt")

    def low_byte(self, v: Interval) -> Interval:
        """A byte."""
        if v.min < 0:
            raise ProofError(self.where, f"low_byte needs v ≥ 0, found {v.min}")
        return Interval.of(0, min(255, v.max), U8)

    def time_mask(self, x: Interval, lengths: Interval) -> Interval:
        """Either truth value."""
        return Interval.of(0, 1, BOOL)

    def select(self, mask: Interval, v: Interval, otherwise: int) -> Interval:
        """Union of both choices."""
        return self._checked(np.minimum(v.lo, otherwise), np.maximum(v.hi, otherwise), v.type, "select")

    def sum_time(self, v: Interval, lengths: Interval) -> Interval:
        """At most ``lengths`` frames differ from zero (``wellformed`` sees to the mask)."""
        frames = max(lengths.max, self.max_frames)
        return self._checked(
            np.minimum(v.lo, 0) * frames, np.maximum(v.hi, 0) * frames, v.type, f"sum over {frames} frames"
        )

    def lookup(self, v: Interval, table: Interval) -> Interval:
        """Extremes of the table entries that can be reached."""
        entries = self.array(table)
        if v.min < 0 or v.max >= len(entries):
            raise ProofError(self.where, f"lookup in {len(entries)} entries may reach [{v.min}, {v.max}]")
        reachable = entries[v.min : v.max + 1]
        return self._checked(_exact(int(reachable.min())), _exact(int(reachable.max())), table.type, "lookup")

    def take_channels(self, v: Interval, index: tuple[int, ...]) -> Interval:
        """Reorder the channels' bounds."""
        lo, hi = np.broadcast_arrays(v.lo, v.hi)
        if lo.size == 1:  # one pair of bounds for all channels
            return v
        return Interval(lo[list(index)], hi[list(index)], v.type)

    def transpose(self, v: Interval, perm: tuple[int, ...]) -> Interval:
        """Bounds per channel no longer line up: keep the overall ones."""
        return Interval.of(v.min, v.max, v.type)

    def quantize(
        self, v: Interval | None, to: IntType, *, scale: float, zero_point: int, lo: int, hi: int
    ) -> Interval:
        """Anything within the saturation bounds."""
        return self._checked(_exact(lo), _exact(hi), to, "quantize")

    def dequantize(self, v: Interval, *, scale: float, zero_point: int) -> None:
        """No integer, where float32 holds the integers exactly."""
        reach = max(abs(v.min - zero_point), abs(v.max - zero_point))
        if reach > 1 << 24:
            raise ProofError(self.where, f"dequantize needs magnitudes of at most 2^24, found {reach}")

    def float_graph(self, body: str, operands: list[Interval | None], weights: list[Interval]) -> None:
        """Nothing is known of a float."""

    def _operand(self, b: Interval | int, kind: IntType) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(b, int):  # an attribute of the instruction, which must fit as well
            self._checked(_exact(b), _exact(b), kind, "constant")
        return _bounds(b)

    def _checked(self, lo: np.ndarray, hi: np.ndarray, kind: IntType, what: str) -> Interval:
        lo, hi = _exact(np.asarray(lo)), _exact(np.asarray(hi))
        low, high = int(lo.min()), int(hi.max())
        if kind is I32:
            self.peak = max(self.peak, abs(low), abs(high))
        if not kind.holds(low, high):
            raise ProofError(
                self.where,
                f"{what} may reach [{low}, {high}], outside of {kind.name}",
                "quantize again with fewer bits, a smaller --max-seconds or another calibration",
            )
        return Interval(lo, hi, kind)


def shift_offset(v: Interval, c: int) -> int:
    """Smallest multiple of 2^(c+1) that makes v non-negative (an even quotient keeps its parity)."""
    step = 1 << (c + 1)
    return -(v.min // step) * step if v.min < 0 else 0


def _cut(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b cut toward zero."""
    return np.where(a < 0, -(-a // b), a // b)


def _bounds(b: Interval | int) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(b, Interval):
        return b.lo, b.hi
    return _exact(b), _exact(b)


def length_interval(max_frames: int) -> Interval:
    """Lengths from one frame to ``max_frames``."""
    return Interval.of(1, max_frames, I64)
