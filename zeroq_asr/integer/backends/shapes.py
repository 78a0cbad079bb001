"""What every value is, whatever its integers are: its element type and its extents.

The same definitions run on types and shapes.  Extents are those of every input at once
(``integer.extents``), so that operands that meet have equally many frames for every length, a mask those of
what it masks, and lengths count what they are said to.  Each primitive takes the types alone that
``backends.base`` names, so no integer operator reads a float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.base import Body, Bound, Step, interpreted
from zeroq_asr.integer.backends.patterns import parse
from zeroq_asr.integer.extents import Dim, Extent, at, count, multiplied, spelled, stepped_dim
from zeroq_asr.integer.frames import growth_of
from zeroq_asr.integer.types import IntType

FLOAT = "float32"
_WORDS = ("int32", "int64")
_ORDERED = ("uint8", *_WORDS)
#: most entries of one value of one utterance: what is larger, no machine is given the memory for
MOST_ENTRIES = 1 << 33


@dataclass(frozen=True)
class Shaped:
    """A value's element type and extents."""

    type: str
    dims: tuple[Dim, ...]
    #: the array itself where the value is a constant
    exact: np.ndarray | None = None
    #: of lengths: the number of frames that they are for an utterance as long as the input
    counts: Extent | None = None
    #: the smallest input for which they are
    since: int = 1

    @property
    def channels(self) -> int:
        """Channels of an activation; 0 of lengths, and where frames come first."""
        second = self.dims[1] if len(self.dims) > 1 else 0
        return second if isinstance(second, int) else 0

    def __str__(self) -> str:
        return f"{self.type} {spelled(self.dims)}"


class ShapeBackend:
    """Interprets the primitives on types and shapes.  ``where`` names the instruction in error texts."""

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self.where = "program"
        #: free extent → the largest number it stands for
        self.sizes = dict(sizes or {})
        #: free extent → the smallest number of which every value keeps a frame
        self.least: dict[str, int] = {}

    def instruction(self, i: Instruction, operands: list[Shaped]) -> tuple[Shaped, ...]:
        """Give the results of one instruction."""
        self.where = f"{i.out} ({i.op})"
        return interpreted(self, i, operands)

    # -- constants and types -------------------------------------------------------------------------

    def constant(self, name: str, array: np.ndarray) -> Shaped:
        """Constants have their own."""
        return Shaped(array.dtype.name, array.shape, exact=array)

    def array(self, v: Shaped) -> np.ndarray:
        """The constant itself."""
        if v.exact is None:
            raise ProofError(self.where, "expected a constant operand")
        return v.exact

    def per_channel(self, v: Shaped, axes: int = 1) -> Shaped:
        """[C] → int32 [C, 1] or [C, 1, 1]."""
        self._require(self.array(v).ndim == 1, f"a vector of the channels, found {v}")
        return Shaped("int32", (*v.dims, *(1,) * axes))

    def per_batch(self, lengths: Shaped) -> Shaped:
        """[B] → int32 [B, 1, 1]."""
        self._lengths(lengths)
        return Shaped("int32", (lengths.dims[0], 1, 1))

    def cast(self, v: Shaped, to: IntType) -> Shaped:
        """Another type of integers."""
        self._reads("cast", v, "bool", *_ORDERED)
        return Shaped(to.name, v.dims)

    def low_byte(self, v: Shaped) -> Shaped:
        """Bytes."""
        self._reads("low_byte", v, *_WORDS)
        return Shaped("uint8", v.dims)

    # -- arithmetic ----------------------------------------------------------------------------------

    def add(self, a: Shaped, b: Shaped | int) -> Shaped:
        """a + b; lengths and a number are lengths."""
        return self._joined("add", a, b, b if isinstance(b, int) else None)

    def sub(self, a: Shaped, b: Shaped | int) -> Shaped:
        """a − b."""
        return self._joined("sub", a, b, -b if isinstance(b, int) else None)

    def mul(self, a: Shaped, b: Shaped | int) -> Shaped:
        """a · b."""
        return self._joined("mul", a, b, None)

    def square(self, v: Shaped) -> Shaped:
        """As it was."""
        self._reads("square", v, *_WORDS)
        return Shaped(v.type, v.dims)

    def clamp(self, v: Shaped, lo: Bound, hi: Bound) -> Shaped:
        """As it was; lengths count the same where no bound acts."""
        self._reads("clamp", v, *_ORDERED)
        for bound in (lo, hi):
            if isinstance(bound, np.ndarray):
                dims = self._broadcast(v.dims, (*bound.shape, 1))
                self._require(dims == v.dims, f"bounds of its channels, found {list(bound.shape)}")
        if v.counts is None or not isinstance(lo, int) or not isinstance(hi, int):
            return Shaped(v.type, v.dims)
        if hi <= v.counts.at(self.sizes.get(v.counts.of, 1)):
            return Shaped(v.type, v.dims)
        since = max(v.since, lo * v.counts.by - v.counts.plus)
        return Shaped(v.type, v.dims, counts=v.counts, since=since)

    def quotient(self, a: Shaped | int, b: Shaped | int) -> Shaped:
        """a / b; of lengths that cannot be negative the floor."""
        if isinstance(a, int):
            self._require(isinstance(b, Shaped), "a quotient of a value")
            assert isinstance(b, Shaped)
            self._reads("quotient", b, *_WORDS)
            return Shaped(b.type, b.dims)
        made = self._joined("quotient", a, b, None)
        if a.counts is None or not isinstance(b, int) or b < 1:
            return made
        counts, since = a.counts.divided(b), max(a.since, -a.counts.plus)
        return replace(made, counts=counts, since=since)

    def isqrt(self, v: Shaped) -> Shaped:
        """As it was."""
        self._reads("isqrt", v, "int64")
        return Shaped(v.type, v.dims)

    def shift_right(self, v: Shaped, c: int) -> Shaped:
        """As it was."""
        self._reads("shift_right", v, "int32")
        return Shaped(v.type, v.dims)

    def bit_and(self, v: Shaped, mask: int) -> Shaped:
        """As it was."""
        self._reads("bit_and", v, "int32")
        return Shaped(v.type, v.dims)

    def low_bits_equal(self, v: Shaped, c: int, bit: int) -> Shaped:
        """Truth values."""
        self._reads("low_bits_equal", v, "int32")
        return Shaped("bool", v.dims)

    def set_parity(self, y: Shaped, where: Shaped, bit: int) -> Shaped:
        """As it was."""
        self._reads("set_parity", y, "uint8")
        self._reads("set_parity", where, "bool")
        self._require(self._broadcast(y.dims, where.dims) == y.dims, f"as many truth values, found {where}")
        return Shaped(y.type, y.dims)

    def lookup(self, v: Shaped, table: Shaped) -> Shaped:
        """The type of the table."""
        self._reads("lookup", v, "uint8", "int32")
        self._reads("lookup", table, "uint8", "int32")
        self._require(self.array(table).ndim == 1, f"a table in a row, found {table}")
        return Shaped(table.type, v.dims)

    def select(self, mask: Shaped, v: Shaped, otherwise: int) -> Shaped:
        """As it was."""
        self._reads("select", mask, "bool")
        self._reads("select", v, *_ORDERED)
        dims = self._broadcast(mask.dims, v.dims)
        self._require(dims == v.dims, f"a mask of the value's own frames, found {mask} for {v}")
        return Shaped(v.type, v.dims)

    # -- contractions --------------------------------------------------------------------------------

    def conv(
        self,
        x: Shaped,
        w: Shaped,
        *,
        zero_point: int,
        strides: tuple[int, ...],
        pads: tuple[tuple[int, int], ...],
        dilations: tuple[int, ...],
        groups: int,
    ) -> Shaped:
        """[B, O, *extents] int32, each extent 1 or more."""
        self._reads("conv", x, "uint8")
        self._reads("conv", w, "int8")
        taps = self.array(w).shape
        self._require(len(x.dims) == len(taps), f"an operand of {len(taps)} axes, found {x}")
        takes = taps[1] * groups
        self._require(x.dims[1] == takes, f"an operand of {takes} channels, found {x}")
        self._require(taps[0] % groups == 0, f"outputs in {groups} groups, found {taps[0]}")
        made: list[Dim] = []
        for dim, size, stride, pad, dilation in zip(
            x.dims[2:], taps[2:], strides, pads, dilations, strict=True
        ):
            left = stepped_dim(dim, growth_of(sum(pad), dilation, size), stride)
            if left is None:
                raise ProofError(self.where, f"pads or strides over {dim}, which is a table of distances")
            made.append(self._present(left))
        return self._bounded("int32", (x.dims[0], taps[0], *made))

    def matmul(self, a: Shaped, b: Shaped, *, za: int, zb: int, terms: Shaped | int) -> Shaped:
        """[…, N, M] int32 of […, N, K] and […, K, M]."""
        self._reads("matmul", a, "uint8")
        self._reads("matmul", b, "uint8")
        self._require(a.dims[-1] == b.dims[-2], f"rows and columns of one length, found {a} and {b}")
        self._terms(a.dims[-1], terms)
        outer = self._broadcast(a.dims[:-2], b.dims[:-2])
        return Shaped("int32", (*outer, a.dims[-2], b.dims[-1]))

    def reduce(
        self,
        v: Shaped,
        kind: Literal["sum", "peak"],
        axis: Literal["channels", "frames"],
        terms: Shaped | int,
    ) -> Shaped:
        """One axis is left an extent of 1."""
        self._reads("reduce", v, *_WORDS)
        self._require(len(v.dims) == 3, f"a value [B, C, T], found {v}")
        self._terms(v.dims[1 if axis == "channels" else 2], terms)
        return Shaped(v.type, (v.dims[0], 1, v.dims[2]) if axis == "channels" else (*v.dims[:2], 1))

    def below_peak(self, v: Shaped) -> Shaped:
        """As it was."""
        self._reads("below_peak", v, "int32")
        return Shaped(v.type, v.dims)

    # -- moves ---------------------------------------------------------------------------------------

    def rearrange(self, v: Shaped, pattern: str, **sizes: int) -> Shaped:
        """Axes split, permuted and joined; a free extent is neither split nor joined."""
        self._reads("rearrange", v, "bool", *_ORDERED)
        rule = parse(pattern)
        self._require(len(v.dims) == len(rule.split), f"an operand of {len(rule.split)} axes, found {v}")
        known: dict[str, Dim] = {name: size for name, size in sizes.items() if len(name) == 1}
        for axis, dim in zip(rule.split, v.dims, strict=True):
            free = [letter for letter in axis if letter not in known]
            rest = self._product([known[letter] for letter in axis if letter in known])
            if len(free) == 1 and rest == 1:
                known[free[0]] = dim
            elif len(free) == 1 and isinstance(dim, int) and isinstance(rest, int):
                self._require(rest > 0 and dim % rest == 0, f"an axis that is split in {rest}, found {v}")
                known[free[0]] = dim // rest
            else:
                self._require(not free and rest == dim, f"an axis of {rest}, found {dim} of {v}")
        for name, size in sizes.items():
            product = self._product([known[letter] for letter in name])
            self._require(product == size, f"{size} entries in what it joins, found {product}")
        dims = [self._product([known[letter] for letter in axis]) for axis in rule.merged]
        return Shaped(v.type, tuple(dims))

    def take_channels(self, v: Shaped, index: tuple[int, ...]) -> Shaped:
        """As many channels as are taken."""
        self._reads("take_channels", v, *_ORDERED)
        self._require(len(v.dims) == 3, f"a value [B, C, T], found {v}")
        channels = v.dims[1]
        inside = isinstance(channels, int) and min(index) >= 0 and max(index) < channels
        self._require(inside, f"channels to be taken, up to {max(index)}, found {v}")
        return Shaped(v.type, (v.dims[0], len(index), *v.dims[2:]))

    def join_channels(self, a: Shaped, b: Shaped) -> Shaped:
        """The channels of both."""
        self._reads("join_channels", a, *_ORDERED)
        self._reads("join_channels", b, a.type)
        alike = len(a.dims) == len(b.dims) == 3 and a.dims[::2] == b.dims[::2]
        self._require(alike and a.channels > 0 < b.channels, f"values of equal frames, found {a} and {b}")
        return self._bounded(a.type, (a.dims[0], a.channels + b.channels, a.dims[2]))

    def slice_frames(self, table: Shaped, like: Shaped, *, around: bool = False) -> Shaped:
        """[1, C, T], or [1, C, 2T] of distances."""
        columns = self.array(table).shape[1]
        self._require(len(like.dims) == 3, f"an operand [B, C, T], found {like}")
        frames, has = like.dims[2], columns // 2 if around else columns
        longest = at(frames, self.sizes)
        self._require(longest <= has, f"a table for {longest} frames, found one for {has}")
        kind = "int32" if table.type == "int16" else table.type
        return Shaped(kind, (1, table.dims[0], multiplied(frames, 2) if around else frames))

    def relative_shift(self, v: Shaped) -> Shaped:
        """[B, H, T, 2T] → [B, H, T, T]."""
        self._reads("relative_shift", v, "int32")
        rows = v.dims[2]
        self._require(v.dims[3] == multiplied(rows, 2), f"twice as many distances as rows, found {v}")
        return Shaped(v.type, (*v.dims[:3], rows))

    def append_column(self, v: Shaped, value: int) -> Shaped:
        """One entry more along the last axis."""
        self._reads("append_column", v, "uint8")
        return Shaped(v.type, (*v.dims[:-1], self._last(v) + 1))

    def split_columns(self, v: Shaped, size: int) -> tuple[Shaped, Shaped]:
        """The first columns and the others."""
        self._reads("split_columns", v, *_ORDERED)
        rest = self._last(v) - size
        self._require(rest > 0, f"more than {size} columns, found {v}")
        return Shaped(v.type, (*v.dims[:-1], size)), Shaped(v.type, (*v.dims[:-1], rest))

    # -- frames --------------------------------------------------------------------------------------

    def time_mask(self, x: Shaped, lengths: Shaped) -> Shaped:
        """Bool [B, 1, T], of lengths that count these frames."""
        self._lengths(lengths)
        self._reads("time_mask", x, "bool", *_ORDERED)
        self._require(len(x.dims) in (3, 4), f"an operand [B, C, T] or [B, C, T, F], found {x}")
        self._counted(x.dims[2], lengths)
        return Shaped("bool", (self._broadcast(x.dims[:1], lengths.dims)[0], 1, x.dims[2]))

    def row_blocks(
        self,
        body: Body[Shaped],
        queries: Shaped,
        positions: Shaped | None,
        distances: Shaped | None,
        *,
        heads: int,
        frames: Shaped,
    ) -> Shaped:
        """As all rows at once."""
        self._terms(queries.dims[2], frames)
        return body(queries, positions, distances)

    def filled(self, like: Shaped, channels: int, value: int, to: IntType) -> Shaped:
        """One frame."""
        return self._bounded(to.name, (like.dims[0], channels, 1))

    def scan(
        self,
        step: Step[Shaped],
        carried: Sequence[Shaped],
        inputs: Sequence[Shaped],
        *,
        bounds: Sequence[tuple[int, int]],
        backwards: bool = False,
    ) -> tuple[list[Shaped], list[Shaped]]:
        """What is carried stays what it was, results have the frames of the inputs."""
        frames = {v.dims[2] for v in inputs if len(v.dims) == 3}
        self._require(
            len(frames) == 1, f"inputs [B, C, T] of equally many frames, found {[*map(str, inputs)]}"
        )
        out, results = step([*carried], [replace(v, dims=(*v.dims[:2], 1)) for v in inputs])
        for before, behind in zip(carried, out, strict=True):
            self._require(before.dims == behind.dims, f"what is carried as it was, {before}, found {behind}")
        for v in results:
            self._require(len(v.dims) == 3 and v.dims[2] == 1, f"one frame of a step, found {v}")
        along = frames.pop()
        return list(carried), [Shaped(v.type, (*v.dims[:2], along)) for v in results]

    # -- floats --------------------------------------------------------------------------------------

    def quantize(self, v: Shaped, to: IntType, *, scale: float, zero_point: int, lo: int, hi: int) -> Shaped:
        """Integers of a float."""
        self._reads("quantize", v, FLOAT)
        self._require(len(v.dims) in (3, 4), f"a value [B, C, T] or [B, C, T, F], found {v}")
        return self._bounded(to.name, v.dims)

    def dequantize(self, v: Shaped, *, scale: float, zero_point: int) -> Shaped:
        """A float of integers."""
        self._reads("dequantize", v, "uint8", "int32")
        self._require(len(v.dims) in (3, 4), f"a value [B, C, T] or [B, C, T, F], found {v}")
        return Shaped(FLOAT, v.dims)

    def float_graph(self, body: str, operands: list[Shaped], weights: list[Shaped]) -> Shaped:
        """What ONNX Runtime makes of such operands."""
        # here, since integers alone need no ONNX
        from zeroq_asr.integer.backends.onnxruntime_shapes import result_dims

        arrays = [self.array(v) for v in weights]
        try:
            made, least = result_dims(body, operands, arrays, self.sizes, self.least)
        except ValueError as error:
            raise ProofError(self.where, f"its body {error}") from None
        for name, count_ in least.items():
            self.least[name] = max(self.least.get(name, 1), count_)
        return self._bounded(FLOAT, made)

    # -- what is required ----------------------------------------------------------------------------

    def _require(self, holds: bool, wanted: str) -> None:
        if not holds:
            raise ProofError(self.where, f"needs {wanted}")

    def _reads(self, primitive: str, v: Shaped, *types: str) -> None:
        if v.type not in types:
            known = " or ".join(types)
            raise ProofError(self.where, f"reads {v.type} where its {primitive} needs {known}")

    def _lengths(self, v: Shaped) -> None:
        self._require(v.type == "int64" and len(v.dims) == 1, f"lengths int64 [B], found {v}")

    def _counted(self, frames: Dim, lengths: Shaped) -> None:
        """Lengths count these frames, for every input of which a frame is left."""
        self._lengths(lengths)
        same = lengths.counts == frames and isinstance(frames, Extent) and lengths.since <= frames.least
        found = "something else" if lengths.counts is None else str(lengths.counts)
        self._require(same, f"lengths that count its frames, {frames}, found those of {found}")

    def _terms(self, dim: Dim, terms: Shaped | int) -> None:
        if isinstance(terms, int):
            self._require(dim == terms, f"sums of {terms} terms, found {dim}")
        else:
            self._counted(dim, terms)

    def _last(self, v: Shaped) -> int:
        last = v.dims[-1]
        if not isinstance(last, int):
            raise ProofError(self.where, f"needs a last axis of a fixed extent, found {v}")
        return last

    def _joined(self, primitive: str, a: Shaped, b: Shaped | int, shift: int | None) -> Shaped:
        self._reads(primitive, a, *_WORDS)
        if isinstance(b, int):
            counts = a.counts.shifted(shift) if a.counts is not None and shift is not None else None
            return Shaped(a.type, a.dims, counts=counts, since=a.since)
        self._reads(primitive, b, a.type)
        return self._bounded(a.type, self._broadcast(a.dims, b.dims))

    def _broadcast(self, a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The shape of what two values give together."""
        rank = max(len(a), len(b))
        left, right = ((1,) * (rank - len(dims)) + dims for dims in (a, b))
        out = [y if x == 1 else x for x, y in zip(left, right, strict=True)]
        fits = all(1 in (x, y) or x == y for x, y in zip(left, right, strict=True))
        self._require(fits, f"operands of equal extents for every input, found {spelled(a)} and {spelled(b)}")
        return tuple(out)

    def _product(self, dims: list[Dim]) -> Dim:
        free, total = [dim for dim in dims if isinstance(dim, Extent)], 1
        for dim in dims:
            total *= dim if isinstance(dim, int) else 1
        if not free:
            return total
        self._require(len(free) == 1 and total == 1, f"axes of fixed extents to join, found {spelled(dims)}")
        return free[0]

    def _present(self, dim: Dim) -> Dim:
        """An extent that has a frame, of long inputs at least."""
        if isinstance(dim, Extent):
            self.least[dim.of] = max(self.least.get(dim.of, 1), dim.least)
        longest = at(dim, self.sizes)
        self._require(longest >= 1, f"a frame or more to be left, found {longest} of the longest input")
        return dim

    def _bounded(self, kind: str, dims: tuple[Dim, ...]) -> Shaped:
        """A value that memory can hold."""
        total = count(dims, self.sizes)
        most = f"at most {MOST_ENTRIES} entries an utterance, found {total} of the longest input"
        self._require(total <= MOST_ENTRIES, most)
        return Shaped(kind, dims)


if TYPE_CHECKING:
    from zeroq_asr.integer.backends.base import Backend
    from zeroq_asr.integer.program import Instruction

    _backend: Backend[Shaped] = ShapeBackend()
