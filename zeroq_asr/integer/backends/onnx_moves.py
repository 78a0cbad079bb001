"""Moves of whole tensors as ONNX nodes: rearranged axes, slices of tables, shifts; no integer changes.

Where ONNX cannot follow a shape through them it is told (``onnx_shapes.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.onnx_graph import GraphBuilder, Sym, onnx_type, type_of
from zeroq_asr.integer.backends.patterns import Axis, Rearrangement, parse
from zeroq_asr.integer.types import I16, U8

#: beyond the end of any axis
_END = 1 << 62
#: operators that pass on the extent of the last axis, and of which operand
_LAST = {"Add": 0, "Mul": 0, "Cast": 0, "MatMulInteger": 1}


class OnnxMoves(GraphBuilder):
    """The primitives that move integers, for every ONNX dialect."""

    def rearrange(self, v: Sym, pattern: str, **sizes: int) -> Sym:
        """Reshape, Transpose, Reshape, those that the pattern needs, between Squeeze and Unsqueeze.

        What only inserts axes, as attention does to the mask that all its layers read, is made once.
        """
        moved = parse(pattern)
        v = replace(v, interval=self.proof.rearrange(v.interval, pattern, **sizes))
        kept = tuple(axis for place, axis in enumerate(moved.merged) if place not in moved.inserted)
        if kept == moved.split:
            return self._unsqueezed(v, moved.inserted) if moved.inserted else v
        v = self._with_axes("Squeeze", v, [place for place, axis in enumerate(moved.split) if not axis])
        told = self._told_sizes(v, moved, sizes)
        axes: list[Axis] = [axis for axis in moved.split if axis]
        letters: list[Axis] = [(letter,) for letter in moved.letters]
        v = self._reshaped(v, axes, letters, sizes, told)
        if moved.permutes:
            v = replace(v, name=self.add_node("Transpose", [v], perm=list(moved.permutation)))
        letters = [(letter,) for letter in moved.permuted]
        v = self._reshaped(v, letters, [axis for axis in moved.merged if axis], sizes, told)
        return self._with_axes("Unsqueeze", v, [place for place, axis in enumerate(moved.merged) if not axis])

    def _unsqueezed(self, v: Sym, axes: tuple[int, ...]) -> Sym:
        key = ("unsqueezed", v.name, *axes)
        if key not in self._shared:
            self._shared[key] = self._with_axes("Unsqueeze", v, axes)
        return self._shared[key]

    def _with_axes(self, op: str, v: Sym, axes: Sequence[int]) -> Sym:
        return replace(v, name=self.add_node(op, [v, self.axes(*axes)])) if axes else v

    def _told_sizes(self, v: Sym, moved: Rearrangement, sizes: Mapping[str, int]) -> dict[str, int]:
        """Extents of letters that follow from the operand's shape."""
        told = {name: size for name, size in sizes.items() if len(name) == 1}
        axes = [axis for axis in moved.split if axis]
        for axis, extent in zip(axes, self.dims.get(v.name, ()), strict=False):
            free = [letter for letter in axis if letter not in told]
            if isinstance(extent, int) and len(free) == 1:
                told[free[0]] = extent // math.prod(told[letter] for letter in axis if letter in told)
        return told

    def _reshaped(
        self, v: Sym, now: list[Axis], then: list[Axis], sizes: Mapping[str, int], told: Mapping[str, int]
    ) -> Sym:
        """Reshape from one way of joining letters to another: 0 keeps an extent, and one may be open: −1."""
        if now == then:
            return v
        extents: list[int | None] = []
        for place, axis in enumerate(then):
            if place < len(now) and now[place] == axis:
                extents.append(0)
            elif "".join(axis) in sizes:
                extents.append(sizes["".join(axis)])
            elif all(letter in sizes for letter in axis):
                extents.append(math.prod(sizes[letter] for letter in axis))
            else:
                extents.append(None)
        for place, axis in enumerate(then):
            if extents.count(None) > 1 and extents[place] is None and all(letter in told for letter in axis):
                extents[place] = math.prod(told[letter] for letter in axis)
        return replace(v, name=self.add_node("Reshape", [v, self._shape(v, now, then, extents)]))

    def _shape(self, v: Sym, now: list[Axis], then: list[Axis], extents: list[int | None]) -> str:
        """A shape for Reshape: one extent may be open, others that nobody tells are read off the tensor."""
        missing = [place for place, extent in enumerate(extents) if extent is None]
        if len(missing) <= 1:
            return self.axes(*(-1 if extent is None else extent for extent in extents))
        left_open = max(missing, key=lambda place: len(then[place]))
        parts: list[str] = []
        for place, (axis, extent) in enumerate(zip(then, extents, strict=True)):
            if extent is not None or place == left_open:
                parts.append(self.axes(-1 if extent is None else extent))
                continue
            if any((letter,) not in now for letter in axis):
                problem = f"cannot tell the extents that {' '.join(axis)} splits into"
                raise ExportError(self._scope, problem, "give all but one to rearrange")
            places = [now.index((letter,)) for letter in axis]
            one, *more = (self.add_node("Shape", [v], start=at, end=at + 1) for at in places)
            for factor in more:
                one = self.add_node("Mul", [one, factor])
            parts.append(one)
        return self.add_node("Concat", parts, axis=0)

    def slice_frames(self, table: Sym, like: Sym, *, around: bool = False) -> Sym:
        """Slice from 0 to T, or from L − T to L + T; Cast of 16 bits."""
        interval = self.proof.slice_frames(table.interval, like.interval, around=around)
        kind = U8 if table.exact.dtype == np.uint8 else I16
        stored = self.encode(table, "u8" if kind is U8 else "i16", table.exact.astype(kind.name))
        frames = self.frames(like)
        begin, end = self.axes(0), frames
        if around:
            longest = self.axes(table.exact.shape[1] // 2)
            begin, end = self.add_node("Sub", [longest, frames]), self.add_node("Add", [longest, frames])
        part = self.add_node("Slice", [stored, begin, end, self.axes(1)])
        if like.name in self.dims:
            count = self.dims[like.name][2]
            self.tell_dims(part, (len(table.exact), f"2*{count}" if around else count))
        self._types[part] = onnx_type(kind)
        wide = part if kind is U8 else self.add_node("Cast", [part], to=TensorProto.INT32)
        return Sym(self.add_node("Unsqueeze", [wide, self.axes(0)]), interval)

    def relative_shift(self, v: Sym) -> Sym:
        """Diagonals of [N, N + T] are columns of [N, N + T − 1] (arXiv 1901.02860, appendix B).

        Reshape, Slice: row after row, entry (i, N − i + j) is N + i·(N + T − 1) + j.
        """
        rows = self.add_node("Shape", [v], start=2, end=3)
        frames = self.add_node("Sub", [self.add_node("Shape", [v], start=3, end=4), rows])
        flat = self.add_node("Reshape", [v, self.axes(0, 0, -1)])
        rest = self.add_node("Slice", [flat, rows, self.axes(_END), self.axes(2)])
        shape = self.add_node("Concat", [self.axes(0, 0), rows, self.axes(-1)], axis=0)
        back = self.add_node("Reshape", [rest, shape])
        name = self.add_node("Slice", [back, self.axes(0), frames, self.axes(3)])
        dims = self.dims.get(v.name)
        if dims and dims[3] == f"2*{dims[2]}":
            batch, heads, count, wide = dims
            self.dims[flat] = (batch, heads, f"{count}*{wide}")
            self.dims[rest] = (batch, heads, f"{count}*({wide}-1)")
            self.dims[back] = (batch, heads, count, f"({wide}-1)")
            self.dims[name] = (batch, heads, count, count)
            self._types.update(dict.fromkeys((rest, back, name), type_of(v)))
        return Sym(name, self.proof.relative_shift(v.interval), carried=v.carried)

    def append_column(self, v: Sym, value: int) -> Sym:
        """Pad."""
        interval = self.proof.append_column(v.interval, value)
        name = self.add_node("Pad", [v, self.axes(0, 0, 0, 0, 0, 0, 0, 1), self.scalar(value, U8)])
        dims = self.dims.get(v.name)
        if dims and isinstance(dims[3], int):
            self.dims[name] = (*dims[:3], dims[3] + 1)
        return Sym(name, interval)

    def split_columns(self, v: Sym, size: int) -> tuple[Sym, Sym]:
        """Two Slices."""
        both = self.proof.split_columns(v.interval, size)
        columns = self._columns(v.name)
        end = _END if columns is None else columns
        first = self.add_node("Slice", [v, self.axes(0), self.axes(size), self.axes(3)])
        last = self.add_node("Slice", [v, self.axes(size), self.axes(end), self.axes(3)])
        dims = self.dims.get(v.name)
        if dims and columns is not None:
            self.tell_dims(first, (*dims[:3], size))
            self.tell_dims(last, (*dims[:3], columns - size))
        return Sym(first, both[0]), Sym(last, both[1])

    def _columns(self, name: str) -> int | None:
        """The extent of a tensor's last axis, which may be known where other extents are not."""
        if dims := self.dims.get(name):
            return dims[-1] if isinstance(dims[-1], int) else None
        node = next((node for node in reversed(self._nodes) if name in node.output), None)
        return self._columns(node.input[_LAST[node.op_type]]) if node and node.op_type in _LAST else None

    def take_channels(self, v: Sym, index: tuple[int, ...]) -> Sym:
        """Gather on the channel axis; in a file that is to be short, Slice of many that are neighbours."""
        interval = self.proof.take_channels(v.interval, index)
        if self.compact and len(index) > 8 and index == tuple(range(index[0], index[-1] + 1)):
            ends = self.axes(index[0]), self.axes(index[-1] + 1)
            name = self.add_node("Slice", [v, *ends, self.axes(1)])
            if dims := self.dims.get(v.name):
                self.tell_dims(name, (dims[0], len(index), *dims[2:]))
            return Sym(name, interval)
        return Sym(self.add_node("Gather", [v, self.channel_index(index)], axis=1), interval)

    def join_channels(self, a: Sym, b: Sym) -> Sym:
        """Concat."""
        return Sym(self.add_node("Concat", [a, b], axis=1), self.proof.join_channels(a.interval, b.interval))

    def channel_index(self, index: tuple[int, ...]) -> str:
        """Channel numbers, int64 [C]."""
        # an instruction may take several parts of its channels
        known = self._indices.setdefault(self._scope, [])
        if index not in known:
            known.append(index)
        place = known.index(index)
        name = f"{self._scope}/index{f'/{place + 1}' if place else ''}"
        return self.store(name, np.array(index, dtype=np.int64))
