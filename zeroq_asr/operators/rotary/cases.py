"""Parity cases of rotary positions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zeroq_asr.operators.cases import Arrays, Case, edge_bytes, edge_words
from zeroq_asr.registry import Attrs

FULL = 1 << 14
KERNEL = "rotation in exact floats"


def frame_table_cases() -> Iterator[Case]:
    """Tables whose rows are shared and signed."""
    longest = 70
    attrs: Attrs = {"rows": (0, 1, 2, 1, 0, 2, 2)}
    table = edge_words((3, longest), 0, -FULL, FULL).astype(np.int16)
    signs = np.array([1, -1, 1, 1, -1, -1, 1], np.int32)
    inputs = [{"like": edge_bytes((batch, 3, t), t)} for batch, t in ((1, 1), (2, 33), (3, longest))]
    order = ("like", "table", "signs")
    constants: Arrays = {"table": table, "signs": signs}
    yield Case("frame_table", "up-to-the-longest", attrs, order, inputs, constants)
    one: Arrays = {"table": table[:1, :1].copy(), "signs": signs[1:2].copy()}
    yield Case("frame_table", "one-frame-alone", {"rows": (0,)}, order, [{"like": inputs[0]["like"]}], one)


def rotate_case(
    name: str,
    channels: int = 6,
    *,
    pair: tuple[int, ...] | None = None,
    reach: int = FULL,
    zx: int = 128,
    m: int = 2048,
    c: int = 15,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    fill: dict[str, int] | None = None,
    kernel: str = KERNEL,
    seed: int = 0,
) -> Case:
    """``reach``: largest magnitude of a coefficient; ``fill``: operands that are one value all over."""
    half = channels // 2
    attrs: Attrs = {"pair": pair or (*range(half, channels), *range(half)), "zx": zx, "m": m, "c": c}
    attrs |= {"zy": zy, "lo": lo, "hi": hi, "type": kind}
    inputs: list[Arrays] = []
    for batch, frames in ((1, 1), (3, 40), (2, 9)):
        x = edge_bytes((batch, channels, frames), seed + frames, zx)
        a, b = (edge_words((1, channels, frames), seed + frames + k, -reach, reach) for k in (1, 2))
        one = {"x": x, "a": a, "b": b}
        for operand, value in (fill or {}).items():
            one[operand][...] = value
        inputs.append(one)
    bounds = {"a": (-reach, reach), "b": (-reach, reach)}
    return Case("rotate", name, attrs, ("x", "a", "b"), inputs, kernel=kernel, bounds=bounds)


def rotate_cases() -> Iterator[Case]:
    """Rotations of halves and of pairs, at the ends of what a float32 carries."""
    yield rotate_case("halves")
    yield rotate_case("pairs", pair=(1, 0, 3, 2, 5, 4), seed=1)
    yield rotate_case("some-alone", pair=(2, 1, 0, 3, 4, 5), seed=2)
    yield rotate_case("one-channel", 1, pair=(0,), seed=3)
    for zx, zy in ((0, 0), (255, 255), (1, 254), (77, 78)):
        yield rotate_case(f"zero-points-{zx}-{zy}", zx=zx, zy=zy, seed=zx)
    yield rotate_case("all-the-way-up", zx=0, fill={"x": 255, "a": FULL, "b": FULL}, m=1 << 14)
    yield rotate_case("all-the-way-down", zx=255, fill={"x": 0, "a": FULL, "b": FULL}, m=1 << 14)
    # products are whole and half multiples of a step
    yield rotate_case("ties", m=1, c=4, zy=3, reach=1 << 12, seed=4)
    yield rotate_case("halves-of-the-cut", m=1 << 11, reach=1 << 9, seed=5)
    yield rotate_case("no-shift", m=1, c=0, reach=1 << 10, seed=6)
    yield rotate_case("least-multiplier", m=1, seed=7)
    yield rotate_case("relu-range", lo=128, seed=8)
    yield rotate_case("output-4-bits", zy=7, hi=15, m=128, seed=9)
    yield rotate_case("far-coefficients", reach=(1 << 15) - 1, m=1024, seed=10)
    yield rotate_case("16-bits", zy=0, lo=-32768, hi=32767, kind="int32", m=1 << 13, c=8, seed=11)
    # beyond what a float32 carries
    yield rotate_case("beyond-floats", reach=1 << 16, m=200, kernel="primitives", seed=12)
    wide: Attrs = {"zy": 0, "lo": -32768, "hi": 32767, "kind": "int32"}
    yield rotate_case("16-bits-and-fine", **wide, m=1 << 13, c=12, kernel="primitives", seed=13)
