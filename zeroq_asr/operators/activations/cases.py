"""Parity cases of tables and polynomials."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.operators.activations.functions import FUNCTIONS
from zeroq_asr.operators.activations.polynomial_fit import fitted
from zeroq_asr.operators.cases import Case, edge_bytes
from zeroq_asr.registry import Attrs


def table_cases() -> Iterator[Case]:
    """Tables of several shapes."""
    inputs = [
        {"x": np.arange(256, dtype=np.uint8).reshape(1, 16, 16)},
        {"x": edge_bytes((3, 5, 7), 1)},
        {"x": edge_bytes((2, 5, 1), 2)},
    ]
    entries = {
        "identity": np.arange(256),
        "reversed": np.arange(256)[::-1],
        "constant": np.full(256, 200),
        "random": np.random.default_rng(0).integers(0, 256, 256),
    }
    for name, values in entries.items():
        constants = {"t": np.ascontiguousarray(values, dtype=np.uint8)}
        yield Case("table", name, {"function": "sigmoid"}, ("x", "t"), inputs, constants)


KERNEL = "polynomial in exact floats"


def polynomial_case(
    name: str,
    *coefficients: int,
    zx: int = 128,
    reach: int = 100,
    symmetry: str = "odd",
    shift: int = 7,
    slope: int = 0,
    bias: int = 0,
    c: int = 14,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    function: str = "sigmoid",
    source: tuple[int, int] = (0, 255),
    spelled: str = KERNEL,
) -> Case:
    """A polynomial of bytes in ``source``."""
    inputs = [
        {"x": np.arange(256, dtype=np.uint8).clip(*source).reshape(1, 16, 16)},
        {"x": edge_bytes((3, 5, 7), 1, zx, source[1])},
        {"x": edge_bytes((2, 5, 1), 2, zx, source[1])},
    ]
    attrs = {"zx": zx, "reach": reach, "symmetry": symmetry, "coefficients": coefficients, "shift": shift}
    attrs |= {"slope": slope, "bias": bias, "c": c, "zy": zy, "lo": lo, "hi": hi, "type": kind}
    attrs |= {"function": function}
    return Case("polynomial_requant", name, attrs, ("x",), inputs, kernel=spelled, bounds={"x": source})


def lowered_case(function: str, reach: float, zx: int) -> Case:
    """What a lowering makes of a function whose input reaches to ±``reach`` around 128."""
    source = ValueInfo("uint8", reach / 128, zx, 0, 255)
    reals = [FUNCTIONS[function].of(source.scale * (q - zx)) for q in range(256)]
    lo, hi = min(0.0, *reals), max(0.0, *reals)
    scale = (hi - lo) / 255
    target = ValueInfo("uint8", scale, round(-lo / scale), 0, 255)
    attrs = fitted(source, target, function, FUNCTIONS[function].of, (0, 255))
    attrs["kind"] = attrs.pop("type")
    return polynomial_case(f"{function}-{reach}-{zx}", *attrs.pop("coefficients"), **attrs)


def polynomial_cases() -> Iterator[Case]:
    """Polynomials of every symmetry and degree."""
    for function in FUNCTIONS:
        for reach, zx in ((1.0, 128), (8.0, 100), (30.0, 250)):
            yield lowered_case(function, reach, zx)
    for symmetry in ("odd", "even", "none"):
        for zx in (0, 127, 255):
            given: Attrs = {"symmetry": symmetry, "zx": zx, "slope": 1500, "c": 12}
            yield polynomial_case(f"{symmetry}-{zx}", 1200, -5000, 9000, -3, **given)
        yield polynomial_case(f"{symmetry}-constant", 12345, symmetry=symmetry)
        yield polynomial_case(f"{symmetry}-negative-constant", -12345, symmetry=symmetry)
        yield polynomial_case(f"{symmetry}-nothing", 0, symmetry=symmetry, bias=77)
        yield polynomial_case(f"{symmetry}-no-reach", 3, 4, symmetry=symmetry, reach=0, slope=9000)
        yield polynomial_case(f"{symmetry}-one-step", 900, 3000, symmetry=symmetry, reach=1, shift=0)
    yield polynomial_case("line", 0, slope=20000, symmetry="even")
    yield polynomial_case("ties", 1, c=1, reach=255)
    yield polynomial_case("ties-odd-zero-point", 1, c=1, reach=255, zy=127)
    yield polynomial_case("ties-bias", 2, c=2, reach=255, bias=1, zy=3)
    yield polynomial_case("floors-of-negatives", -1, -1, -1, -1, c=4, reach=255, shift=8)
    yield polynomial_case("no-shift", 1, c=0, reach=255)
    yield polynomial_case("16-bits-of-shift", 60000, c=16, reach=128)
    yield polynomial_case("saturates", 30000, 30000, c=8)
    yield polynomial_case("relu", 30000, c=15, lo=128)
    yield polynomial_case("4-bits", 900, c=14, lo=0, hi=15, zy=7, source=(0, 15), zx=8, reach=7, shift=3)
    yield polynomial_case("signed-16", 9, 300, c=5, zy=0, lo=-32768, hi=32767, kind="int32")
    # 255·65536 + 32768 + 32768 = 2^24 is the last integer that a float32 carries with all before it
    last: Attrs = {"zx": 0, "reach": 255, "c": 16, "zy": 0, "slope": 0, "symmetry": "even"}
    yield polynomial_case("last-exact", 65536, bias=65536, **last)
    yield polynomial_case("first-inexact", 65536, bias=65537, spelled="primitives", **last)
    yield polynomial_case(
        "30-bits", 1 << 20, 1 << 21, 1 << 20, -(1 << 21), reach=255, shift=8, spelled="primitives"
    )
