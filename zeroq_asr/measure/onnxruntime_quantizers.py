"""ONNX Runtime's own quantizers, the tools that most people would use instead: the peers to compare with.

The static one needs real data; both requantize in float.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy.typing as npt
import onnx

from zeroq_asr.deployment.float_files import save
from zeroq_asr.errors import CalibrationError, ZeroqError
from zeroq_asr.files import temporary_folder
from zeroq_asr.measure.said import Features

#: what is quantized of a network with attention
_LINEAR = ["Conv", "MatMul", "Gemm"]
#: what a run of a model is given, by the names of its inputs
Feed = dict[str, npt.NDArray[Any]]
#: a file, or several
Made = TypeVar("Made")


def preprocess(float_model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float export made ready for the quantizers, as their documentation recommends.

    ``quant_pre_process`` infers symbolic shapes and folds constants; where it fails, it is the export itself.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with temporary_folder() as name, _no_warnings():
        target = name / "ready.onnx"
        try:
            quant_pre_process(float_model, target)
            return onnx.load(target)
        # another project's tool raises whatever it meets, and the quantizers do without
        except Exception:
            return float_model


def ort_static(
    float_model: onnx.ModelProto,
    features: Iterable[Features],
    *,
    signed_weights: bool = False,
    per_channel: bool = False,
) -> bytes:
    """Return ``onnxruntime.quantization.quantize_static`` of a float export, calibrated by min-max.

    ``float_model``: best from ``preprocess``; ``features``: pairs of [1, M, T] and [1].  Activations are u8,
    weights u8 or s8.  The format is Q/DQ pairs, which its documentation prefers: they take as long as its
    QLinear operators, and that quantizer fails on Conformers.  Quantized is what it quantizes by default,
    but of a network with attention convolutions and matrix products alone.  By default it quantizes the
    scores that softmax reads, too: one masked frame, -10000 as NeMo exports it, then sets their range, and a
    Conformer loses a third of the words or more.  Layer normalizations, sums and gates lose some, too, and
    gain no time.  Raises CalibrationError without features.
    """
    feeds: Iterable[Feed] = ({"audio_signal": signal, "length": length} for signal, length in features)
    return ort_static_on(float_model, feeds, signed_weights=signed_weights, per_channel=per_channel)


def ort_static_on(
    float_model: onnx.ModelProto,
    feeds: Iterable[Feed],
    *,
    signed_weights: bool = False,
    per_channel: bool = False,
) -> bytes:
    """Return what ``ort_static`` does of a model with any inputs: ``feeds`` are what they are given."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)
            self.seen = 0

        def get_next(self) -> Feed | None:
            feed = next(self.left, None)
            self.seen += feed is not None
            return feed

    reader = Reader()
    attention = any(node.op_type == "Softmax" for node in float_model.graph.node)
    with temporary_folder() as name, _no_warnings():
        source, target = name / "float.onnx", name / "static.onnx"
        beside = save(float_model, source)
        try:
            quantize_static(
                source,
                target,
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_LINEAR if attention else None,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8 if signed_weights else QuantType.QUInt8,
                per_channel=per_channel,
                use_external_data_format=beside,
            )
        except ValueError:
            if reader.seen:
                raise
            raise CalibrationError("ort_static", "there are no features to calibrate on") from None
        # a quarter of float is to be one file again
        return onnx.load(target).SerializeToString() if beside else target.read_bytes()


def ort_dynamic(float_model: onnx.ModelProto) -> bytes:
    """Return ``onnxruntime.quantization.quantize_dynamic`` of a float export.

    Weights are u8; ranges of activations are found as it runs, and requantized in float.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with temporary_folder() as name, _no_warnings():
        source, target = name / "float.onnx", name / "dynamic.onnx"
        save(float_model, source)
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        return target.read_bytes()


def attempt(make: Callable[[], Made]) -> tuple[Made | None, str]:
    """Return what another quantizer makes and "", or None and why it makes none.

    Errors of this package, such as of a recording that cannot be read, are raised.
    """
    try:
        return make(), ""
    except ZeroqError:
        raise
    # another project's tool raises whatever it meets; ours are still to be measured
    except Exception as error:
        return None, f"its quantizer fails ({type(error).__name__})"


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Quiet the root logger, where it warns of every shape tensor that it leaves alone."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
