"""The captured float graph as ONNX: the baseline that integer files are measured against.

Same inputs and outputs as the integer files: of a CTC network without ``logits``, of any other graph its
ports, a state entering as NAME and leaving as next_NAME.  Every operator's record knows its spelling;
depthwise convolutions are 2-D ones of height 1, which ONNX Runtime runs several times faster than 1-D ones: a
fair baseline.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, ValueInfoProto, helper

from zeroq_asr._version import __version__
from zeroq_asr.decoding.ports import LABELS
from zeroq_asr.deployment.export import IR_VERSION, OPSET
from zeroq_asr.deployment.metadata import METADATA_KEY, Deployment
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.graph.onnx_writer import Writer, spell
from zeroq_asr.graph.shapes import Shape, infer
from zeroq_asr.integer.program import canonical_json

#: ports of a graph that is a CTC network, whose scores are given as log-probabilities
_CTC_PORTS = ("logits", "encoded_lengths")


def export_float(
    graph: FloatGraph,
    deployment: Deployment,
    *,
    flat: bool = False,
    quantizable: bool = False,
    channels: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Spell ``graph`` in float32 ONNX operators; ``flat`` leaves depthwise convolutions 1-D, as others do.

    ``quantizable`` spells it as ONNX Runtime's own quantizers take it best.  They lose a tensor that nothing
    but Where reads, so that every reader gets a mask of its own; and they make layers of single frames slow
    unless these are products of matrices.

    ``channels``: input → its channels, of all that are no lengths; by default the first one takes what the
    frontend gives.

    Raises UnsupportedOperatorError for an operator without a spelling.
    """
    channels = channels or {graph.inputs[0]: deployment.frontend.features}
    longest = -(-deployment.max_frames // deployment.subsampling_factor) + 1
    shapes = infer(graph, channels)
    writer = Writer(shapes, longest, flat=flat, quantizable=quantizable)
    inputs = [_input(name, channels.get(name), name in graph.single) for name in graph.inputs]
    for state in graph.states:
        inputs.append(helper.make_tensor_value_info(state.name, TensorProto.FLOAT, list(state.dims)))
        if state.name != state.enters:
            writer.add("Identity", [state.name], state.enters)
    for node in graph.nodes:
        spell(writer, node)
    outputs = _outputs(writer, graph, shapes, len(deployment.tokenizer.tokens) + 1)
    onnx_graph = helper.make_graph(writer.nodes, "float", inputs, outputs, list(writer.initializers.values()))
    model = helper.make_model(
        onnx_graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="zeroq-asr",
        producer_version=__version__,
    )
    own = {**deployment.to_dict(), "dialect": "float", "version": __version__}
    model.metadata_props.add(key=METADATA_KEY, value=canonical_json(own).decode())
    return model


def _input(name: str, channels: int | None, single: bool) -> ValueInfoProto:
    if channels is None:
        return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch"])
    kind = TensorProto.INT32 if name == LABELS else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, ["batch", channels, 1 if single else "frames"])


def _outputs(
    writer: Writer, graph: FloatGraph, shapes: Mapping[str, Shape], tokens: int
) -> list[ValueInfoProto]:
    """Give what leaves the names of its ports; return the declarations of these.

    ``tokens``: those that a CTC network scores, the blank among them.
    """
    found = []
    dims: list[str | int | None]
    if graph.output_ports == _CTC_PORTS:
        logits, lengths = graph.outputs
        writer.add("LogSoftmax", [logits], "logprobs", axis=-1)
        writer.add("Identity", [lengths], "encoded_lengths")
        dims = ["batch", "encoded", tokens]
        found.append(helper.make_tensor_value_info("logprobs", TensorProto.FLOAT, dims))
        found.append(helper.make_tensor_value_info("encoded_lengths", TensorProto.INT64, ["batch"]))
    else:
        for value, port in zip(graph.outputs, graph.output_ports, strict=True):
            shape = shapes[value]
            if shape.lengths:
                writer.add("Identity", [value], port)
                found.append(helper.make_tensor_value_info(port, TensorProto.INT64, ["batch"]))
                continue
            writer.add("Identity", [writer.channels(value)], port)
            frames = 1 if shape.history is None else "encoded"
            dims = ["batch", shape.channels, frames]
            found.append(helper.make_tensor_value_info(port, TensorProto.FLOAT, dims))
    for state in graph.states:
        name = f"next_{state.name}"
        writer.add("Identity", [writer.channels(state.leaves)], name)
        found.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(state.dims)))
    return found
