"""Images: features as one channel over time and frequency, and back to channels over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Image, Real, Tracer
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.attributes import COUNT
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.program import Instruction
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import Case, edge_bytes
from zeroq_asr.registry import (
    NAMED,
    OWN,
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


# -- to an image -----------------------------------------------------------------------------------

image_captures, flatten_captures = Captures(), Captures()


@image_captures("unsqueeze", Real)
def _unsqueeze(t: Tracer, x: Real, dim: int) -> Any:
    return Image(t.emit("image", (x.name,)).name) if x.frames_first and dim == 1 else NotImplemented


def _image_meaning(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unsqueeze(1)


def _image_shape(node: FloatNode, operands: list[Shape]) -> Shape:
    return Shape(1, operands[0].history, image=True)


def _image_spelling(w: Writer, node: FloatNode) -> None:
    w.add("Unsqueeze", [w.frames(node.ins[0]), w.axes(1)], node.out)


def image(f: Backend[V], x: V) -> V:
    """[B, M, T] → [B, 1, T, M]: mels become the frequencies of one channel."""
    return f.rearrange(x, "b m t -> b 1 t m")


def _lower_image(ctx: Lowering, node: FloatNode) -> None:
    ctx.alias(node, ctx.info(node.ins[0]))
    ctx.emit("image", node, node.ins)


# -- back to channels ------------------------------------------------------------------------------


@flatten_captures("reshape", Image)
def _reshape(t: Tracer, x: Image, shape: Any = (), *_: object) -> Any:
    if not x.frames_first or len(shape) != 3 or not isinstance(t.shape[2], int):
        return NotImplemented
    return Real(t.emit("flatten", (x.name,), channels=t.shape[2]).name, True)


@flatten_captures("transpose", Image)
def _transpose(t: Tracer, x: Image, a: int, b: int) -> Any:
    return replace(x, frames_first=not x.frames_first) if {a % 4, b % 4} == {1, 2} else NotImplemented


@flatten_captures("permute", Image)
def _permute(t: Tracer, x: Image, order: Any) -> Any:
    turned = [o % 4 for o in order] == [0, 2, 1, 3]
    return replace(x, frames_first=not x.frames_first) if turned else NotImplemented


def _flatten_meaning(x: Tensor, *, channels: int) -> Tensor:
    return x.permute(0, 1, 3, 2).reshape(x.shape[0], channels, x.shape[2])


def _flatten_shape(node: FloatNode, operands: list[Shape]) -> Shape:
    return Shape(node.attrs["channels"], operands[0].history)


def _flatten_spelling(w: Writer, node: FloatNode) -> None:
    moved = w.add("Transpose", [node.ins[0]], perm=[0, 2, 1, 3])
    out = w.add("Reshape", [moved, w.axes(0, 0, node.attrs["channels"])], f"{node.out}:frames")
    w.frames_first[node.out] = out


def flatten(f: Backend[V], x: V, *, channels: int) -> V:
    """[B, C, T, F] → [B, C·F, T], frequencies innermost; ``channels`` = C·F."""
    return f.rearrange(x, "b c t f -> b (c f) t", cf=channels)


def _frames_first(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    turned = b.node("Transpose", [ins[0]], None, perm=[0, 2, 1, 3])
    y = b.node("Reshape", [turned, b.axes(0, 0, i.attrs["channels"])], None)
    return replace(ins[0], name=y, frames_first=True)


def _lower_flatten(ctx: Lowering, node: FloatNode) -> None:
    ctx.alias(node, ctx.info(node.ins[0]))
    ctx.emit("flatten", node, node.ins, channels=node.attrs["channels"])


# -- parity ----------------------------------------------------------------------------------------


def _image_cases() -> Iterator[Case]:
    shapes = ((1, 4, 1), (3, 4, 11), (2, 4, 70))
    yield Case("image", "mels", {}, ("x",), [{"x": edge_bytes(shape, 1)} for shape in shapes])
    yield Case("image", "one-mel", {}, ("x",), [{"x": edge_bytes((2, 1, frames), 2)} for frames in (1, 9)])


def _flatten_cases() -> Iterator[Case]:
    for name, channels, width in (("images", 3, 5), ("one-channel", 1, 4), ("one-frequency", 6, 1)):
        inputs = [{"x": edge_bytes((batch, channels, t, width), t)} for batch, t in ((1, 1), (3, 7), (2, 41))]
        yield Case("flatten", name, {"channels": channels * width}, ("x",), inputs, kernel="Reshape")


_TRAITS = Traits(framewise=True, moves=True, changes_rank=True, reads_wide=NAMED, light=True)

IMAGE = register(
    Operator(
        "image",
        _image_meaning,
        captures=tuple(image_captures),
        shape=_image_shape,
        traits=_TRAITS,
        spelling=_image_spelling,
        lower=_lower_image,
        integers=(
            IntegerOperator(
                "image",
                image,
                {},
                moves=0,
                frames=OWN,
                kernels={"qdq": Kernel(spelled)},
                tolerance={"image": 0.0},
                cases=_image_cases,
            ),
        ),
    )
)

FLATTEN = register(
    Operator(
        "flatten",
        _flatten_meaning,
        captures=tuple(flatten_captures),
        shape=_flatten_shape,
        traits=_TRAITS,
        spelling=_flatten_spelling,
        lower=_lower_flatten,
        integers=(
            IntegerOperator(
                "flatten",
                flatten,
                {"channels": COUNT},
                moves=0,
                frames=OWN,
                kernels={"fused": Kernel(_frames_first, moves), "qdq": Kernel(spelled)},
                tolerance={"flatten": 0.0},
                cases=_flatten_cases,
            ),
        ),
    )
)
