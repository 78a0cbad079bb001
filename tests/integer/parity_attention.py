"""Parity cases of what a layer of attention needs: normalization over channels, positions, attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .parity import Arrays, Case, cases, edge_bytes

#: bounds of 16 bits
WIDE = (-32768, 32767)


# -- layer_norm ----------------------------------------------------------------------------------


def halvings_of(channels: int) -> int:
    """The fewest halvings at which Σ g² has 24 bits, as a lowering chooses them."""
    return next(t for t in range(13) if channels * ((4096 >> t) + 1) ** 2 <= 1 << 24)


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
    source: tuple[int, int] = WIDE,
    zx: int = 0,
    epsilon: int = 0,
    halvings: int | None = None,
    m: np.ndarray | int | None = None,
    bias: np.ndarray | int | None = None,
    c: int = 8,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    spelled: str = "LayerNorm in exact floats",
    seed: int = 0,
) -> Case:
    generator = np.random.default_rng(seed)
    dtype = np.uint8 if source[0] >= 0 else np.int32
    columns = np.stack(frames_of(channels, *source, seed), axis=1).astype(dtype)
    reversed_frames = np.ascontiguousarray(columns[:, ::-1])
    random = generator.integers(source[0], source[1] + 1, (3, channels, 5)).astype(dtype)
    if m is None:
        m = generator.integers(-512, 513, channels)
    if bias is None:
        bias = generator.integers(-(1 << 14), 1 << 14, channels)
    constants = {
        "m": np.broadcast_to(np.asarray(m), (channels,)).astype(np.int32),
        "bias": np.broadcast_to(np.asarray(bias), (channels,)).astype(np.int32),
    }
    attrs = {
        "zx": zx,
        "channels": channels,
        "halvings": halvings_of(channels) if halvings is None else halvings,
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
    for channels in (1, 2, 3, 4, 15, 16, 17, 80, 176, 255, 256):
        yield norm_case(f"channels-{channels}", channels, epsilon=channels, seed=channels)
    for channels in (257, 512, 1024):
        # C·x is beyond what a float32 carries
        yield norm_case(f"channels-{channels}", channels, epsilon=9, spelled="primitives", seed=channels)
    narrow = (-8192, 8191)
    for channels in (512, 1024):
        yield norm_case(f"channels-{channels}-14-bits", channels, source=narrow, seed=channels)
    for zx in (0, 128, 255):
        yield norm_case(f"bytes-{zx}", 64, source=(0, 255), zx=zx, epsilon=1000, seed=zx)
    yield norm_case("bytes-1024-channels", 1024, source=(0, 255), zx=3)
    largest = (1 << 31) - 2
    for epsilon in (0, 1, 12345, largest):
        yield norm_case(f"epsilon-{epsilon}", 32, epsilon=epsilon, seed=1)
        yield norm_case(f"epsilon-{epsilon}-bytes", 32, source=(0, 255), epsilon=epsilon, seed=2)
    wide = {"lo": WIDE[0], "hi": WIDE[1], "zy": 0, "kind": "int32"}
    for channels in (1, 64, 192):
        yield norm_case(f"wide-{channels}", channels, **wide, c=0, epsilon=5, seed=channels)
        yield norm_case(f"wide-c9-{channels}", channels, **wide, c=9, m=512, seed=channels)
    yield norm_case("wide-beyond", 64, **wide, c=10, spelled="primitives")
    yield norm_case("c-16-8-bits", 64, c=16, spelled="LayerNorm in exact floats", zy=128)
    yield norm_case("c-17", 64, c=17, zy=0, lo=0, spelled="primitives")
    yield norm_case("multipliers-of-512", 48, m=512, bias=0, c=5)
    yield norm_case("multipliers-of-minus-512", 48, m=-512, bias=1 << 24, c=16)
    yield norm_case("multiplier-beyond-512", 48, m=np.arange(48) + 466, spelled="primitives")
    yield norm_case("bias-beyond-2^24", 48, bias=(1 << 24) + 1, spelled="primitives")
    yield norm_case("multipliers-of-zero", 48, m=0, bias=np.arange(48) * 97)
    yield norm_case("ties", 16, m=1, bias=0, c=1)
    yield norm_case("odd-zero-point", 16, m=3, bias=1, c=1, zy=77)
    yield norm_case("output-4-bits", 40, zy=7, hi=15, c=10)
    yield norm_case("relu-range", 40, lo=128, c=7)
    yield norm_case("more-halvings-than-needed", 16, halvings=5)
    yield norm_case("fewer-halvings-than-needed", 64, halvings=0, spelled="primitives")
    yield norm_case("most-halvings", 16, halvings=12)


# -- positions -----------------------------------------------------------------------------------


@cases("positions")
def _positions() -> Iterator[Case]:
    longest = 70
    table = np.random.default_rng(0).integers(0, 256, (6, 2 * longest)).astype(np.uint8)
    inputs = [{"like": edge_bytes((batch, 3, t), t)} for batch, t in ((1, 1), (2, 33), (3, longest))]
    yield Case("positions", "up-to-the-longest", {}, ("like", "table"), inputs, {"table": table})
    one = [{"like": edge_bytes((2, 1, 1), 0)}]
    yield Case("positions", "one-frame-alone", {}, ("like", "table"), one, {"table": table[:1, :2].copy()})


# -- attention -----------------------------------------------------------------------------------


def numerators(unit: float, shift: int, cap: int) -> Arrays:
    """Two bytes of exp(−unit·d) at d = i·2^shift, the last of which is 0, as a lowering makes them."""
    steps = np.arange((cap >> shift) + 1)
    exponential = np.rint(32767 * np.exp(-unit * 2.0**shift * steps)).astype(np.int32)
    exponential[-1] = 0
    return {"high": (exponential >> 8).astype(np.uint8), "low": (exponential & 255).astype(np.uint8)}


def attention_case(
    name: str,
    heads: int = 2,
    size: int = 4,
    *,
    position: bool = True,
    unit: float = 1e-5,
    shift: int = 10,
    cap: int | None = None,
    shapes: tuple[tuple[int, list[int]], ...] = ((1, [1]), (9, [9, 1, 4]), (70, [70, 33])),
    fill: dict[str, int] | None = None,
    zeros: tuple[int, int, int, int, int] = (128, 100, 120, 140, 90),
    up: int = 16,
    mp: int = 11,
    m: int = 300,
    c: int = 16,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    tables: Arrays | None = None,
    seed: int = 0,
) -> Case:
    """``fill``: operands that are one value all over, instead of random bytes full of extremes."""
    if cap is None:
        cap = int(np.ceil(np.log(65536.0) / unit))
    attrs: dict[str, Any] = {"heads": heads, "size": size, "up": up, "mp": mp, "cap": cap, "shift": shift}
    attrs |= dict(zip(("zq", "zk", "zv", "zp", "zr"), zeros, strict=True))
    attrs |= {"m": m, "c": c, "zy": zy, "lo": lo, "hi": hi, "type": kind}
    channels = heads * size
    inputs = []
    for place, (frames, lengths) in enumerate(shapes):
        batch = len(lengths)
        count = np.array(lengths, dtype=np.int64)
        one: Arrays = {
            "q": edge_bytes((batch, channels, frames), 10 * place + seed, zeros[0]),
            "k": edge_bytes((batch, channels, frames), 10 * place + seed + 1, zeros[1]),
            "v": edge_bytes((batch, channels, frames), 10 * place + seed + 2, zeros[2]),
            "mask": (np.arange(frames)[None, :] < count[:, None])[:, None, :],
            "lengths": count,
        }
        if position:
            one["p"] = edge_bytes((batch, channels, frames), 10 * place + seed + 3, zeros[3])
            one["r"] = edge_bytes((1, channels, 2 * frames), 10 * place + seed + 4, zeros[4])
        for operand, value in (fill or {}).items():
            one[operand][...] = value
        inputs.append(one)
    order = ("q", "k", "v", "mask", "lengths", "high", "low", *(("p", "r") if position else ()))
    constants = numerators(unit, shift, cap) if tables is None else tables
    return Case("attention", name, attrs, order, inputs, constants)


@cases("attention")
def _attention() -> Iterator[Case]:
    yield attention_case("positions")
    yield attention_case("no-positions", position=False)
    for heads, size in ((1, 1), (1, 8), (8, 1), (4, 44), (3, 17)):
        for position in (True, False):
            name = f"heads-{heads}-size-{size}-{'positions' if position else 'content'}"
            unit = 1e-5 / size
            yield attention_case(name, heads, size, position=position, unit=unit, shift=16, seed=heads)
    # every score equal: a mean over the valid frames
    yield attention_case("equal-scores", fill={"q": 128, "p": 140})
    # every frame far above or below: a hard choice
    yield attention_case("steep", unit=1.0, shift=0, seed=3)
    yield attention_case("flat", unit=1e-9, shift=20, cap=(1 << 29) - 1, seed=4)
    yield attention_case("largest-scores", fill={"q": 255, "k": 255}, zeros=(0, 0, 0, 0, 0), up=1000, mp=1)
    yield attention_case("smallest-scores", fill={"q": 255, "k": 0}, zeros=(0, 255, 255, 0, 255), up=1000)
    yield attention_case("values-at-their-ends", fill={"v": 255}, zeros=(1, 2, 0, 3, 4), zy=0, m=256)
    yield attention_case("values-of-zero", fill={"v": 0}, zeros=(1, 2, 255, 3, 4), zy=255, m=256)
    yield attention_case("identity", unit=1.0, shift=0, zeros=(128, 100, 0, 140, 90), zy=0, m=256)
    yield attention_case("no-units", up=1, mp=1, unit=1e-3, shift=4)
    yield attention_case(
        "one-step",
        tables={"high": np.array([0, 0], np.uint8), "low": np.array([1, 0], np.uint8)},
        cap=1 << 10,
    )
    yield attention_case("ties", m=1, c=9, zeros=(128, 128, 128, 128, 128), unit=1e-4, shift=8)
    yield attention_case("largest-multiplier", m=1 << 13, c=16, seed=5)
    yield attention_case("relu-range", lo=128, seed=6)
    yield attention_case("output-4-bits", zy=7, hi=15, m=16, seed=7)
    yield attention_case("odd-zero-point", zy=77, seed=8)
    wide = {"lo": -32768, "hi": 32767, "zy": 0, "kind": "int32"}
    yield attention_case("wide", **wide, m=4000, c=12, seed=9)
    yield attention_case("long", 1, 3, shapes=((257, [257]), (129, [1, 129, 128])), seed=10)
