"""Channels of two values behind each other, such as those of both directions of a recurrence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import Case, edge_bytes
from zeroq_asr.registry import OWN, IntegerOperator, Kernel, Operator, Traits, moves, register, spelled

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym


def _meaning(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], dim=1)


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    counts = [shape.channels for shape in operands]
    known = [count for count in counts if count is not None]
    return replace(operands[0], channels=sum(known) if len(known) == len(counts) else None)


def _spelling(w: Writer, node: FloatNode) -> None:
    operands, together = w.forms(node)
    w.done(node, w.add("Concat", operands, axis=2 if together else 1), together)


def join(f: Backend[V], a: V, b: V) -> V:
    """y [B, C + C', T] of a [B, C, T] and b [B, C', T], uint8, of one scale and zero point."""
    return f.join_channels(a, b)


def _concat(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    first, second = b.alike(ins)
    axis = 2 if first.frames_first else 1
    return replace(first, name=b.node("Concat", [first, second], None, axis=axis))


def _check(view: Checked) -> None:
    meant = [view.program.values.get(name) for name in view.instruction.ins]
    same = {(info.scale, info.zero_point) for info in meant if info is not None}
    view.require(len(same) <= 1, "joins values of one scale and zero point")


def _lower(ctx: Lowering, node: FloatNode) -> None:
    first, second = (ctx.info(name) for name in node.ins)
    if first != second:
        raise UnsupportedOperatorError(
            node.where or node.out,
            "joins values of different formats",
            "give both as many bits in the plan",
        )
    ctx.alias(node, first)
    ctx.emit("join", node, node.ins)


def _cases() -> Iterator[Case]:
    inputs = [
        {"a": edge_bytes((batch, 3, frames), 1), "b": edge_bytes((batch, 5, frames), 2)}
        for batch, frames in ((1, 1), (3, 17))
    ]
    yield Case("join", "both", {}, ("a", "b"), inputs, kernel="Concat")


JOIN = register(
    Operator(
        "join",
        _meaning,
        shape=_shape,
        traits=Traits(framewise=True, light=True),
        spelling=_spelling,
        lower=_lower,
        integers=(
            IntegerOperator(
                "join",
                join,
                {},
                check=_check,
                kernels={"fused": Kernel(_concat, moves), "qdq": Kernel(spelled)},
                moves=0,
                frames=OWN,
                tolerance={"join": 0.0},
                cases=_cases,
            ),
        ),
    )
)
