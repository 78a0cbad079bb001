"""Random small programs, for properties that must hold of every program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zeroq_asr.integer.extents import Extent
from zeroq_asr.integer.program import Instruction, Program, ValueInfo, ctc_ports
from zeroq_asr.integer.types import weight_limit
from zeroq_asr.integer.wellformed import check
from zeroq_asr.operators.attention.cases import numerators
from zeroq_asr.registry import INTEGER_OPERATORS

MELS = 4
TOKENS = 3
MAX_FRAMES = 500


@dataclass
class _Writer:
    """A program as it grows; ``live`` lists (value, channels) that share one length."""

    generator: np.random.Generator
    code: list[Instruction] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, ValueInfo] = field(default_factory=dict)
    live: list[tuple[str, int]] = field(default_factory=list)
    #: as ``live``, of 16 bits
    words: list[tuple[str, int]] = field(default_factory=list)
    lengths: str = "length"
    mask: str = ""

    def emit(self, op: str, ins: tuple[str, ...], **attrs: Any) -> str:
        out = f"v{len(self.code)}"
        self.code.append(Instruction(op, out, ins, attrs, f"layer.{len(self.code)}"))
        moves = INTEGER_OPERATORS[op].moves
        if moves is not None:
            self.values[out] = self.values[ins[moves]]
            return out
        # a table may give any code for zero
        zero_point = self.whole(0, 255) if op == "table" else attrs.get("zy", attrs.get("zero_point", 0))
        bounds = attrs.get("lo", 0), attrs.get("hi", 255)
        self.values[out] = ValueInfo(attrs.get("type", "uint8"), 0.1, zero_point, *bounds)
        return out

    def zero(self, name: str) -> int:
        """The zero point of a value, as whatever reads it has to take it."""
        return self.values[name].zero_point

    def whole(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))

    def pick(self, channels: int | None = None) -> tuple[str, int]:
        fitting = [v for v in self.live if channels is None or v[1] == channels]
        return fitting[self.whole(0, len(fitting) - 1)]

    def output_format(self) -> dict[str, Any]:
        """Half of the time a whole byte, else fewer bits or a fused clamp."""
        if self.whole(0, 1):
            return {"zy": self.whole(0, 255), "lo": 0, "hi": 255, "type": "uint8"}
        lo = self.whole(0, 254)
        return {"zy": self.whole(0, 255), "lo": lo, "hi": self.whole(lo, 255), "type": "uint8"}

    def conv(self, source: tuple[str, int], out: int, wide: bool = False, **shape: Any) -> str:
        name, channels = source
        layout = {"stride": 1, "padding": (0, 0), "dilation": 1, "groups": 1, "kernel": 1, **shape}
        kernel, limit = layout.pop("kernel"), weight_limit(self.whole(2, 8))
        weight = self.generator.integers(-limit, limit + 1, (out, channels // layout["groups"], kernel))
        key = f"k{len(self.code)}"
        typical = 65536 / (limit * np.sqrt(weight[0].size) * (1 if wide else 30))
        m = np.maximum(self.generator.uniform(0.1, 4, out) * typical, 1)
        self.constants[f"{key}.w"] = weight.astype(np.int8)
        self.constants[f"{key}.b"] = self.generator.integers(-5000, 5001, out).astype(np.int32)
        self.constants[f"{key}.m"] = m.astype(np.int32)
        ins = (name, f"{key}.w", f"{key}.b", f"{key}.m")
        form = {"zy": 0, "lo": -32768, "hi": 32767, "type": "int32"} if wide else self.output_format()
        c = 12 if wide else self.whole(14, 16)
        return self.emit("conv_requant", ins, zx=self.zero(name), c=c, saturate=True, **layout, **form)

    def wide_format(self) -> dict[str, Any]:
        """16 bits, half of the time fewer."""
        end = 32767 if self.whole(0, 1) else self.whole(1, 32767)
        return {"zy": 0, "lo": -end, "hi": end, "type": "int32"}

    def keep(self, op: str, count: int, ins: tuple[str, ...], **attrs: Any) -> None:
        """Emit what gives bytes or 16 bits, and keep it among its like."""
        kept = self.words if attrs["type"] == "int32" else self.live
        kept.append((self.emit(op, ins, **attrs), count))

    def store(self, **arrays: np.ndarray) -> tuple[str, ...]:
        """Add constants of the next instruction; returns their names."""
        names = tuple(f"k{len(self.code)}.{name}" for name in arrays)
        self.constants.update(zip(names, arrays.values(), strict=True))
        return names

    def vectors(self, channels: int, largest: int) -> tuple[str, ...]:
        """Multipliers and biases of a normalization."""
        m = self.generator.integers(-largest, largest + 1, channels)
        bias = self.generator.integers(-(1 << 12), 1 << 12, channels)
        return self.store(m=m.astype(np.int32), b=bias.astype(np.int32))

    def form(self) -> dict[str, Any]:
        return self.wide_format() if self.whole(0, 1) else self.output_format()

    def front(self) -> None:
        """The features as an image, halved in time and in frequency, and flattened again."""
        image = self.emit("image", (self.live[0][0],))
        value, channels, width = image, 1, MELS
        for stride in ((2, 2), (1, 1)):
            out = self.whole(1, 3)
            weight = self.generator.integers(-63, 64, (out, channels, 3, 3)).astype(np.int8)
            bias = self.generator.integers(-5000, 5001, out).astype(np.int32)
            m = self.generator.integers(50, 400, out).astype(np.int32)
            ins = (value, *self.store(w=weight, b=bias, m=m))
            layout = {"strides": stride, "pads": (1, 1), "dilations": (1, 1), "groups": 1}
            attrs = {"zx": self.zero(value), "c": 16, "saturate": True, **layout, **self.output_format()}
            value, channels, width = (
                self.emit("conv2d_requant", ins, **attrs),
                out,
                (width - 1) // stride[0] + 1,
            )
            if stride == (2, 2):
                self.lengths = self.emit("length_step", (self.lengths,), before=-1, divisor=2, after=1)
                self.need_mask(value)
                value = self.emit("mask_image", (value, self.mask), zx=self.zero(value))
        flat = self.emit("flatten", (value,), channels=channels * width)
        self.live = [(flat, channels * width)]

    # -- one random step each ------------------------------------------------------------------

    def step_conv(self) -> None:
        source, out = self.pick(), self.whole(1, 5)
        half, dilation = self.whole(0, 2), self.whole(1, 3)
        kernel, left = 2 * half + 1, self.whole(0, 2 * half * dilation)
        shape = {"kernel": kernel, "dilation": dilation, "padding": (left, 2 * half * dilation - left)}
        if self.whole(0, 1):
            shape["groups"], out = source[1], source[1]
        self.live.append((self.conv(source, out, **shape), out))

    def step_stride(self) -> None:
        source, out, stride = self.pick(), self.whole(1, 5), self.whole(2, 3)
        value = self.conv(source, out, kernel=3, padding=(1, 1), stride=stride)
        self.lengths = self.emit("length_step", (self.lengths,), before=-1, divisor=stride, after=1)
        self.live, self.words, self.mask = [(value, out)], [], ""

    def step_add(self) -> None:
        first, channels = self.pick()
        ins = (first, *(self.pick(channels)[0] for _ in range(self.whole(0, 3))))
        m = tuple(self.whole(1, 9000) for _ in ins)
        zx = tuple(map(self.zero, ins))
        value = self.emit("add_requant", ins, zx=zx, m=m, c=self.whole(12, 14), **self.output_format())
        self.live.append((value, channels))

    def step_mul(self) -> None:
        a, channels = self.pick()
        b, _ = self.pick(channels)
        attrs = {"za": self.zero(a), "zb": self.zero(b), "m": self.whole(1, 600), "c": 15}
        self.live.append((self.emit("mul_requant", (a, b), **attrs, **self.output_format()), channels))

    def step_gate(self) -> None:
        x, channels = self.pick()
        self.need_mask(x)
        fraction = self.whole(0, 8)
        attrs = {"zx": self.zero(x), "fraction": fraction, "m": 1 << (16 - fraction), "c": 16}
        mean = self.emit("mean_requant", (x, self.mask, self.lengths), **attrs, **self.output_format())
        gate = self.table(self.conv((mean, channels), channels))
        attrs = {"za": self.zero(x), "zb": self.zero(gate), "m": 129, "c": 15}
        self.live.append((self.emit("mul_requant", (x, gate), **attrs, **self.output_format()), channels))

    def table(self, name: str) -> str:
        key = f"k{len(self.code)}.t"
        self.constants[key] = self.generator.integers(0, 256, 256).astype(np.uint8)
        return self.emit("table", (name, key), function="sigmoid")

    def step_table(self) -> None:
        name, channels = self.pick()
        self.live.append((self.table(name), channels))

    def step_polynomial(self) -> None:
        name, channels = self.pick()
        reach = self.whole(0, 255)
        coefficients = tuple(self.whole(-20000, 20000) for _ in range(self.whole(1, 4)))
        attrs = {"zx": self.zero(name), "reach": reach, "coefficients": coefficients}
        attrs |= {"symmetry": ("odd", "even", "none")[self.whole(0, 2)], "function": "silu"}
        attrs |= {"shift": self.whole(7, 8), "slope": self.whole(0, 1) * self.whole(0, 30000)}
        attrs |= {"bias": self.whole(-(1 << 20), 1 << 20), "c": self.whole(13, 16)}
        self.keep("polynomial_requant", channels, (name,), **attrs, **self.output_format())

    def step_mask(self) -> None:
        name, channels = self.pick()
        self.need_mask(name)
        value = self.emit("mask_time", (name, self.mask), zx=self.zero(name))
        self.live.append((value, channels))

    def step_take(self) -> None:
        name, channels = self.pick()
        index = tuple(self.whole(0, channels - 1) for _ in range(self.whole(1, 5)))
        self.live.append((self.emit("take_channels", (name,), index=index), len(index)))

    def step_widen(self) -> None:
        source, out = self.pick(), self.whole(1, 5)
        self.words.append((self.conv(source, out, wide=True), out))

    def step_add_wide(self) -> None:
        if not self.words:
            self.step_widen()
        first, channels = self.words[self.whole(0, len(self.words) - 1)]
        same = [name for name, count in (*self.words, *self.live) if count == channels]
        ins = (first, *(same[self.whole(0, len(same) - 1)] for _ in range(self.whole(0, 2))))
        c = self.whole(0, 1) * self.whole(1, 9)
        m = tuple(1 << c if self.whole(0, 1) else self.whole(1, 1 << c) for _ in ins)
        zx = tuple(map(self.zero, ins))
        self.keep("add_requant", channels, ins, zx=zx, m=m, c=c, **self.form())

    def step_layer_norm(self) -> None:
        kept = self.words if self.words and self.whole(0, 2) else self.live
        name, channels = kept[self.whole(0, len(kept) - 1)]
        attrs = {"channels": channels, "epsilon": self.whole(0, 1) * self.whole(0, 10**6)}
        attrs["c"] = self.whole(0, 9)
        self.keep("layer_norm", channels, (name, *self.vectors(channels, 512)), **attrs, **self.form())

    def step_instance_norm(self) -> None:
        kept = self.words if self.words and self.whole(0, 2) else self.live
        name, channels = kept[self.whole(0, len(kept) - 1)]
        self.need_mask(name)
        attrs = {
            "zx": self.zero(name),
            "channels": channels,
            "epsilon": self.whole(0, (1 << 39) - 1),
            "c": self.whole(0, 13),
        }
        ins = (name, self.mask, self.lengths, *self.vectors(channels, 8192))
        self.keep("instance_norm", channels, ins, **attrs, **self.form())

    def step_attention(self) -> None:
        heads, size = self.whole(1, 2), self.whole(1, 3)
        channels, source = heads * size, self.pick()
        query, key, value, place = (self.conv(source, channels) for _ in range(4))
        self.need_mask(query)
        cap = self.whole(1, 1 << self.whole(4, 24))
        shift = max(0, (cap >> 10).bit_length())
        tables = numerators(np.log(65536.0) / cap, shift, cap)
        position: tuple[str, ...] = ()
        if self.whole(0, 1):
            table = self.generator.integers(0, 256, (3, 2 * MAX_FRAMES)).astype(np.uint8)
            columns = self.emit("positions", (query, *self.store(t=table)))
            position = (place, self.conv((columns, 3), channels))
        ins = (query, key, value, self.mask, self.lengths, *self.store(**tables), *position)
        read = {"zq": query, "zk": key, "zv": value, **dict(zip(("zp", "zr"), position, strict=False))}
        attrs = {
            name: self.zero(read[name]) if name in read else 0 for name in ("zq", "zk", "zv", "zp", "zr")
        }
        attrs |= {"heads": heads, "size": size, "up": self.whole(1, 64), "mp": self.whole(1, 64)}
        attrs |= {"cap": cap, "shift": shift, "m": self.whole(1, 1000), "c": self.whole(12, 16)}
        self.live.append((self.emit("attention", ins, **attrs, **self.output_format()), channels))

    def step_rotate(self) -> None:
        x, channels = self.pick()
        pair = tuple(self.whole(0, channels - 1) for _ in range(channels))
        rows = tuple(self.whole(0, 1) for _ in range(channels))
        tables = []
        for _ in range(2):
            table = self.generator.integers(-(1 << 14), (1 << 14) + 1, (2, MAX_FRAMES)).astype(np.int16)
            signs = self.generator.choice(np.array([-1, 1], np.int32), channels)
            tables.append(self.emit("frame_table", (x, *self.store(t=table, s=signs)), rows=rows))
        attrs = {"pair": pair, "zx": self.zero(x), "m": self.whole(1, 4000), "c": 15}
        self.live.append((self.emit("rotate", (x, *tables), **attrs, **self.output_format()), channels))

    def need_mask(self, like: str) -> None:
        if not self.mask:
            self.mask = self.emit("time_mask", (like, self.lengths))


def random_program(seed: int, steps: int = 8) -> Program:
    """Return a program of ``steps`` random layers between a quantizer and wide logits."""
    w = _Writer(np.random.default_rng(seed))
    zero, hi = w.whole(0, 255), w.whole(100, 255)
    attrs = {"scale": 0.03125, "zero_point": zero, "lo": 0, "hi": hi, "type": "uint8"}
    w.live.append((w.emit("quantize_input", ("audio_signal",), **attrs), MELS))
    if w.whole(0, 2) == 0:
        w.front()
    options = [getattr(w, name) for name in dir(w) if name.startswith("step_")]
    for _ in range(steps):
        options[w.whole(0, len(options) - 1)]()
    logits = w.emit("transpose", (w.conv(w.live[-1], TOKENS, wide=True),), perm=(0, 2, 1))
    inputs, outputs = ctc_ports(
        MELS, TOKENS, features="audio_signal", lengths="length", logits=logits, encoded=w.lengths
    )
    return Program(inputs, outputs, w.code, w.constants, w.values, MAX_FRAMES)


def subsampling_of(program: Program) -> int:
    """How many frames of features give one of the logits."""
    frames = check(program).values[program.output("logits").value].dims[1]
    assert isinstance(frames, Extent)
    return frames.by


def random_features(seed: int, batch: int = 3, frames: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Features [B, M, T], one utterance of which is extreme, and unequal lengths that reach 1."""
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((batch, MELS, frames)).astype(np.float32) * np.float32(3)
    features[-1] = generator.choice(np.array([-100, 100], np.float32), (MELS, frames))
    lengths = generator.integers(1, frames + 1, batch)
    lengths[0] = frames
    return features, lengths
