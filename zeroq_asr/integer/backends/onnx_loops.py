"""What repeats in a graph: attention in blocks of rows, an ONNX Loop, and steps from frame to frame, a Scan.

Rows of scores do not depend on each other, so a loop over n = ⌈T / 128⌉ blocks of b = ⌈T / n⌉ rows gives the
same integers in b / T of the memory that all scores at once would take, and the scores of a block stay in a
processor's cache.  The last block begins at T − b: all are equally long, as a Loop wants it, and the rows
that two blocks share are taken once.  A loop costs some tens of microseconds a layer, so that an If spares
recordings of up to ``WHOLE`` frames, and files that are proven for no more have none.  Dialects that other
hardware reads, which may take neither Loop nor If, have them only where the memory would not do, and ``qdq``
never: what it hears at once takes the memory of all scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.base import Body, Step
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.backends.onnx_graph import GraphBuilder, Sym, onnx_type, type_of
from zeroq_asr.integer.types import IntType

#: frames up to which all scores are made at once
WHOLE = 256
#: bytes of all scores at once that every machine has
LARGEST = 1 << 29
#: rows of a block, and where there are more frames than so many blocks of so many rows
BLOCK, LONG_BLOCK = 128, 512


class OnnxLoops(GraphBuilder):
    """The primitives that repeat."""

    #: whether blocks are there to keep scores in the cache, too
    for_cache = False
    #: whether there are blocks at all, whatever memory all scores take
    in_blocks = True
    #: bytes of the scores that the longest input makes at once, of the layer that makes most
    most_scores = 0

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
        every = 4 * heads * longest**2
        many = self.for_cache or every > LARGEST
        if longest <= WHOLE or not (self.in_blocks and many):
            self.most_scores = max(self.most_scores, every)
            return body(queries, positions, distances)
        rows = BLOCK if longest < BLOCK**2 else LONG_BLOCK
        if longest >= rows**2:
            problem = f"attention of {longest} frames to each other, at most {rows**2 - 1} are possible"
            raise ExportError(self._scope, problem, "quantize with a smaller --max-seconds")
        count = self.add_node("Shape", [queries], start=2, end=3)

        def whole() -> Sym:
            return body(queries, positions, distances)

        def loop() -> Sym:
            return self._blocks(body, queries, positions, distances, count, rows)

        few = self.add_node("Squeeze", [self.add_node("LessOrEqual", [count, self.axes(WHOLE)])])
        either = self._either(few, whole, loop)
        if dims := self.dims.get(queries.name):
            self.tell_dims(either.name, dims)
        return either

    def _either(self, condition: str, first: Callable[[], Sym], second: Callable[[], Sym]) -> Sym:
        """What ``first`` makes where a scalar bool holds, else what ``second`` makes."""
        graphs, made = {}, []
        for name, make in (("then_branch", first), ("else_branch", second)):
            with self.subgraph() as inside:
                made.append(make())
            result = made[-1]
            graphs[name] = helper.make_graph(
                inside.nodes,
                f"{self._label}/{name}",
                [],
                [helper.make_tensor_value_info(result.name, type_of(result), None)],
                value_info=self.inner_infos(inside, result.name),
            )
        name = self.add_node("If", [condition], **graphs)
        self._types[name] = type_of(made[0])
        self._told.append(name)
        return Sym(name, made[0].interval)

    def _blocks(
        self,
        body: Body[Sym],
        queries: Sym,
        positions: Sym | None,
        distances: Sym | None,
        count: str,
        most: int,
    ) -> Sym:
        """Loop over blocks of at most so many rows of ``count``, int64 [1]."""
        rounded = self.add_node("Add", [count, self.axes(most - 1)])
        blocks = self.add_node("Div", [rounded, self.axes(most)])
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
        return replace(v, name=self.add_node("Slice", [v, begin, end, self.axes(axis)]))

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
            [
                helper.make_tensor_value_info(on, TensorProto.BOOL, []),
                helper.make_tensor_value_info(result.name, type_of(result), None),
            ],
            value_info=self.inner_infos(inside, result.name),
        )
        return self.add_node("Loop", [count, ""], body=graph), result

    def filled(self, like: Sym, channels: int, value: int, to: IntType) -> Sym:
        """Expand a scalar to the batch of ``like``."""
        interval = self.proof.filled(like.interval, channels, value, to)
        batch = self.add_node("Shape", [like], start=0, end=1)
        shape = self.add_node("Concat", [batch, self.axes(channels, 1)], axis=0)
        name = self.add_node("Expand", [self.scalar(value, to), shape])
        self._types[name] = onnx_type(to)
        self._told.append(name)
        if dims := self.dims.get(like.name):
            self.tell_dims(name, (dims[0], channels, 1))
        return Sym(name, interval)

    def scan(
        self,
        step: Step[Sym],
        carried: Sequence[Sym],
        inputs: Sequence[Sym],
        *,
        bounds: Sequence[tuple[int, int]],
        backwards: bool = False,
    ) -> tuple[list[Sym], list[Sym]]:
        """Scan, whose state is what is carried, along the frames of inputs and results."""
        label, graphs, made = self.fresh(), list[GraphProto](), list[Sym]()

        def prove(held: list[Interval], given: list[Interval]) -> tuple[list[Interval], list[Interval]]:
            # the proof runs the step on all that may be carried: the nodes of that run are the body
            entering = [replace(v, interval=i) for v, i in zip(carried, held, strict=True)]
            frames = [replace(v, interval=i) for v, i in zip(inputs, given, strict=True)]
            graph, out, results = self._one_step(label, step, entering, frames)
            graphs[:], made[:] = [graph], results
            return [v.interval for v in out], [v.interval for v in results]

        held, given = self.proof.scan(
            prove, [v.interval for v in carried], [v.interval for v in inputs], bounds=bounds
        )
        axes = {"scan_input_axes": [2] * len(inputs), "scan_output_axes": [2] * len(given)}
        if backwards:
            axes["scan_input_directions"] = [1] * len(inputs)
            axes["scan_output_directions"] = [1] * len(given)
        names = self.add_node_of(
            "Scan",
            [*carried, *inputs],
            len(held) + len(given),
            body=graphs[-1],
            num_scan_inputs=len(inputs),
            **{name: along for name, along in axes.items() if along},
        )
        count = None if not inputs else self.dims.get(inputs[0].name, (None, None, None))[2]
        for name, v in zip(names, [*carried, *made], strict=True):
            dims = self.dims.get(v.name)
            if dims and name in names[len(held) :]:
                dims = None if count is None else (*dims[:2], count)
            self._types[name] = type_of(v)
            self._told.append(name)
            if dims:
                self.tell_dims(name, dims)
        last, joined = names[: len(held)], names[len(held) :]
        return (
            [Sym(name, interval) for name, interval in zip(last, held, strict=True)],
            [Sym(name, interval) for name, interval in zip(joined, given, strict=True)],
        )

    def _one_step(
        self, label: str, step: Step[Sym], carried: Sequence[Sym], inputs: Sequence[Sym]
    ) -> tuple[GraphProto, list[Sym], list[Sym]]:
        """The graph of one step of a scan, what it carries out, and its results.

        ``carried`` and ``inputs`` are tensors around it that its own are like.
        """
        with self.subgraph() as inside:
            held = [self._alike(v, f"{label}/carried/{k}", 3) for k, v in enumerate(carried)]
            # a scan gives a frame without its axis
            frames = [self._alike(v, f"{label}/frame/{k}", 2) for k, v in enumerate(inputs)]
            columns = [replace(v, name=self.add_node("Unsqueeze", [v, self.axes(2)])) for v in frames]
            out, results = step([*held], columns)
            # every result of a graph is made by a node of its own, and what is carried keeps its type
            names = [
                self.add_node("Identity", [v])
                if v.interval.type is like.interval.type
                else self.add_node("Cast", [v], to=type_of(like))
                for v, like in zip(out, held, strict=True)
            ]
            names += [self.add_node("Squeeze", [v, self.axes(2)]) for v in results]
        leaving = [self._declared(n, v, 3) for n, v in zip(names[: len(held)], held, strict=True)]
        leaving += [self._declared(n, v, 2) for n, v in zip(names[len(held) :], results, strict=True)]
        entering = [self._declared(v.name, v, 3) for v in held]
        entering += [self._declared(v.name, v, 2) for v in frames]
        infos = self.inner_infos(inside)
        graph = helper.make_graph(inside.nodes, f"{label}/step", entering, leaving, value_info=infos)
        return graph, out, results

    def _alike(self, v: Sym, name: str, axes: int) -> Sym:
        """A tensor that a graph inside of a node is given: the first axes of ``v``."""
        self.reserve(name)
        if dims := self.dims.get(v.name):
            self.dims[name] = dims[:axes]
        return Sym(name, v.interval)

    def _declared(self, name: str, like: Sym, axes: int) -> ValueInfoProto:
        """An operand or a result of a graph inside of a node, of the type and the first axes of ``like``."""
        dims = self.dims.get(like.name, (None,) * axes)
        return helper.make_tensor_value_info(name, type_of(like), list(dims[:axes]))


def every_graph(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and those that its nodes repeat."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from every_graph(attribute.g)


def every_node(graph: GraphProto) -> list[NodeProto]:
    """The nodes of a graph, and of those that its nodes repeat."""
    return [node for inner in every_graph(graph) for node in inner.node]
