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
from zeroq_asr.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.program import canonical_json


def export_float(graph: FloatGraph, deployment: Deployment, *, flat: bool = False) -> onnx.ModelProto:
    """Spell ``graph`` in float32 ONNX operators; ``flat`` leaves depthwise convolutions 1-D, as others do.

    Raises UnsupportedOperatorError for an operator without a spelling.
    """
    writer = _Writer(flat)
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


class _Writer:
    def __init__(self, flat: bool) -> None:
        #: leave depthwise convolutions 1-D
        self.flat = flat
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
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

    def mask(self, x: str, lengths: str) -> str:
        frames = self.add("Squeeze", [self.add("Shape", [x], start=2, end=3), self.store([0], np.int64)])
        index = self.add("Range", [self.store(0, np.int64), frames, self.store(1, np.int64)])
        column = self.add("Unsqueeze", [lengths, self.store([1], np.int64)])
        return self.add("Unsqueeze", [self.add("Less", [index, column]), self.store([1], np.int64)])

    def clamp(self, x: str, node: FloatNode) -> str:
        lo, hi = node.attrs.get("clamp") or (None, None)
        if lo is None and hi is None:
            return self.add("Identity", [x], node.out)
        if lo == 0.0 and hi is None:
            return self.add("Relu", [x], node.out)
        bounds = ["" if b is None else self.store(b) for b in (lo, hi)]
        return self.add("Clip", [x, *bounds], node.out)


def _conv1d(w: _Writer, node: FloatNode) -> None:
    a = node.attrs
    weight, bias = a["weight"].numpy(), w.store(a["bias"].numpy())
    left, right = a["padding"]
    depthwise = weight.shape[1] == 1 and a["groups"] > 1
    if w.flat or not depthwise:
        y = w.add(
            "Conv",
            [node.ins[0], w.store(weight), bias],
            group=a["groups"],
            strides=[a["stride"]],
            pads=[left, right],
            dilations=[a["dilation"]],
        )
        w.clamp(y, node)
        return
    axis = w.store([2], np.int64)
    y = w.add(
        "Conv",
        [w.add("Unsqueeze", [node.ins[0], axis]), w.store(weight[:, :, None]), bias],
        group=a["groups"],
        strides=[1, a["stride"]],
        pads=[0, left, 0, right],
        dilations=[1, a["dilation"]],
    )
    w.clamp(w.add("Squeeze", [y, axis]), node)


def _sum(w: _Writer, node: FloatNode) -> None:
    total = node.ins[0]
    for operand in node.ins[1:]:
        total = w.add("Add", [total, operand])
    w.clamp(total, node)


def _mask_time(w: _Writer, node: FloatNode) -> None:
    w.add("Where", [w.mask(*node.ins), node.ins[0], w.store(0.0)], node.out)


def _mean_time(w: _Writer, node: FloatNode) -> None:
    kept = w.add("Where", [w.mask(*node.ins), node.ins[0], w.store(0.0)])
    total = w.add("ReduceSum", [kept, w.store([2], np.int64)], keepdims=1)
    count = w.add(
        "Unsqueeze", [w.add("Cast", [node.ins[1]], to=TensorProto.FLOAT), w.store([1, 2], np.int64)]
    )
    w.clamp(w.add("Div", [total, count]), node)


def _length_step(w: _Writer, node: FloatNode) -> None:
    a = node.attrs
    raised = w.add("Add", [node.ins[0], w.store(a["before"], np.int64)])
    kept = w.add("Max", [raised, w.store(0, np.int64)])
    divided = w.add("Div", [kept, w.store(a["divisor"], np.int64)])
    w.add("Add", [divided, w.store(a["after"], np.int64)], node.out)


def _elementwise(op: str) -> Callable[[_Writer, FloatNode], None]:
    return lambda w, node: _finish(w, node, w.add(op, [node.ins[0]]))


def _finish(w: _Writer, node: FloatNode, value: str) -> None:
    w.clamp(value, node)


def _silu(w: _Writer, node: FloatNode) -> None:
    w.clamp(w.add("Mul", [node.ins[0], w.add("Sigmoid", [node.ins[0]])]), node)


def _gelu(w: _Writer, node: FloatNode) -> None:
    erf = w.add("Erf", [w.add("Mul", [node.ins[0], w.store(np.sqrt(0.5))])])
    half = w.add("Mul", [node.ins[0], w.store(0.5)])
    w.clamp(w.add("Mul", [half, w.add("Add", [erf, w.store(1.0)])]), node)


#: float graph operator → how to write it
SPELLINGS: dict[str, Callable[[_Writer, FloatNode], None]] = {
    "conv1d": _conv1d,
    "add": _sum,
    "clamp": _sum,
    "mul": lambda w, node: _finish(w, node, w.add("Mul", list(node.ins))),
    "mask_time": _mask_time,
    "mean_time": _mean_time,
    "length_step": _length_step,
    "take_channels": lambda w, node: _finish(
        w, node, w.add("Gather", [node.ins[0], w.store(node.attrs["index"], np.int64)], axis=1)
    ),
    "transpose": lambda w, node: _finish(
        w, node, w.add("Transpose", [node.ins[0]], perm=list(node.attrs["perm"]))
    ),
    "sigmoid": _elementwise("Sigmoid"),
    "tanh": _elementwise("Tanh"),
    "selu": _elementwise("Selu"),
    "elu": _elementwise("Elu"),
    "silu": _silu,
    "gelu": _gelu,
}
