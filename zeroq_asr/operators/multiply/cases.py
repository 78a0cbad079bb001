"""Parity cases of products: of two bytes, and of 16 bits and a byte."""

from __future__ import annotations

from collections.abc import Iterator

from zeroq_asr.operators.cases import Case, edge_bytes, edge_words, pairs
from zeroq_asr.registry import Attrs

WORDS = (-32768, 32767)
WIDE: Attrs = {"zy": 0, "lo": WORDS[0], "hi": WORDS[1], "kind": "int32"}


def mul_case(
    name: str,
    m: int,
    c: int,
    *,
    za: int = 128,
    zb: int = 0,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    spelled: str = "QLinearMul",
    same: bool = False,
) -> Case:
    """A product of two bytes, of every pair of them too."""
    inputs = [
        {"a": edge_bytes((2, 3, 17), 1, za), "b": edge_bytes((2, 3, 17), 2, zb)},
        {"a": edge_bytes((3, 5, 9), 3, za), "b": edge_bytes((3, 5, 1), 4, zb)},
        {"a": edge_bytes((1, 2, 1), 5, za), "b": edge_bytes((1, 2, 1), 6, zb)},
        pairs(),
    ]
    order = ("a", "a") if same else ("a", "b")
    inputs = [{n: one[n] for n in set(order)} for one in inputs]
    attrs = {"za": za, "zb": zb, "m": m, "c": c, "zy": zy, "lo": lo, "hi": hi, "type": kind}
    return Case("mul_requant", name, attrs, order, inputs, kernel=spelled)


def mul_cases() -> Iterator[Case]:
    """Products of two bytes."""
    yield mul_case("gate", 129, 15, zb=0)
    yield mul_case("largest-multiplier", 1 << 13, 15, za=0)
    yield mul_case("smallest-multiplier", 1, 15, zy=0)
    yield mul_case("zero-points-255", 300, 15, za=255, zb=255, zy=255)
    yield mul_case("both-signs", 300, 15, za=100, zb=200, zy=3)
    yield mul_case("ties", 1, 1)
    yield mul_case("ties-c8", 3, 8, za=127, zb=128)
    yield mul_case("ties-c15", 1 << 6, 15, za=1, zb=2)
    yield mul_case("no-shift", 1, 0)
    yield mul_case("saturating", 8191, 3)
    yield mul_case("4-bits", 40, 15, zy=4, hi=15)
    yield mul_case("relu", 100, 15, lo=128)
    yield mul_case("square", 200, 15, za=100, zb=100, same=True)
    yield mul_case("shift-16", 200, 16, spelled="primitives")
    yield mul_case("u8-range-as-int32", 200, 15, kind="int32", spelled="primitives")
    yield mul_case("signed-16", 5000, 13, lo=-32768, hi=32767, zy=0, kind="int32", spelled="primitives")


def product_case(
    name: str,
    m: int,
    c: int,
    *,
    zb: int = 0,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    source: tuple[int, int] = WORDS,
    spelled: str = "product of 16 bits in exact floats",
) -> Case:
    """A product of 16 bits in ``source`` and a byte."""
    shapes = (((2, 3, 17), (2, 3, 17)), ((3, 5, 9), (3, 5, 1)), ((1, 2, 1), (1, 1, 1)))
    inputs = [{"a": edge_words(a, 3 * m + c, *source), "b": edge_bytes(b, m + c, zb)} for a, b in shapes]
    attrs = {"zb": zb, "m": m, "c": c, "zy": zy, "lo": lo, "hi": hi, "type": kind}
    return Case("mul_wide_requant", name, attrs, ("a", "b"), inputs, {}, spelled, {"a": source})


def mul_wide_cases() -> Iterator[Case]:
    """Products of 16 bits and a byte."""
    yield product_case("gate", 512, 15)
    yield product_case("largest-multiplier", 1 << 13, 15, zy=0)
    yield product_case("smallest-multiplier", 1, 15)
    yield product_case("no-shift", 1, 0)
    yield product_case("ties", 1, 1)
    yield product_case("ties-c8", 3, 8, zb=127, zy=3)
    yield product_case("zero-points-255", 300, 15, zb=255, zy=255)
    yield product_case("relu", 500, 15, lo=128)
    yield product_case("4-bits", 30, 15, zy=4, hi=15)
    yield product_case("12-bits", 8000, 15, source=(-2048, 2047))
    yield product_case("signed-16", 300, 8, **WIDE)
    yield product_case("signed-16-last-bit", 511, 9, **WIDE, source=(-9000, 32767), spelled="primitives")
    yield product_case("signed-15", 511, 9, zy=0, lo=-16000, hi=16000, kind="int32")
    yield product_case("signed-16-ties", 1, 1, **WIDE)
    yield product_case("signed-16-saturates", 8000, 5, **WIDE)
    yield product_case("shift-16", 600, 16, spelled="primitives")
