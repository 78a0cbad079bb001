"""Moves that change no integer: channel order, axis order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Real, Tracer
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.attributes import indices
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import Case, edge_bytes
from zeroq_asr.registry import (
    ALWAYS,
    OWN,
    Attribute,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    moves,
    register,
    spelled,
)

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym


# -- channel order ---------------------------------------------------------------------------------

captures = Captures()


@captures("index_select", Real)
def _index_select(t: Tracer, x: Real, dim: int, index: Any) -> Any:
    if dim % 3 != (2 if x.frames_first else 1) or not isinstance(index, Tensor):
        return NotImplemented
    if index.dtype == torch.bool or index.dim() != 1:
        return NotImplemented
    return t.emit("take_channels", (x.name,), x.frames_first, index=tuple(index.tolist()))


@captures("index", Real)
def _index(t: Tracer, x: Real, indices: Any) -> Any:
    if len(indices) == 2 and indices[0] is None:
        return _index_select(t, x, 1, indices[1])
    return NotImplemented


def _take_shape(node: FloatNode, operands: list[Shape]) -> Shape:
    return replace(operands[0], channels=len(node.attrs["index"]))


def _take_spelling(w: Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    index = w.store(node.attrs["index"], np.int64)
    w.done(node, w.add("Gather", [x, index], axis=2 if together else 1), together)


def take_channels(f: Backend[V], x: V, *, index: tuple[int, ...]) -> V:
    """y[:, i] = x[:, index[i]]; a channel shuffle."""
    return f.take_channels(x, index)


def _gathered(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    (x,) = ins
    index = b.channel_index(i.attrs["index"])
    return replace(x, name=b.node("Gather", [x, index], None, axis=2 if x.frames_first else 1))


def _taken(view: Checked) -> None:
    index = view.attrs["index"]
    view.require(max(index) < view.operands[0], f"takes from {view.operands[0]} channels")


def _lower_take(ctx: Lowering, node: FloatNode) -> None:
    ctx.alias(node, ctx.info(node.ins[0]))
    ctx.emit("take_channels", node, node.ins, index=tuple(node.attrs["index"]))


# -- axis order ------------------------------------------------------------------------------------

#: permutation of the axes [B, C, T] → the pattern that makes it
_PATTERNS: dict[tuple[int, ...], str] = {
    (0, 1, 2): "b c t -> b c t",
    (0, 2, 1): "b c t -> b t c",
    (1, 0, 2): "b c t -> c b t",
    (1, 2, 0): "b c t -> c t b",
    (2, 0, 1): "b c t -> t b c",
    (2, 1, 0): "b c t -> t c b",
}


def _transposed_meaning(x: Tensor, *, perm: tuple[int, ...]) -> Tensor:
    return x.permute(perm)


def _transpose_spelling(w: Writer, node: FloatNode) -> None:
    # frames first is the transpose already
    w.add("Identity", [w.frames(node.ins[0])], node.out)


def transpose(f: Backend[V], x: V, *, perm: tuple[int, ...]) -> V:
    """Permute the axes."""
    return f.rearrange(x, _PATTERNS[tuple(perm)])


def _turned(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    (x,) = ins
    if tuple(i.attrs["perm"]) == (0, 2, 1):
        # what one calls channels is what the other calls frames
        return replace(x, frames_first=not x.frames_first)
    return replace(x, name=b.node("Transpose", [b.channels_first(x)], None, perm=list(i.attrs["perm"])))


def _lower_transpose(ctx: Lowering, node: FloatNode) -> None:
    ctx.alias(node, ctx.info(node.ins[0]))
    ctx.emit("transpose", node, node.ins, perm=tuple(node.attrs["perm"]))


# -- parity ----------------------------------------------------------------------------------------


def _take_cases() -> Iterator[Case]:
    inputs = [{"x": edge_bytes(shape, 1)} for shape in ((1, 6, 1), (3, 6, 11))]
    for name, index in {
        "shuffle": (0, 3, 1, 4, 2, 5),
        "some": (5, 2),
        "repeated": (0, 0, 5, 5, 1, 1, 2),
        "one": (3,),
    }.items():
        yield Case("take_channels", name, {"index": index}, ("x",), inputs, kernel="Gather")


def _transpose_cases() -> Iterator[Case]:
    inputs = [{"x": edge_bytes(shape, 1)} for shape in ((1, 6, 1), (3, 6, 11))]
    for perm in ((0, 2, 1), (0, 1, 2), (2, 1, 0)):
        yield Case("transpose", "".join(map(str, perm)), {"perm": perm}, ("x",), inputs, kernel="Transpose")
    wide = [{"x": np.arange(-40000, 40000, 5000, dtype=np.int32).reshape(2, 2, 4)}]
    bounds = {"x": (-40000, 40000)}
    yield Case("transpose", "int32", {"perm": (0, 2, 1)}, ("x",), wide, kernel="Transpose", bounds=bounds)


TAKE_CHANNELS = register(
    Operator(
        "take_channels",
        lambda x, *, index: x[:, list(index)],
        captures=tuple(captures),
        shape=_take_shape,
        traits=Traits(framewise=True, moves=True, reads_wide=ALWAYS, light=True),
        spelling=_take_spelling,
        lower=_lower_take,
        integers=(
            IntegerOperator(
                "take_channels",
                take_channels,
                {"index": indices("channel numbers")},
                moves=0,
                frames=OWN,
                check=_taken,
                kernels={"fused": Kernel(_gathered, moves), "qdq": Kernel(spelled)},
                tolerance={"take_channels": 0.0},
                cases=_take_cases,
            ),
        ),
    )
)

TRANSPOSE = register(
    Operator(
        "transpose",
        _transposed_meaning,
        traits=Traits(framewise=True, moves=True, reads_wide=ALWAYS, light=True),
        spelling=_transpose_spelling,
        lower=_lower_transpose,
        integers=(
            IntegerOperator(
                "transpose",
                transpose,
                {
                    "perm": Attribute(
                        "a permutation of the axes",
                        lambda v: isinstance(v, tuple) and sorted(v) == [0, 1, 2],
                    )
                },
                moves=0,
                frames=OWN,
                kernels={"fused": Kernel(_turned, moves, "Transpose"), "qdq": Kernel(spelled)},
                tolerance={"transpose": 0.0},
                cases=_transpose_cases,
            ),
        ),
    )
)
