"""Parity cases of convolutions over time and frequency, of bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zeroq_asr.integer.types import weight_limit
from zeroq_asr.operators.cases import Arrays, Case, edge_bytes
from zeroq_asr.operators.convolution.cases import at_the_bound
from zeroq_asr.registry import Attrs

Pair = tuple[int, int]


def conv2d_case(
    name: str,
    *,
    channels: int = 4,
    out: int = 6,
    kernel: Pair = (3, 3),
    strides: Pair = (1, 1),
    pads: Pair = (0, 0),
    dilations: Pair = (1, 1),
    groups: int = 1,
    frequencies: int | None = None,
    zx: int = 128,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    c: int = 16,
    bits: int = 7,
    m: int | None = None,
    weight: np.ndarray | None = None,
    saturate: bool = False,
    spelled: str | None = None,
    seed: int = 0,
) -> Case:
    """Random weights, if not given, with an output of only the largest and one of only the smallest."""
    generator = np.random.default_rng(seed)
    limit = weight_limit(bits)
    if weight is None:
        weight = generator.integers(-limit, limit + 1, (out, channels // groups, *kernel))
        weight[0], weight[-1] = limit, -limit
    typical = 2.0**c * (hi - lo) / (150 * limit * np.sqrt(weight[0].size))
    factors = np.maximum(generator.uniform(0.2, 2.0, out) * typical, 1) if m is None else np.full(out, m)
    bias = generator.integers(-100 * limit, 100 * limit + 1, out)
    least = [
        max(d * (k - 1) + 1 - 2 * p, 1) for k, d, p in zip(kernel, dilations, pads, strict=True)
    ]  # extents that leave one output
    width = frequencies or least[1] + 3 * strides[1]
    inputs: list[Arrays] = [
        {"x": edge_bytes((1, channels, least[0], width), seed, zx)},
        {"x": edge_bytes((3, channels, least[0] + 7, width), seed + 1, zx)},
        {"x": np.zeros((2, channels, least[0] + 2 * strides[0], width), dtype=np.uint8)},
    ]
    inputs[1]["x"][0] = 255
    attrs = {
        "zx": zx,
        "c": c,
        "zy": zy,
        "lo": lo,
        "hi": hi,
        "type": kind,
        "saturate": saturate,
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "groups": groups,
    }
    constants = {"w": weight.astype(np.int8), "bias": bias.astype(np.int32), "m": factors.astype(np.int32)}
    kernel_name = ("QLinearConv" if kind == "uint8" else "ConvInteger") if spelled is None else spelled
    return Case("conv2d_requant", name, attrs, ("x", "w", "bias", "m"), inputs, constants, kernel_name)


def conv2d_cases() -> Iterator[Case]:
    """Convolutions over time and frequency of bytes."""
    yield conv2d_case("plain", seed=1)
    yield conv2d_case("pointwise", kernel=(1, 1), channels=17, out=9, seed=2)
    yield conv2d_case("one-channel", channels=1, out=5, pads=(1, 1), seed=3)
    yield conv2d_case("subsampling", channels=1, out=8, strides=(2, 2), pads=(1, 1), frequencies=80, seed=4)
    first: Attrs = {"channels": 1, "out": 8, "strides": (2, 2), "pads": (1, 1)}
    yield conv2d_case("subsampling-odd", **first, frequencies=7, zx=3, seed=40)
    yield conv2d_case("subsampling-one-frequency", **first, frequencies=1, zx=255, seed=41)
    yield conv2d_case("subsampling-8-bits", **first, bits=8, frequencies=12, zx=0, lo=7, seed=42)
    weight = at_the_bound((8, 1, 3, 3), 1)
    yield conv2d_case("subsampling-neighbours", **first, bits=8, weight=weight, frequencies=10, seed=43)
    yield conv2d_case("strided-unequally", kernel=(5, 3), strides=(3, 2), pads=(2, 0), seed=5)
    yield conv2d_case("stride-beyond-kernel", kernel=(1, 2), strides=(2, 3), seed=6)
    yield conv2d_case("padded-beyond-kernel", kernel=(2, 2), pads=(4, 3), zx=200, seed=7)
    yield conv2d_case("dilated", kernel=(3, 2), dilations=(2, 3), pads=(2, 1), zx=3, seed=8)
    yield conv2d_case("grouped", channels=6, out=9, groups=3, pads=(1, 1), seed=9)
    yield conv2d_case(
        "grouped-strided-dilated", channels=4, groups=2, strides=(2, 2), dilations=(2, 1), seed=10
    )
    # a kernel as high as one frame and as wide as the image: a 1-D convolution in all but name
    yield conv2d_case("one-by-all", kernel=(1, 7), frequencies=7, seed=11)
    yield conv2d_case("all-by-one", kernel=(5, 1), pads=(2, 0), frequencies=1, seed=12)
    yield conv2d_case("depthwise", channels=8, out=8, groups=8, pads=(1, 1), seed=13)
    yield conv2d_case("depthwise-multiplier", channels=4, out=8, groups=4, pads=(1, 1), seed=14)
    # signed at full range, of which the kernel must keep every bit
    for count, kernel in ((2, (3, 3)), (16, (3, 3)), (17, (5, 1)), (33, (3, 5))):
        yield conv2d_case(
            f"depthwise-8-bit-{count}-{kernel[0]}x{kernel[1]}",
            channels=count,
            out=count,
            groups=count,
            kernel=kernel,
            strides=(2, 2) if count % 2 else (1, 1),
            pads=(kernel[0] // 2, kernel[1] // 2),
            bits=8,
            zx=255 if count % 3 else 0,
            seed=count,
        )
    yield conv2d_case("weight-8-bits", channels=32, bits=8, pads=(1, 1), seed=15)
    for inputs in (1, 3, 32):
        weight = at_the_bound((8, inputs, 3, 3), inputs)
        yield conv2d_case(
            f"neighbours-{inputs}", channels=inputs, out=8, bits=8, weight=weight, pads=(1, 1), seed=16
        )
    for zx in (0, 255):
        for zy in (0, 255):
            yield conv2d_case(f"zero-points-{zx}-{zy}", pads=(1, 1), zx=zx, zy=zy, seed=zx + zy)
    yield conv2d_case("ties", kernel=(1, 1), bits=2, m=1, c=1, seed=16)
    yield conv2d_case("relu-range", lo=128, seed=17)
    yield conv2d_case("output-4-bits", hi=15, zy=5, seed=18)
    yield conv2d_case("saturating", m=1 << 16, saturate=True, zy=7, seed=19)
    yield conv2d_case("multiplier-too-large", m=1 << 24, saturate=True, spelled="primitives", seed=20)
    wide: Attrs = {"lo": -32768, "hi": 32767, "zy": 0, "kind": "int32"}
    yield conv2d_case("signed-16", **wide, c=9, pads=(1, 1), seed=21)
    yield conv2d_case("signed-16-inexact", **wide, c=10, pads=(1, 1), spelled="primitives", seed=22)
