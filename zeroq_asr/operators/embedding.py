"""Embeddings: a row of bytes for every label, looked up; nothing is computed but where it stands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.attributes import whole
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.cases import Case, edge_bytes
from zeroq_asr.registry import (
    ALWAYS,
    OWN,
    Constant,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
    spelled,
)

#: most labels that stand beside each other in one operand
_MOST_PLACES = 1 << 16


def _meaning(labels: Tensor, *, weight: Tensor, place: int, reach: tuple[float, float]) -> Tensor:
    """Rows [B, E, T] of weight [V, E] for the labels in channel ``place`` of [B, N, T]."""
    return weight[labels[:, place].long()].transpose(1, 2)


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    return Shape(node.attrs["weight"].shape[1], operands[0].history)


def _spelling(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    labels = w.add("Gather", [w.channels(node.ins[0]), w.store(a["place"], np.int64)], axis=1)
    w.done(node, w.add("Gather", [w.store(a["weight"].numpy()), labels], axis=0), True)


def embedding(f: Backend[V], labels: V, entries: V, offsets: V, *, place: int) -> V:
    """y[:, e] = entries[label · E + e], uint8 [B, E, T], of the label in channel ``place`` of labels.

    labels int32 [B, N, T], 0 ≤ label < V; entries uint8 [V · E], row behind row; offsets int32 [E] = 0 … E−1.
    """
    first = f.mul(f.take_channels(labels, (place,)), f.array(offsets).size)
    return f.lookup(f.add(first, f.per_channel(offsets)), entries)


def _check(view: Checked) -> None:
    entries, offsets = view.constant("entries"), view.constant("offsets")
    view.require(np.array_equal(offsets, np.arange(offsets.size)), "offsets count the entries of a row")
    view.require(entries.size % offsets.size == 0, f"entries are rows of {offsets.size}, not {entries.size}")
    view.require(view.attrs["place"] < view.operands[0], f"its labels have {view.operands[0]} channels")


def _lower(ctx: Lowering, node: FloatNode) -> None:
    """Bytes that reach as far as the weights of all tables do that stand beside each other."""
    a = node.attrs
    target = ctx.activation(node, a["reach"])
    weight = a["weight"].double().numpy()
    entries = np.clip(np.rint(weight / target.scale) + target.zero_point, target.lo, target.hi)
    names = (
        ctx.constant(f"{node.out}:entries", entries.astype(np.uint8).reshape(-1)),
        ctx.constant(f"{node.out}:offsets", np.arange(weight.shape[1], dtype=np.int32)),
    )
    ctx.emit("embedding", node, (node.ins[0], *names), place=a["place"])


def _cases() -> Iterator[Case]:
    generator = np.random.default_rng(0)
    for name, labels, width, places in (
        ("one", 7, 5, 1),
        ("several", 300, 3, 4),
        ("of-one-channel", 2, 1, 2),
    ):
        constants = {
            "entries": edge_bytes((labels * width,), 1),
            "offsets": np.arange(width, dtype=np.int32),
        }
        inputs = [
            {"x": generator.integers(0, labels, (batch, places, frames)).astype(np.int32)}
            for batch, frames in ((1, 1), (3, 1), (2, 9))
        ]
        ends = np.zeros((2, places, 1), dtype=np.int32)
        ends[1] = labels - 1
        for place in {0, places - 1}:
            yield Case(
                "embedding",
                f"{name}-{place}",
                {"place": place},
                ("x", "entries", "offsets"),
                [*inputs, {"x": ends}],
                constants,
                bounds={"x": (0, labels - 1)},
            )


EMBEDDING = register(
    Operator(
        "embedding",
        _meaning,
        shape=_shape,
        traits=Traits(framewise=True, reads_wide=ALWAYS, light=True),
        spelling=_spelling,
        lower=_lower,
        integers=(
            IntegerOperator(
                "embedding",
                embedding,
                {"place": whole(0, _MOST_PLACES, "the number of a channel")},
                {1: Constant("entries", np.uint8, 1), 2: Constant("offsets", np.int32, 1)},
                check=_check,
                kernels={"qdq": Kernel(spelled)},
                frames=OWN,
                tolerance={"embedding": 0.5},
                cases=_cases,
            ),
        ),
    )
)
