"""Parity cases: for every operator a list of instructions with adversarial operands.

A case is one instruction, its constants, and one or more sets of inputs of different batch sizes
and lengths.  ``test_parity`` runs each through every interpreter and wants equal integers.
A new operator needs a function decorated with ``@cases("name")`` here, and nothing else.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zeroq_asr.integer.dyadic import largest_shift
from zeroq_asr.integer.pair_saturation import most, out_of_order, saturates
from zeroq_asr.integer.types import U8, weight_limit

Arrays = dict[str, np.ndarray]
#: longest sequence that the proofs of the cases assume
MAX_FRAMES = 1000


@dataclass(frozen=True)
class Case:
    """``out = op(*order, **attrs)``; ``order`` names constants and inputs."""

    op: str
    name: str
    attrs: dict[str, Any]
    order: tuple[str, ...]
    inputs: list[Arrays]
    constants: Arrays = field(default_factory=dict)
    #: the kernel that the fused dialect must use, or "primitives"
    kernel: str = "primitives"
    #: bounds of inputs that are not whole bytes
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Name in the test report."""
        return f"{self.op}-{self.name}"


CASES: dict[str, Callable[[], Iterator[Case]]] = {}


def cases(op: str) -> Callable[[Callable[[], Iterator[Case]]], Callable[[], Iterator[Case]]]:
    """Register the cases of an operator."""

    def register(function: Callable[[], Iterator[Case]]) -> Callable[[], Iterator[Case]]:
        CASES[op] = function
        return function

    return register


def all_cases() -> list[Case]:
    """Every case of every operator, of every module ``parity*``."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("parity"):
            importlib.import_module(f"{__package__}.{module.name}")
    return [case for op in CASES for case in CASES[op]()]


def edge_bytes(shape: tuple[int, ...], seed: int, zero: int = 0, hi: int = 255) -> np.ndarray:
    """Bytes up to ``hi`` of which half are extremes and neighbours of the zero point."""
    generator = np.random.default_rng(seed)
    edges = np.clip([0, 1, zero - 1, zero, zero + 1, hi - 1, hi], 0, hi)
    random = generator.integers(0, hi + 1, shape)
    return np.where(generator.random(shape) < 0.5, random, generator.choice(edges, shape)).astype(np.uint8)


def edge_words(shape: tuple[int, ...], seed: int, lo: int, hi: int) -> np.ndarray:
    """Integers of up to 16 bits of which half are extremes and neighbours of zero and of the ends."""
    generator = np.random.default_rng(seed)
    edges = np.clip([lo, lo + 1, -1, 0, 1, hi - 1, hi], lo, hi)
    random = generator.integers(lo, hi + 1, shape)
    return np.where(generator.random(shape) < 0.5, random, generator.choice(edges, shape)).astype(np.int32)


def sequences(channels: int, shortest: int, zero: int = 0, hi: int = 255, seed: int = 0) -> list[Arrays]:
    """Input sets x [B, C, T] of several batch sizes and lengths, with constant extremes among them."""
    odd = edge_bytes((3, channels, shortest + 6), seed + 1, zero, hi)
    odd[0], odd[1, :, ::2] = hi, 0
    return [
        {"x": edge_bytes((1, channels, shortest), seed, zero, hi)},
        {"x": odd},
        {"x": np.zeros((2, channels, shortest + 1), dtype=np.uint8)},
    ]


# -- conv_requant --------------------------------------------------------------------------------


def kernel_of(kind: str, reach: int, c: int, bias: np.ndarray, pointwise: bool) -> str:
    """The kernel of a convolution; a matrix product adds ``bias``, in steps of 2^-c, to what it scaled."""
    if kind == "uint8":
        return "QLinearConv"
    product = pointwise and (reach << c) + int(np.abs(bias).max()) <= 1 << 24
    return "MatMulIntegerToFloat" if product else "ConvInteger"


def at_the_bound(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """8-bit weights whose neighbours are as large as u8 × s8 kernels bear on every x86, of either sign."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(1, 128, (shape[0], int(np.prod(shape[1:]))))
    even = rows.shape[1] // 2 * 2
    rows[0], rows[-1] = 127, 64
    rows[:, 1:even:2] = most(U8.hi) - rows[:, 0:even:2]
    signs = generator.choice([-1, 1], (len(rows), -(-rows.shape[1] // 2))).repeat(2, axis=1)
    rows *= signs[:, : rows.shape[1]]
    # of different signs they may be of any magnitude
    rows[1] = np.where(np.arange(rows.shape[1]) % 2, -127, 127)
    weight = out_of_order(rows, shape)
    assert not saturates(weight, U8.hi)
    return weight


def conv_case(
    name: str,
    *,
    channels: int = 8,
    out: int = 8,
    kernel: int = 1,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
    groups: int = 1,
    zx: int = 128,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    c: int = 16,
    m: int | np.ndarray | None = None,
    bits: int = 7,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    saturate: bool | None = None,
    source: tuple[int, int] = (0, 255),
    spelled: str | None = None,
    seed: int = 0,
) -> Case:
    """Build a convolution case; what is not given is random, full of extremes, and mostly in range."""
    generator = np.random.default_rng(seed)
    limit = weight_limit(bits)
    shape = (out, channels // groups, kernel)
    if weight is None:
        weight = generator.integers(-limit, limit + 1, shape)
        # one output of only the largest and one of only the smallest weight
        weight[0], weight[-1] = limit, -limit
    fan_in = shape[1] * kernel
    if m is None:
        typical = 2.0**c * max(hi - lo, 1) / (150 * limit * np.sqrt(fan_in))
        m = np.maximum(generator.uniform(0.2, 2.0, out) * typical, 1).astype(np.int64)
    m = np.broadcast_to(np.asarray(m), (out,)).astype(np.int32)
    if bias is None:
        bias = generator.integers(-100 * limit, 100 * limit + 1, out)
    bias = np.asarray(bias, dtype=np.int32)
    if saturate is None:
        reach = np.abs(weight.astype(np.int64)).sum(axis=(1, 2)) * 255 + np.abs(bias.astype(np.int64))
        saturate = bool((reach * m).max() > 2**30)
    if saturate:
        assert largest_shift(lo, hi, zy, int(m.max())) >= c or c > 16, "the case has no headroom"
    shortest = max(dilation * (kernel - 1) + 1 - sum(padding), 1) + 2 * stride
    pointwise = kernel == stride == groups == 1 and not any(padding)
    return Case(
        "conv_requant",
        name,
        {
            "zx": zx,
            "c": c,
            "zy": zy,
            "lo": lo,
            "hi": hi,
            "type": kind,
            "saturate": saturate,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        },
        ("x", "w", "bias", "m"),
        sequences(channels, shortest, zx, source[1], seed),
        {"w": weight.astype(np.int8), "bias": bias, "m": m},
        kernel_of(kind, max(hi - zy, zy - lo), c, bias * m.astype(np.int64), pointwise)
        if spelled is None
        else spelled,
        {"x": source},
    )


@cases("conv_requant")
def _conv_requant() -> Iterator[Case]:
    yield conv_case("pointwise", channels=24, out=40, seed=1)
    yield conv_case("one-channel", channels=1, out=1)
    yield conv_case("full-k3", kernel=3, padding=(1, 1), seed=2)
    yield conv_case("full-k4-even", kernel=4, padding=(2, 1), seed=3)
    yield conv_case("depthwise-k1", kernel=1, groups=8, seed=4)
    yield conv_case("depthwise-k11", channels=17, out=17, kernel=11, padding=(5, 5), groups=17, seed=5)
    yield conv_case("depthwise-k33-strided", kernel=33, padding=(16, 16), stride=2, groups=8, seed=6)
    yield conv_case("depthwise-dilated", kernel=7, padding=(6, 6), dilation=2, groups=8, seed=7)
    yield conv_case("depthwise-multiplier", channels=8, out=24, kernel=3, padding=(1, 1), groups=8, seed=8)
    # signed at full range, of which each kernel must keep every bit
    for count, taps in ((2, 3), (8, 1), (16, 5), (33, 25), (40, 75), (64, 9)):
        yield conv_case(
            f"depthwise-8-bit-{count}-{taps}",
            channels=count,
            out=count,
            kernel=taps,
            padding=(taps // 2, taps // 2),
            groups=count,
            bits=8,
            zx=255 if count % 3 else 0,
            seed=count,
        )
    yield conv_case("grouped", channels=12, out=18, kernel=3, padding=(1, 1), groups=3, seed=9)
    yield conv_case("grouped-strided-dilated", channels=12, out=6, kernel=3, stride=3, dilation=4, groups=2)
    yield conv_case("strided", kernel=5, stride=2, padding=(2, 2), seed=10)
    yield conv_case("stride-beyond-kernel", kernel=2, stride=3, seed=11)
    yield conv_case("padding-left-only", kernel=5, padding=(4, 0), zx=200, seed=12)
    yield conv_case("padding-right-only", kernel=5, padding=(0, 4), zx=3, seed=13)
    yield conv_case("padding-beyond-kernel", kernel=3, padding=(7, 5), zx=77, seed=14)
    yield conv_case("large-k", channels=512, out=5, kernel=8, padding=(3, 4), seed=15)
    yield conv_case("large-k-pointwise", channels=4096, out=3, seed=16)
    for zx in (0, 128, 255):
        for zy in (0, 128, 255):
            yield conv_case(f"zero-points-{zx}-{zy}", kernel=3, padding=(1, 1), zx=zx, zy=zy, seed=zx + zy)
    for m in (1, 8, 255, 4095):
        yield conv_case(f"multiplier-{m}", m=m, kernel=3, padding=(2, 0), seed=m)
    yield conv_case("multipliers-mixed", m=np.array([1, 2, 3, 8, 255, 4095, 65535, 1 << 20]), seed=17)
    yield conv_case("multiplier-largest", m=(1 << 24) - 1, saturate=True, zy=7)
    yield conv_case("multiplier-too-large", m=1 << 24, saturate=True, spelled="primitives")
    identity = np.eye(8)[:, :, None]
    for zx, zy in ((0, 0), (128, 128), (127, 5), (255, 250)):
        # (x − zx)/2 lies on a tie for every odd difference, of either sign
        yield conv_case(
            f"ties-halves-{zx}-{zy}", weight=identity, m=1, c=1, zx=zx, zy=zy, bias=np.arange(8) - 4
        )
        yield conv_case(
            f"ties-c16-{zx}-{zy}", weight=identity, m=1 << 15, zx=zx, zy=zy, bias=np.arange(8) - 4
        )
    signs = np.where(np.arange(8) % 2, 1, -1)[:, None, None] * identity
    yield conv_case("ties-quarters", weight=2 * signs, m=1, c=2, bias=np.zeros(8))
    yield conv_case("ties-3-over-2", weight=signs, m=3, c=1, bias=np.zeros(8))
    yield conv_case("next-to-ties", weight=signs, m=(1 << 15) - 1, bias=np.zeros(8), zx=100)
    yield conv_case("next-to-ties-above", weight=signs, m=(1 << 15) + 1, bias=np.zeros(8), zx=100)
    yield conv_case("no-shift", weight=identity, m=1, c=0, bias=np.zeros(8))
    yield conv_case("shift-1", kernel=3, c=1, m=1, bits=2)
    yield conv_case("shift-17", c=17, seed=18)
    yield conv_case("shift-17-inexact", c=17, zy=126, spelled="primitives", seed=18)
    yield conv_case("shift-18", c=18, spelled="primitives", seed=18)
    full = np.where(np.arange(8)[:, None, None] % 2, -63, 63) * np.ones((8, 64, 1))
    for sign, zx in ((1, 0), (-1, 255)):
        yield conv_case(f"saturates-{zx}", channels=64, weight=sign * full, zx=zx, m=3000, bias=np.zeros(8))
    yield conv_case("saturate-needlessly", saturate=True, kernel=3, seed=19)
    huge = np.array([2**29, -(2**29), 2**24, -(2**24), 2**24 + 1, -(2**24) - 1, 2**24 - 1, 1 - 2**24])
    yield conv_case("bias-beyond-float32", bias=huge, m=1, saturate=True, seed=20)
    yield conv_case("bias-alone", weight=np.zeros((8, 8, 1)), m=1, bias=np.arange(8) * 2**20 - 2**22)
    for bits in range(2, 9):
        hi = 2**bits - 1
        yield conv_case(f"output-{bits}-bits", hi=hi, zy=hi // 3, kernel=3, padding=(1, 1), seed=bits)
        yield conv_case(
            f"input-{bits}-bits", source=(0, hi), zx=hi // 2, kernel=3, padding=(1, 1), seed=20 + bits
        )
    for bits in range(2, 8):
        yield conv_case(f"weight-{bits}-bits", bits=bits, kernel=3, padding=(1, 1), seed=30 + bits)
    yield conv_case("weight-8-bits", bits=8, channels=32, kernel=3, padding=(1, 1), seed=38)
    for name, shape, layout in (
        ("pointwise", (9, 64, 1), {}),
        ("odd-channels", (9, 65, 1), {}),
        ("odd-channels-k3", (9, 7, 3), {"kernel": 3, "padding": (1, 1)}),
        ("k3-strided", (9, 64, 3), {"kernel": 3, "stride": 2, "padding": (1, 1)}),
        ("one-channel", (9, 1, 5), {"kernel": 5, "padding": (2, 2)}),
        ("grouped", (9, 5, 3), {"channels": 15, "kernel": 3, "padding": (1, 1), "groups": 3}),
        ("large", (5, 1025, 1), {}),
        ("depthwise", (9, 1, 5), {"channels": 9, "kernel": 5, "padding": (2, 2), "groups": 9}),
    ):
        weight, layout = at_the_bound(shape, 60), {"channels": shape[1], "out": shape[0], **layout}
        yield conv_case(f"neighbours-{name}", weight=weight, bits=8, **layout, seed=60)
        if name in ("pointwise", "odd-channels", "k3-strided"):
            wide = {"lo": -(2**15), "hi": 2**15 - 1, "zy": 0, "kind": "int32", "c": 9}
            yield conv_case(f"neighbours-{name}-16", weight=weight, bits=8, **layout, **wide, seed=61)
    yield conv_case("relu-range", lo=128, hi=255, seed=40)
    yield conv_case("narrow-range", lo=100, hi=101, zy=100, seed=41)
    yield conv_case("range-beside-zero-point", lo=200, hi=250, zy=10, seed=42)
    yield conv_case("one-value-range", lo=9, hi=9, zy=9, seed=43)
    wide = {"lo": -32768, "hi": 32767, "zy": 0, "kind": "int32"}
    # ConvInteger, and a float32 carries 24 bits behind it: 2^15 << 9 = 2^24 are the last that are exact
    yield conv_case("signed-16", **wide, c=9, kernel=3, padding=(1, 1), seed=44)
    yield conv_case(
        "signed-16-inexact", **wide, c=10, kernel=3, padding=(1, 1), spelled="primitives", seed=44
    )
    yield conv_case("signed-16-saturates", **wide, c=9, m=40000, seed=45)
    yield conv_case("signed-16-saturates-inexactly", **wide, c=13, m=40000, spelled="primitives", seed=45)
    yield conv_case("signed-16-ties", **wide, weight=identity, m=1, c=1, bias=np.arange(8) - 4, seed=46)
    # a step of 2^-9 for every integer accumulator, so that the last bit counts
    yield conv_case("signed-16-last-bit", **wide, c=9, m=1, bits=8, channels=300, seed=51)
    yield conv_case("signed-16-no-shift", **wide, weight=identity, m=1, c=0, bias=np.arange(8))
    yield conv_case("signed-16-strided", **wide, c=9, kernel=5, stride=2, padding=(2, 2), seed=49)
    yield conv_case("signed-16-grouped", **wide, c=8, kernel=3, groups=2, padding=(0, 2), zx=255, seed=50)
    yield conv_case("signed-16-bias", **wide, c=9, m=3, bias=np.arange(8) * 2**21 - 2**23, seed=52)
    for bits in (7, 8):
        yield conv_case(
            f"signed-16-depthwise-{bits}-bits",
            **wide,
            c=9,
            channels=17,
            out=17,
            kernel=11,
            groups=17,
            padding=(5, 5),
            bits=bits,
            zx=255,
            seed=bits,
        )
    yield conv_case("signed-15-zero-point", lo=-9000, hi=9000, zy=77, kind="int32", c=10, seed=53)
    yield conv_case("signed-9", lo=-256, hi=255, zy=0, kind="int32", c=16, seed=47)
    yield conv_case(
        "signed-9-inexact", lo=-257, hi=255, zy=0, kind="int32", c=16, spelled="primitives", seed=47
    )
    yield conv_case("u8-range-as-int32", kind="int32", seed=48)
    for seed, taps in ((54, 1), (55, 3)):
        yield conv_case(f"signed-16-room-for-the-bias-{taps}", **wide, c=8, kernel=taps, seed=seed)


# -- elementwise ---------------------------------------------------------------------------------


def pairs(copies: int = 1) -> Arrays:
    """Every pair of bytes once, a and b [1, 256, 256]."""
    a, b = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    return {"a": a[None].astype(np.uint8), "b": b[None].astype(np.uint8)}


#: what additions that are not of two bytes are called
SUM = "sum in exact floats"


def add_case(
    name: str,
    m: tuple[int, ...],
    *,
    c: int = 13,
    zx: tuple[int, ...] | None = None,
    zy: int = 128,
    lo: int = 0,
    hi: int = 255,
    kind: str = "uint8",
    spelled: str | None = None,
    names: tuple[str, ...] | None = None,
    bounds: dict[str, tuple[int, int]] | None = None,
) -> Case:
    """``bounds``: operands that are no whole bytes; below 0 or above 255, int32."""
    zx = zx or (128, 0, 255, 17, 200)[: len(m)]
    names = names or tuple("abcde"[: len(m)])
    distinct = sorted(set(names))
    bounds = bounds or {}

    def operand(name: str, shape: tuple[int, ...], seed: int, zero: int) -> np.ndarray:
        low, high = bounds.get(name, (0, 255))
        if low >= 0 and high <= 255:
            return np.maximum(edge_bytes(shape, seed, zero, high), np.uint8(low))
        return edge_words(shape, seed, low, high)

    inputs = [
        {n: operand(n, shape, i + 10 * len(m), zx[i]) for i, n in enumerate(distinct)}
        for shape in ((1, 3, 5), (2, 4, 33), (3, 1, 1))
    ]
    if distinct == ["a", "b"] and not bounds:
        inputs.append(pairs())
    attrs = {"zx": zx, "m": m, "c": c, "zy": zy, "lo": lo, "hi": hi, "type": kind}
    if spelled is None:
        spelled = "QLinearAdd" if len(m) == 2 else SUM
    return Case("add_requant", name, attrs, names, inputs, kernel=spelled, bounds=bounds)


def wide_additions() -> Iterator[Case]:
    """Sums of 16-bit values, which a float32 carries up to 2^24 units of 2^-c."""
    words = (-32768, 32767)
    wide: dict[str, Any] = {"zy": 0, "lo": words[0], "hi": words[1], "kind": "int32"}
    both = {"a": words, "b": words}
    for name, m, c in (("equal-scales", (1, 1), 0), ("unequal-scales", (129, 250), 7)):
        yield add_case(f"wide-{name}", m, c=c, zx=(0, 0), bounds=both, spelled=SUM, **wide)
    # Σ 32768·m + 32768·2^c = 2^24 is the last sum that is exact
    yield add_case("wide-last-exact", (200, 184), c=7, zx=(0, 0), bounds=both, spelled=SUM, **wide)
    yield add_case(
        "wide-first-inexact", (200, 185), c=7, zx=(0, 0), bounds=both, spelled="primitives", **wide
    )
    yield add_case("wide-ties", (1, 1), c=1, zx=(0, 0), bounds=both, spelled=SUM, **wide)
    yield add_case("wide-ties-odd", (3, 1), c=2, zx=(0, 0), bounds=both, spelled=SUM, **wide)
    yield add_case(
        "wide-same-twice",
        (77, 5),
        c=6,
        zx=(0, 0),
        names=("a", "a"),
        bounds={"a": words},
        spelled=SUM,
        **wide,
    )
    yield add_case("wide-one", (177,), c=8, zx=(0,), bounds={"a": words}, spelled=SUM, **wide)
    yield add_case(
        "wide-three",
        (50, 60, 70),
        c=6,
        zx=(0, 0, 0),
        bounds={**both, "c": (-9000, 9000)},
        spelled=SUM,
        **wide,
    )
    yield add_case(
        "wide-narrow-range",
        (1, 1),
        c=0,
        zx=(0, 0),
        zy=0,
        lo=-100,
        hi=99,
        kind="int32",
        bounds=both,
        spelled=SUM,
    )
    yield add_case(
        "wide-zero-points",
        (10, 11),
        c=4,
        zx=(7, 255),
        zy=99,
        lo=-32768,
        hi=32767,
        kind="int32",
        bounds=both,
        spelled=SUM,
    )
    for z in (0, 128, 255):
        mixed = {"a": words}
        yield add_case(f"byte-and-wide-{z}", (1, 60), c=0, zx=(0, z), bounds=mixed, spelled=SUM, **wide)
        yield add_case(
            f"byte-and-wide-shifted-{z}", (90, 7001), c=6, zx=(0, z), bounds=mixed, spelled=SUM, **wide
        )
        yield add_case(f"wide-to-bytes-{z}", (37, 41), c=8, zx=(0, 0), zy=z, bounds=both, spelled=SUM)
        yield add_case(
            f"wide-and-byte-to-byte-{z}",
            (1, 200),
            c=8,
            zx=(0, z),
            zy=z,
            bounds=mixed,
            spelled=SUM,
        )
    yield add_case("wide-to-4-bits", (1,), c=11, zx=(0,), zy=7, hi=15, bounds={"a": words}, spelled=SUM)
    # (x − z)·m stays below 2^24 where x·m does not, and a tie is missed
    for name, m, spelled in (("exact", 65281, SUM), ("inexact", 129969, "primitives")):
        yield add_case(
            f"products-of-large-bytes-{name}",
            (m,),
            c=8,
            zx=(200,),
            zy=0,
            lo=-32768,
            hi=32767,
            kind="int32",
            bounds={"a": (150, 255)},
            spelled=spelled,
        )


@cases("add_requant")
def _add_requant() -> Iterator[Case]:
    yield add_case("one", (5000,))
    yield add_case("one-identity", (1 << 13,), zx=(7,), zy=7)
    yield add_case("one-ties", (1,), c=1, zx=(128,))
    yield add_case("one-relu", (9000,), lo=128, zx=(100,))
    yield add_case("two", (8000, 7001))
    yield add_case("two-largest-exact", (1 << 13, (1 << 16) + 256 + 1 - (1 << 14)), zx=(0, 255))
    yield add_case("two-c14", (1 << 14, 1 << 14), c=14, zx=(255, 0), zy=255)
    yield add_case("two-ties", (1, 1), c=1, zx=(128, 128))
    yield add_case("two-ties-odd", (3, 1), c=2, zx=(5, 250), zy=3)
    yield add_case("two-tiny", (1, 1), zy=0)
    yield add_case("two-tiny-and-large", (1, 1 << 14), zx=(255, 255), zy=200)
    yield add_case("two-no-shift", (1, 1), c=0)
    yield add_case("two-saturating", (60000, 3), c=5, spelled="QLinearAdd")
    yield add_case("two-4-bits", (3000, 5000), zy=4, hi=15)
    yield add_case("two-relu-6", (3000, 5000), zy=0, hi=100)
    yield add_case("same-twice", (3001, 5000), names=("a", "a"))
    yield add_case("beyond-2^24", (1 << 15, 1 << 15), c=15, spelled="primitives")
    yield add_case("just-beyond-2^24", (30000, 65793 - 8192 - 30000 + 1), spelled="primitives")
    yield add_case("signed-16", (3000, 70000), zy=0, lo=-32768, hi=32767, kind="int32", spelled="primitives")
    yield add_case("u8-range-as-int32", (3000, 7000), kind="int32", spelled=SUM)
    yield from wide_additions()
    yield add_case("three", (8000, 7001, 4096))
    yield add_case("three-ties", (1, 1, 2), c=2, zx=(128, 128, 0))
    yield add_case("three-same", (100, 7001, 4096), names=("a", "b", "a"))
    yield add_case("five", (1, 8192, 3000, 12345, 6789))
    yield add_case("five-beyond", (1, 8192, 30000, 12345, 20000), spelled="primitives")


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


@cases("mul_requant")
def _mul_requant() -> Iterator[Case]:
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


@cases("table")
def _table() -> Iterator[Case]:
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


# -- time ----------------------------------------------------------------------------------------


def with_lengths(channels: int = 3, zero: int = 0) -> list[Arrays]:
    """Sequences of unequal lengths, among them 1, all frames, and more frames than there are."""
    shapes = [((1, channels, 1), [1]), ((4, channels, 40), [40, 1, 23, 39]), ((2, channels, 7), [900, 3])]
    sets = []
    for seed, (shape, lengths) in enumerate(shapes):
        count = np.array(lengths, dtype=np.int64)
        mask = (np.arange(shape[2])[None, :] < count[:, None])[:, None, :]
        sets.append({"x": edge_bytes(shape, seed, zero), "mask": mask, "lengths": count})
    sets[1]["x"][0], sets[1]["x"][1] = 255, 0
    return sets


@cases("mean_requant")
def _mean_requant() -> Iterator[Case]:
    options: dict[str, dict[str, Any]] = {
        "plain": {"zx": 0, "fraction": 8, "m": 256, "c": 16, "zy": 0},
        "zero-points": {"zx": 128, "fraction": 8, "m": 300, "c": 16, "zy": 100},
        "zero-point-255": {"zx": 255, "fraction": 8, "m": 200, "c": 16, "zy": 255},
        "ties": {"zx": 128, "fraction": 0, "m": 1, "c": 1, "zy": 128},
        "ties-of-the-mean": {"zx": 10, "fraction": 1, "m": 1, "c": 2, "zy": 10},
        "no-fraction": {"zx": 5, "fraction": 0, "m": 1 << 16, "c": 16, "zy": 5},
        "largest-multiplier": {"zx": 0, "fraction": 8, "m": 1 << 13, "c": 16, "zy": 0},
        "4-bits": {"zx": 9, "fraction": 8, "m": 16, "c": 16, "zy": 3, "hi": 15},
        "relu": {"zx": 128, "fraction": 8, "m": 500, "c": 16, "zy": 128, "lo": 128},
        "signed-16": {
            "zx": 128,
            "fraction": 8,
            "m": 4000,
            "c": 12,
            "zy": 0,
            "lo": -32768,
            "hi": 32767,
            "type": "int32",
        },
    }
    for name, given in options.items():
        attrs = {"lo": 0, "hi": 255, "type": "uint8", **given}
        yield Case("mean_requant", name, attrs, ("x", "mask", "lengths"), with_lengths(zero=given["zx"]))


@cases("time_mask")
def _time_mask() -> Iterator[Case]:
    inputs = [{k: v for k, v in one.items() if k != "mask"} for one in with_lengths()]
    yield Case("time_mask", "unequal", {}, ("x", "lengths"), inputs)


@cases("mask_time")
def _mask_time() -> Iterator[Case]:
    inputs = [{k: v for k, v in one.items() if k != "lengths"} for one in with_lengths()]
    for zx in (0, 128, 255):
        yield Case("mask_time", f"zero-point-{zx}", {"zx": zx}, ("x", "mask"), inputs, kernel="Where")


@cases("length_step")
def _length_step() -> Iterator[Case]:
    inputs = [{"n": np.arange(1, 41)}, {"n": np.array([MAX_FRAMES, 1])}]
    steps = [(0, 1, 0), (-3, 2, 1), (5, 3, 1), (0, 7, 0), (-50, 4, 1), (-50, 1, 0), (-1, 1, 1), (2, 1, -1)]
    for before, divisor, after in steps:
        attrs = {"before": before, "divisor": divisor, "after": after}
        yield Case("length_step", f"{before}-{divisor}-{after}", attrs, ("n",), inputs)


# -- moves and the way in ------------------------------------------------------------------------


@cases("take_channels")
def _take_channels() -> Iterator[Case]:
    inputs = [{"x": edge_bytes(shape, 1)} for shape in ((1, 6, 1), (3, 6, 11))]
    for name, index in {
        "shuffle": (0, 3, 1, 4, 2, 5),
        "some": (5, 2),
        "repeated": (0, 0, 5, 5, 1, 1, 2),
        "one": (3,),
    }.items():
        yield Case("take_channels", name, {"index": index}, ("x",), inputs, kernel="Gather")


@cases("transpose")
def _transpose() -> Iterator[Case]:
    inputs = [{"x": edge_bytes(shape, 1)} for shape in ((1, 6, 1), (3, 6, 11))]
    for perm in ((0, 2, 1), (0, 1, 2), (2, 1, 0)):
        yield Case("transpose", "".join(map(str, perm)), {"perm": perm}, ("x",), inputs, kernel="Transpose")
    wide = [{"x": np.arange(-40000, 40000, 5000, dtype=np.int32).reshape(2, 2, 4)}]
    bounds = {"x": (-40000, 40000)}
    yield Case("transpose", "int32", {"perm": (0, 2, 1)}, ("x",), wide, kernel="Transpose", bounds=bounds)


@cases("quantize_input")
def _quantize_input() -> Iterator[Case]:
    halves = np.arange(-600, 600, dtype=np.float32) / 2
    for name, scale, zero, hi in (
        ("halves", 1.0, 128, 255),
        ("power-of-two", 0.125, 10, 255),
        ("real-scale", float(np.float32(0.0173)), 117, 255),
        ("large-scale", float(np.float32(3.3e4)), 255, 255),
        ("tiny-scale", float(np.float32(1e-20)), 0, 255),
        ("4-bits", 0.5, 7, 15),
        ("2-bits", 0.5, 0, 3),
    ):
        ties = halves * np.float32(scale)
        random = np.random.default_rng(0).standard_normal((2, 3, 50)).astype(np.float32) * np.float32(
            scale * 90
        )
        around = np.concatenate([np.nextafter(ties, np.float32(-3e38)), np.nextafter(ties, np.float32(3e38))])
        huge = np.array([0.0, -0.0, 1e30, -1e30, 3e38, -3e38, 1e-40, -1e-40, 2.0**31, -(2.0**31)], np.float32)
        inputs = [{"x": v.reshape(1, 2, -1)} for v in (ties, around, huge)] + [{"x": random}]
        attrs = {"scale": scale, "zero_point": zero, "lo": 0, "hi": hi, "type": "uint8"}
        yield Case("quantize_input", name, attrs, ("x",), inputs)
        wide = {"scale": scale, "zero_point": 0, "lo": -30000, "hi": 32767, "type": "int32"}
        yield Case("quantize_input", f"{name}-16-bits", wide, ("x",), inputs)
