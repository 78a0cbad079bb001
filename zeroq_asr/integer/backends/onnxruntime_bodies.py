"""The bodies of float islands: small ONNX graphs that a program carries as text, checked before they are run.

A body takes the values of its island, float32 [B, C, T] or [B, C, T, F] (and lengths int64 [B]), then its
weights, and gives one float32 value.  It holds those operators of standard ONNX alone that ``OPERATORS``
lists, no graph within a graph and nothing outside of itself, so that what it computes depends on nothing but
its operands.
ONNX Runtime is its one evaluator: the interpreters of a program hand it over, and the file holds its nodes.
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, numpy_helper

from zeroq_asr.lines import VALUE, printable, shorten, shown

#: opset and IR of bodies, which are those of the files
OPSET, IR_VERSION = 18, 8
#: operators of standard ONNX whose result is a function of their operands, and its extents one of theirs: not
#: what draws numbers, trains, repeats or branches, holds text, or gives as many entries as there are that fit
OPERATORS = frozenset(
    " ".join(
        (
            "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization",
            "BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad",
            "Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace Div",
            "Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND",
            "Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid",
            "HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization",
            "LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean",
            "MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow RNN Range",
            "Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin",
            "ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Selu Shape Shrink Sigmoid",
            "Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum",
            "Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor",
        )
    ).split(" ")
)
#: what attributes may be
_SETTINGS = (
    AttributeProto.FLOAT,
    AttributeProto.FLOATS,
    AttributeProto.INT,
    AttributeProto.INTS,
    AttributeProto.STRING,
    AttributeProto.STRINGS,
    AttributeProto.TENSOR,
)
#: types of tensors that stand in a body
_TENSORS = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.BOOL,
    TensorProto.UINT8,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
)
#: characters of a body as text, and its nodes: what an island holds beside its weights
_LONGEST, _MOST_NODES = 1 << 26, 1 << 14
#: sessions kept, each with the weights that it was built with
_KEPT = 16
_sessions: OrderedDict[tuple[Any, ...], tuple[tuple[np.ndarray, ...], Any]] = OrderedDict()


def encode(model: onnx.ModelProto) -> str:
    """Return a body as text: base64 of its serialization."""
    return base64.b64encode(model.SerializeToString(deterministic=True)).decode()


@functools.lru_cache(maxsize=64)
def decode(body: str) -> onnx.ModelProto:
    """Return the body that ``encode`` wrote; ValueError, saying what is wrong, for any other text."""
    if len(body) > _LONGEST:
        raise ValueError(f"has {len(body)} characters, at most {_LONGEST} are allowed")
    try:
        model = onnx.load_model_from_string(base64.b64decode(body, validate=True))
    except (binascii.Error, DecodeError, ValueError):
        raise ValueError("is no ONNX graph in base64") from None
    try:
        _require_allowed(model)
        onnx.checker.check_model(model, full_check=True)
    except UnicodeDecodeError:
        raise ValueError("holds a name that is no Unicode") from None
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"is not valid ONNX ({str(error).strip().splitlines()[0]})") from None
    except (RuntimeError, TypeError, KeyError) as error:  # what the checks raise of types they do not know
        raise ValueError(f"is not valid ONNX ({type(error).__name__})") from None
    if len(model.graph.output) != 1 or _kind(model.graph.output[0]) != TensorProto.FLOAT:
        raise ValueError("gives something else than one float32 value")
    return model


def _require_allowed(model: onnx.ModelProto) -> None:
    """Raise ValueError unless a body holds nothing but what bodies may hold."""
    opsets = [(o.domain, o.version) for o in model.opset_import]
    if opsets != [("", OPSET)] or model.functions or model.ir_version != IR_VERSION:
        raise ValueError(f"holds other operators than those of standard ONNX {OPSET}")
    if model.training_info or model.graph.sparse_initializer or model.graph.quantization_annotation:
        raise ValueError("holds more than a graph and its tensors")
    if len(model.graph.node) > _MOST_NODES:
        raise ValueError(f"has {len(model.graph.node)} nodes, at most {_MOST_NODES} are allowed")
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        name = printable(shorten(node.op_type, VALUE))
        if node.domain:
            raise ValueError(f"holds {name} of another domain than standard ONNX, {shown(node.domain)}")
        if node.op_type not in OPERATORS:
            raise ValueError(
                f"holds {name}, which is random, trains, branches, repeats, is shaped by data "
                "or is no operator of an island"
            )
        for a in node.attribute:
            if a.type not in _SETTINGS or a.ref_attr_name:
                raise ValueError(
                    f"holds {node.op_type} with {shown(a.name)}, which is no number, text or tensor"
                )
            if a.name == "training_mode" and a.i:
                raise ValueError(f"holds {node.op_type}, which trains")
            tensors += [a.t] if a.type == AttributeProto.TENSOR else []
    for t in tensors:
        if t.data_location == TensorProto.EXTERNAL or t.external_data:
            raise ValueError("holds tensors outside of itself")
        if t.data_type not in _TENSORS:
            raise ValueError(f"holds a tensor {shown(t.name)} of ONNX type {t.data_type}")


def check_operands(body: str, activations: Sequence[int], lengths: int, weights: Sequence[np.ndarray]) -> int:
    """Return the channels of a body's result; ValueError where it does not take what it is given.

    ``activations``: the channels of each; ``lengths``: how many there are; ``weights``: bits as int32.
    """
    model = decode(body)
    takes = model.graph.input
    if len(takes) != len(activations) + lengths + len(weights):
        raise ValueError(f"takes {len(takes)} operands, not {len(activations) + lengths + len(weights)}")
    first, last = len(activations), len(activations) + lengths
    for value, channels in zip(takes[:first], activations, strict=True):
        if _kind(value) != TensorProto.FLOAT or _channels(value) != channels:
            raise ValueError(f"does not take {channels} channels as {value.name!r}")
    if any(_kind(value) != TensorProto.INT64 for value in takes[first:last]):
        raise ValueError("does not take lengths where they are")
    for value, array in zip(takes[last:], weights, strict=True):
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        if _kind(value) != TensorProto.FLOAT or shape != array.shape or array.dtype != np.int32:
            raise ValueError(f"takes weights float32 {shape}, as int32, as {value.name!r}")
    channels = _channels(model.graph.output[0])
    if channels < 1:
        raise ValueError("does not say how many channels its result has")
    return channels


def operators(body: str) -> dict[str, int]:
    """Return the ONNX operators of a body and how often each occurs."""
    counts = Counter(node.op_type for node in decode(body).graph.node if node.op_type != "Identity")
    return dict(sorted(counts.items()))


def evaluate(body: str, operands: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    """Run a body on ONNX Runtime, on one thread: float32 [B, C, T] or [B, C, T, F].

    ``operands``: float32 activations, then int64 lengths; ``weights``: the bits of float32 as int32.
    """
    # arrays that are kept alive have identities of their own
    key = (body, *map(id, weights))
    if key not in _sessions:
        _sessions[key] = (*weights,), _session(body, weights)
        while len(_sessions) > _KEPT:
            _sessions.popitem(last=False)
    _sessions.move_to_end(key)
    _, session = _sessions[key]
    names = [value.name for value in session.get_inputs()]
    result: np.ndarray = session.run(None, dict(zip(names, operands, strict=True)))[0]
    return result


def _session(body: str, weights: Sequence[np.ndarray]) -> Any:
    import onnxruntime  # here, since a tenth of a second matters to commands that do not need it

    model = onnx.ModelProto()
    model.CopyFrom(decode(body))
    count = len(model.graph.input) - len(weights)
    for value, bits in zip(model.graph.input[count:], weights, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(bits.view(np.float32), value.name))
    del model.graph.input[count:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it raises says the same
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _kind(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _channels(value: onnx.ValueInfoProto) -> int:
    """Extent of the second axis; of a weight, which may have one axis alone, that of its first."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[min(1, len(dims) - 1)].dim_value) if dims else 0
