"""Length of a sequence after a layer that changes it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.attributes import COUNT, WHOLE_NUMBER
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import MAX_FRAMES, Case
from zeroq_asr.registry import (
    ALWAYS,
    OWN,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
    spelled,
)


def _meaning(lengths: Tensor, *, before: int, divisor: int, after: int) -> Tensor:
    raised = (lengths + before).clamp(min=0)
    return torch.div(raised, divisor, rounding_mode="floor") + after


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    return Shape(lengths=True)


def _spelling(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    raised = w.add("Add", [node.ins[0], w.store(a["before"], np.int64)])
    kept = w.add("Max", [raised, w.store(0, np.int64)])
    divided = w.add("Div", [kept, w.store(a["divisor"], np.int64)])
    w.add("Add", [divided, w.store(a["after"], np.int64)], node.out)


def length_step(f: Backend[V], lengths: V, *, before: int, divisor: int, after: int) -> V:
    """max(lengths + before, 0) div divisor + after, int64 [B].

    A convolution has before = padding − dilation·(kernel − 1) − 1, divisor = stride, after = 1.
    """
    n = f.clamp(f.add(lengths, before), 0, 1 << 62)
    return f.add(f.quotient(n, divisor), after)


def _lower(ctx: Lowering, node: FloatNode) -> None:
    a = node.attrs
    ctx.emit("length_step", node, node.ins, before=a["before"], divisor=a["divisor"], after=a["after"])


def _cases() -> Iterator[Case]:
    inputs = [{"n": np.arange(1, 41)}, {"n": np.array([MAX_FRAMES, 1])}]
    steps = [(0, 1, 0), (-3, 2, 1), (5, 3, 1), (0, 7, 0), (-50, 4, 1), (-50, 1, 0), (-1, 1, 1), (2, 1, -1)]
    for before, divisor, after in steps:
        attrs = {"before": before, "divisor": divisor, "after": after}
        yield Case("length_step", f"{before}-{divisor}-{after}", attrs, ("n",), inputs)


LENGTH_STEP = register(
    Operator(
        "length_step",
        _meaning,
        shape=_shape,
        traits=Traits(reads_wide=ALWAYS, makes_lengths=True),
        spelling=_spelling,
        lower=_lower,
        integers=(
            IntegerOperator(
                "length_step",
                length_step,
                {"before": WHOLE_NUMBER, "divisor": COUNT, "after": WHOLE_NUMBER},
                frames=OWN,
                kernels={"qdq": Kernel(spelled)},
                tolerance={"length_step": 0.0},
                cases=_cases,
            ),
        ),
    )
)
