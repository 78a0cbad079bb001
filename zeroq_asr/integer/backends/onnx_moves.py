"""Moves of whole tensors as ONNX nodes: heads, images, slices of tables, shifts; no integer changes.

Where ONNX cannot follow a shape through them it is told (``onnx_shapes.py``).
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from zeroq_asr.integer.backends.onnx_graph import GraphBuilder, Sym, onnx_type, type_of
from zeroq_asr.integer.types import I16, U8


class OnnxMoves(GraphBuilder):
    """The primitives that move integers, for every ONNX dialect."""

    def heads(self, v: Sym, heads: int, size: int) -> Sym:
        """Reshape."""
        interval = self.proof.heads(v.interval, heads, size)
        return Sym(self.add_node("Reshape", [v, self.axes(0, heads, size, -1)]), interval)

    def merge(self, v: Sym, channels: int) -> Sym:
        """Reshape."""
        interval = self.proof.merge(v.interval, channels)
        return Sym(self.add_node("Reshape", [v, self.axes(0, channels, -1)]), interval)

    def image(self, v: Sym) -> Sym:
        """Transpose and Unsqueeze."""
        turned = self.add_node("Transpose", [v], perm=[0, 2, 1])
        return Sym(self.add_node("Unsqueeze", [turned, self.axes(1)]), self.proof.image(v.interval))

    def middle(self, table: Sym, like: Sym) -> Sym:
        """Slice from L − T to L + T."""
        interval = self.proof.middle(table.interval, like.interval)
        longest = table.exact.shape[1] // 2
        stored = self.encode(table, "u8", table.exact.astype(np.uint8))
        frames = self.add_node("Shape", [like], start=2, end=3)
        begin = self.add_node("Sub", [self.axes(longest), frames])
        end = self.add_node("Add", [self.axes(longest), frames])
        part = self.add_node("Slice", [stored, begin, end, self.axes(1)])
        if like.name in self.dims:
            self.tell_dims(part, (len(table.exact), f"2*{self.dims[like.name][2]}"))
        self._types[part] = onnx_type(U8)
        return Sym(self.add_node("Unsqueeze", [part, self.axes(0)]), interval)

    def first_frames(self, table: Sym, like: Sym) -> Sym:
        """Slice from 0 to T, and Cast."""
        interval = self.proof.first_frames(table.interval, like.interval)
        stored = self.encode(table, "i16", table.exact.astype(np.int16))
        frames = self.add_node("Shape", [like], start=2, end=3)
        part = self.add_node("Slice", [stored, self.axes(0), frames, self.axes(1)])
        if like.name in self.dims:
            self.tell_dims(part, (len(table.exact), self.dims[like.name][2]))
        self._types[part] = onnx_type(I16)
        wide = self.add_node("Cast", [part], to=TensorProto.INT32)
        return Sym(self.add_node("Unsqueeze", [wide, self.axes(0)]), interval)

    def relative_shift(self, v: Sym) -> Sym:
        """Diagonals of [N, N + T] are columns of [N, N + T − 1] (arXiv 1901.02860, appendix B).

        Reshape, Slice: row after row, entry (i, N − i + j) is N + i·(N + T − 1) + j.
        """
        rows = self.add_node("Shape", [v], start=2, end=3)
        frames = self.add_node("Sub", [self.add_node("Shape", [v], start=3, end=4), rows])
        flat = self.add_node("Reshape", [v, self.axes(0, 0, -1)])
        rest = self.add_node("Slice", [flat, rows, self.axes(1 << 62), self.axes(2)])
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

    def of_keys(self, mask: Sym) -> Sym:
        """Unsqueeze."""
        return self._unsqueezed(mask, 2)

    def of_image(self, mask: Sym) -> Sym:
        """Unsqueeze."""
        return self._unsqueezed(mask, 3)

    def _unsqueezed(self, mask: Sym, axis: int) -> Sym:
        key = ("unsqueezed", mask.name, axis)
        if key not in self._shared:
            name = self.add_node("Unsqueeze", [mask, self.axes(axis)])
            self._shared[key] = Sym(name, mask.interval)
        return self._shared[key]

    def with_ones(self, v: Sym) -> Sym:
        """Pad."""
        interval = self.proof.with_ones(v.interval)
        name = self.add_node("Pad", [v, self.axes(0, 0, 0, 0, 0, 0, 0, 1), self.scalar(1, U8)])
        if dims := self.dims.get(v.name):
            self.dims[name] = (*dims[:3], int(dims[3]) + 1)
        return Sym(name, interval)

    def without_ones(self, v: Sym, size: int) -> tuple[Sym, Sym]:
        """Split."""
        both = self.proof.without_ones(v.interval, size)
        first = self.add_node("Slice", [v, self.axes(0), self.axes(size), self.axes(3)])
        last = self.add_node("Slice", [v, self.axes(size), self.axes(size + 1), self.axes(3)])
        if dims := self.dims.get(v.name):
            self.tell_dims(first, (*dims[:3], size))
            self.tell_dims(last, (*dims[:3], 1))
        return Sym(first, both[0]), Sym(last, both[1])

    def take_channels(self, v: Sym, index: tuple[int, ...]) -> Sym:
        """Gather on the channel axis."""
        interval = self.proof.take_channels(v.interval, index)
        return Sym(self.add_node("Gather", [v, self.channel_index(index)], axis=1), interval)

    def channel_index(self, index: tuple[int, ...]) -> str:
        """Channel numbers, int64 [C]."""
        return self.store(f"{self._scope}/index", np.array(index, dtype=np.int64))

    def transpose(self, v: Sym, perm: tuple[int, ...]) -> Sym:
        """Transpose."""
        interval = self.proof.transpose(v.interval, perm)
        return Sym(self.add_node("Transpose", [v], perm=list(perm)), interval)
