"""Which tensors of a file of ours are float, and what makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx
from onnx import TensorProto, helper

from zeroq_asr.deployment import frontend_graph, runtime_ports
from zeroq_asr.deployment.frontend_graph import FEATURES
from zeroq_asr.integer.backends.onnx_loops import every_graph, every_node

#: what the names of nodes and constants begin with that stand around a program
_AROUND = (frontend_graph.PREFIX, runtime_ports.PREFIX)


def makers(model: onnx.ModelProto, tensors: Collection[str]) -> dict[str, int]:
    """Return how many of ``tensors`` each operator's nodes make, the most first; "constant" for the rest."""
    wanted, made = {*tensors}, Counter[str]()
    for node in every_node(model.graph):
        count = sum(name in wanted for name in node.output)
        if count:
            made[node.op_type] += count
    constants = len(wanted) - made.total()
    if constants:
        made["constant"] = constants
    return dict(sorted(made.items(), key=lambda item: (-item[1], item[0])))


def makers_around(model: onnx.ModelProto, prefix: str) -> dict[str, int]:
    """Return how many nodes of each operator stand around a file's program by that prefix, the most first.

    Prefixes are those of ``frontend_graph`` and of ``runtime_ports``.
    """
    made = Counter(node.op_type for node in model.graph.node if node.name.startswith(prefix))
    return dict(sorted(made.items(), key=lambda item: (-item[1], item[0])))


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Float tensors produced between the input quantizer and the logits, by ONNX type inference.

    Kernels that keep float inside but take and give integers (QLinearConv) produce none; their
    scale operands are initializers.  What cannot be typed counts as float.  A frontend in front of the
    quantizer, and the ports of a runtime, do not count (``makers_around``).
    """
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    # com.microsoft kernels used here give bytes but for one; ONNX itself has no inference for them
    nodes = every_node(model.graph)
    for node in nodes:
        if node.domain == "com.microsoft":
            kind = TensorProto.FLOAT if node.op_type == "MatMulIntegerToFloat" else TensorProto.UINT8
            typed.graph.value_info.append(helper.make_tensor_value_info(node.output[0], kind, None))
    inferred = onnx.shape_inference.infer_shapes(typed)
    known = [v for g in every_graph(inferred.graph) for v in (*g.value_info, *g.output)]
    types = {v.name: v.type.tensor_type.elem_type for v in known}
    behind = {"logits/float", "logits/real", "logprobs"}
    # the quantizer of a waveform, step by step
    inside = {i.name for i in model.graph.input if i.type.tensor_type.elem_type == TensorProto.FLOAT}
    inside.add(FEATURES)
    for node in nodes:
        if node.op_type in ("Div", "Round", "Clip") and node.input[0] in inside:
            inside.add(node.output[0])
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    found = []
    for node in nodes:
        if node.name.startswith(_AROUND):
            continue
        for name in node.output:
            kind = types.get(name, TensorProto.UNDEFINED)
            if name not in behind | inside and (kind in floats or kind == TensorProto.UNDEFINED):
                found.append(name)
    if any(n.op_type.startswith("QLinear") for n in nodes):
        return found
    scales = {i.name for i in model.graph.initializer if i.data_type in floats}
    scales = {name for name in scales if not name.startswith(_AROUND)}
    allowed = {n.input[1] for n in nodes if n.op_type == "QuantizeLinear"} | {"logits/scale"}
    allowed |= {name for n in nodes if n.input and n.input[0] in inside for name in n.input}
    return found + sorted(scales - allowed)
