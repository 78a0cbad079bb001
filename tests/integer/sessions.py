"""A program as an ONNX Runtime session, without the file that the exporter puts around it."""

from __future__ import annotations

import onnx
import onnxruntime
from onnx import TensorProto, helper

from zeroq_asr.deployment.runtimes import opset_of
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.program import Program


def session_of(program: Program, backend: OnnxStrictBackend) -> onnxruntime.InferenceSession:
    """A session with the outputs ``logits`` and, if there is a second, ``encoded``; free batch and time."""
    made = build(backend, program)
    nodes = list(backend.nodes)
    kinds = {"logits": (TensorProto.INT32, ["batch", None, None]), "encoded": (TensorProto.INT64, ["batch"])}
    outputs = [
        helper.make_tensor_value_info(name, *kinds[name]) for name, _ in zip(kinds, made, strict=False)
    ]
    for source, name in zip((one.name for one in made), kinds, strict=False):
        nodes.append(helper.make_node("Identity", [source], [name]))
    graph = helper.make_graph(
        nodes,
        "program",
        [
            helper.make_tensor_value_info(
                "audio_signal", TensorProto.FLOAT, ["batch", program.channels, "frames"]
            ),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
        ],
        outputs,
        list(backend.initializers.values()),
    )
    opset = opset_of(backend.opset)
    opsets = [helper.make_opsetid("", opset.version), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=opset.ir_version)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
