"""The proof: the same definitions on ranges, with the actual weights.

A value is a pair of bounds, exact Python integers, one pair for the whole tensor (shape ()) or
one a channel (shape [C, 1]).  Time and batch are covered by holding for every frame.  A primitive
whose result may leave its type raises ProofError, so a program that runs here cannot overflow
for any input of the stated length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.base import Body, Bound, Step, interpreted
from zeroq_asr.integer.backends.bounds import Interval as Interval
from zeroq_asr.integer.backends.bounds import Known, exact
from zeroq_asr.integer.backends.patterns import parse
from zeroq_asr.integer.types import BOOL, I32, I64, U8, IntType

#: weights that are bounded at once
_AT_ONCE = 1 << 18


class IntervalBackend:
    """Interprets the primitives on intervals.  ``where`` names the instruction in error texts."""

    def __init__(self, max_frames: int = 0) -> None:
        self.where = "program"
        #: frames of the longest input; no sum over time runs over more, whatever lengths it is given
        self.max_frames = max_frames
        #: largest magnitude of an int32 result since it was last reset
        self.peak = 0

    def instruction(self, i: Instruction, operands: list[Interval]) -> tuple[Interval, ...]:
        """Bound one instruction."""
        return interpreted(self, i, operands)

    def constant(self, name: str, array: np.ndarray) -> Interval:
        """Constants are known exactly."""
        flat = np.asarray(array)
        kind = U8 if flat.dtype == np.uint8 else I32
        return Known(flat, kind)

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

    def clamp(self, v: Interval, lo: Bound, hi: Bound) -> Interval:
        """Clamp to ints or to per-channel vectors [C]."""
        low, high = (exact(b[:, None] if isinstance(b, np.ndarray) else b) for b in (lo, hi))
        return self._checked(
            np.minimum(np.maximum(v.lo, low), high), np.maximum(np.minimum(v.hi, high), low), v.type, "clamp"
        )

    def shift_right(self, v: Interval, c: int) -> Interval:
        """Floor of v / 2^c.

        Dialects without a signed shift first add a multiple of 2^(c+1) that makes v non-negative;
        there must be room for it, and for what it is added to.
        """
        if v.min < 0:
            raised = max(v.max, 0) + shift_offset(v, c)
            self._checked(np.array(0, dtype=object), np.array(raised), I32, "shift")
        return self._checked(v.lo >> c, v.hi >> c, v.type, "shift")

    def bit_and(self, v: Interval, mask: int) -> Interval:
        """Bitwise and with a non-negative mask."""
        return self._checked(exact(0), exact(mask), v.type, "bit_and")

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

    def conv(
        self,
        x: Interval,
        w: Interval,
        *,
        zero_point: int,
        strides: tuple[int, ...],
        pads: tuple[tuple[int, int], ...],
        dilations: tuple[int, ...],
        groups: int,
    ) -> Interval:
        """Σ over inputs and taps of the worst product, for any subset of taps (padding is zero)."""
        taps, axes = self.array(w), self.array(w).ndim - 2
        weight = taps.reshape(*taps.shape[:2], -1)
        if axes > 1:
            x = Interval.of(x.min, x.max, x.type)
        channels = weight.shape[1] * groups
        # a padded frame contributes zero, so zero always belongs to the range; this also bounds
        # every partial sum, whatever order a kernel adds in
        low = np.minimum(np.broadcast_to(x.lo - zero_point, (channels, 1)), 0).astype(np.int64)[:, 0]
        high = np.maximum(np.broadcast_to(x.hi - zero_point, (channels, 1)), 0).astype(np.int64)[:, 0]
        low, high = low.reshape(groups, -1), high.reshape(groups, -1)
        group = np.arange(weight.shape[0]) // (weight.shape[0] // groups)
        lower, upper = np.empty(len(weight), np.int64), np.empty(len(weight), np.int64)
        # a few rows at a time: wide integers of all weights would be most of what a proof takes of memory
        few = max(1, _AT_ONCE // max(weight[0].size, 1))
        for first in range(0, len(weight), few):
            rows = slice(first, first + few)
            positive = np.maximum(weight[rows], 0).sum(axis=2, dtype=np.int64)
            negative = np.minimum(weight[rows], 0).sum(axis=2, dtype=np.int64)
            least, most = low[group[rows]], high[group[rows]]
            upper[rows] = (positive * most + negative * least).sum(axis=1)
            lower[rows] = (positive * least + negative * most).sum(axis=1)
        # kernels with unsigned operands accumulate the raw bytes before they subtract zero points
        self._checked(exact(0), exact(255 * 255 * weight[0].size), I32, "raw accumulator")
        shape = (-1, *(1,) * axes)
        return self._checked(exact(lower.reshape(shape)), exact(upper.reshape(shape)), I32, "accumulator")

    def matmul(self, a: Interval, b: Interval, *, za: int, zb: int, terms: Interval | int) -> Interval:
        """The worst product as often as there are terms."""
        count = terms if isinstance(terms, int) else terms.max
        corners = [(p - za) * (q - zb) for p in (a.min, a.max) for q in (b.min, b.max)]
        # kernels accumulate the raw bytes before they subtract zero points
        self._checked(exact(0), exact(255 * 255 * count), I32, "raw accumulator")
        low, high = min(0, *corners) * count, max(0, *corners) * count
        return self._checked(exact(low), exact(high), I32, "accumulator")

    def rearrange(self, v: Interval, pattern: str, **sizes: int) -> Interval:
        """Bounds of the whole."""
        parse(pattern)
        return Interval.of(v.min, v.max, v.type)

    def slice_frames(self, table: Interval, like: Interval, *, around: bool = False) -> Interval:
        """Bounds of each row; around the middle, of the whole."""
        if around:
            return Interval.of(table.min, table.max, table.type)
        entries = self.array(table)
        ends = entries.min(axis=1, keepdims=True), entries.max(axis=1, keepdims=True)
        return self._checked(*ends, table.type, "slice_frames")

    def row_blocks(
        self,
        body: Body[Interval],
        queries: Interval,
        positions: Interval | None,
        distances: Interval | None,
        *,
        heads: int,
        frames: Interval,
    ) -> Interval:
        """Bounds are those of any row."""
        return body(queries, positions, distances)

    def relative_shift(self, v: Interval) -> Interval:
        """Nothing but a move."""
        return v

    def below_peak(self, v: Interval) -> Interval:
        """From nothing to the whole spread."""
        return self._checked(exact(0), exact(v.max - v.min), v.type, "below_peak")

    def append_column(self, v: Interval, value: int) -> Interval:
        """As wide as to hold the new column."""
        return self._checked(exact(min(v.min, value)), exact(max(v.max, value)), v.type, "append_column")

    def split_columns(self, v: Interval, size: int) -> tuple[Interval, Interval]:
        """Both may be anything."""
        return v, v

    def reduce(
        self,
        v: Interval,
        kind: Literal["sum", "peak"],
        axis: Literal["channels", "frames"],
        terms: Interval | int,
    ) -> Interval:
        """The sum of as many bounds as there are terms, and of any part of them; or the larger end."""
        if kind == "peak":
            # the smaller end where zero lies outside
            low = max(0, v.min, -v.max)
            return self._checked(exact(low), exact(max(-v.min, v.max)), v.type, "peak")
        count = terms if isinstance(terms, int) else terms.max
        if axis == "frames":
            # at most so many frames differ from zero (``wellformed`` sees to the mask)
            count = max(count, self.max_frames)
            ends = np.minimum(v.lo, 0) * count, np.maximum(v.hi, 0) * count
            return self._checked(*ends, v.type, f"sum over {count} frames")
        lo, hi = (np.broadcast_to(exact(end).reshape(-1), (count,)) for end in (v.lo, v.hi))
        partial = exact(int(np.minimum(lo, 0).sum())), exact(int(np.maximum(hi, 0).sum()))
        self._checked(*partial, v.type, f"partial sum over {count} channels")
        return self._checked(exact(int(lo.sum())), exact(int(hi.sum())), v.type, "sum over channels")

    def quotient(self, a: Interval | int, b: Interval | int) -> Interval:
        """Extremes at the ends of both; requires b ≥ 1."""
        lo, hi = _bounds(b)
        if int(np.min(lo)) < 1:
            raise ProofError(
                self.where,
                f"quotient needs b ≥ 1, found b ≥ {int(np.min(lo))}",
                "a mean needs a frame: the network must leave one of an input of one frame",
            )
        like = a if isinstance(a, Interval) else b
        kind = like.type if isinstance(like, Interval) else I32
        first = _bounds(a)
        if isinstance(a, int):
            self._checked(exact(a), exact(a), kind, "dividend")
        corners = np.broadcast_arrays(*(_cut(p, q) for p in first for q in (lo, hi)))
        return self._checked(np.minimum.reduce(corners), np.maximum.reduce(corners), kind, "quotient")

    def isqrt(self, v: Interval) -> Interval:
        """Roots of the ends."""
        if v.min < 1 or v.max >= 1 << 52:
            raise ProofError(self.where, f"isqrt needs 1 ≤ v < 2^52, found {v.min}, {v.max}")
        return self._checked(exact(math.isqrt(v.min)), exact(math.isqrt(v.max)), v.type, "isqrt")

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

    def lookup(self, v: Interval, table: Interval) -> Interval:
        """Extremes of the table entries that can be reached."""
        entries = self.array(table)
        if v.min < 0 or v.max >= len(entries):
            raise ProofError(self.where, f"lookup in {len(entries)} entries may reach [{v.min}, {v.max}]")
        reachable = entries[v.min : v.max + 1]
        return self._checked(exact(int(reachable.min())), exact(int(reachable.max())), table.type, "lookup")

    def take_channels(self, v: Interval, index: tuple[int, ...]) -> Interval:
        """Reorder the channels' bounds."""
        lo, hi = np.broadcast_arrays(v.lo, v.hi)
        if lo.size == 1:  # one pair of bounds for all channels
            return v
        return Interval(lo[list(index)], hi[list(index)], v.type)

    def filled(self, like: Interval, channels: int, value: int, to: IntType) -> Interval:
        """The integer."""
        return self._checked(exact(value), exact(value), to, "filled")

    def join_channels(self, a: Interval, b: Interval) -> Interval:
        """Bounds of both."""
        if a.type is not b.type:
            raise ProofError(self.where, f"joins {a.type.name} and {b.type.name}")
        return Interval.of(min(a.min, b.min), max(a.max, b.max), a.type)

    def scan(
        self,
        step: Step[Interval],
        carried: Sequence[Interval],
        inputs: Sequence[Interval],
        *,
        bounds: Sequence[tuple[int, int]],
        backwards: bool = False,
    ) -> tuple[list[Interval], list[Interval]]:
        """Induction: with anything within the bounds carried in, what is carried out lies within them."""
        held = []
        for place, (v, (lo, hi)) in enumerate(zip(carried, bounds, strict=True)):
            held.append(self._checked(exact(lo), exact(hi), v.type, f"the bounds of carried value {place}"))
            self._within(v, held[place], f"carried value {place} at first")
        out, results = step([*held], [Interval.of(v.min, v.max, v.type) for v in inputs])
        for place, (v, bound) in enumerate(zip(out, held, strict=True)):
            self._within(v, bound, f"carried value {place} behind a step")
        return held, [Interval.of(v.min, v.max, v.type) for v in results]

    def _within(self, v: Interval, bound: Interval, what: str) -> None:
        if v.type is not bound.type or not bound.min <= v.min <= v.max <= bound.max:
            found = f"is {v.type.name} and may reach [{v.min}, {v.max}]"
            problem = f"{what} {found}, outside of {bound.type.name} in [{bound.min}, {bound.max}]"
            raise ProofError(self.where, problem, "clamp what is carried, or widen the bounds")

    def quantize(
        self, v: Interval, to: IntType, *, scale: float, zero_point: int, lo: int, hi: int
    ) -> Interval:
        """Anything within the saturation bounds."""
        return self._checked(exact(lo), exact(hi), to, "quantize")

    def dequantize(self, v: Interval, *, scale: float, zero_point: int) -> Interval:
        """No integer, where float32 holds the integers exactly: its bounds say nothing."""
        reach = max(abs(v.min - zero_point), abs(v.max - zero_point))
        if reach > 1 << 24:
            raise ProofError(self.where, f"dequantize needs magnitudes of at most 2^24, found {reach}")
        return Interval.of(0, 0, I32)

    def float_graph(self, body: str, operands: list[Interval], weights: list[Interval]) -> Interval:
        """Nothing is known of a float."""
        return Interval.of(0, 0, I32)

    def _operand(self, b: Interval | int, kind: IntType) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(b, int):  # an attribute of the instruction, which must fit as well
            self._checked(exact(b), exact(b), kind, "constant")
        return _bounds(b)

    def _checked(self, lo: np.ndarray, hi: np.ndarray, kind: IntType, what: str) -> Interval:
        lo, hi = exact(np.asarray(lo)), exact(np.asarray(hi))
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
    return exact(b), exact(b)


def length_interval(max_frames: int) -> Interval:
    """Lengths from one frame to ``max_frames``."""
    return Interval.of(1, max_frames, I64)


if TYPE_CHECKING:
    from zeroq_asr.integer.backends.base import Backend
    from zeroq_asr.integer.program import Instruction

    _backend: Backend[Interval] = IntervalBackend()
