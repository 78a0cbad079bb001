"""Each operator against the real function it stands for, in steps of its output.

The table states the bound once an operator; what it is measured against is real arithmetic on the
dequantized integers, so that rounding of weights and of inputs, which happened before, is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from zeroq_asr.config import QuantSpec
from zeroq_asr.graph.float_graph import FLOAT_OPS
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.dyadic import MAX_SHIFT
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.operators import LOWERINGS, OPS
from zeroq_asr.operators.attention import aligned
from zeroq_asr.operators.rotate import distinct
from zeroq_asr.operators.table import FUNCTIONS, RANGES

from .parity import edge_bytes, edge_words
from .parity_islands import form as island_form
from .parity_islands import spelled

#: operator → largest distance to the real function, in output steps
TOLERANCE = {
    "quantize_input": 0.5,
    # the weight scale is chosen dyadic, so nothing but the output is rounded
    "conv_requant": 0.5,
    "conv2d_requant": 0.5,
    "table": 0.5,
    # the lowest degree that does, of 5 at most
    "polynomial_requant": 1.0,
    # the dip of silu and of gelu, seen alone, is a whole output of 255 steps
    "polynomial_requant, of negative inputs": 4.5,
    # the ratios of activations are rounded to m / 2^c: half a unit of 2^-c for every step of an input
    "add_requant": 0.5 + 3 * 255 * 0.5 / 2**13,
    # integers of one scale are added as they are
    "add_requant, 16 bits of one scale": 0.0,
    "add_requant, 16 bits": 0.5 + 2 * 32767 * 0.5 / 2**14,
    "add_requant, 16 bits to bytes": 0.5 + 2 * 32767 * 0.5 / 2**16,
    "mul_requant": 0.5 + 255 * 255 * 0.5 / 2**15,
    # the mean has 8 binary places, its ratio 16
    "mean_requant": 0.5 + 0.02,
    # a 2^10th of a frame's peak is cut off, of 127 steps; multipliers have 9 to 10 bits
    "layer_norm": 0.5 + 0.2,
    # where a channel stands out by tens of deviations the others are left few bits to be squared, and the
    # frame's deviation is known to 1%: of 127 steps, and of 2^14
    "layer_norm, of bytes": 0.5 + 0.2 + 127 / 90,
    "layer_norm, 16 bits": 2**14 / 2**7,
    # multipliers of 13 bits, and a 4096th of the peak is cut off
    "instance_norm": 0.5 + 0.1,
    # means to a sixteenth of a step, of deviations of four and more
    "instance_norm, of bytes": 0.5 + 0.2,
    "instance_norm, 16 bits": 2**14 / 2**10,
    # a numerator is that of the next larger score in a table of a thousand steps or more: up to 1% too much
    "attention": 0.5 + 0.25,
    "positions": 0.5,
    # entries of a table, in steps of 2^-14
    "frame_table": 0.5,
    # products cut to a 16th of a step, a ratio of 11 bits for each of 180 steps, coefficients of 14 bits
    "rotate": 0.5 + 1 / 32 + 180 / 2**12 + 255 / 2**14,
    # float32, then one rounding
    "float_island": 0.5 + 2e-4,
    "time_mask": 0.0,
    "mask_time": 0.0,
    "mask_image": 0.0,
    "length_step": 0.0,
    "take_channels": 0.0,
    "transpose": 0.0,
    "image": 0.0,
    "flatten": 0.0,
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

    def __init__(
        self, target: ValueInfo, *sources: ValueInfo, weight_bits: int = 8, nonlinearity: str = "table"
    ) -> None:
        self.sources = dict(zip("abcde", sources, strict=False))
        self.target = target
        self.max_frames = 3000
        self.widths: dict[str, int] = {}
        self.means: dict[str, np.ndarray] = {}
        self.covariances: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.emitted: tuple[str, tuple[str, ...], dict[str, Any]] = ("", (), {})
        self.spec = QuantSpec(weight_bits=weight_bits, nonlinearity=nonlinearity)

    def info(self, name: str) -> ValueInfo:
        return self.sources[name]

    def largest_shift(self, name: str, info: ValueInfo, bias: float = 0.0) -> int:
        reach = max(abs(info.lo - info.zero_point), info.hi - info.zero_point)
        return min(MAX_SHIFT, 24 - math.ceil(reach + bias).bit_length())

    def channels(self, name: str) -> int:
        return self.widths[name]

    def longest(self, name: str) -> int:
        return self.max_frames

    def activation(self, node: Any, known: Any = None) -> ValueInfo:
        return self.target

    def clamp(self, info: ValueInfo, clamp: Any) -> tuple[int, int]:
        return info.lo, info.hi

    def narrow(self, name: str) -> str:
        return name

    def alias(self, node: Any, info: ValueInfo) -> None:
        self.sources[node.out] = info

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = array
        return name

    def mask(self, like: str, lengths: str) -> str:
        return "mask"

    def frame_table(self, name: str, like: str, table: np.ndarray, scale: float) -> str:
        return self.constant(name, table[None].astype(np.int32))

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


def wide(scale: float) -> ValueInfo:
    return ValueInfo("int32", scale, 0, -32767, 32767)


def real(q: np.ndarray, info: ValueInfo) -> np.ndarray:
    return info.scale * (q.astype(np.float64) - info.zero_point)


def distance(q: np.ndarray, wanted: np.ndarray, info: ValueInfo) -> float:
    """Largest error in output steps, of real values brought into the output's range."""
    ideal = np.clip(wanted / info.scale + info.zero_point, info.lo, info.hi)
    return float(np.abs(q - ideal).max())


def measure_conv(axes: int = 1) -> float:
    worst = 0.0
    generator = np.random.default_rng(0)
    for bits, groups in ((8, 1), (7, 4), (4, 1), (2, 4)):
        for target in (byte(0.031, 100), wide(0.0002)):
            source = byte(0.0173, 140)
            ctx = Context(target, source, weight_bits=bits)
            x = edge_bytes((2, 4, 30) if axes == 1 else (2, 4, 9, 5), bits, 140)
            weight = generator.standard_normal((8, 4 // groups, *(3,) * axes)) * 0.3
            layout: dict[str, Any] = {"stride": 1, "padding": (1, 1), "dilation": 1, "groups": groups}
            if axes == 2:
                layout |= {"stride": (1, 1), "dilation": (1, 1)}
            bias = generator.standard_normal(8)
            found = ctx.lower_and_run(f"conv{axes}d", ("a",), {"a": x}, weight=weight, bias=bias, **layout)
            _, operands, attrs = ctx.emitted
            q, b, m = (ctx.constants[name] for name in operands[1:])
            step = m / 2.0 ** attrs["c"] * target.scale
            conv = NumpyBackend().conv if axes == 1 else NumpyBackend().conv2d
            acc = conv(x, q, zero_point=140, **layout) + b.reshape(-1, *(1,) * axes)
            worst = max(worst, distance(found, acc * step.reshape(-1, *(1,) * axes), target))
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


def measure_wide_add(scales: tuple[float, ...], target: ValueInfo) -> float:
    sources = [wide(s) for s in scales]
    names = tuple("abc"[: len(scales)])
    env = {name: edge_words((3, 5, 200), i, -32767, 32767) for i, name in enumerate(names)}
    found = Context(target, *sources).lower_and_run("add", names, env)
    wanted = sum(real(env[n], info) for n, info in zip(names, sources, strict=True))
    return distance(found, wanted, target)


def measure_add_16() -> float:
    pairs = ((0.001, 0.001), (0.001, 0.0007), (0.003, 0.0001))
    return max(measure_wide_add(scales, wide(sum(scales))) for scales in pairs)


def measure_add_16_to_bytes() -> float:
    pairs = ((0.001, 0.001), (0.001, 0.0007), (0.003, 0.0001))
    return max(measure_wide_add(scales, byte(256 * sum(scales), 128)) for scales in pairs)


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


def elementwise_formats(name: str, reach: float, zero_point: int) -> tuple[ValueInfo, ValueInfo]:
    """Formats of the input, 255 steps of which ``reach`` spans 128, and of what the function makes of it."""
    source = byte(reach / 128, zero_point)
    outputs = [FUNCTIONS[name](float(v)) for v in real(np.arange(256), source)]
    lo, hi = RANGES.get(name, (min(*outputs, 0.0), max(*outputs, 0.0)))
    scale = (hi - lo) / 255 or 1.0
    return source, byte(scale, round(-lo / scale))


def measure_polynomial(zero_points: tuple[int, ...]) -> float:
    worst = 0.0
    x = np.arange(256, dtype=np.uint8).reshape(1, 1, 256)
    for name in FUNCTIONS.keys() & LOWERINGS.keys():
        for reach in (0.01, 0.3, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 12.0, 20.0, 50.0, 1000.0):
            for zero_point in zero_points:
                source, target = elementwise_formats(name, reach, zero_point)
                wanted = np.array([FUNCTIONS[name](float(v)) for v in real(x, source).ravel()]).reshape(
                    x.shape
                )
                ctx = Context(target, source, nonlinearity="polynomial")
                found = ctx.lower_and_run(name, ("a",), {"a": x})
                assert ctx.emitted[0] == "polynomial_requant"
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


def quietest(op: str, channels: int) -> float:
    """The deviation, in steps of the input, below which a frame's or a channel's factor is at its largest."""
    return 0.0 if op == "layer_norm" else 4.0


def measure_norm(op: str, bits: int, source_bits: int = 16) -> float:
    """Largest distance in steps of an output of ``bits`` bits, whose range is that of the real outputs."""
    worst = 0.0
    # few channels and many, epsilons that matter to quiet frames and others
    for channels, epsilon in ((16, 1e-3), (64, 1e-9), (176, 1e-5), (256, 1e-5), (512, 1e-12), (1024, 1e-5)):
        found, wanted, target, deviation = normalized(op, bits, source_bits, channels, epsilon)
        loud = np.broadcast_to(deviation >= quietest(op, channels), wanted.shape)
        if loud.any():
            worst = max(worst, distance(found[loud], wanted[loud], target))
    return worst


def normalized(
    op: str, bits: int, source_bits: int, channels: int, epsilon: float, shift: float = 1.0
) -> tuple[np.ndarray, np.ndarray, ValueInfo, np.ndarray]:
    """Integers, the reals they stand for, their format, and the deviations of the input in its steps."""
    generator = np.random.default_rng(channels)
    shape = (3, channels, 41) if op == "layer_norm" else (2, 16, 300)
    axis = 1 if op == "layer_norm" else 2
    lengths = np.array([300, 77])
    # rows of every loudness, normal ones and some of heavy tails
    loudness = 10.0 ** generator.uniform(-3, 0, [1 if a == axis else n for a, n in enumerate(shape)])
    rows, tails = generator.standard_normal(shape) + 0.5, generator.standard_t(3, shape)
    reals = np.where(generator.random(loudness.shape) < 0.7, rows, tails) * loudness
    peak = np.abs(reals).max()
    source = byte(peak / 100, 128) if source_bits == 8 else wide(peak / 32767)
    x = np.clip(np.rint(reals / source.scale) + source.zero_point, source.lo, source.hi)
    x = x.astype(np.uint8 if source_bits == 8 else np.int32)
    gamma = generator.uniform(0.2, 2.0, shape[1]) * generator.choice([-1, 1], shape[1])
    attrs = {"weight": gamma, "bias": generator.standard_normal(shape[1]) * shift}
    kept = np.arange(shape[2]) < lengths[:, None, None] if axis == 2 else np.ones((1, 1, 1), dtype=bool)
    operands = [torch.from_numpy(real(x, source)), torch.from_numpy(lengths)][:axis]
    tensors = {name: torch.from_numpy(value) for name, value in attrs.items()}
    wanted = FLOAT_OPS[op](*operands, **tensors, epsilon=epsilon).numpy()
    peak = np.abs(np.where(kept, wanted, 0.0)).max()
    target = byte(2 * peak / 255, 128) if bits == 8 else wide(2 * peak / 32767)
    ctx = Context(target, source)
    ctx.sources["n"] = source
    env = {"a": x, "n": lengths, "mask": kept}
    found = ctx.lower_and_run(op, ("a", "n")[:axis], env, **attrs, epsilon=epsilon)
    deviation = np.nanstd(np.where(kept, x, np.nan), axis=axis, keepdims=True)
    # frames behind the end count as right
    return np.where(kept, found, target.zero_point), np.where(kept, wanted, 0.0), target, deviation


def measure_attention() -> float:
    worst = 0.0
    generator = np.random.default_rng(0)
    lengths = np.array([60, 60, 17, 1])
    mask = (np.arange(60)[None, :] < lengths[:, None])[:, None, :]
    for heads, size, spread in ((1, 8, 0.3), (4, 16, 1.0), (2, 64, 1.0), (4, 16, 5.0)):
        channels = heads * size
        for positions in (False, True):
            q, k, v, p = (byte(spread * 3 / 100, z) for z in (120, 130, 128, 140))
            v = byte(0.03, 128)
            up, mp = aligned(q, k, p, byte(0.011, 128), size, size**-0.5)
            r = byte(q.scale * k.scale * mp / (up * p.scale), 128)
            ctx = Context(byte(0.03, 128), q, k, v)
            ctx.sources |= {"n": q, "p": p, "r": r}
            ctx.widths["a"] = channels
            env: dict[str, Any] = {"n": lengths, "mask": mask}
            for name, info in (("a", q), ("b", k), ("c", v), ("p", p)):
                reals = generator.standard_normal((4, channels, 60)) * 30 + info.zero_point
                env[name] = np.clip(np.rint(reals), 0, 255).astype(np.uint8)
            env["r"] = edge_bytes((1, channels, 120), size, 128)
            ins = ("a", "b", "c", "n", *(("p", "r") if positions else ()))
            attrs = {"heads": heads, "scale": size**-0.5}
            found = ctx.lower_and_run("attention", ins, env, **attrs)
            operands = [real(env[n], i) for n, i in (("a", q), ("b", k), ("c", v))]
            place = [real(env["p"], p), real(env["r"], r)[:, :, 1:]] if positions else []
            tensors = [torch.from_numpy(t) for t in (*operands, lengths, *place)]
            wanted = FLOAT_OPS["attention"](*tensors, **attrs).numpy()
            # what an utterance's own padding attends to is no matter
            kept = np.broadcast_to(mask, wanted.shape)
            worst = max(worst, distance(found[kept], wanted[kept], ctx.info("y")))
    return worst


def measure_positions() -> float:
    longest = 50
    reals = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 2 * longest - 1)))
    target = byte(0.03, 128)
    worst = 0.0

    def compute(frames: int) -> torch.Tensor:
        return reals[:, longest - frames : longest + frames - 1]

    for frames in (1, 2, 33, longest):
        ctx = Context(target)
        ctx.max_frames = longest
        like = np.zeros((2, 3, frames), dtype=np.uint8)
        found = ctx.lower_and_run("positions", ("a",), {"a": like}, compute=compute)
        assert found.shape == (1, 6, 2 * frames)
        worst = max(worst, distance(found[:, :, 1:], compute(frames).numpy()[None], target))
    return worst


def turns(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients [12, T] of two heads whose halves turn."""
    angles = torch.arange(frames) / 10.0 ** (torch.arange(3)[:, None] / 3)
    return angles.cos().repeat(4, 1), torch.cat((-angles.sin(), angles.sin())).repeat(2, 1)


def measure_frame_table() -> float:
    reals = np.stack([table.double().numpy() for table in turns(500)])
    table, rows, signs = distinct(np.rint(reals[1] * 2**14).astype(np.int16))
    assert (len(table), len(rows)) == (3, 12)
    f = NumpyBackend()
    found = OPS["frame_table"].define(f, np.zeros((2, 1, 499), np.uint8), table, signs, rows=rows)
    return float(np.abs(found - reals[1][None, :, :499] * 2**14).max())


def measure_rotate() -> float:
    worst = 0.0
    pair = (3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8)
    for x, target in ((byte(0.03, 128), byte(0.03 * 1.4, 128)), (byte(1.7, 3), byte(1.9, 140))):
        ctx = Context(target, x)
        ctx.max_frames = 300
        q = edge_bytes((3, 12, 300), 5, x.zero_point)
        attrs = {"coefficients": turns, "pair": pair}
        found = ctx.lower_and_run("rotate", ("a",), {"a": q}, **attrs)
        wanted = FLOAT_OPS["rotate"](torch.from_numpy(real(q, x)), **attrs).numpy()
        worst = max(worst, distance(found, wanted, target))
    return worst


def measure_input() -> float:
    worst = 0.0
    for scale, zero_point in ((0.0173, 100), (3.7, 0)):
        scale = float(np.float32(scale))
        x = np.random.default_rng(0).standard_normal((1, 4, 5000)).astype(np.float32) * 100 * scale
        attrs = {"scale": scale, "zero_point": zero_point, "lo": 0, "hi": 255, "type": "uint8"}
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
    image = OPS["image"].define(f, x)
    assert image.shape == (2, 1, 9, 4)
    assert (image[:, 0] == x.swapaxes(1, 2)).all()
    tall = edge_bytes((2, 3, 9, 5), 1)
    kept = OPS["mask_image"].define(f, tall, mask, zx=77)
    assert (kept[1, :, 4:] == 77).all()
    assert (kept[1, :, :4] == tall[1, :, :4]).all()
    flat = OPS["flatten"].define(f, tall, channels=15)
    assert all((flat[:, 5 * c + k] == tall[:, c, :, k]).all() for c in range(3) for k in range(5))
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


MOVES = (
    *("time_mask", "mask_time", "mask_image", "take_channels", "transpose", "image", "flatten"),
    "length_step",
)
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


def measure_island() -> float:
    worst = 0.0
    for zx in (0, 100, 255):
        x = edge_bytes((2, 3, 200), zx, zx)
        attrs = island_form(zero_point=120, scale=0.0123)
        attrs |= {"scales": (0.031,), "zx": (zx,), "lengths": 0, "layers": (), "body": spelled("Sin")}
        found = OPS["float_island"].define(NumpyBackend(), x, **attrs)
        wanted = np.sin(float(np.float32(0.031)) * (x.astype(np.float64) - zx)) / np.float32(0.0123) + 120
        worst = max(worst, np.abs(found - wanted.clip(0, 255)).max())
    return worst


MEASURES: dict[str, Callable[[], float]] = {
    "conv_requant": measure_conv,
    "conv2d_requant": lambda: measure_conv(2),
    "add_requant": measure_add,
    "add_requant, 16 bits of one scale": lambda: measure_wide_add((0.001, 0.001), wide(0.001)),
    "add_requant, 16 bits": measure_add_16,
    "add_requant, 16 bits to bytes": measure_add_16_to_bytes,
    "mul_requant": measure_mul,
    "table": measure_table,
    "polynomial_requant": lambda: measure_polynomial((0, 30, 90, 128, 200)),
    "polynomial_requant, of negative inputs": lambda: measure_polynomial((255,)),
    "mean_requant": measure_mean,
    "layer_norm": lambda: measure_norm("layer_norm", 8),
    "layer_norm, of bytes": lambda: measure_norm("layer_norm", 8, 8),
    "layer_norm, 16 bits": lambda: measure_norm("layer_norm", 16),
    "instance_norm": lambda: measure_norm("instance_norm", 8),
    "instance_norm, of bytes": lambda: measure_norm("instance_norm", 8, 8),
    "instance_norm, 16 bits": lambda: measure_norm("instance_norm", 16),
    "attention": measure_attention,
    "positions": measure_positions,
    "frame_table": measure_frame_table,
    "rotate": measure_rotate,
    "quantize_input": measure_input,
    **dict.fromkeys(MOVES, measure_moves),
    "float_island": measure_island,
    "conv_wide_requant": lambda: measure_wide_conv("conv1d"),
    "conv2d_wide_requant": lambda: measure_wide_conv("conv2d"),
    "mul_wide_requant": measure_wide_mul,
}


def test_every_operator_states_its_tolerance() -> None:
    assert set(TOLERANCE) == set(MEASURES)
    assert {name.split(",")[0] for name in TOLERANCE} == set(OPS)


@pytest.mark.parametrize("op", TOLERANCE)
def test_tolerance(op: str) -> None:
    found = MEASURES[op]()
    # float64 real arithmetic itself is only good to so much
    assert found <= TOLERANCE[op] + 1e-9


@pytest.mark.parametrize(
    "op", [op for op in TOLERANCE if op not in (*MOVES, "add_requant, 16 bits of one scale")]
)
def test_rounding_really_happens(op: str) -> None:
    # a measure that saw no rounding would be comparing a thing with itself
    assert MEASURES[op]() > 0.4


@pytest.mark.parametrize("op", ["instance_norm"])
@pytest.mark.parametrize("source_bits", [8, 16])
def test_what_is_too_quiet_to_be_normalized_shrinks(op: str, source_bits: int) -> None:
    # the largest multiplier there is never gives more than the real function does
    for channels in (4, 16, 64):
        found, wanted, target, deviation = normalized(op, 8, source_bits, channels, 1e-9, shift=0.0)
        steps, given = np.abs(wanted) / target.scale, np.abs(found - float(target.zero_point))
        assert (given <= steps + TOLERANCE[f"{op}, of bytes"]).all()
        quiet = np.broadcast_to(deviation < quietest(op, channels) / 2, wanted.shape)
        assert (given < steps - 1)[quiet].any() or not quiet.any()
        assert quiet.any() or source_bits == 16
