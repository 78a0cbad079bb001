"""Each operator against the real function it stands for, in steps of its output.

The table states the bound once an operator; what it is measured against is real arithmetic on the
dequantized integers, so that rounding of weights and of inputs, which happened before, is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.ops import LOWERINGS, OPS
from zeroq_asr.integer.ops.table import FUNCTIONS
from zeroq_asr.integer.program import ValueInfo

from .parity import edge_bytes, edge_words

#: operator → largest distance to the real function, in output steps
TOLERANCE = {
    "quantize_input": 0.5,
    # the weight scale is chosen dyadic, so nothing but the output is rounded
    "conv_requant": 0.5,
    "table": 0.5,
    # the ratios of activations are rounded to m / 2^c: half a unit of 2^-c for every step of an input
    "add_requant": 0.5 + 3 * 255 * 0.5 / 2**13,
    "mul_requant": 0.5 + 255 * 255 * 0.5 / 2**15,
    # the mean has 8 binary places, its ratio 16
    "mean_requant": 0.5 + 0.02,
    "time_mask": 0.0,
    "mask_time": 0.0,
    "length_step": 0.0,
    "take_channels": 0.0,
    "transpose": 0.0,
    # -- 16-bit operands --
    # half a unit of the accumulator comes on top: a quarter of a step where the output has 16 bits, too
    "conv_wide_requant": 0.5 + 0.27,
    "conv2d_wide_requant": 0.5 + 0.27,
    # half a unit of a product cut to 16 bits, which is a whole one of an output of 16 bits
    "mul_wide_requant": 0.5 + 0.5,
}

#: a float32 quotient may fall on the other side of a tie that float64 sees
FLOAT32 = 1e-4


class Context:
    """Just enough of a lowering to lower one node between given formats."""

    def __init__(self, target: ValueInfo, *sources: ValueInfo, weight_bits: int = 8) -> None:
        self.sources = dict(zip("abcde", sources, strict=False))
        self.target = target
        self.max_frames = 3000
        self.means: dict[str, np.ndarray] = {}
        self.covariances: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.emitted: tuple[str, tuple[str, ...], dict[str, Any]] = ("", (), {})
        self.spec = type("Spec", (), {"weight_bits": weight_bits})

    def info(self, name: str) -> ValueInfo:
        return self.sources[name]

    def activation(self, node: Any, known: Any = None) -> ValueInfo:
        return self.target

    def clamp(self, info: ValueInfo, clamp: Any) -> tuple[int, int]:
        return info.lo, info.hi

    def largest_shift(self, name: str, info: ValueInfo) -> int:
        return 16 if info.type == "uint8" else 8

    def narrow(self, name: str) -> str:
        return name

    def alias(self, node: Any, info: ValueInfo) -> None:
        self.sources[node.out] = info

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = array
        return name

    def mask(self, like: str, lengths: str) -> str:
        return "mask"

    def emit(self, op: str, node: Any, ins: tuple[str, ...], **attrs: Any) -> None:
        self.emitted = (op, ins, attrs)

    def lower_and_run(self, op: str, ins: tuple[str, ...], env: dict[str, Any], **attrs: Any) -> np.ndarray:
        node = type("Node", (), {"op": op, "out": "y", "ins": ins, "attrs": attrs, "where": "layer"})
        LOWERINGS[op](self, node)
        name, operands, found = self.emitted
        values = {**env, **self.constants}
        return OPS[name].define(NumpyBackend(), *(values[o] for o in operands), **found)


def byte(scale: float, zero_point: int) -> ValueInfo:
    return ValueInfo("uint8", scale, zero_point, 0, 255)


def real(q: np.ndarray, info: ValueInfo) -> np.ndarray:
    return info.scale * (q.astype(np.float64) - info.zero_point)


def distance(q: np.ndarray, wanted: np.ndarray, info: ValueInfo) -> float:
    """Largest error in output steps, of real values brought into the output's range."""
    ideal = np.clip(wanted / info.scale + info.zero_point, info.lo, info.hi)
    return float(np.abs(q - ideal).max())


def measure_conv() -> float:
    worst = 0.0
    generator = np.random.default_rng(0)
    for bits, groups in ((8, 1), (7, 4), (4, 1), (2, 4)):
        for target in (byte(0.031, 100), ValueInfo("int32", 0.0002, 0, -32768, 32767)):
            source = byte(0.0173, 140)
            ctx = Context(target, source, weight_bits=bits)
            x = edge_bytes((2, 4, 30), bits, 140)
            weight = generator.standard_normal((8, 4 // groups, 3)) * 0.3
            layout = {"stride": 1, "padding": (1, 1), "dilation": 1, "groups": groups}
            bias = generator.standard_normal(8)
            found = ctx.lower_and_run("conv1d", ("a",), {"a": x}, weight=weight, bias=bias, **layout)
            _, operands, attrs = ctx.emitted
            q, b, m = (ctx.constants[name] for name in operands[1:])
            step = m / 2.0 ** attrs["c"] * target.scale
            acc = NumpyBackend().conv(x, q, zero_point=140, **layout) + b[:, None]
            worst = max(worst, distance(found, acc * step[:, None], target))
    return worst


def measure_add() -> float:
    worst = 0.0
    for scales in ((0.02,), (0.02, 0.013), (0.02, 0.02), (0.01, 0.02, 0.003)):
        sources = [byte(s, z) for s, z in zip(scales, (128, 0, 255), strict=False)]
        target = byte(max(scales) * 1.37, 90)
        names = tuple("abc"[: len(scales)])
        env = {name: edge_bytes((3, 5, 200), i, 128) for i, name in enumerate(names)}
        found = Context(target, *sources).lower_and_run("add", names, env)
        wanted = sum(real(env[n], info) for n, info in zip(names, sources, strict=True))
        worst = max(worst, distance(found, wanted, target))
    return worst


def measure_mul() -> float:
    worst = 0.0
    a, b = (v[None].astype(np.uint8) for v in np.meshgrid(np.arange(256), np.arange(256)))
    for sources in ((byte(0.02, 128), byte(1 / 256, 0)), (byte(0.1, 7), byte(0.03, 250))):
        largest = 255 * 255 * sources[0].scale * sources[1].scale / 4
        target = byte(largest / 255, 128)
        found = Context(target, *sources).lower_and_run("mul", ("a", "b"), {"a": a, "b": b})
        worst = max(worst, distance(found, real(a, sources[0]) * real(b, sources[1]), target))
    return worst


def measure_table() -> float:
    worst = 0.0
    x = np.arange(256, dtype=np.uint8).reshape(1, 1, 256)
    source = byte(0.05, 120)
    inputs = real(x, source).ravel()
    for name in FUNCTIONS.keys() & LOWERINGS.keys():
        function = FUNCTIONS[name]
        wanted = np.array([function(float(v)) for v in inputs]).reshape(x.shape)
        scale = (max(wanted.max(), 0) - min(wanted.min(), 0)) / 255
        target = byte(scale, round(-min(wanted.min(), 0) / scale))
        found = Context(target, source).lower_and_run(name, ("a",), {"a": x})
        worst = max(worst, distance(found, wanted, target))
    return worst


def measure_mean() -> float:
    worst = 0.0
    lengths = np.array([3000, 1, 7, 1234], dtype=np.int64)
    x = edge_bytes((4, 3, 3000), 0, 128)
    mask = (np.arange(3000)[None, :] < lengths[:, None])[:, None, :]
    for source, target in ((byte(0.02, 128), byte(0.01, 100)), (byte(0.01, 0), byte(0.011, 255))):
        ctx = Context(target, source)
        ctx.sources["n"] = source
        found = ctx.lower_and_run("mean_time", ("a", "n"), {"a": x, "n": lengths, "mask": mask})
        total = np.where(mask, real(x, source), 0).sum(axis=2, keepdims=True)
        worst = max(worst, distance(found, total / lengths[:, None, None], target))
    return worst


def measure_input() -> float:
    worst = 0.0
    for scale, zero_point in ((0.0173, 100), (3.7, 0)):
        scale = float(np.float32(scale))
        x = np.random.default_rng(0).standard_normal((1, 4, 5000)).astype(np.float32) * 100 * scale
        attrs = {"scale": scale, "zero_point": zero_point, "lo": 0, "hi": 255}
        found = OPS["quantize_input"].define(NumpyBackend(), x.astype(np.float32), **attrs)
        worst = max(worst, distance(found, x.astype(np.float64), byte(scale, zero_point)))
    return worst - FLOAT32


def measure_moves() -> float:
    f = NumpyBackend()
    x, lengths = edge_bytes((2, 4, 9), 0), np.array([9, 4])
    mask = OPS["time_mask"].define(f, x, lengths)
    assert mask.sum(axis=(1, 2)).tolist() == [9, 4]
    masked = OPS["mask_time"].define(f, x, mask, zx=77)
    assert (masked[1, :, 4:] == 77).all()
    assert (masked[1, :, :4] == x[1, :, :4]).all()
    assert (OPS["take_channels"].define(f, x, index=(3, 0)) == x[:, [3, 0]]).all()
    assert (OPS["transpose"].define(f, x, perm=(0, 2, 1)) == x.swapaxes(1, 2)).all()
    for kernel, stride, dilation, padding in ((1, 1, 1, 0), (3, 2, 1, 1), (5, 3, 2, 4), (33, 2, 1, 16)):
        frames = np.arange(max(dilation * (kernel - 1) + 1 - 2 * padding, 1), 100)
        attrs = {"before": 2 * padding - dilation * (kernel - 1) - 1, "divisor": stride, "after": 1}
        layout = {"stride": stride, "dilation": dilation, "groups": 1, "padding": (padding, padding)}
        weight = np.ones((1, 1, kernel), dtype=np.int8)
        for n, found in zip(frames, OPS["length_step"].define(f, frames, **attrs), strict=True):
            x = np.zeros((1, 1, n), dtype=np.uint8)
            assert f.conv(x, weight, zero_point=0, **layout).shape[2] == found
    return 0.0


# -- 16-bit operands --


def word(scale: float) -> ValueInfo:
    return ValueInfo("int32", scale, 0, -32768, 32767)


def measure_wide_conv(op: str) -> float:
    worst = 0.0
    generator = np.random.default_rng(1)
    image = op == "conv2d"
    for bits, groups in ((8, 1), (7, 4), (4, 1)):
        for target in (byte(0.031, 100), word(0.004)):
            source = word(0.0173 / 200)
            ctx = Context(target, source, weight_bits=bits)
            x = edge_words((2, 4, 30, 5)[: 4 if image else 3], bits, -32768, 32767)
            shape = (8, 4 // groups, 3, 1)[: 4 if image else 3]
            weight, bias = generator.standard_normal(shape) * 0.3, generator.standard_normal(8)
            layout: dict[str, Any] = {"stride": 1, "padding": (1, 1), "dilation": 1, "groups": groups}
            if image:
                layout |= {"stride": (1, 1), "padding": (1, 0), "dilation": (1, 1)}
            found = ctx.lower_and_run(op, ("a",), {"a": x}, weight=weight, bias=bias, **layout)
            _, operands, attrs = ctx.emitted
            q, b, m = (ctx.constants[name].astype(np.float64) for name in operands[1:])
            # real arithmetic on the integers: float64 carries them
            real_layout = [layout["stride"], layout["padding"], layout["dilation"], groups]
            convolve = torch.nn.functional.conv2d if image else torch.nn.functional.conv1d
            if not image:
                real_layout[1] = 1
            acc = convolve(torch.from_numpy(x / 256), torch.from_numpy(q), torch.from_numpy(b), *real_layout)
            step = (m / 2.0 ** attrs["c"] * target.scale).reshape(-1, *(1,) * (x.ndim - 2))
            worst = max(worst, distance(found, acc.numpy() * step, target))
    return worst


def measure_wide_mul() -> float:
    worst = 0.0
    a = edge_words((3, 4, 500), 1, -32768, 32767)
    b = edge_bytes((3, 4, 500), 2, 10)
    for source, factor in ((word(0.001), byte(1 / 255, 0)), (word(0.01), byte(0.02, 10))):
        largest = 32768 * 255 * source.scale * factor.scale
        for target in (byte(largest / 3 / 255, 128), word(largest / 32768)):
            ctx = Context(target, source, factor)
            found = ctx.lower_and_run("mul", ("a", "b"), {"a": a, "b": b})
            meant = ctx.sources.get("y", target)
            worst = max(worst, distance(found, real(a, source) * real(b, factor), meant))
    return worst


MEASURES: dict[str, Callable[[], float]] = {
    "conv_requant": measure_conv,
    "add_requant": measure_add,
    "mul_requant": measure_mul,
    "table": measure_table,
    "mean_requant": measure_mean,
    "quantize_input": measure_input,
    "conv_wide_requant": lambda: measure_wide_conv("conv1d"),
    "conv2d_wide_requant": lambda: measure_wide_conv("conv2d"),
    "mul_wide_requant": measure_wide_mul,
    **dict.fromkeys(("time_mask", "mask_time", "take_channels", "transpose", "length_step"), measure_moves),
}


def test_every_operator_states_its_tolerance() -> None:
    assert set(TOLERANCE) == set(MEASURES) == set(OPS)


@pytest.mark.parametrize("op", TOLERANCE)
def test_tolerance(op: str) -> None:
    found = MEASURES[op]()
    # float64 real arithmetic itself is only good to so much
    assert found <= TOLERANCE[op] + 1e-9


@pytest.mark.parametrize(
    "op", ["conv_requant", "table", "add_requant", "mul_requant", "mean_requant", "mul_wide_requant"]
)
def test_rounding_really_happens(op: str) -> None:
    # a measure that saw no rounding would be comparing a thing with itself
    assert MEASURES[op]() > 0.4
