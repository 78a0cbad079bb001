"""Parity cases of float islands, whose bodies one evaluator runs for all interpreters but the fused files.

There a body's nodes stand among others, which ONNX Runtime may fuse and tile in other ways: functions taken
element by element are equal, sums may differ in their last bit.  These cases are wanted equal nevertheless:
on a step of the output that is coarse beside a float32's a difference of the last bit is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper

from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.backends.onnxruntime_bodies import IR_VERSION, OPSET, encode
from zeroq_asr.lowering.keep_float import float_body

from .parity import Arrays, Case, cases, edge_bytes, edge_words

WORD = (-32768, 32767)


def written(nodes: list[FloatNode], channels: dict[str, int], images: tuple[str, ...] = ()) -> Any:
    """The body of nodes as the lowering writes it, and its weights; ``lengths`` alone is no activation."""
    takes = dict.fromkeys(name for n in nodes for name in n.ins if name not in {m.out for m in nodes})
    island = FloatNode("float_island", nodes[-1].out, (*takes,), {"nodes": (*nodes,)})
    frames: dict[str, Any] = dict.fromkeys(channels, ())
    body, activations, lengths, weights = float_body(
        island, lengths={"lengths"}, channels=channels, frames=frames, images={*images}, longest=1
    )
    return body, (*activations, *lengths, *weights), len(activations), len(lengths), weights


def spelled(*ops: str, channels: int = 3) -> str:
    """A body of elementwise ONNX operators, one after the other."""
    names = ["x", *(f"t{k}" for k in range(len(ops)))]
    nodes = [helper.make_node(op, names[k : k + 1], names[k + 1 : k + 2]) for k, op in enumerate(ops)]
    shape = ["batch", channels, "frames"]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "body", value[:1], value[1:])
    opset = helper.make_opsetid("", OPSET)
    return encode(helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION))


def form(zero_point: int = 128, lo: int = 0, hi: int = 255, scale: float = 0.03125) -> dict[str, Any]:
    kind = "uint8" if lo >= 0 else "int32"
    return {"scale": scale, "zero_point": zero_point, "lo": lo, "hi": hi, "type": kind}


def island_case(
    name: str,
    body: str,
    inputs: list[Arrays],
    order: tuple[str, ...] = ("x",),
    *,
    scales: tuple[float, ...] = (0.0625,),
    zx: tuple[int, ...] = (100,),
    lengths: int = 0,
    weights: Arrays | None = None,
    bounds: dict[str, tuple[int, int]] | None = None,
    **result: Any,
) -> Case:
    attrs = {"scales": scales, "zx": zx, "lengths": lengths, "body": body, "layers": ("layer",)}
    attrs |= form(**result)
    return Case("float_island", name, attrs, order, inputs, weights or {}, "float", bounds or {})


@cases("float_island")
def _float_island() -> Iterator[Case]:
    shapes = ((1, 3, 1), (3, 3, 11), (2, 3, 40))
    sequences = [{"x": edge_bytes(shape, 1, 100)} for shape in shapes]
    yield island_case("sin", spelled("Sin"), sequences)
    yield island_case("sin-narrow", spelled("Sin"), sequences, zero_point=3, lo=2, hi=40)
    yield island_case("chain", spelled("Softplus", "Sin", "Mish"), sequences, zx=(0,))
    # negative numbers have no root, and zero an infinite logarithm
    yield island_case("not-a-number", spelled("Sqrt"), sequences, zero_point=17)
    yield island_case("infinite", spelled("Log"), sequences, zero_point=200)
    yield island_case("infinite-words", spelled("Log"), sequences, zero_point=0, lo=-32768, hi=32767)
    yield island_case("overflowing", spelled("Exp", "Exp"), sequences, scales=(8.0,), zx=(0,))
    words = [{"x": edge_words(shape, 2, *WORD)} for shape in shapes]
    yield island_case(
        "words-to-words",
        spelled("Sin"),
        words,
        scales=(2.0**-13,),
        zx=(0,),
        bounds={"x": WORD},
        zero_point=0,
        lo=-32768,
        hi=32767,
        scale=2.0**-14,
    )
    yield island_case("words-to-bytes", spelled("Erf"), words, scales=(0.001,), zx=(0,), bounds={"x": WORD})
    masked: list[Arrays] = []
    for frames, lengths in ((1, [1]), (12, [12, 1, 7]), (5, [900, 3])):
        shape = (len(lengths), 3, frames)
        two = {"x": edge_bytes(shape, frames), "y": edge_bytes(shape, frames + 1)}
        masked.append({**two, "lengths": np.array(lengths)})
    nodes = [
        FloatNode("mul", "p", ("x", "y"), {"clamp": (-1.0, 4.0)}),
        FloatNode("mask_time", "m", ("p", "lengths")),
        FloatNode("add", "s", ("m", "x")),
    ]
    body, order, activations, count, _ = written(nodes, dict.fromkeys("xypms", 3))
    assert (order, activations) == (("x", "y", "lengths"), 2)
    yield island_case(
        "masked-product",
        body,
        masked,
        order,
        scales=(0.0625, 0.125),
        zx=(100, 9),
        lengths=count,
    )
    yield from _convolutions()


def _convolutions() -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 6, 3, generator=generator)
    layout = {"stride": 2, "padding": (1, 1), "dilation": 1, "groups": 1, "clamp": (0.0, None)}
    conv = FloatNode("conv1d", "c", ("x",), {"weight": weight, "bias": torch.zeros(7), **layout})
    body, order, _, _, weights = written([conv], {"x": 6, "c": 7})
    assert len(weights) == 1
    inputs = [{"x": edge_bytes((batch, 6, frames), frames)} for batch, frames in ((1, 3), (3, 14), (2, 33))]
    yield island_case("conv", body, inputs, order, weights=weights, scale=0.25)
    image = FloatNode("conv2d", "c", ("x",), {})
    image.attrs = {"weight": torch.randn(4, 2, 3, 3, generator=generator), "bias": torch.ones(4)}
    image.attrs |= {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    body, order, _, _, weights = written([image], {"x": 2, "c": 4}, ("x", "c"))
    inputs = [{"x": edge_bytes((batch, 2, frames, 5), frames)} for batch, frames in ((1, 3), (2, 9))]
    yield island_case("image", body, inputs, order, weights=weights, scale=0.25)
