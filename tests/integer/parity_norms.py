"""Parity cases of normalizations: over the channels of a frame, over the frames of an utterance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .parity import Arrays, Case, cases, edge_words, with_lengths

#: bounds of 16 bits
WIDE = (-32768, 32767)


# -- layer_norm ----------------------------------------------------------------------------------


def frames_of(channels: int, lo: int, hi: int, seed: int) -> list[np.ndarray]:
    """Columns [C] of every kind that normalization finds hard."""
    generator = np.random.default_rng(seed)
    middle = (lo + hi) // 2
    alternating = np.where(np.arange(channels) % 2, lo, hi)
    outlier = np.full(channels, middle)
    outlier[0] = hi
    low_outlier = np.full(channels, hi)
    low_outlier[-1] = lo
    nearly = np.full(channels, lo)
    nearly[channels // 2] = lo + 1
    return [
        np.zeros(channels) + middle,
        np.full(channels, lo),
        np.full(channels, hi),
        alternating,
        outlier,
        low_outlier,
        nearly,
        # a few units around one value
        middle + generator.integers(-2, 3, channels),
        generator.integers(lo, hi + 1, channels),
        generator.choice([lo, hi], channels),
        np.clip(np.rint(generator.standard_normal(channels) * (hi - lo) / 12 + middle), lo, hi),
        np.clip(np.rint(generator.standard_cauchy(channels) * (hi - lo) / 500 + middle), lo, hi),
    ]


def norm_case(
    name: str,
    channels: int,
    *,
    source: tuple[int, int] = (-32767, 32767),
    epsilon: int = 0,
    m: np.ndarray | int | None = None,
    bias: np.ndarray | int | None = None,
    c: int = 8,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    spelled: str = "layer norm in exact floats",
    seed: int = 0,
) -> Case:
    generator = np.random.default_rng(seed)
    dtype = np.uint8 if source[0] >= 0 else np.int32
    columns = np.stack(frames_of(channels, *source, seed), axis=1).astype(dtype)
    reversed_frames = np.ascontiguousarray(columns[:, ::-1])
    random = generator.integers(source[0], source[1] + 1, (3, channels, 5)).astype(dtype)
    if m is None:
        m = generator.integers(-1024, 1025, channels)
    if bias is None:
        bias = generator.integers(-(1 << 14), 1 << 14, channels)
    constants = {
        "m": np.broadcast_to(np.asarray(m), (channels,)).astype(np.int32),
        "bias": np.broadcast_to(np.asarray(bias), (channels,)).astype(np.int32),
    }
    attrs = {
        "channels": channels,
        "epsilon": epsilon,
        "c": c,
        "zy": zy,
        "lo": lo,
        "hi": hi,
        "type": kind,
    }
    inputs: list[Arrays] = [
        {"x": columns[None]},
        {"x": np.stack((columns, reversed_frames))},
        {"x": random},
        {"x": columns[None, :, 4:5].copy()},
    ]
    return Case("layer_norm", name, attrs, ("x", "m", "bias"), inputs, constants, spelled, {"x": source})


@cases("layer_norm")
def _layer_norm() -> Iterator[Case]:
    for channels in (1, 2, 3, 4, 15, 16, 17, 80, 176, 255, 256, 257, 512):
        yield norm_case(f"channels-{channels}", channels, epsilon=channels, seed=channels)
    for channels in (513, 768, 1024):
        # Σ|x| is beyond what a float32 carries
        yield norm_case(f"channels-{channels}", channels, epsilon=9, spelled="primitives", seed=channels)
        end = (1 << 24) // channels - 1
        yield norm_case(f"channels-{channels}-of-fewer-bits", channels, source=(-end, end), seed=channels)
    for source in ((0, 255), (3, 200)):
        yield norm_case(f"bytes-{source[1]}", 64, source=source, epsilon=1000, seed=source[1])
    yield norm_case("bytes-1024-channels", 1024, source=(0, 255))
    yield norm_case("far-from-zero", 64, source=(32000, 32767))
    yield norm_case("quiet", 64, source=(-3, 3))
    # 17 bits, and 7 places
    yield norm_case("widest", 16, source=(-65536, 65535))
    yield norm_case("too-wide", 16, source=(-65536, 65536), spelled="primitives")
    largest = (1 << 39) - 1
    for epsilon in (0, 1, 12345, (1 << 31) + 7, largest):
        yield norm_case(f"epsilon-{epsilon}", 32, epsilon=epsilon, seed=1)
        yield norm_case(f"epsilon-{epsilon}-bytes", 32, source=(0, 255), epsilon=epsilon, seed=2)
    wide = {"lo": WIDE[0], "hi": WIDE[1], "zy": 0, "kind": "int32"}
    for channels in (1, 64, 192):
        yield norm_case(f"wide-{channels}", channels, **wide, c=0, epsilon=5, seed=channels)
        yield norm_case(f"wide-c9-{channels}", channels, **wide, c=9, m=1024, seed=channels)
    yield norm_case("wide-beyond", 64, **wide, c=10, spelled="primitives")
    yield norm_case("c-16-8-bits", 64, c=16, zy=128)
    yield norm_case("c-17", 64, c=17, zy=0, lo=0, spelled="primitives")
    yield norm_case("no-bias", 48, bias=0, c=12)
    yield norm_case("multipliers-of-1024", 48, m=1024, bias=0, c=5)
    yield norm_case("multipliers-of-minus-1024", 48, m=-1024, bias=1 << 24, c=16)
    yield norm_case("multiplier-beyond-1024", 48, m=np.arange(48) + 978, spelled="primitives")
    yield norm_case("bias-beyond-2^24", 48, bias=(1 << 24) + 1, spelled="primitives")
    yield norm_case("multipliers-of-zero", 48, m=0, bias=np.arange(48) * 97)
    yield norm_case("ties", 16, m=1, bias=0, c=1)
    yield norm_case("odd-zero-point", 16, m=3, bias=1, c=1, zy=77)
    yield norm_case("output-4-bits", 40, zy=7, hi=15, c=10)
    yield norm_case("relu-range", 40, lo=128, c=7)


# -- instance_norm -------------------------------------------------------------------------------


def instance_case(
    name: str,
    *,
    source: tuple[int, int] = WIDE,
    zx: int = 0,
    epsilon: int = 0,
    m: np.ndarray | int | None = None,
    bias: np.ndarray | int | None = None,
    c: int = 10,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    seed: int = 0,
) -> Case:
    """Channels as long as an utterance, of every kind that normalization finds hard."""
    channels = len(frames_of(2, *source, seed))
    generator = np.random.default_rng(seed)
    inputs: list[Arrays] = []
    for place, one in enumerate(with_lengths(channels)):
        batch, _, frames = one["x"].shape
        rows = [frames_of(frames, *source, seed + place + b) for b in range(batch)]
        dtype = np.uint8 if source[0] >= 0 else np.int32
        inputs.append({**one, "x": np.stack([np.stack(row) for row in rows]).astype(dtype)})
    # what is masked may be anything
    inputs[1]["x"][1:, :, 39:] = edge_words((3, channels, 1), seed, *source).astype(inputs[1]["x"].dtype)
    if m is None:
        m = generator.integers(-8192, 8193, channels)
    if bias is None:
        bias = generator.integers(-(1 << 18), 1 << 18, channels)
    constants = {
        "m": np.broadcast_to(np.asarray(m), (channels,)).astype(np.int32),
        "bias": np.broadcast_to(np.asarray(bias), (channels,)).astype(np.int32),
    }
    attrs = {
        "zx": zx,
        "channels": channels,
        "epsilon": epsilon,
        "c": c,
        "zy": zy,
        "lo": lo,
        "hi": hi,
        "type": kind,
    }
    order = ("x", "mask", "lengths", "m", "bias")
    return Case("instance_norm", name, attrs, order, inputs, constants, bounds={"x": source})


@cases("instance_norm")
def _instance_norm() -> Iterator[Case]:
    largest = (1 << 39) - 1
    for epsilon in (0, 1, 12345, largest):
        yield instance_case(f"epsilon-{epsilon}", epsilon=epsilon, seed=1)
    for zx in (0, 128, 255):
        yield instance_case(f"bytes-{zx}", source=(0, 255), zx=zx, epsilon=1000, seed=zx)
    wide = {"lo": WIDE[0], "hi": WIDE[1], "zy": 0, "kind": "int32"}
    for c in (0, 4, 13):
        yield instance_case(f"wide-c{c}", **wide, c=c, m=8192 if c == 13 else 1 << c, seed=c)
    yield instance_case("multipliers-of-minus-8192", m=-8192, bias=1 << 29, c=16)
    yield instance_case("multipliers-of-zero", m=0, bias=np.arange(12) * 9700)
    yield instance_case("ties", m=1, bias=0, c=1)
    yield instance_case("odd-zero-point", m=3, bias=1, c=1, zy=77)
    yield instance_case("output-4-bits", zy=7, hi=15, c=13)
    yield instance_case("relu-range", lo=128, c=9)
