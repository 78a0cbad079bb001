"""The ONNX body of a float island, written from the nodes that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer, spell
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.backends.onnxruntime_bodies import IR_VERSION, OPSET, encode

#: weights from so many entries on are constants of the program; fewer stay in the body
_LARGE = 16


def float_body(
    node: FloatNode, shapes: Mapping[str, Shape], longest: int
) -> tuple[str, list[str], list[str], dict[str, np.ndarray]]:
    """Return the ONNX body of an island, its activations, its lengths, and its weights as int32 bits.

    ``shapes``: of every value that is read or made; ``longest``: frames of the longest input, for tables of
    distances.
    """
    writer = Writer(shapes, longest)
    for inner in node.attrs["nodes"]:
        spell(writer, inner)
    writer.add("Identity", [writer.channels(node.out)], "result/")
    weights = {
        name: tensor
        for name, tensor in writer.initializers.items()
        if tensor.data_type == TensorProto.FLOAT and numpy_helper.to_array(tensor).size >= _LARGE
    }
    takes = [name for name in node.ins if not shapes[name].lengths]
    counts = [name for name in node.ins if shapes[name].lengths]
    alike: dict[Any, str] = {}

    def declared(value: str, name: str) -> onnx.ValueInfoProto:
        known = shapes[value]
        shape: list[int | str | None] = ["batch", known.channels, 1]
        if known.history is not None:
            shape[2] = alike.setdefault(known.history, f"frames{len(alike)}")
        if known.image:
            shape.append(None)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        writer.nodes,
        "island",
        [
            *(declared(name, name) for name in takes),
            *(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch"]) for name in counts),
            *(helper.make_tensor_value_info(n, TensorProto.FLOAT, t.dims) for n, t in weights.items()),
        ],
        [declared(node.out, "result/")],
        [tensor for name, tensor in writer.initializers.items() if name not in weights],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    arrays = {name: numpy_helper.to_array(tensor).view(np.int32) for name, tensor in weights.items()}
    return encode(model), takes, counts, arrays
