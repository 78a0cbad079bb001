"""What this machine is good for: which integer kernels are exact and fast on it, by trying them.

Exactness is tried on operands that are made to saturate: inputs and weights at the ends of their ranges.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from zeroq_asr._version import __version__
from zeroq_asr.deployment.export import IR_VERSION, OPSET
from zeroq_asr.deployment.machine import Machine, best_target, this_machine
from zeroq_asr.integer.pair_saturation import in_order, most, out_of_order
from zeroq_asr.measure.openvino_integers import OpenvinoIntegers, try_openvino

Array = npt.NDArray[Any]

#: channels, frames, and taps of a depthwise convolution: a layer of QuartzNet15x5 on 10 s
_CHANNELS, _FRAMES, _TAPS = 512, 500, 51
_ROUNDS = 9


@dataclass(frozen=True)
class Kernel:
    """One kernel of ONNX Runtime, tried on one thread."""

    #: "pointwise" or "depthwise"
    shape: str
    #: "float32", "u8 × s8", …
    name: str
    #: the result equals the integer rule, on operands that saturate what can; None for float
    exact: bool | None
    #: products, each with its addition, a second
    rate: float
    #: rate over that of float32
    speedup: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "shape": self.shape,
            "name": self.name,
            "exact": self.exact,
            "products_per_second": self.rate,
            "speedup": self.speedup,
        }


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose`` found."""

    machine: Machine
    system: str
    versions: dict[str, str]
    #: name of the CUDA device; "" without
    cuda: str
    kernels: list[Kernel]
    #: bits of the weights → (target, why) that `--target auto` takes
    targets: dict[int, tuple[str, str]]
    #: None where OpenVINO is not installed
    openvino: OpenvinoIntegers | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "machine": self.machine.to_dict(),
            "system": self.system,
            "versions": self.versions,
            "cuda": self.cuda,
            "kernels": [kernel.to_dict() for kernel in self.kernels],
            "targets": {str(bits): list(choice) for bits, choice in self.targets.items()},
            "openvino": None if self.openvino is None else asdict(self.openvino),
        }


def diagnose() -> Diagnosis:
    """Look at the machine and try its kernels; a few seconds."""
    import onnxruntime  # here, since a tenth of a second matters to commands that do not need it

    machine = this_machine()
    return Diagnosis(
        machine=machine,
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        versions={
            "zeroq-asr": __version__,
            "onnxruntime": onnxruntime.__version__,
            "onnx": onnx.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        cuda=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        kernels=[*_try(depthwise=False), *_try(depthwise=True)],
        targets={bits: best_target(machine, bits) for bits in (8, 7)},
        openvino=try_openvino(),
    )


def _try(*, depthwise: bool) -> list[Kernel]:
    x, weight = _operands(depthwise=depthwise)
    # 127 beside 1, 126 beside 2, …: each two neighbours as large as they may be together
    bounded = out_of_order(_shared(in_order(weight), most(255)), weight.shape)
    work = weight.size * _FRAMES
    plain = _session("Conv", weight.astype(np.float32), depthwise)
    kinds = [
        ("u8 × u8", "QLinearConv", weight, np.uint8),
        ("u8 × s8, no pair saturates", "QLinearConv", bounded, np.int8),
        ("u8 × s8 at full range", "QLinearConv", weight, np.int8),
        ("u8 × u8 to int32", "ConvInteger", weight, np.uint8),
    ]
    sessions = {"float32": plain}
    exact: dict[str, bool | None] = {"float32": None}
    for name, op, values, kind in kinds:
        acc = _accumulator(x, values, depthwise=depthwise)
        sessions[name] = run = _session(op, values, depthwise, kind, _scale(acc))
        wanted = acc.astype(np.int32) if op == "ConvInteger" else _requantized(acc)
        exact[name] = bool(np.array_equal(run(x), wanted))
    feeds = {name: x.astype(np.float32) if name == "float32" else x for name in sessions}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(_ROUNDS):
        for name, run in sessions.items():
            start = time.perf_counter()
            run(feeds[name])
            times[name].append(time.perf_counter() - start)
    # the least time: what else the machine does can only add to it
    rates = {name: work / min(values) for name, values in times.items()}
    label = "depthwise" if depthwise else "pointwise"
    return [
        Kernel(label, name, exact[name], rates[name], rates[name] / rates["float32"]) for name in sessions
    ]


def _operands(*, depthwise: bool) -> tuple[Array, Array]:
    """Return bytes [1, C, T] and weights [C, C or 1, K] up to 127 whose products saturate what can.

    Both are at the ends of their ranges three times in four, and the signs of a channel's weights agree in
    pairs, which is what int16 sums of two products run over by.
    """
    shape = (_CHANNELS, 1, _TAPS) if depthwise else (_CHANNELS, _CHANNELS, 1)
    generator = np.random.default_rng(0)
    ends = generator.random((1, _CHANNELS, _FRAMES)) < 0.75
    x = np.where(ends, 255, generator.integers(0, 256, ends.shape)).astype(np.uint8)
    outputs, inputs, taps = shape
    pairs = generator.random((outputs, -(-inputs * taps // 4))) < 0.5
    signs = np.where(pairs, -1, 1).repeat(4, axis=1)[:, : inputs * taps].reshape(shape)
    magnitude = np.where(generator.random(shape) < 0.75, 127, generator.integers(0, 128, shape))
    return x, (signs * magnitude).astype(np.int64)


def _shared(rows: Array, limit: int) -> Array:
    """Return rows [O, N] with the signs of ``rows``, whose neighbours add up to ``limit`` in magnitude."""
    generator = np.random.default_rng(1)
    magnitude = generator.integers(1, limit, rows.shape)
    even = rows.shape[1] // 2 * 2
    magnitude[:, 1:even:2] = limit - magnitude[:, 0:even:2]
    return np.sign(rows) * magnitude


def _accumulator(x: Array, weight: Array, *, depthwise: bool) -> Array:
    """Return the sums of products [1, C, T] in float64, which holds them."""
    half = weight.shape[2] // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (half, half)))
    if not depthwise:
        return weight[None, :, :, 0].astype(np.float64) @ padded
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2], axis=2)
    return np.einsum("bctk,ck->bct", windows, weight[:, 0].astype(np.float64))


def _scale(acc: Array) -> float:
    """Return a power of two that brings the largest sum to 120 or less, so that no output is clipped."""
    return 2.0 ** -max(0, math.ceil(math.log2(max(float(np.abs(acc).max()), 1.0) / 120)))


def _requantized(acc: Array) -> Array:
    return np.clip(np.rint(acc * _scale(acc)) + 128, 0, 255).astype(np.uint8)


def _session(
    op: str, weight: Array, depthwise: bool, kind: type = np.float32, scale: float = 1.0
) -> Callable[[Array], Array]:
    """Return a function that runs one convolution, its frames padded to keep their number, on one thread."""
    half = weight.shape[2] // 2
    attributes: dict[str, Any] = {"group": _CHANNELS if depthwise else 1, "pads": [half, half]}
    zero: Array = np.array(128 if kind is np.uint8 else 0, dtype=kind)
    stored: Array = (weight + int(zero)).astype(kind)
    one, x_zero, y_zero = np.float32(1), np.uint8(0), np.uint8(128)
    if op == "Conv":
        # depthwise as 2-D, which is its fast form
        stored, attributes["pads"] = stored[:, :, None], [0, half, 0, half]
        inputs: list[tuple[str, Any]] = [("w", stored)]
    elif op == "ConvInteger":
        inputs = [("w", stored), ("x_zero", x_zero), ("w_zero", zero)]
    else:
        constants = [
            ("one", one),
            ("x_zero", x_zero),
            ("w", stored),
            ("scale", np.float32(scale)),
            ("w_zero", zero),
        ]
        inputs = [*constants, ("one_y", one), ("y_zero", y_zero)]
    types = {
        "Conv": (TensorProto.FLOAT, TensorProto.FLOAT),
        "ConvInteger": (TensorProto.UINT8, TensorProto.INT32),
        "QLinearConv": (TensorProto.UINT8, TensorProto.UINT8),
    }[op]
    shape = [1, _CHANNELS, 1, _FRAMES] if op == "Conv" else [1, _CHANNELS, _FRAMES]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *(name for name, _ in inputs)], ["y"], **attributes)],
        "kernel",
        [helper.make_tensor_value_info("x", types[0], shape)],
        [helper.make_tensor_value_info("y", types[1], None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in inputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(x: Array) -> Array:
        given = x.reshape(shape)
        found: Array = session.run(None, {"x": given})[0]
        return found

    run(np.zeros(shape, dtype=np.float32 if op == "Conv" else np.uint8))
    return run
