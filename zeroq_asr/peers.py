"""ONNX Runtime's own quantizer, the tool that most people would use instead: the peer to compare with.

It needs real data, and its requantization is float.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from zeroq_asr.errors import CalibrationError

Features = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def ort_static(
    float_model: onnx.ModelProto,
    features: Iterable[Features],
    *,
    signed_weights: bool = False,
    per_channel: bool = False,
    qdq: bool = True,
) -> bytes:
    """Return ``onnxruntime.quantization.quantize_static`` of a float export, calibrated by min-max.

    ``features``: pairs of [1, M, T] and [1].  Activations are u8, weights u8 or s8; ``qdq`` chooses Q/DQ
    pairs, which is its default, over QLinear operators.  Raises CalibrationError without features.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(features)
            self.seen = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            pair = next(self.left, None)
            if pair is None:
                return None
            self.seen += 1
            return {"audio_signal": pair[0], "length": pair[1]}

    reader = Reader()
    with tempfile.TemporaryDirectory() as name, _no_warnings():
        source, target = Path(name) / "float.onnx", Path(name) / "static.onnx"
        source.write_bytes(float_model.SerializeToString())
        try:
            quantize_static(
                source,
                target,
                reader,
                quant_format=QuantFormat.QDQ if qdq else QuantFormat.QOperator,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8 if signed_weights else QuantType.QUInt8,
                per_channel=per_channel,
            )
        except ValueError:
            if reader.seen:
                raise
            raise CalibrationError("ort_static", "there are no features to calibrate on") from None
        return target.read_bytes()


def ort_dynamic(float_model: onnx.ModelProto) -> bytes:
    """Return ``onnxruntime.quantization.quantize_dynamic`` of a float export.

    Weights are u8; ranges of activations are found as it runs, and requantized in float.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as name, _no_warnings():
        source, target = Path(name) / "float.onnx", Path(name) / "dynamic.onnx"
        source.write_bytes(float_model.SerializeToString())
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        return target.read_bytes()


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
