"""Attention over long recordings in blocks of rows: an ONNX Loop, where all scores at once would not fit.

Rows of scores do not depend on each other, so a loop over n = ⌈T / 512⌉ blocks of b = ⌈T / n⌉ rows gives the
same integers in b / T of the memory.  The last block begins at T − b: all are equally long, as a Loop wants
it, and the rows that two blocks share are taken once.  Files that are proven for no more frames than
``LARGEST`` bears have no loop, which costs some microseconds a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import NodeProto, TensorProto, helper

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.base import ROWS, Body
from zeroq_asr.integer.backends.onnx_graph import GraphBuilder, Sym, type_of

#: bytes of all scores at once beyond which they are made in blocks
LARGEST = 1 << 29


class OnnxLoops(GraphBuilder):
    """The primitive that bounds memory."""

    def row_blocks(
        self,
        body: Body,
        queries: Sym,
        positions: Sym | None,
        distances: Sym | None,
        *,
        heads: int,
        frames: Sym,
    ) -> Sym:
        """Loop over blocks of rows, if there are many."""
        longest = int(frames.interval.max)
        if 4 * heads * longest**2 <= LARGEST:
            whole: Sym = body(queries, positions, distances)
            return whole
        if longest >= ROWS**2:
            problem = f"attention of {longest} frames to each other, at most {ROWS**2 - 1} are possible"
            raise ExportError(self._scope, problem, "quantize with a smaller --max-seconds")
        count = self.add_node("Shape", [queries], start=2, end=3)
        blocks = self.add_node("Div", [self.add_node("Add", [count, self.axes(ROWS - 1)]), self.axes(ROWS)])
        padded = self.add_node("Add", [count, self.add_node("Sub", [blocks, self.axes(1)])])
        rows = self.add_node("Div", [padded, blocks])
        last = self.add_node("Sub", [count, rows])

        def block(number: str) -> Sym:
            at = self.add_node("Mul", [number, rows])
            begin = self.add_node("Where", [self.add_node("Less", [at, last]), at, last])
            end = self.add_node("Add", [begin, rows])
            near = None
            if distances is not None:
                first = self.add_node("Sub", [count, end])
                behind = self.add_node("Sub", [self.add_node("Add", [count, count]), begin])
                near = self._slice(distances, first, behind, axis=3)
            own, beside = (v and self._slice(v, begin, end, axis=2) for v in (queries, positions))
            made: Sym = body(own, beside, near)
            return made

        stacked, one = self._loop(blocks, block)
        # [n, B, H, b, E] → [B, H, n·b, E], of which the last block's own rows are the last
        side = self.add_node("Transpose", [stacked], perm=[1, 2, 0, 3, 4])
        total = self.add_node("Mul", [blocks, rows])
        outer = self.add_node("Shape", [queries], start=0, end=2)
        shape = self.add_node("Concat", [outer, total, self.axes(-1)], axis=0)
        joined = self.add_node("Reshape", [side, shape])
        before = self.add_node("Sub", [total, rows])
        own = self.add_node("Add", [self.add_node("Sub", [total, count]), before])
        parts: list[Sym | str] = [
            self.add_node("Slice", [joined, self.axes(0), before, self.axes(2)]),
            self.add_node("Slice", [joined, own, total, self.axes(2)]),
        ]
        self._types.update(dict.fromkeys((stacked, side, joined), type_of(one)))
        name = self.add_node("Concat", parts, axis=2)
        if dims := self.dims.get(queries.name):
            self.tell_dims(name, dims)
        return Sym(name, one.interval)

    def _slice(self, v: Sym, begin: str, end: str, axis: int) -> Sym:
        return Sym(self.add_node("Slice", [v, begin, end, self.axes(axis)]), v.interval)

    def _loop(self, count: str, body: Callable[[str], Sym]) -> tuple[str, Sym]:
        """Stack what ``body`` makes of 0 to ``count`` − 1; returns that and one of them."""
        first, told, shared = len(self.nodes), len(self._told), dict(self._shared)
        number, go = f"{self._label}/block", f"{self._label}/go"
        result = body(number)
        on = self.add_node("Identity", [go])
        nodes, self.nodes[first:] = self.nodes[first:], []
        # nothing outside may name what is inside
        self._shared = shared
        inside, self._told[told:] = self._told[told:], []
        graph = helper.make_graph(
            nodes,
            f"{self._label}/blocks",
            [
                helper.make_tensor_value_info(number, TensorProto.INT64, []),
                helper.make_tensor_value_info(go, TensorProto.BOOL, []),
            ],
            [
                helper.make_tensor_value_info(on, TensorProto.BOOL, []),
                helper.make_tensor_value_info(result.name, type_of(result), None),
            ],
            value_info=[
                helper.make_tensor_value_info(name, self._types[name], None)
                for name in inside
                if name in self._types and name != result.name
            ],
        )
        return self.add_node("Loop", [count, ""], body=graph), result


def every_graph(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and the bodies of loops inside of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from every_graph(attribute.g)


def every_node(graph: onnx.GraphProto) -> list[NodeProto]:
    """The nodes of a graph, and of what loops inside of it repeat."""
    return [node for inner in every_graph(graph) for node in inner.node]
