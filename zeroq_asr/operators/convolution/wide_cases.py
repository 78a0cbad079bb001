"""Parity cases of convolutions of 16 bits: both of their bytes are convolved."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zeroq_asr.integer.types import weight_limit
from zeroq_asr.operators.cases import Arrays, Case, edge_words
from zeroq_asr.registry import Attrs

WORDS = (-32768, 32767)
WIDE: Attrs = {"zy": 0, "lo": WORDS[0], "hi": WORDS[1], "kind": "int32"}


def kernel_of(shape: tuple[int, ...], layout: Attrs) -> str:
    """What convolves both bytes."""
    if shape[1] == 1 < shape[0] == layout.get("groups"):
        return "Conv of two bytes"
    pointwise = shape[2:] == (1,) and not layout.keys() - {"groups"}
    return "MatMulIntegerToFloat of two bytes" if pointwise else "ConvInteger of two bytes"


def wide_case(
    name: str,
    shape: tuple[int, ...],
    *,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    c: int = 16,
    bits: int = 8,
    m: int | None = None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | int = 3000,
    source: tuple[int, int] = WORDS,
    frames: int = 1,
    frequencies: int = 9,
    spelled: str | None = None,
    seed: int = 0,
    **layout: int | tuple[int, int],
) -> Case:
    """A convolution with weights of ``shape`` [O, I/groups, K] or [O, I/groups, K, L], full of extremes."""
    generator = np.random.default_rng(seed)
    limit, image = weight_limit(bits), len(shape) == 4
    if weight is None:
        weight = generator.integers(-limit, limit + 1, shape)
        weight[0], weight[-1] = limit, -limit
    groups = layout.get("groups", 1)
    assert isinstance(groups, int)
    rows, channels = shape[0], shape[1] * groups
    fan_in = int(np.prod(shape[1:]))
    if m is None:
        m = max(1, int(2.0**c * max(hi - lo, 1) / (150 * limit * np.sqrt(fan_in))))
    biases = generator.integers(-bias, bias + 1, rows) if isinstance(bias, int) else bias
    attrs: Attrs
    if image:
        attrs = {"strides": (1, 1), "pads": (0, 0), "dilations": (1, 1), "groups": 1, **layout}
    else:
        attrs = {"stride": 1, "padding": (0, 0), "dilation": 1, "groups": 1, **layout}
    attrs |= {"c": c, "zy": zy, "lo": lo, "hi": hi, "type": kind, "saturate": True}
    inputs: list[Arrays] = []
    for batch, more in ((1, 0), (3, 6), (2, 1)):
        size = (batch, channels, frames + more, frequencies)[: 4 if image else 3]
        inputs.append({"x": edge_words(size, seed + more, *source)})
    inputs[1]["x"][0], inputs[1]["x"][1] = source
    return Case(
        "conv2d_wide_requant" if image else "conv_wide_requant",
        name,
        attrs,
        ("x", "w", "bias", "m"),
        inputs,
        {"w": weight.astype(np.int8), "bias": biases.astype(np.int32), "m": np.full(rows, m, np.int32)},
        spelled or kernel_of(shape, layout),
        {"x": source},
    )


def one_axis_cases() -> Iterator[Case]:
    """Convolutions over time of 16 bits."""
    yield wide_case("pointwise", (40, 24, 1), seed=1)
    yield wide_case("one-channel", (1, 1, 1))
    yield wide_case("k3", (8, 8, 3), padding=(1, 1), seed=2)
    yield wide_case("padding-beyond-kernel", (8, 8, 3), padding=(7, 5), seed=3)
    yield wide_case("padding-left-only", (5, 4, 5), padding=(4, 0), seed=4)
    yield wide_case("strided-dilated", (6, 4, 3), stride=2, dilation=3, frames=8, seed=5)
    yield wide_case("grouped", (12, 3, 3), groups=4, padding=(1, 1), seed=6)
    for taps in (1, 11, 33):
        half = taps // 2
        yield wide_case(f"depthwise-k{taps}", (17, 1, taps), groups=17, padding=(half, half), seed=taps)
    yield wide_case("depthwise-multiplier", (24, 1, 3), groups=8, padding=(1, 1), seed=7)
    yield wide_case("target-weights", (8, 8, 3), bits=7, padding=(1, 1), seed=8)
    yield wide_case("12-bits", (8, 40, 1), source=(-2048, 2047), m=4000, seed=9)
    yield wide_case("lopsided", (8, 8, 1), source=(0, 32767), seed=10)
    yield wide_case("4-bit-output", (8, 8, 1), hi=15, zy=4, seed=11)
    yield wide_case("relu", (8, 8, 3), lo=128, padding=(1, 1), seed=12)
    # every carry of a low byte, and its ties
    identity = np.eye(8)[:, :, None]
    yield wide_case("low-byte", (8, 8, 1), weight=identity, m=1, c=0, bias=np.arange(8) - 4, seed=13)
    yield wide_case("low-byte-half", (8, 8, 1), weight=-identity * 64, m=1, c=6, bias=np.zeros(8), seed=14)
    yield wide_case("ties", (8, 8, 1), weight=identity, m=1, c=1, bias=np.arange(8) - 4, seed=15)
    # the last sum a float32 carries: 255·64·1020 + 2^8 + |bias| ≤ 2^24
    full = np.where(np.arange(2)[:, None, None] % 2, -64, 64) * np.ones((2, 1020, 1))
    most = 2**24 - 2**8 - 255 * 64 * 1020
    yield wide_case("last-exact", full.shape, weight=full, m=3, bias=np.array([most, -most]))
    over = np.array([most + 1, 0])
    yield wide_case("first-inexact", full.shape, weight=full, m=3, bias=over, spelled="primitives")
    yield wide_case("large-k", (3, 4096, 1), m=1, spelled="primitives", seed=16)
    yield wide_case("signed-16", (8, 8, 3), **WIDE, c=9, padding=(1, 1), seed=17)
    yield wide_case(
        "signed-16-inexact", (8, 8, 3), **WIDE, c=10, m=100, spelled="primitives", frames=3, seed=18
    )
    yield wide_case("signed-16-last-bit", (8, 8, 1), **WIDE, c=9, m=1, seed=19)
    yield wide_case(
        "signed-16-low-byte", (8, 8, 1), **WIDE, weight=identity * 127, c=0, m=2, bias=np.arange(8)
    )
    yield wide_case("shift-18", (8, 8, 1), c=18, m=300, spelled="primitives", seed=20)


def two_axes_cases() -> Iterator[Case]:
    """Convolutions over time and frequency of 16 bits."""
    yield wide_case("k3", (6, 4, 3, 3), pads=(1, 1), seed=1)
    yield wide_case("strided", (5, 1, 3, 3), pads=(1, 1), strides=(2, 2), frames=3, seed=2)
    yield wide_case("depthwise", (6, 1, 3, 3), groups=6, pads=(1, 2), dilations=(1, 2), seed=3)
    yield wide_case("depthwise-bits", (6, 1, 3, 3), groups=6, pads=(1, 1), bits=7, seed=4)
    yield wide_case("uneven", (4, 3, 1, 5), pads=(0, 2), strides=(1, 3), seed=5)
    yield wide_case("signed-16", (6, 4, 3, 3), **WIDE, c=9, pads=(1, 1), seed=6)
    yield wide_case("inexact", (6, 4, 3, 3), **WIDE, c=11, m=100, pads=(1, 1), spelled="primitives", seed=7)
