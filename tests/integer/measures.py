"""How far each operator is from the real function it stands for, in steps of its output.

What it is measured against is real arithmetic on the dequantized integers, so that rounding of weights and of
inputs, which happened before, is not in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from zeroq_asr.config import QuantSpec
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.graph.frame_tables import distinct
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.lowering.context import Range
from zeroq_asr.lowering.lower import lower
from zeroq_asr.operators.attention.scores import aligned
from zeroq_asr.operators.float_island.cases import form as island_form
from zeroq_asr.operators.float_island.cases import spelled
from zeroq_asr.operators.lstm.lowered import GATE_PLACES
from zeroq_asr.registry import INTEGER_OPERATORS, OPERATORS

from .one_node import OneNode, byte, distance, real, wide, word
from .parity import edge_bytes, edge_words

#: a float32 quotient may fall on the other side of a tie that float64 sees
FLOAT32 = 1e-4
#: elementwise function → what it is
FUNCTIONS = {name: record.function for name, record in OPERATORS.items() if record.function is not None}


def meaning_of(op: str) -> Callable[..., torch.Tensor]:
    """What an operator of the float graph computes."""
    meaning = OPERATORS[op].meaning
    assert meaning is not None
    return meaning


def measure_conv(axes: int = 1) -> float:
    worst = 0.0
    generator = np.random.default_rng(0)
    for bits, groups in ((8, 1), (7, 4), (4, 1), (2, 4)):
        for target in (byte(0.031, 100), wide(0.0002)):
            source = byte(0.0173, 140)
            ctx = OneNode(target, source, weight_bits=bits)
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
            acc = NumpyBackend().conv(
                x,
                q,
                zero_point=140,
                strides=(1,) * axes,
                # of images those of time and of frequency, which are as wide on either side
                pads=((1, 1),) * axes,
                dilations=(1,) * axes,
                groups=groups,
            )
            acc = acc + b.reshape(-1, *(1,) * axes)
            worst = max(worst, distance(found, acc * step.reshape(-1, *(1,) * axes), target))
    return worst


def measure_add() -> float:
    worst = 0.0
    for scales in ((0.02,), (0.02, 0.013), (0.02, 0.02), (0.01, 0.02, 0.003)):
        sources = [byte(s, z) for s, z in zip(scales, (128, 0, 255), strict=False)]
        target = byte(max(scales) * 1.37, 90)
        names = tuple("abc"[: len(scales)])
        env = {name: edge_bytes((3, 5, 200), i, 128) for i, name in enumerate(names)}
        found = OneNode(target, *sources).lower_and_run("add", names, env)
        wanted = sum(real(env[n], info) for n, info in zip(names, sources, strict=True))
        worst = max(worst, distance(found, wanted, target))
    return worst


def measure_wide_add(scales: tuple[float, ...], target: ValueInfo) -> float:
    sources = [wide(s) for s in scales]
    names = tuple("abc"[: len(scales)])
    env = {name: edge_words((3, 5, 200), i, -32767, 32767) for i, name in enumerate(names)}
    found = OneNode(target, *sources).lower_and_run("add", names, env)
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
        found = OneNode(target, *sources).lower_and_run("mul", ("a", "b"), {"a": a, "b": b})
        worst = max(worst, distance(found, real(a, sources[0]) * real(b, sources[1]), target))
    return worst


def measure_table() -> float:
    worst = 0.0
    x = np.arange(256, dtype=np.uint8).reshape(1, 1, 256)
    source = byte(0.05, 120)
    inputs = real(x, source).ravel()
    for name in FUNCTIONS:
        function = FUNCTIONS[name].of
        wanted = np.array([function(float(v)) for v in inputs]).reshape(x.shape)
        scale = (max(wanted.max(), 0) - min(wanted.min(), 0)) / 255
        target = byte(scale, round(-min(wanted.min(), 0) / scale))
        found = OneNode(target, source).lower_and_run(name, ("a",), {"a": x})
        worst = max(worst, distance(found, wanted, target))
    return worst


def elementwise_formats(name: str, reach: float, zero_point: int) -> tuple[ValueInfo, ValueInfo]:
    """Formats of the input, 255 steps of which ``reach`` spans 128, and of what the function makes of it."""
    source = byte(reach / 128, zero_point)
    outputs = [FUNCTIONS[name].of(float(v)) for v in real(np.arange(256), source)]
    lo, hi = FUNCTIONS[name].range or (min(*outputs, 0.0), max(*outputs, 0.0))
    scale = (hi - lo) / 255 or 1.0
    return source, byte(scale, round(-lo / scale))


def measure_polynomial(zero_points: tuple[int, ...]) -> float:
    worst = 0.0
    x = np.arange(256, dtype=np.uint8).reshape(1, 1, 256)
    for name in FUNCTIONS:
        for reach in (0.01, 0.3, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 12.0, 20.0, 50.0, 1000.0):
            for zero_point in zero_points:
                source, target = elementwise_formats(name, reach, zero_point)
                wanted = np.array([FUNCTIONS[name].of(float(v)) for v in real(x, source).ravel()]).reshape(
                    x.shape
                )
                ctx = OneNode(target, source, nonlinearity="polynomial")
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
        ctx = OneNode(target, source)
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
    wanted = meaning_of(op)(*operands, **tensors, epsilon=epsilon).numpy()
    peak = np.abs(np.where(kept, wanted, 0.0)).max()
    target = byte(2 * peak / 255, 128) if bits == 8 else wide(2 * peak / 32767)
    ctx = OneNode(target, source)
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
            ctx = OneNode(byte(0.03, 128), q, k, v)
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
            wanted = meaning_of("attention")(*tensors, **attrs).numpy()
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
        ctx = OneNode(target)
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
    found = INTEGER_OPERATORS["frame_table"].define(
        f, np.zeros((2, 1, 499), np.uint8), table, signs, rows=rows
    )
    return float(np.abs(found - reals[1][None, :, :499] * 2**14).max())


def measure_rotate() -> float:
    worst = 0.0
    pair = (3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8)
    for x, target in ((byte(0.03, 128), byte(0.03 * 1.4, 128)), (byte(1.7, 3), byte(1.9, 140))):
        ctx = OneNode(target, x)
        ctx.max_frames = 300
        q = edge_bytes((3, 12, 300), 5, x.zero_point)
        attrs = {"coefficients": turns, "pair": pair}
        found = ctx.lower_and_run("rotate", ("a",), {"a": q}, **attrs)
        wanted = meaning_of("rotate")(torch.from_numpy(real(q, x)), **attrs).numpy()
        worst = max(worst, distance(found, wanted, target))
    return worst


def measure_input() -> float:
    worst = 0.0
    for scale, zero_point in ((0.0173, 100), (3.7, 0)):
        scale = float(np.float32(scale))
        x = np.random.default_rng(0).standard_normal((1, 4, 5000)).astype(np.float32) * 100 * scale
        attrs = {"scale": scale, "zero_point": zero_point, "lo": 0, "hi": 255, "type": "uint8"}
        found = INTEGER_OPERATORS["quantize_input"].define(NumpyBackend(), x.astype(np.float32), **attrs)
        worst = max(worst, distance(found, x.astype(np.float64), byte(scale, zero_point)))
    return worst - FLOAT32


def measure_embedding() -> float:
    """Rows that lowering rounds, against the weights themselves."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for labels, width, places in ((29, 48, 1), (1000, 7, 3)):
        tables = [torch.randn(labels, width, generator=generator) for _ in range(places)]
        reach = min(float(w.min()) for w in tables), max(float(w.max()) for w in tables)
        nodes = [
            FloatNode("embedding", f"y{place}", ("x",), {"weight": table, "place": place, "reach": reach})
            for place, table in enumerate(tables)
        ]
        names = tuple(node.out for node in nodes)
        graph = FloatGraph(("x",), names, nodes, names, single=("x",))
        made = ValueInfo("int32", 1.0, 0, 0, labels - 1)
        program = lower(graph, {}, QuantSpec(), channels={"x": places}, max_frames=1, fixed={"x": made})
        x = torch.randint(0, labels, (200, places, 1), generator=generator)
        found = program.run(NumpyBackend(), x.numpy().astype(np.int32))
        for node, one, wanted in zip(nodes, found, graph.run(x), strict=True):
            worst = max(worst, distance(one, wanted.double().numpy(), program.values[node.out]))
    return worst


def measure_moves() -> float:
    f = NumpyBackend()
    x, lengths = edge_bytes((2, 4, 9), 0), np.array([9, 4])
    mask = INTEGER_OPERATORS["time_mask"].define(f, x, lengths)
    assert mask.sum(axis=(1, 2)).tolist() == [9, 4]
    masked = INTEGER_OPERATORS["mask_time"].define(f, x, mask, zx=77)
    assert (masked[1, :, 4:] == 77).all()
    assert (masked[1, :, :4] == x[1, :, :4]).all()
    image = INTEGER_OPERATORS["image"].define(f, x)
    assert image.shape == (2, 1, 9, 4)
    assert (image[:, 0] == x.swapaxes(1, 2)).all()
    tall = edge_bytes((2, 3, 9, 5), 1)
    kept = INTEGER_OPERATORS["mask_image"].define(f, tall, mask, zx=77)
    assert (kept[1, :, 4:] == 77).all()
    assert (kept[1, :, :4] == tall[1, :, :4]).all()
    flat = INTEGER_OPERATORS["flatten"].define(f, tall, channels=15)
    assert all((flat[:, 5 * c + k] == tall[:, c, :, k]).all() for c in range(3) for k in range(5))
    assert (INTEGER_OPERATORS["take_channels"].define(f, x, index=(3, 0)) == x[:, [3, 0]]).all()
    assert (INTEGER_OPERATORS["transpose"].define(f, x, perm=(0, 2, 1)) == x.swapaxes(1, 2)).all()
    for kernel, stride, dilation, padding in ((1, 1, 1, 0), (3, 2, 1, 1), (5, 3, 2, 4), (33, 2, 1, 16)):
        frames = np.arange(max(dilation * (kernel - 1) + 1 - 2 * padding, 1), 100)
        attrs = {"before": 2 * padding - dilation * (kernel - 1) - 1, "divisor": stride, "after": 1}
        layout: dict[str, Any] = {"strides": (stride,), "dilations": (dilation,), "groups": 1}
        layout["pads"] = ((padding, padding),)
        weight = np.ones((1, 1, kernel), dtype=np.int8)
        for n, found in zip(frames, INTEGER_OPERATORS["length_step"].define(f, frames, **attrs), strict=True):
            x = np.zeros((1, 1, n), dtype=np.uint8)
            assert f.conv(x, weight, zero_point=0, **layout).shape[2] == found
    return 0.0


MOVES = (
    *("time_mask", "mask_time", "mask_image", "take_channels", "transpose", "image", "flatten"),
    "length_step",
    "join",
)
# -- 16-bit operands --


def measure_wide_conv(op: str) -> float:
    worst = 0.0
    generator = np.random.default_rng(1)
    image = op == "conv2d"
    for bits, groups in ((8, 1), (7, 4), (4, 1)):
        for target in (byte(0.031, 100), word(0.004)):
            source = word(0.0173 / 200)
            ctx = OneNode(target, source, weight_bits=bits)
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
            ctx = OneNode(target, source, factor)
            found = ctx.lower_and_run("mul", ("a", "b"), {"a": a, "b": b})
            meant = ctx.sources.get("y", target)
            worst = max(worst, distance(found, real(a, source) * real(b, factor), meant))
    return worst


class _Recurrent(OneNode):
    """The lowering of a recurrence, whose cell is ``y:cell``."""

    cell = word(2.0**-12)

    def activation(self, node: FloatNode, known: Range | None = None) -> ValueInfo:
        return self.cell if node.out == "y:cell" else self.target

    def is_logits(self, name: str) -> bool:
        return False


def _recurrent(
    op: str, seed: int, ins: dict[str, tuple[np.ndarray, ValueInfo]], **attrs: Any
) -> tuple[np.ndarray, Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    """The integers of h, and a step in real arithmetic on the integers of the weights: of x, h and c."""
    generator = np.random.default_rng(seed)
    attrs |= {
        name: torch.from_numpy(generator.standard_normal(shape) * 0.4).float()
        for name, shape in (("weight", (20, 3)), ("recurrent", (20, 5)), ("bias", (20,)))
    }
    ctx = _Recurrent(byte(2 / 255, 128), *(info for _, info in ins.values()))
    ctx.cell = dataclasses.replace(ctx.cell, lo=-32767)
    lower = OPERATORS[op].lower
    assert lower is not None
    names = tuple("abc"[: len(ins)])
    lower(ctx, FloatNode(op, "y", names, attrs, "layer", others=("y:cell",)))
    _, operands, found = ctx.emitted
    known = [ctx.constants[name] for name in operands[len(ins) :]]
    arrays = [array for array, _ in ins.values()]
    made = INTEGER_OPERATORS[op].define(NumpyBackend(), *arrays, *known, **found)
    w, r, bias, m = (v.astype(np.float64) for v in known[:4])
    unit = m[:, None] / 2.0 ** (found["c"] + GATE_PLACES)

    def step(x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x [B, I, 1] as integers, h in steps of its format, c."""
        total = np.matmul(w[:, :, 0], x) + np.matmul(r[:, :, 0], h) + bias[:, None]
        i, keep, o, g = np.split(1 / (1 + np.exp(-total * unit)), 4, axis=1)
        c = keep * c + i * (2 * g - 1)
        return o * np.tanh(c), c

    return made[0], step


def measure_lstm_step() -> float:
    """One step, from states of every kind."""
    worst, hidden, cell = 0.0, byte(2 / 255, 128), word(2.0**-12)
    cell = dataclasses.replace(cell, lo=-32767)
    for seed in range(3):
        x, h = edge_bytes((40, 3, 1), seed, 100), edge_bytes((40, 5, 1), seed + 9, 128)
        c = edge_words((40, 5, 1), seed, -32767, 32767)
        ins = {"x": (x, byte(0.03, 100)), "h": (h, hidden), "c": (c, cell)}
        found, step = _recurrent("lstm_step", seed, ins)
        wanted, _ = step(x.astype(np.float64) - 100, h.astype(np.float64) - 128, c * cell.scale)
        worst = max(worst, distance(found, wanted, hidden))
    return worst


def measure_lstm() -> float:
    """40 frames, over which the rounding of hidden states comes back."""
    worst, hidden = 0.0, byte(2 / 255, 128)
    for seed in range(3):
        x = edge_bytes((4, 3, 40), seed, 100)
        found, step = _recurrent("lstm", seed, {"x": (x, byte(0.03, 100))}, backwards=False)
        h = c = np.zeros((4, 5, 1))
        for t in range(40):
            h, c = step(x[:, :, t : t + 1].astype(np.float64) - 100, h / hidden.scale, c)
            worst = max(worst, distance(found[:, :, t : t + 1], h, hidden))
    return worst


def measure_island() -> float:
    worst = 0.0
    for zx in (0, 100, 255):
        x = edge_bytes((2, 3, 200), zx, zx)
        attrs = island_form(zero_point=120, scale=0.0123)
        attrs |= {"scales": (0.031,), "zx": (zx,), "lengths": 0, "layers": (), "body": spelled("Sin")}
        found = INTEGER_OPERATORS["float_island"].define(NumpyBackend(), x, **attrs)
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
    "embedding": measure_embedding,
    **dict.fromkeys(MOVES, measure_moves),
    "float_island": measure_island,
    "conv_wide_requant": lambda: measure_wide_conv("conv1d"),
    "conv2d_wide_requant": lambda: measure_wide_conv("conv2d"),
    "mul_wide_requant": measure_wide_mul,
    "lstm": measure_lstm,
    "lstm_step": measure_lstm_step,
}
