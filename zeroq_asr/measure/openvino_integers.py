"""Whether OpenVINO, where it is installed, computes the 64-bit integers that strict files hold."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from zeroq_asr.deployment.export import IR_VERSION, OPSET


@dataclass(frozen=True)
class OpenvinoIntegers:
    """What OpenVINO's CPU plugin does with int64."""

    version: str
    #: whether products beyond 32 bits are right; where they are not, strict files are wrong, without an error
    int64: bool


def try_openvino() -> OpenvinoIntegers | None:
    """Multiply and divide beyond 32 bits on OpenVINO's CPU plugin; None where it is not installed."""
    try:
        openvino = importlib.import_module("openvino")
    except ImportError:
        return None
    x = np.arange(1 << 20, (1 << 20) + 64, dtype=np.int64)
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(_squares().SerializeToString(), b""), "CPU")
    except RuntimeError:  # a build without the plugin of this processor
        return None
    found = np.asarray(compiled({"x": x})["y"])
    return OpenvinoIntegers(
        openvino.__version__.partition("-")[0], bool(np.array_equal(found, x * x // 1024))
    )


def _squares() -> onnx.ModelProto:
    """y = x·x div 2^10 of int64."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["square"]), helper.make_node("Div", ["square", "unit"], ["y"])],
        "squares",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])],
        [helper.make_tensor("unit", TensorProto.INT64, [], [1024])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
