"""Attributes that a file need not say: only those, and ONNX Runtime computes the same without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from zeroq_asr.integer.backends.onnx_defaults import leave_out_defaults

OPSET = 18


def said(node: NodeProto, *initializers: str) -> set[str]:
    """The attributes that are left."""
    leave_out_defaults([node], OPSET, initializers)
    return {one.name for one in node.attribute}


def convolution(op: str = "ConvInteger", **changed: Any) -> NodeProto:
    settings = {"strides": [1], "pads": [0, 0], "dilations": [1], "group": 1, "kernel_shape": [3], **changed}
    operands = "x w zx zw" if op == "ConvInteger" else "x sx zx w sw zw sy zy"
    return helper.make_node(op, operands.split(), ["y"], **settings)


@pytest.mark.parametrize("op", ["ConvInteger", "QLinearConv"])
def test_a_convolution_says_what_is_unusual_of_it(op: str) -> None:
    assert said(convolution(op), "w") == set()
    # the shape of weights that nodes make is not told by the file
    assert said(convolution(op), "x") == {"kernel_shape"}
    unusual = {"strides": [2], "pads": [0, 1], "dilations": [3], "group": 2}
    for name, value in unusual.items():
        assert said(convolution(op, **{name: value}), "w") == {name}
    assert said(convolution(op, **unusual), "w") == {*unusual}


def test_defaults_of_other_operators() -> None:
    assert said(helper.make_node("ReduceSum", ["x", "a"], ["y"], keepdims=1)) == set()
    assert said(helper.make_node("ReduceSum", ["x", "a"], ["y"], keepdims=0)) == {"keepdims"}
    assert said(helper.make_node("GatherElements", ["x", "i"], ["y"], axis=0)) == set()
    assert said(helper.make_node("Gather", ["x", "i"], ["y"], axis=1)) == {"axis"}
    assert said(helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])) == {"perm"}
    assert said(helper.make_node("Concat", ["x", "z"], ["y"], axis=0)) == {"axis"}
    # of another's operators nothing is known
    assert said(helper.make_node("X", ["x"], ["y"], domain="com.microsoft", axis=0)) == {"axis"}


def test_graphs_inside_of_nodes_and_empty_names() -> None:
    inner = helper.make_node("ReduceSum", ["x", "a"], ["y"], keepdims=1)
    graph = helper.make_graph([inner], "g", [], [helper.make_tensor_value_info("y", TensorProto.INT32, None)])
    outer = helper.make_node("If", ["c"], ["z"], then_branch=graph, else_branch=graph)
    named = helper.make_node("Abs", ["x"], ["y"], name="kept")
    leave_out_defaults([outer, named], OPSET, ())
    assert [len(one.g.node[0].attribute) for one in outer.attribute] == [0, 0]
    assert not outer.HasField("name")
    assert not outer.HasField("domain")
    assert named.name == "kept"


def _run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found


@pytest.mark.parametrize(
    "changed", [{}, {"strides": [2]}, {"pads": [1, 1]}, {"dilations": [2]}, {"group": 2}]
)
def test_onnx_runtime_computes_the_same(changed: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    channels = 6 // changed.get("group", 1)
    constants = {
        "w": generator.integers(0, 256, (4, channels, 3), dtype=np.uint8),
        "zx": np.array(7, np.uint8),
        "zw": np.array(128, np.uint8),
        "axes": np.array([2], np.int64),
    }
    nodes = [convolution(**changed), helper.make_node("ReduceSum", ["y", "axes"], ["s"], keepdims=1)]
    infos = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["b", 6, "t"])]
    outs = [helper.make_tensor_value_info("s", TensorProto.INT32, ["b", 4, 1])]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    x = generator.integers(0, 256, (2, 6, 11), dtype=np.uint8)
    found = []
    for short in (False, True):
        if short:
            leave_out_defaults(nodes, OPSET, constants)
        graph = helper.make_graph(nodes, "g", infos, outs, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        found.append(_run(model, x))
    np.testing.assert_array_equal(*found)
