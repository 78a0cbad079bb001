"""The captured float graph as ONNX: the baseline that integer files are measured against.

Same inputs and outputs as the integer files, without ``logits``.  Depthwise convolutions are written as
2-D ones of height 1, which ONNX Runtime runs several times faster than 1-D ones: a fair baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zeroq_asr._version import __version__
from zeroq_asr.deployment.export import IR_VERSION, METADATA_KEY, OPSET, Deployment
from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode, frame_counts, images
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.program import canonical_json
from zeroq_asr.operators.rotate import coefficients_of


def export_float(
    graph: FloatGraph, deployment: Deployment, *, flat: bool = False, shared_masks: bool = True
) -> onnx.ModelProto:
    """Spell ``graph`` in float32 ONNX operators; ``flat`` leaves depthwise convolutions 1-D, as others do.

    ``shared_masks=False`` makes a mask for every reader, which ONNX Runtime's own quantizer needs: it loses a
    tensor that nothing but Where reads.

    Raises UnsupportedOperatorError for an operator without a spelling.
    """
    longest = -(-deployment.max_frames // deployment.subsampling_factor) + 1
    writer = Writer(images(graph), frame_counts(graph), longest, flat=flat, shared_masks=shared_masks)
    for node in graph.nodes:
        spell(writer, node)
    logits, lengths = graph.outputs
    writer.add("LogSoftmax", [logits], "logprobs", axis=-1)
    writer.add("Identity", [lengths], "encoded_lengths")
    mels, tokens = deployment.frontend.features, len(deployment.tokenizer.tokens) + 1
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


def spell(writer: Writer, node: FloatNode) -> None:
    """Write a node of a float graph; UnsupportedOperatorError where there is no spelling."""
    if node.op not in SPELLINGS:
        raise UnsupportedOperatorError(node.where or node.out, f"operator {node.op} has no float spelling")
    SPELLINGS[node.op](writer, node)


#: a masked score, as NeMo exports it: nothing beside any other, and a number that other quantizers can take
_MASKED = -10000.0


def _conv1d(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    weight, bias = a["weight"].numpy(), w.store(a["bias"].numpy())
    left, right = a["padding"]
    pointwise = weight.shape[2] == 1 and a["groups"] == 1 and a["stride"] == 1 and left == right == 0
    if pointwise and w.has_frames(node.ins[0]):
        product = w.add("MatMul", [w.frames(node.ins[0]), w.store(weight[:, :, 0].T)])
        w.done(node, w.add("Add", [product, bias]), True)
        return
    source = w.channels(node.ins[0])
    depthwise = weight.shape[1] == 1 and a["groups"] > 1
    if w.flat or not depthwise:
        y = w.add(
            "Conv",
            [source, w.store(weight), bias],
            group=a["groups"],
            strides=[a["stride"]],
            pads=[left, right],
            dilations=[a["dilation"]],
        )
        w.done(node, y, False)
        return
    axis = w.axes(2)
    y = w.add(
        "Conv",
        [w.add("Unsqueeze", [source, axis]), w.store(weight[:, :, None]), bias],
        group=a["groups"],
        strides=[1, a["stride"]],
        pads=[0, left, 0, right],
        dilations=[1, a["dilation"]],
    )
    w.done(node, w.add("Squeeze", [y, axis]), False)


def _image(w: Writer, node: FloatNode) -> None:
    w.add("Unsqueeze", [w.frames(node.ins[0]), w.axes(1)], node.out)


def _conv2d(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    (time, frequency) = a["padding"]
    y = w.add(
        "Conv",
        [node.ins[0], w.store(a["weight"].numpy()), w.store(a["bias"].numpy())],
        group=a["groups"],
        strides=list(a["stride"]),
        pads=[time, frequency, time, frequency],
        dilations=list(a["dilation"]),
    )
    w.done(node, y, False)


def _flatten(w: Writer, node: FloatNode) -> None:
    moved = w.add("Transpose", [node.ins[0]], perm=[0, 2, 1, 3])
    out = w.add("Reshape", [moved, w.axes(0, 0, node.attrs["channels"])], f"{node.out}:frames")
    w.frames_first[node.out] = out


def _layer_norm(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    inputs = [w.frames(node.ins[0]), w.store(a["weight"].numpy()), w.store(a["bias"].numpy())]
    w.done(node, w.add("LayerNormalization", inputs, axis=-1, epsilon=a["epsilon"]), True)


def _instance_norm(w: Writer, node: FloatNode) -> None:
    a, (x, lengths) = node.attrs, node.ins
    source, valid, zero = w.channels(x), w.mask(x, lengths, 1), w.store(0.0)
    count = w.add("Unsqueeze", [w.add("Cast", [lengths], to=TensorProto.FLOAT), w.axes(1, 2)])
    kept = w.add("Where", [valid, source, zero])
    mean = w.add("Div", [w.add("ReduceSum", [kept, w.axes(2)], keepdims=1), count])
    centred = w.add("Sub", [source, mean])
    squares = w.add("ReduceSumSquare", [w.add("Where", [valid, centred, zero]), w.axes(2)], keepdims=1)
    variance = w.add("Add", [w.add("Div", [squares, count]), w.store(a["epsilon"])])
    normal = w.add("Div", [centred, w.add("Sqrt", [variance])])
    scaled = w.add("Mul", [normal, w.store(a["weight"].numpy()[:, None])])
    w.done(node, w.add("Add", [scaled, w.store(a["bias"].numpy()[:, None])]), False)


def _attention(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    query, key, value, lengths, *position = node.ins

    def split(name: str, perm: list[int]) -> str:
        parts = w.add("Reshape", [w.frames(name), w.axes(0, 0, a["heads"], -1)])
        return w.add("Transpose", [parts], perm=perm)

    scores = w.add("MatMul", [split(query, [0, 2, 1, 3]), split(key, [0, 2, 3, 1])])
    source = w.frames(query)
    if position:
        if a.get("positions") is not None:
            distances = _positions(w, source, a)
        else:  # a value [1, H·E, 2T − 1] of the graph
            distances = w.add("Reshape", [w.channels(position[1]), w.axes(a["heads"], -1, 0)])
        by_distance = w.add("MatMul", [split(position[0], [0, 2, 1, 3]), distances])
        scores = w.add("Add", [scores, _shift(w, by_distance)])
    scaled = w.add("Mul", [scores, w.store(a["scale"])])
    kept = w.add("Where", [w.mask(query, lengths, 1, 2), scaled, w.store(_MASKED)])
    out = w.add("MatMul", [w.add("Softmax", [kept], axis=-1), split(value, [0, 2, 1, 3])])
    joined = w.add("Transpose", [out], perm=[0, 2, 1, 3])
    w.done(node, w.add("Reshape", [joined, w.axes(0, 0, -1)]), True)


def _positions(w: Writer, source: str, a: dict[str, Any]) -> str:
    """The middle [H, E, 2T − 1] of a table [H, E, 2L − 1] for L frames: distances T − 1 down to 1 − T."""
    table = w.store(a["positions"](w.longest).numpy())
    frames = w.add("Shape", [source], start=1, end=2)
    begin = w.add("Sub", [w.axes(w.longest), frames])
    end = w.add("Add", [w.axes(w.longest - 1), frames])
    return w.add("Slice", [table, begin, end, w.axes(2)])


def _table(w: Writer, node: FloatNode) -> None:
    """The distances of as many frames as the operand has, [1, D, 2T − 1]."""
    shaped = {"positions": lambda frames: node.attrs["compute"](frames)[None]}
    w.add("Identity", [_positions(w, w.frames(node.ins[0]), shaped)], node.out)


def _aten(w: Writer, node: FloatNode) -> None:
    """The nodes of the operator's own export, in the layout that it was traced in."""
    call = node.attrs["call"]
    graph = call.onnx.graph
    takes = [
        w.frames(name) if first else w.channels(name)
        for name, first in zip(node.ins, call.frames_first, strict=True)
    ]
    names = {"": "", **{value.name: name for value, name in zip(graph.input, takes, strict=True)}}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        names[tensor.name] = w.store(array, array.dtype)
    for inner in graph.node:
        attrs = {a.name: helper.get_attribute_value(a) for a in inner.attribute}
        names.update((name, w.unique(inner.op_type)) for name in inner.output if name)
        ins, outs = ([names[name] for name in side] for side in (inner.input, inner.output))
        w.nodes.append(helper.make_node(inner.op_type, ins, outs, **attrs))
    w.done(node, names[graph.output[0].name], call.result_frames_first)


def _shift(w: Writer, scores: str) -> str:
    """Scores of distances [B, H, T, 2T − 1] as scores of pairs [B, H, T, T]: see relative_shift."""
    frames = w.add("Shape", [scores], start=2, end=3)
    padded = w.add("Pad", [scores, w.store([0, 0, 0, 1, 0, 0, 0, 0], np.int64)])
    turned = w.add("Reshape", [padded, w.add("Concat", [w.axes(0, 0, -1), frames], axis=0)])
    dropped = w.add("Slice", [turned, w.axes(1), w.axes(2**62), w.axes(2)])
    back = w.add("Reshape", [dropped, w.add("Concat", [w.axes(0, 0), frames, w.axes(-1)], axis=0)])
    return w.add("Slice", [back, w.axes(0), frames, w.axes(3)])


def _rotate(w: Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    a, b = (w.frame_table(node.ins[0], table, together) for table in coefficients_of(node, w.longest))
    other = w.add("Gather", [x, w.store(node.attrs["pair"], np.int64)], axis=2 if together else 1)
    w.done(node, w.add("Add", [w.add("Mul", [x, a]), w.add("Mul", [other, b])]), together)


def _sum(w: Writer, node: FloatNode) -> None:
    (total, *rest), together = w.forms(node)
    for operand in rest:
        total = w.add("Add", [total, operand])
    w.done(node, total, together)


def _mask_time(w: Writer, node: FloatNode) -> None:
    x, lengths = node.ins
    first = w.has_frames(x)
    axes = (2,) if first else (1, 3) if x in w.images else (1,)
    source = w.frames(x) if first else x
    w.done(node, w.add("Where", [w.mask(x, lengths, *axes), source, w.store(0.0)]), first)


def _mean_time(w: Writer, node: FloatNode) -> None:
    source = w.channels(node.ins[0])
    kept = w.add("Where", [w.mask(node.ins[0], node.ins[1], 1), source, w.store(0.0)])
    total = w.add("ReduceSum", [kept, w.axes(2)], keepdims=1)
    count = w.add("Unsqueeze", [w.add("Cast", [node.ins[1]], to=TensorProto.FLOAT), w.axes(1, 2)])
    w.done(node, w.add("Div", [total, count]), False)


def _length_step(w: Writer, node: FloatNode) -> None:
    a = node.attrs
    raised = w.add("Add", [node.ins[0], w.store(a["before"], np.int64)])
    kept = w.add("Max", [raised, w.store(0, np.int64)])
    divided = w.add("Div", [kept, w.store(a["divisor"], np.int64)])
    w.add("Add", [divided, w.store(a["after"], np.int64)], node.out)


def _take_channels(w: Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    index = w.store(node.attrs["index"], np.int64)
    w.done(node, w.add("Gather", [x, index], axis=2 if together else 1), together)


def _transpose(w: Writer, node: FloatNode) -> None:
    # frames first is the transpose already
    w.add("Identity", [w.frames(node.ins[0])], node.out)


def _elementwise(op: str) -> Callable[[Writer, FloatNode], None]:
    def spell(w: Writer, node: FloatNode) -> None:
        operands, together = w.forms(node)
        w.done(node, w.add(op, operands), together)

    return spell


def _silu(w: Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    w.done(node, w.add("Mul", [x, w.add("Sigmoid", [x])]), together)


def _gelu(w: Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    erf = w.add("Erf", [w.add("Mul", [x, w.store(np.sqrt(0.5))])])
    half = w.add("Mul", [x, w.store(0.5)])
    w.done(node, w.add("Mul", [half, w.add("Add", [erf, w.store(1.0)])]), together)


#: float graph operator → how to write it
SPELLINGS: dict[str, Callable[[Writer, FloatNode], None]] = {
    "conv1d": _conv1d,
    "image": _image,
    "conv2d": _conv2d,
    "flatten": _flatten,
    "layer_norm": _layer_norm,
    "instance_norm": _instance_norm,
    "attention": _attention,
    "rotate": _rotate,
    "positions": _table,
    "aten": _aten,
    "add": _sum,
    "clamp": _sum,
    "mul": _elementwise("Mul"),
    "mask_time": _mask_time,
    "mean_time": _mean_time,
    "length_step": _length_step,
    "take_channels": _take_channels,
    "transpose": _transpose,
    "sigmoid": _elementwise("Sigmoid"),
    "tanh": _elementwise("Tanh"),
    "selu": _elementwise("Selu"),
    "elu": _elementwise("Elu"),
    "silu": _silu,
    "gelu": _gelu,
}
