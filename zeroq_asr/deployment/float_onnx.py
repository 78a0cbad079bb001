"""The captured float graph as ONNX: the baseline that integer files are measured against.

Same inputs and outputs as the integer files, without ``logits``.  Every operator's record knows its spelling;
depthwise convolutions are 2-D ones of height 1, which ONNX Runtime runs several times faster than 1-D ones: a
fair baseline.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from zeroq_asr._version import __version__
from zeroq_asr.deployment.export import IR_VERSION, OPSET
from zeroq_asr.deployment.metadata import METADATA_KEY, Deployment
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.graph.onnx_writer import Writer, spell
from zeroq_asr.graph.shapes import infer
from zeroq_asr.integer.program import canonical_json


def export_float(
    graph: FloatGraph, deployment: Deployment, *, flat: bool = False, shared_masks: bool = True
) -> onnx.ModelProto:
    """Spell ``graph`` in float32 ONNX operators; ``flat`` leaves depthwise convolutions 1-D, as others do.

    ``shared_masks=False`` makes a mask for every reader, which ONNX Runtime's own quantizer needs: it loses a
    tensor that nothing but Where reads.

    Raises UnsupportedOperatorError for an operator without a spelling.
    """
    longest = -(-deployment.max_frames // deployment.subsampling_factor) + 1
    mels, tokens = deployment.frontend.features, len(deployment.tokenizer.tokens) + 1
    writer = Writer(infer(graph, mels), longest, flat=flat, shared_masks=shared_masks)
    for node in graph.nodes:
        spell(writer, node)
    logits, lengths = graph.outputs
    writer.add("LogSoftmax", [logits], "logprobs", axis=-1)
    writer.add("Identity", [lengths], "encoded_lengths")
    onnx_graph = helper.make_graph(
        writer.nodes,
        "float",
        [
            helper.make_tensor_value_info("audio_signal", TensorProto.FLOAT, ["batch", mels, "frames"]),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("logprobs", TensorProto.FLOAT, ["batch", "encoded", tokens]),
            helper.make_tensor_value_info("encoded_lengths", TensorProto.INT64, ["batch"]),
        ],
        list(writer.initializers.values()),
    )
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
