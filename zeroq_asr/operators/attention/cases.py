"""Parity cases of attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from zeroq_asr.operators.cases import Arrays, Case, edge_bytes
from zeroq_asr.registry import Attrs


def numerators(unit: float, shift: int, cap: int) -> Arrays:
    """Two parts of exp(−unit·d) at d = i·2^shift, the last of which is 0, as a lowering makes them."""
    steps = np.arange((cap >> shift) + 1)
    exponential = np.rint(32767 * np.exp(-unit * 2.0**shift * steps)).astype(np.int32)
    exponential[-1] = 0
    return {"high": (exponential >> 7).astype(np.uint8), "low": (exponential & 127).astype(np.uint8)}


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
    m: int = 225,
    c: int = 16,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    tables: Arrays | None = None,
    spelled: str = "attention in exact floats",
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
    return Case("attention", name, attrs, order, inputs, constants, spelled)


def attention_cases() -> Iterator[Case]:
    """Attentions with and without distances, at the ends of what float32 carries."""
    yield attention_case("positions")
    yield attention_case("no-positions", position=False)
    for heads, size in ((1, 1), (1, 8), (8, 1), (4, 44), (3, 17)):
        for position in (True, False):
            name = f"heads-{heads}-size-{size}-{'positions' if position else 'content'}"
            up = 8 if size < 44 else 3
            yield attention_case(name, heads, size, position=position, up=up, mp=5, seed=heads)
    # every score equal: a mean over the valid frames
    yield attention_case("equal-scores", fill={"q": 128, "p": 140})
    # every frame far above or below: a hard choice
    yield attention_case("steep", unit=1.0, shift=0, seed=3)
    yield attention_case("flat", unit=1e-9, shift=20, cap=(1 << 29) - 1, spelled="primitives", seed=4)
    yield attention_case("nearly-flat", unit=1e-9, shift=14, cap=(1 << 23) - 1, seed=4)
    yield attention_case("largest-scores", fill={"q": 255, "k": 255}, zeros=(0, 0, 0, 0, 0), up=63, mp=1)
    yield attention_case("smallest-scores", fill={"q": 255, "k": 0}, zeros=(0, 255, 255, 0, 255), up=50)
    yield attention_case("scores-beyond-2^24", up=1000, spelled="primitives")
    yield attention_case("integers", unit=1.0, shift=0, up=1, mp=1, cap=12, seed=11)
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
    yield attention_case("largest-multiplier", m=256, zeros=(128, 100, 0, 140, 90), zy=0, c=16, seed=5)
    yield attention_case("multiplier-beyond", m=1 << 13, c=16, spelled="primitives", seed=5)
    yield attention_case("relu-range", lo=128, seed=6)
    yield attention_case("output-4-bits", zy=7, hi=15, m=16, seed=7)
    yield attention_case("odd-zero-point", zy=77, seed=8)
    wide: Attrs = {"lo": -32768, "hi": 32767, "zy": 0, "kind": "int32"}
    yield attention_case("wide", **wide, m=4000, c=12, spelled="primitives", seed=9)
    yield attention_case("long", 1, 3, shapes=((257, [257]), (129, [1, 129, 128])), seed=10)
