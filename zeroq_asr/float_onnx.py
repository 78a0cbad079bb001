"""The captured float graph as ONNX: the baseline that integer files are measured against.

Same inputs and outputs as the integer files, without ``logits``.  Depthwise convolutions are written as
2-D ones of height 1, which ONNX Runtime runs several times faster than 1-D ones: a fair baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from zeroq_asr._version import __version__
from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.export import IR_VERSION, METADATA_KEY, OPSET, Deployment
from zeroq_asr.float_graph import FloatGraph, FloatNode, frame_counts, images
from zeroq_asr.integer.ops.rotate import coefficients_of, distinct
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
    writer = _Writer(graph, flat, shared_masks, longest)
    for node in graph.nodes:
        if node.op not in SPELLINGS:
            raise UnsupportedOperatorError(
                node.where or node.out, f"operator {node.op} has no float spelling"
            )
        SPELLINGS[node.op](writer, node)
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


#: a masked score, as NeMo exports it: nothing beside any other, and a number that other quantizers can take
_MASKED = -10000.0


class _Writer:
    """Collects nodes; a value [B, C, T] may exist frames first too, whatever its readers like best."""

    def __init__(self, graph: FloatGraph, flat: bool, shared_masks: bool, longest: int) -> None:
        #: leave depthwise convolutions 1-D
        self.flat = flat
        self.shared_masks = shared_masks
        #: encoded frames of the longest input, for tables of positions
        self.longest = longest
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        #: value → the same with frames first [B, T, C]; a value may have this form alone
        self.frames_first: dict[str, str] = {}
        self._channels_first: dict[str, str] = {}
        #: values [B, C, T, F]
        self.images = images(graph)
        self._frame_counts = frame_counts(graph)
        self._masks: dict[tuple[str, Any, tuple[int, ...]], str] = {}
        self._tables: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def add(self, op: str, inputs: list[str], out: str = "", **attrs: Any) -> str:
        self._count += 1
        out = out or f"{op}_{self._count}"
        self.nodes.append(helper.make_node(op, inputs, [out], **attrs))
        return out

    def store(self, value: Any, dtype: type = np.float32) -> str:
        array: np.ndarray = np.asarray(value, dtype=dtype)
        name = (
            f"const/{array.dtype}/{array.tolist()}" if array.size <= 4 else f"weight_{len(self.initializers)}"
        )
        self.initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def channels(self, value: str) -> str:
        """Name of the form [B, C, T]."""
        if value not in self.frames_first:
            return value
        if value not in self._channels_first:
            self._channels_first[value] = self.add("Transpose", [self.frames_first[value]], perm=[0, 2, 1])
        return self._channels_first[value]

    def frames(self, value: str) -> str:
        """Name of the form [B, T, C]."""
        if value not in self.frames_first:
            self._channels_first[value] = value
            self.frames_first[value] = self.add("Transpose", [value], perm=[0, 2, 1])
        return self.frames_first[value]

    def has_frames(self, *values: str) -> bool:
        """Whether all of ``values`` exist frames first."""
        return all(value in self.frames_first for value in values)

    def forms(self, node: FloatNode) -> tuple[list[str], bool]:
        """Names of an elementwise node's operands in one form, and whether that is frames first."""
        together = self.has_frames(*node.ins)
        return [self.frames(n) if together else self.channels(n) for n in node.ins], together

    def done(self, node: FloatNode, name: str, frames_first: bool) -> None:
        """Take ``name`` for the result of ``node``, its fused clamp applied."""
        lo, hi = node.attrs.get("clamp") or (None, None)
        out = f"{node.out}:frames" if frames_first else node.out
        if lo is None and hi is None:
            self.add("Identity", [name], out)
        elif lo == 0.0 and hi is None:
            self.add("Relu", [name], out)
        else:
            self.add("Clip", [name, *("" if b is None else self.store(b) for b in (lo, hi))], out)
        if frames_first:
            self.frames_first[node.out] = out

    def mask(self, value: str, lengths: str, *axes: int) -> str:
        """Bool [B, T] with ones at ``axes``: a value's valid frames, made once for equal numbers of them."""
        key = (lengths, self._frame_counts[value], axes)
        if key not in self._masks or not self.shared_masks:
            if axes:
                self._masks[key] = self.add("Unsqueeze", [self.mask(value, lengths), self.axes(*axes)])
            else:
                first = value in self.frames_first
                axis, name = (1, self.frames(value)) if first else (2, value)
                shape = self.add("Shape", [name], start=axis, end=axis + 1)
                frames = self.add("Squeeze", [shape, self.axes(0)])
                index = self.add("Range", [self.store(0, np.int64), frames, self.store(1, np.int64)])
                column = self.add("Unsqueeze", [lengths, self.axes(1)])
                self._masks[key] = self.add("Less", [index, column])
        return self._masks[key]

    def frame_table(self, like: str, table: np.ndarray, frames_first: bool) -> str:
        """The first columns of ``table`` [C, L], as many as there are frames: [C, T] or [T, C]; made once."""
        kept, rows, signs = distinct(table.astype(np.float32))
        key = (kept.tobytes(), rows, signs.tobytes(), self._frame_counts[like], frames_first)
        if key not in self._tables:
            axis, name = (1, self.frames(like)) if like in self.frames_first else (2, like)
            frames = self.add("Shape", [name], start=axis, end=axis + 1)
            part = self.add("Slice", [self.store(kept), self.axes(0), frames, self.axes(1)])
            each = self.add("Gather", [part, self.store(rows, np.int64)], axis=0)
            signed = self.add("Mul", [each, self.store(signs[:, None])])
            self._tables[key] = self.add("Transpose", [signed], perm=[1, 0]) if frames_first else signed
        return self._tables[key]

    def axes(self, *values: int) -> str:
        return self.store(list(values), np.int64)


def _conv1d(w: _Writer, node: FloatNode) -> None:
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


def _image(w: _Writer, node: FloatNode) -> None:
    w.add("Unsqueeze", [w.frames(node.ins[0]), w.axes(1)], node.out)


def _conv2d(w: _Writer, node: FloatNode) -> None:
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


def _flatten(w: _Writer, node: FloatNode) -> None:
    moved = w.add("Transpose", [node.ins[0]], perm=[0, 2, 1, 3])
    out = w.add("Reshape", [moved, w.axes(0, 0, node.attrs["channels"])], f"{node.out}:frames")
    w.frames_first[node.out] = out


def _layer_norm(w: _Writer, node: FloatNode) -> None:
    a = node.attrs
    inputs = [w.frames(node.ins[0]), w.store(a["weight"].numpy()), w.store(a["bias"].numpy())]
    w.done(node, w.add("LayerNormalization", inputs, axis=-1, epsilon=a["epsilon"]), True)


def _instance_norm(w: _Writer, node: FloatNode) -> None:
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


def _attention(w: _Writer, node: FloatNode) -> None:
    a = node.attrs
    query, key, value, lengths, *position = node.ins

    def split(name: str, perm: list[int]) -> str:
        parts = w.add("Reshape", [w.frames(name), w.axes(0, 0, a["heads"], -1)])
        return w.add("Transpose", [parts], perm=perm)

    scores = w.add("MatMul", [split(query, [0, 2, 1, 3]), split(key, [0, 2, 3, 1])])
    source = w.frames(query)
    if position:
        by_distance = w.add("MatMul", [split(position[0], [0, 2, 1, 3]), _positions(w, source, a)])
        scores = w.add("Add", [scores, _shift(w, by_distance)])
    scaled = w.add("Mul", [scores, w.store(a["scale"])])
    kept = w.add("Where", [w.mask(query, lengths, 1, 2), scaled, w.store(_MASKED)])
    out = w.add("MatMul", [w.add("Softmax", [kept], axis=-1), split(value, [0, 2, 1, 3])])
    joined = w.add("Transpose", [out], perm=[0, 2, 1, 3])
    w.done(node, w.add("Reshape", [joined, w.axes(0, 0, -1)]), True)


def _positions(w: _Writer, source: str, a: dict[str, Any]) -> str:
    """The middle [H, E, 2T − 1] of a table [H, E, 2L − 1] for L frames: distances T − 1 down to 1 − T."""
    table = w.store(a["positions"](w.longest).numpy())
    frames = w.add("Shape", [source], start=1, end=2)
    begin = w.add("Sub", [w.axes(w.longest), frames])
    end = w.add("Add", [w.axes(w.longest - 1), frames])
    return w.add("Slice", [table, begin, end, w.axes(2)])


def _shift(w: _Writer, scores: str) -> str:
    """Scores of distances [B, H, T, 2T − 1] as scores of pairs [B, H, T, T]: see relative_shift."""
    frames = w.add("Shape", [scores], start=2, end=3)
    padded = w.add("Pad", [scores, w.store([0, 0, 0, 1, 0, 0, 0, 0], np.int64)])
    turned = w.add("Reshape", [padded, w.add("Concat", [w.axes(0, 0, -1), frames], axis=0)])
    dropped = w.add("Slice", [turned, w.axes(1), w.axes(2**62), w.axes(2)])
    back = w.add("Reshape", [dropped, w.add("Concat", [w.axes(0, 0), frames, w.axes(-1)], axis=0)])
    return w.add("Slice", [back, w.axes(0), frames, w.axes(3)])


def _rotate(w: _Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    a, b = (w.frame_table(node.ins[0], table, together) for table in coefficients_of(node, w.longest))
    other = w.add("Gather", [x, w.store(node.attrs["pair"], np.int64)], axis=2 if together else 1)
    w.done(node, w.add("Add", [w.add("Mul", [x, a]), w.add("Mul", [other, b])]), together)


def _sum(w: _Writer, node: FloatNode) -> None:
    (total, *rest), together = w.forms(node)
    for operand in rest:
        total = w.add("Add", [total, operand])
    w.done(node, total, together)


def _mask_time(w: _Writer, node: FloatNode) -> None:
    x, lengths = node.ins
    first = w.has_frames(x)
    axes = (2,) if first else (1, 3) if x in w.images else (1,)
    source = w.frames(x) if first else x
    w.done(node, w.add("Where", [w.mask(x, lengths, *axes), source, w.store(0.0)]), first)


def _mean_time(w: _Writer, node: FloatNode) -> None:
    source = w.channels(node.ins[0])
    kept = w.add("Where", [w.mask(node.ins[0], node.ins[1], 1), source, w.store(0.0)])
    total = w.add("ReduceSum", [kept, w.axes(2)], keepdims=1)
    count = w.add("Unsqueeze", [w.add("Cast", [node.ins[1]], to=TensorProto.FLOAT), w.axes(1, 2)])
    w.done(node, w.add("Div", [total, count]), False)


def _length_step(w: _Writer, node: FloatNode) -> None:
    a = node.attrs
    raised = w.add("Add", [node.ins[0], w.store(a["before"], np.int64)])
    kept = w.add("Max", [raised, w.store(0, np.int64)])
    divided = w.add("Div", [kept, w.store(a["divisor"], np.int64)])
    w.add("Add", [divided, w.store(a["after"], np.int64)], node.out)


def _take_channels(w: _Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    index = w.store(node.attrs["index"], np.int64)
    w.done(node, w.add("Gather", [x, index], axis=2 if together else 1), together)


def _transpose(w: _Writer, node: FloatNode) -> None:
    # frames first is the transpose already
    w.add("Identity", [w.frames(node.ins[0])], node.out)


def _elementwise(op: str) -> Callable[[_Writer, FloatNode], None]:
    def spell(w: _Writer, node: FloatNode) -> None:
        operands, together = w.forms(node)
        w.done(node, w.add(op, operands), together)

    return spell


def _silu(w: _Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    w.done(node, w.add("Mul", [x, w.add("Sigmoid", [x])]), together)


def _gelu(w: _Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    erf = w.add("Erf", [w.add("Mul", [x, w.store(np.sqrt(0.5))])])
    half = w.add("Mul", [x, w.store(0.5)])
    w.done(node, w.add("Mul", [half, w.add("Add", [erf, w.store(1.0)])]), together)


#: float graph operator → how to write it
SPELLINGS: dict[str, Callable[[_Writer, FloatNode], None]] = {
    "conv1d": _conv1d,
    "image": _image,
    "conv2d": _conv2d,
    "flatten": _flatten,
    "layer_norm": _layer_norm,
    "instance_norm": _instance_norm,
    "attention": _attention,
    "rotate": _rotate,
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
