"""Positions of attention as values of the graph: a table of distances, and a convolution behind it.

A float network may fold what attention makes of its distances into one table a layer.  An integer file
would carry 2L − 1 columns a layer for L frames; here the table that all layers share becomes one
``positions`` node, each layer's matrix a pointwise convolution of it, quantized like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.tracer import OfFrames
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode, frame_counts

#: frames at which the factors are compared with what they are factors of
_TRIED = 5


def expose_positions(graph: FloatGraph) -> FloatGraph:
    """Return a graph of the same function whose attentions read their distances, [1, H·E, 2T − 1]."""
    tables: dict[Any, str] = {}
    frames = frame_counts(graph)
    nodes: list[FloatNode] = []
    for node in graph.nodes:
        positions = node.attrs.get("positions") if node.op == "attention" else None
        if positions is None:
            nodes.append(node)
            continue
        rows, weight = _factors(positions)
        # layers of as many frames share what they were given, not what is made of it here
        source = rows.rows if isinstance(rows, _Columns) else rows, frames[node.ins[0]]
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
        nodes.append(FloatNode("attention", node.out, (*node.ins, distances), attrs, node.where))
    return FloatGraph(graph.inputs, graph.outputs, nodes)


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
