"""The shapes that files state are those that tensors have."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_shapes import OPAQUE, Dim, broadcast, infer
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.program import Program

from .programs import random_features, random_program


def extent(dim: Dim, **names: int) -> int:
    """The number that an extent stands for; "/" cuts downwards."""
    if isinstance(dim, int):
        return dim
    assert re.fullmatch(r"[a-z0-9()+*/-]+", dim), dim
    return int(eval(dim.replace("/", "//"), {"__builtins__": {}}, names))


def exposed(program: Program, backend: OnnxStrictBackend) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """A session that gives every tensor whose shape is known."""
    build(backend, program)
    inputs = [
        helper.make_tensor_value_info(
            "audio_signal", TensorProto.FLOAT, ["batch", program.channels, "frames"]
        ),
        helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
    ]
    known = [n.output[0] for n in backend.nodes if n.output[0] in backend.dims]
    outputs = [onnx.ValueInfoProto(name=name) for name in known]
    graph = helper.make_graph(
        backend.nodes,
        "program",
        inputs,
        outputs,
        list(backend.initializers.values()),
        value_info=backend.value_infos(),
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session, known


def seeds_with(*ops: str, count: int = 3) -> list[int]:
    """The first seeds of random programs that have one of ``ops`` each."""
    found: list[int] = []
    for op in ops:
        having = (s for s in range(300) if any(i.op == op for i in random_program(s).code))
        found += [s for s, _ in zip(having, range(count), strict=False)]
    return sorted(set(found))


@pytest.mark.parametrize(
    "seed",
    seeds_with(
        *("attention", "positions", "rotate", "conv2d_requant", "layer_norm", "table", "polynomial_requant")
    ),
)
@pytest.mark.parametrize("backend", [OnnxStrictBackend, OnnxFusedBackend])
def test_shapes_are_those_of_the_tensors(seed: int, backend: Any) -> None:
    program, builder = random_program(seed), backend()
    session, known = exposed(program, builder)
    # all but vectors that are shapes themselves and what slices them, and other views of a tensor
    views = ("transpose", "add_requant")
    assert {i.out for i in program.code if i.op not in views} <= set(known)
    for batch, frames in ((1, 1), (3, 12), (2, 41)):
        features, lengths = random_features(seed, batch, frames)
        found = session.run(known, {"audio_signal": features, "length": lengths})
        for name, value in zip(known, found, strict=True):
            told = tuple(extent(dim, batch=batch, frames=frames) for dim in builder.dims[name])
            assert value.shape == told, (name, builder.dims[name])


@pytest.mark.parametrize("backend", [OnnxStrictBackend, OnnxFusedBackend])
def test_what_onnx_cannot_follow_is_told(backend: Any) -> None:
    for seed in seeds_with("attention", "positions", "rotate", "conv2d_requant"):
        builder = backend()
        build(builder, random_program(seed))
        told = {info.name: info.type.tensor_type.elem_type for info in builder.value_infos()}
        # a slice is also a way to count frames: its shape is no matter
        opaque = {n.output[0] for n in builder.nodes if n.op_type in OPAQUE}
        assert opaque <= set(told)
        inferred = onnx.shape_inference.infer_shapes(
            helper.make_model(
                helper.make_graph(builder.nodes, "g", [], [], list(builder.initializers.values())),
                opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)],
            )
        )
        for info in inferred.graph.value_info:
            kind = info.type.tensor_type.elem_type
            assert told.get(info.name, kind) == kind, info.name


def test_extents_of_one_name_are_one() -> None:
    assert broadcast([("b", 1, "t"), ("b", 5, 1)]) == ("b", 5, "t")
    assert broadcast([(3,), ("b", 1, 3)]) == ("b", 1, 3)
    assert broadcast([("b", "t"), ("b", "s")]) is None
    assert broadcast([None, (1,)]) is None


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((0, 2, 3, -1), ("b", 2, 3, "t")),
        ((0, 6, -1), ("b", 6, "t")),
        ((0, 4, -1), None),
        ((-1,), ("b*6*t",)),
        ((0, 0, -1), ("b", 6, "t")),
    ],
)
def test_reshapes_are_followed_or_given_up(shape: tuple[int, ...], wanted: tuple[Dim, ...] | None) -> None:
    assert infer("Reshape", [("b", 6, "t"), (len(shape),)], [None, shape], {}) == wanted


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pads", [(0, 0), (1, 0), (2, 3)])
def test_extents_of_convolutions(kernel: int, stride: int, pads: tuple[int, int]) -> None:
    for dilation in (1, 2):
        attrs = {"pads": list(pads), "strides": [stride], "dilations": [dilation]}
        dims = infer("ConvInteger", [("b", 4, "frames"), (7, 4, kernel)], [None, None], attrs)
        assert dims is not None
        assert dims[:2] == ("b", 7)
        span = dilation * (kernel - 1) + 1
        for frames in range(max(span - sum(pads), 1), 30):
            assert extent(dims[2], frames=frames) == (frames + sum(pads) - span) // stride + 1
            fixed = infer("ConvInteger", [(1, 4, frames), (7, 4, kernel)], [None, None], attrs)
            assert fixed == (1, 7, extent(dims[2], frames=frames))


def test_unknown_operators_have_no_shape() -> None:
    assert infer("Einsum", [("b", 3)], [None], {}) is None
    assert infer("Add", [None, ("b",)], [None, None], {}) is None
    assert np.prod([extent(d, frames=4) for d in (2, "2*frames")]) == 16
