"""Parity cases of layer normalization."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zeroq_asr.operators.cases import WIDE, Arrays, Case, frames_of
from zeroq_asr.registry import Attrs


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
    """A layer norm over frames of every kind that normalization finds hard."""
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


def layer_norm_cases() -> Iterator[Case]:
    """Layer norms of many widths, of frames that are hard to normalize."""
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
    wide: Attrs = {"lo": WIDE[0], "hi": WIDE[1], "zy": 0, "kind": "int32"}
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
