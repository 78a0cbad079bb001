"""What repeats in a graph: attention in blocks of rows, an ONNX Loop, and steps from frame to frame, a Scan.

Rows of scores do not depend on each other, so a loop over n = ⌈T / 512⌉ blocks of b = ⌈T / n⌉ rows gives the
same integers in b / T of the memory that all scores at once would take.  The last block begins at T − b: all are
equally long, as a Loop wants it, and the rows that two blocks share are taken once.  Files that are proven for no
more frames than ``LARGEST`` bears have no loop, which costs some microseconds a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.base import ROWS, Body, Step
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.backends.onnx_graph import GraphBuilder, Sym, type_of

#: bytes of all scores at once beyond which they are made in blocks
LARGEST = 1 << 29


class OnnxLoops(GraphBuilder):
    """The primitives that repeat."""

    def row_blocks(
        self,
        body: Body[Sym],
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
            return body(queries, positions, distances)
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
            own = self._slice(queries, begin, end, axis=2)
            beside = None if positions is None else self._slice(positions, begin, end, axis=2)
            return body(own, beside, near)

        stacked, one = self._loop(blocks, block)
        # [n, B, H, b, E] → [B, H, n·b, E], of which the last block's own rows are the last
        side = self.add_node("Transpose", [stacked], perm=[1, 2, 0, 3, 4])
        total = self.add_node("Mul", [blocks, rows])
        outer = self.add_node("Shape", [queries], start=0, end=2)
        shape = self.add_node("Concat", [outer, total, self.axes(-1)], axis=0)
        joined = self.add_node("Reshape", [side, shape])
        before = self.add_node("Sub", [total, rows])
        own = self.add_node("Add", [self.add_node("Sub", [total, count]), before])
        parts = [
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
        number, go = f"{self._label}/block", f"{self._label}/go"
        with self.subgraph() as inside:
            result = body(number)
            on = self.add_node("Identity", [go])
        graph = helper.make_graph(
            inside.nodes,
            f"{self._label}/blocks",
            [
                helper.make_tensor_value_info(number, TensorProto.INT64, []),
                helper.make_tensor_value_info(go, TensorProto.BOOL, []),
            ],
            [helper.make_tensor_value_info(on, TensorProto.BOOL, []), _declared(result)],
            value_info=self.inner_infos(inside, result.name),
        )
        return self.add_node("Loop", [count, ""], body=graph), result

    def scan(
        self,
        step: Step[Sym],
        carried: Sequence[Sym],
        inputs: Sequence[Sym],
        *,
        bounds: Sequence[tuple[int, int]],
    ) -> tuple[list[Sym], list[Sym]]:
        """Scan, whose state is what is carried, along the frames of inputs and results."""
        label, graphs, made = self.fresh(), list[GraphProto](), list[Sym]()

        def prove(held: list[Interval], given: list[Interval]) -> tuple[list[Interval], list[Interval]]:
            # the proof runs the step on all that may be carried: the nodes of that run are the body
            graph, out, results = self._body(label, step, zip(carried, held), zip(inputs, given))
            graphs[:], made[:] = [graph], results
            return [v.interval for v in out], [v.interval for v in results]

        held, given = self.proof.scan(
            prove, [v.interval for v in carried], [v.interval for v in inputs], bounds=bounds
        )
        names = self.add_node_of(
            "Scan",
            [*carried, *inputs],
            len(held) + len(given),
            body=graphs[-1],
            num_scan_inputs=len(inputs),
            scan_input_axes=[2] * len(inputs),
            scan_output_axes=[2] * len(given),
        )
        last = [Sym(name, interval) for name, interval in zip(names, held)]
        joined = [Sym(name, interval) for name, interval in zip(names[len(held) :], given)]
        frames = self.dims.get(inputs[0].name, (None, None, None))[2]
        for v, like in [*zip(last, carried), *zip(joined, made)]:
            dims = self.dims.get(like.name)
            self._types[v.name] = type_of(v)
            self._told.append(v.name)
            if dims and v in last:
                self.tell_dims(v.name, dims)
            elif dims and frames is not None:
                self.tell_dims(v.name, (*dims[:2], frames))
        return last, joined

    def _body(
        self,
        label: str,
        step: Step[Sym],
        carried: Iterable[tuple[Sym, Interval]],
        inputs: Iterable[tuple[Sym, Interval]],
    ) -> tuple[GraphProto, list[Sym], list[Sym]]:
        """The graph of one step, what it carries out, and its results."""
        with self.subgraph() as inside:
            held, frames, entering = [], [], []
            for k, (like, interval) in enumerate(carried):
                held.append(self.input(f"{label}/carried/{k}", interval, self._extents(like)))
                entering.append(self._declared(held[-1], held[-1].name))
            for k, (like, interval) in enumerate(inputs):
                one = self.input(f"{label}/frame/{k}", interval, self._extents(like)[:2])
                entering.append(self._declared(one, one.name))
                frames.append(replace(one, name=self.add_node("Unsqueeze", [one, self.axes(2)])))
            out, results = step([*held], [*frames])
            names = []
            for v, like in zip(out, held):
                # a graph gives each result a name that a node of its own makes, and a state its type
                alike = v.interval.type is like.interval.type
                to = {} if alike else {"to": type_of(like)}
                names.append(self.add_node("Identity" if alike else "Cast", [v], **to))
            names += [self.add_node("Squeeze", [v, self.axes(2)]) for v in results]
        leaving = [
            self._declared(v, name)
            for v, name in zip([*held, *results], names)
        ]
        graph = helper.make_graph(
            inside.nodes, f"{label}/step", entering, leaving, value_info=self.inner_infos(inside)
        )
        return graph, out, results
