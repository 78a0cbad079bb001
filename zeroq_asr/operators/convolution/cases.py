"""Parity cases of convolutions over time, of bytes; and what those of others share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zeroq_asr.integer.dyadic import largest_shift
from zeroq_asr.integer.pair_saturation import most, out_of_order, saturates
from zeroq_asr.integer.types import U8, weight_limit
from zeroq_asr.operators.cases import Case, sequences
from zeroq_asr.registry import Attrs


def kernel_of(
    kind: str, reach: int, c: int, bias: np.ndarray, pointwise: bool, depthwise: bool = False
) -> str:
    """The kernel of a convolution; a matrix product adds ``bias``, in steps of 2^-c, to what it scaled."""
    if kind == "uint8":
        return "QLinearConv"
    if depthwise:
        return "Conv"
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
    depthwise = channels == out == groups > 1
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
        kernel_of(kind, max(hi - zy, zy - lo), c, bias * m.astype(np.int64), pointwise, depthwise)
        if spelled is None
        else spelled,
        {"x": source},
    )


def conv_cases() -> Iterator[Case]:
    """Convolutions over time of bytes."""
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
    shapes: tuple[tuple[str, tuple[int, int, int], Attrs], ...] = (
        ("pointwise", (9, 64, 1), {}),
        ("odd-channels", (9, 65, 1), {}),
        ("odd-channels-k3", (9, 7, 3), {"kernel": 3, "padding": (1, 1)}),
        ("k3-strided", (9, 64, 3), {"kernel": 3, "stride": 2, "padding": (1, 1)}),
        ("one-channel", (9, 1, 5), {"kernel": 5, "padding": (2, 2)}),
        ("grouped", (9, 5, 3), {"channels": 15, "kernel": 3, "padding": (1, 1), "groups": 3}),
        ("large", (5, 1025, 1), {}),
        ("depthwise", (9, 1, 5), {"channels": 9, "kernel": 5, "padding": (2, 2), "groups": 9}),
    )
    wide: Attrs = {"lo": -32768, "hi": 32767, "zy": 0, "kind": "int32"}
    for name, shape, layout in shapes:
        weight, layout = at_the_bound(shape, 60), {"channels": shape[1], "out": shape[0], **layout}
        yield conv_case(f"neighbours-{name}", weight=weight, bits=8, **layout, seed=60)
        if name in ("pointwise", "odd-channels", "k3-strided"):
            yield conv_case(f"neighbours-{name}-16", weight=weight, bits=8, **layout, **wide, c=9, seed=61)
    # a zero point above all of the input: only where the ends are padded is a byte so large
    above: Attrs = {"source": (0, 130), "zx": 255, "weight": np.full((8, 8, 3), 100), "bits": 8, "kernel": 3}
    yield conv_case("padding-above-the-input", **above, padding=(1, 1), seed=62)
    yield conv_case("no-padding-above-the-input", **above, seed=62)
    yield conv_case("relu-range", lo=128, hi=255, seed=40)
    yield conv_case("narrow-range", lo=100, hi=101, zy=100, seed=41)
    yield conv_case("range-beside-zero-point", lo=200, hi=250, zy=10, seed=42)
    yield conv_case("one-value-range", lo=9, hi=9, zy=9, seed=43)
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
    # depthwise, of which float32 carries every sum; the last that it holds, and the first that it does not
    depthwise: Attrs = {**wide, "channels": 6, "out": 6, "groups": 6, "bits": 8}
    yield conv_case("signed-16-depthwise-strided", **depthwise, c=9, kernel=5, stride=2, padding=(2, 2), zx=7)
    yield conv_case("signed-16-depthwise-dilated", **depthwise, c=9, kernel=3, dilation=2, padding=(0, 4))
    yield conv_case("signed-16-depthwise-one-tap", **depthwise, c=9, zx=0, m=1, seed=56)
    ends = np.where(np.arange(6)[:, None, None] % 2, -127, 127) * np.ones((6, 1, 500))
    most_bias = 2**24 - 255 * 127 * 500
    for name, bias, kernel_name in (("last", most_bias, "Conv"), ("first-not", most_bias + 1, "ConvInteger")):
        yield conv_case(
            f"signed-16-depthwise-{name}-carried",
            **depthwise,
            c=9,
            m=1,
            kernel=500,
            weight=ends,
            bias=np.full(6, bias),
            spelled=kernel_name,
        )
    yield conv_case("signed-15-zero-point", lo=-9000, hi=9000, zy=77, kind="int32", c=10, seed=53)
    yield conv_case("signed-9", lo=-256, hi=255, zy=0, kind="int32", c=16, seed=47)
    yield conv_case(
        "signed-9-inexact", lo=-257, hi=255, zy=0, kind="int32", c=16, spelled="primitives", seed=47
    )
    yield conv_case("u8-range-as-int32", kind="int32", seed=48)
    for seed, taps in ((54, 1), (55, 3)):
        yield conv_case(f"signed-16-room-for-the-bias-{taps}", **wide, c=8, kernel=taps, seed=seed)
