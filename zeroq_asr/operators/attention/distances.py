"""Positions of attention as values of the graph: a table of distances, and a convolution behind it.

A float network may fold what attention makes of its distances into one table a layer.  An integer file
would carry 2L − 1 columns a layer for L frames; here the table that all layers share becomes one
``positions`` node, each layer's matrix a pointwise convolution of it, quantized like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.capture.tracer import OfFrames
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape, infer
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import Case, edge_bytes
from zeroq_asr.registry import (
    OWN,
    Constant,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
    spelled,
)

#: frames at which the factors are compared with what they are factors of
_TRIED = 5


def expose_positions(graph: FloatGraph) -> FloatGraph:
    """Return a graph of the same function whose attentions read their distances, [1, H·E, 2T − 1]."""
    tables: dict[Any, str] = {}
    shapes = infer(graph)
    nodes: list[FloatNode] = []
    for node in graph.nodes:
        # an operator from outside may have an attribute of this name, too
        positions = node.attrs.get("positions") if node.op == "attention" else None
        if positions is None:
            nodes.append(node)
            continue
        rows, weight = _factors(positions)
        # layers of as many frames share what they were given, not what is made of it here
        source = rows.rows if isinstance(rows, _Columns) else rows, shapes[node.ins[0]].history
        if source not in tables:
            tables[source] = f"{node.out}:positions"
            table = FloatNode("positions", tables[source], node.ins[:1], {"compute": rows}, node.where)
            nodes.append(table)
        distances = tables[source]
        if weight is not None:
            attrs = {
                "weight": weight.float()[:, :, None],
                "bias": torch.zeros(len(weight)),
                "stride": 1,
                "padding": (0, 0),
                "dilation": 1,
                "groups": 1,
            }
            nodes.append(FloatNode("conv1d", f"{node.out}:distances", (distances,), attrs, node.where))
            distances = f"{node.out}:distances"
        attrs = {**node.attrs, "positions": None}
        nodes.append(replace(node, ins=(*node.ins, distances), attrs=attrs))
    return graph.with_nodes(nodes)


def _factors(positions: Callable[[int], Tensor]) -> tuple[Callable[[int], Tensor], Tensor | None]:
    """Return a table [D, 2T − 1] as a function of T and a matrix [H·E, D], or the whole and None."""
    factors = positions.factors if isinstance(positions, OfFrames) else None
    if factors is not None:
        rows, weight = factors
        whole = positions(_TRIED).flatten(0, 1).double()
        table = _Columns(rows)
        product = weight.double() @ table(_TRIED).double()
        if product.shape == whole.shape and torch.allclose(
            product, whole, atol=1e-4 * float(whole.abs().max())
        ):
            return table, weight
    return lambda frames: positions(frames).flatten(0, 1), None


@dataclass(frozen=True, eq=False)
class _Columns:
    """Rows [R, D] of a function of frames as columns [D, R]."""

    rows: OfFrames

    def __call__(self, frames: int) -> Tensor:
        made = self.rows(frames)
        return made.reshape(-1, made.shape[-1]).t()


# -- the operator ------------------------------------------------------------------------------------


def _meaning(like: Tensor, *, compute: Callable[[int], Tensor]) -> Tensor:
    return compute(like.shape[2])[None].to(like.device)


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    # as many frames as there are distances
    return Shape(node.attrs["compute"](1).shape[0], ("distances", operands[0].history))


def slice_distances(w: Writer, source: str, positions: Callable[[int], Tensor]) -> str:
    """The middle [H, E, 2T − 1] of a table [H, E, 2L − 1] for L frames: distances T − 1 down to 1 − T."""
    table = w.store(positions(w.longest).numpy())
    frames = w.add("Shape", [source], start=1, end=2)
    begin = w.add("Sub", [w.axes(w.longest), frames])
    end = w.add("Add", [w.axes(w.longest - 1), frames])
    return w.add("Slice", [table, begin, end, w.axes(2)])


def _spelling(w: Writer, node: FloatNode) -> None:
    """The distances of as many frames as the operand has, [1, D, 2T − 1]."""

    def shaped(frames: int) -> Tensor:
        made: Tensor = node.attrs["compute"](frames)[None]
        return made

    w.add("Identity", [slice_distances(w, w.frames(node.ins[0]), shaped)], node.out)


def positions(f: Backend[V], like: V, table: V) -> V:
    """y uint8 [1, C, 2T]: the distances T down to 1 − T; the first lines up what is shifted, and is not read.

    ``like`` [B, C', T] gives the frames; ``table`` uint8 [C, 2L] holds the distances of L ≥ T frames.
    """
    return f.slice_frames(table, like, around=True)


def _check(view: Checked) -> None:
    columns, count = view.constant("table").shape[1], view.longest(0)
    view.require(columns % 2 == 0, "a table of distances has an even number of columns")
    view.require(columns // 2 >= count, f"has a table for {columns // 2} frames, its operand up to {count}")


def _lower(ctx: Lowering, node: FloatNode) -> None:
    target = ctx.activation(node)
    reals = node.attrs["compute"](ctx.longest(node.ins[0])).double().numpy()
    # what no pair of frames is apart
    reals = np.concatenate((np.zeros_like(reals[:, :1]), reals), axis=1)
    table = np.clip(np.rint(reals / target.scale) + target.zero_point, target.lo, target.hi)
    ctx.emit("positions", node, (node.ins[0], ctx.constant(f"{node.out}:table", table.astype(np.uint8))))


def _cases() -> Iterator[Case]:
    longest = 70
    table = np.random.default_rng(0).integers(0, 256, (6, 2 * longest)).astype(np.uint8)
    inputs = [{"like": edge_bytes((batch, 3, t), t)} for batch, t in ((1, 1), (2, 33), (3, longest))]
    yield Case("positions", "up-to-the-longest", {}, ("like", "table"), inputs, {"table": table})
    one = [{"like": edge_bytes((2, 1, 1), 0)}]
    yield Case("positions", "one-frame-alone", {}, ("like", "table"), one, {"table": table[:1, :2].copy()})


POSITIONS = register(
    Operator(
        "positions",
        _meaning,
        shape=_shape,
        traits=Traits(of_frames=True),
        spelling=_spelling,
        lower=_lower,
        integers=(
            IntegerOperator(
                "positions",
                positions,
                {},
                constants={1: Constant("table", np.uint8, 2)},
                frames=OWN,
                check=_check,
                kernels={"qdq": Kernel(spelled)},
                bounded=True,
                of_frames=True,
                tolerance={"positions": 0.5},
                cases=_cases,
            ),
        ),
    )
)
