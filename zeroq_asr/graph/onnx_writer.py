"""A float ONNX graph as it grows: what the spellings of float graph operators have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import NodeProto, TensorProto, helper, numpy_helper

from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.frame_tables import distinct
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.registry import operator_of


def spell(writer: Writer, node: FloatNode) -> None:
    """Write a node of a float graph as ONNX; UnsupportedOperatorError where its operator has no spelling."""
    spelling = operator_of(node).spelling
    if spelling is None:
        raise UnsupportedOperatorError(node.where or node.out, f"operator {node.op} has no float spelling")
    spelling(writer, node)


class Writer:
    """Collects nodes; a value [B, C, T] may exist frames first too, whatever its readers like best.

    ``shapes`` are those that ``graph.shapes.infer`` finds, of every value that is written.
    """

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        longest: int,
        *,
        flat: bool = False,
        quantizable: bool = False,
    ) -> None:
        #: leave depthwise convolutions 1-D
        self.flat = flat
        #: spell what ONNX Runtime's quantizers take as they take it best
        self.quantizable = quantizable
        #: encoded frames of the longest input, for tables of positions
        self.longest = longest
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        #: value → the same with frames first [B, T, C]; a value may have this form alone
        self.frames_first: dict[str, str] = {}
        self._channels_first: dict[str, str] = {}
        self.shapes = shapes
        self._masks: dict[tuple[str, Any, tuple[int, ...]], str] = {}
        self._tables: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def add(self, op: str, inputs: list[str], out: str = "", **attrs: Any) -> str:
        """Append a node and return its output's name."""
        out = out or self.unique(op)
        self.nodes.append(helper.make_node(op, inputs, [out], **attrs))
        return out

    def add_of(self, op: str, inputs: list[str], outs: list[str], **attrs: Any) -> None:
        """Append a node of several outputs, "" for those that nobody reads."""
        self.nodes.append(helper.make_node(op, inputs, outs, **attrs))

    def unique(self, op: str) -> str:
        """A name for a tensor that has none; no value of a float graph has a "/" in its name."""
        self._count += 1
        return f"{op}/{self._count}"

    def is_image(self, value: str) -> bool:
        """Whether a value is [B, C, T, F]."""
        return self.shapes[value].image

    def store(self, value: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """Add an initializer, small ones once, and return its name."""
        array: np.ndarray = np.asarray(value, dtype=dtype)
        name = (
            f"const/{array.dtype}/{array.tolist()}" if array.size <= 4 else f"weight/{len(self.initializers)}"
        )
        self.initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def channels(self, value: str) -> str:
        """Name of the form [B, C, T]."""
        if value not in self.frames_first:
            return value
        if value not in self._channels_first:
            self._channels_first[value] = self.add("Transpose", [self.frames_first[value]], perm=[0, 2, 1])
        return self._channels_first[value]

    def frames(self, value: str) -> str:
        """Name of the form [B, T, C]."""
        if value not in self.frames_first:
            self._channels_first[value] = value
            self.frames_first[value] = self.add("Transpose", [value], perm=[0, 2, 1])
        return self.frames_first[value]

    def has_frames(self, *values: str) -> bool:
        """Whether all of ``values`` exist frames first."""
        return all(value in self.frames_first for value in values)

    def forms(self, node: FloatNode) -> tuple[list[str], bool]:
        """Names of an elementwise node's operands in one form, and whether that is frames first."""
        together = self.has_frames(*node.ins)
        return [self.frames(n) if together else self.channels(n) for n in node.ins], together

    def done(self, node: FloatNode, name: str, frames_first: bool) -> None:
        """Take ``name`` for the result of ``node``, its fused clamp applied."""
        lo, hi = node.attrs.get("clamp") or (None, None)
        out = f"{node.out}:frames" if frames_first else node.out
        if lo is None and hi is None:
            self.add("Identity", [name], out)
        elif lo == 0.0 and hi is None:
            self.add("Relu", [name], out)
        else:
            self.add("Clip", [name, *("" if b is None else self.store(b) for b in (lo, hi))], out)
        if frames_first:
            self.frames_first[node.out] = out

    def mask(self, value: str, lengths: str, *axes: int) -> str:
        """Bool [B, T] with ones at ``axes``: a value's valid frames, made once for equal numbers of them."""
        key = (lengths, self.shapes[value].history, axes)
        if key not in self._masks or self.quantizable:
            if axes:
                self._masks[key] = self.add("Unsqueeze", [self.mask(value, lengths), self.axes(*axes)])
            else:
                first = value in self.frames_first
                axis, name = (1, self.frames(value)) if first else (2, value)
                shape = self.add("Shape", [name], start=axis, end=axis + 1)
                frames = self.add("Squeeze", [shape, self.axes(0)])
                index = self.add("Range", [self.store(0, np.int64), frames, self.store(1, np.int64)])
                column = self.add("Unsqueeze", [lengths, self.axes(1)])
                self._masks[key] = self.add("Less", [index, column])
        return self._masks[key]

    def frame_table(self, like: str, table: np.ndarray, frames_first: bool) -> str:
        """The first columns of ``table`` [C, L], as many as there are frames: [C, T] or [T, C]; made once."""
        kept, rows, signs = distinct(table.astype(np.float32))
        key = (kept.tobytes(), rows, signs.tobytes(), self.shapes[like].history, frames_first)
        if key not in self._tables:
            axis, name = (1, self.frames(like)) if like in self.frames_first else (2, like)
            frames = self.add("Shape", [name], start=axis, end=axis + 1)
            part = self.add("Slice", [self.store(kept), self.axes(0), frames, self.axes(1)])
            each = self.add("Gather", [part, self.store(rows, np.int64)], axis=0)
            signed = self.add("Mul", [each, self.store(signs[:, None])])
            self._tables[key] = self.add("Transpose", [signed], perm=[1, 0]) if frames_first else signed
        return self._tables[key]

    def axes(self, *values: int) -> str:
        """An int64 vector (axes, starts, ...)."""
        return self.store(list(values), np.int64)
