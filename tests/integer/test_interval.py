"""The proof: sound on random programs, and it fails where a program could overflow."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend, length_interval, shift_offset
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Instruction, Port, Program, ValueInfo, ctc_ports
from zeroq_asr.integer.proof import prove
from zeroq_asr.integer.types import I8, I32, I64, U8, IntType
from zeroq_asr.operators.convolution.one_axis import conv_requant

from .programs import MAX_FRAMES, random_features, random_program
from .sessions import session_of

SEEDS = st.integers(0, 2**32 - 1)


# -- soundness -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(SEEDS, SEEDS)
def test_every_value_lies_in_its_proven_interval(seed: int, data: int) -> None:
    program = random_program(seed)
    proven: dict[str, Interval] = {}
    given = Interval.of(0, 0, I32), length_interval(MAX_FRAMES)
    program.run(IntervalBackend(), *given, observe=lambda i, v: proven.update({i.out: v}))

    def check(i: Instruction, value: np.ndarray) -> None:
        bounds = proven[i.out]
        assert value.dtype.name == bounds.type.name, i
        assert (value >= bounds.lo).all(), i
        assert (value <= bounds.hi).all(), i

    program.run(NumpyBackend(), *random_features(data), observe=check)


def test_proof_says_where_the_peak_is() -> None:
    proof = prove(random_program(0))
    assert 0 < proof.peak <= I32.hi
    assert proof.headroom_bits >= 0
    assert proof.peak_at.endswith(")")
    assert proof.max_frames == MAX_FRAMES


PRIMITIVES: dict[str, Any] = {
    "add": lambda f, a, b: f.add(a, b),
    "sub": lambda f, a, b: f.sub(a, b),
    "mul": lambda f, a, b: f.mul(a, b),
    "add int": lambda f, a, b: f.add(a, -77),
    "mul int": lambda f, a, b: f.mul(a, -3),
    "clamp": lambda f, a, b: f.clamp(a, -5, 40),
    "clamp vectors": lambda f, a, b: f.clamp(a, np.array([-5, 3]), np.array([3, 900])),
    "shift": lambda f, a, b: f.shift_right(a, 3),
    "and": lambda f, a, b: f.bit_and(a, 5),
    "square": lambda f, a, b: f.square(a),
    "quotient": lambda f, a, b: f.quotient(a, f.clamp(b, 1, 900)),
    "quotient int": lambda f, a, b: f.quotient(a, 7),
    "reciprocal": lambda f, a, b: f.quotient(5000, f.clamp(b, 1, 900)),
    "negative reciprocal": lambda f, a, b: f.quotient(-5000, f.clamp(b, 1, 900)),
    "isqrt": lambda f, a, b: f.isqrt(f.cast(f.clamp(a, 1, 2900), I64)),
    "parity": lambda f, a, b: f.set_parity(_byte(f, a), f.low_bits_equal(_byte(f, b, I32), 8, 0), 0),
    "odd parity": lambda f, a, b: f.set_parity(_byte(f, a), f.low_bits_equal(_byte(f, b, I32), 3, 1), 1),
}


def _byte(f: Any, v: Any, kind: IntType = U8) -> Any:
    return f.cast(f.clamp(v, 0, 255), kind)


@pytest.mark.parametrize("name", PRIMITIVES)
@given(st.lists(st.integers(-3000, 3000), min_size=8, max_size=8), st.integers(0, 255))
def test_primitives_are_bounded(name: str, ends: list[int], seed: int) -> None:
    # two channels with bounds of their own
    lows = [np.array([[min(ends[i], ends[i + 1])], [min(ends[i + 2], ends[i + 3])]]) for i in (0, 4)]
    highs = [np.array([[max(ends[i], ends[i + 1])], [max(ends[i + 2], ends[i + 3])]]) for i in (0, 4)]
    generator = np.random.default_rng(seed)
    values = []
    for lo, hi in zip(lows, highs, strict=True):
        sample = generator.integers(lo, hi + 1, (2, 30))
        sample[:, 0], sample[:, 1] = lo[:, 0], hi[:, 0]
        values.append(sample.astype(np.int32))
    a, b = (Interval.of(lo, hi, I32) for lo, hi in zip(lows, highs, strict=True))
    bounds = PRIMITIVES[name](IntervalBackend(), a, b)
    # every pairing of samples, so that all corners meet
    left, right = values[0][:, :, None].repeat(30, 2), values[1][:, None, :].repeat(30, 1)
    found = PRIMITIVES[name](NumpyBackend(), left.reshape(2, -1), right.reshape(2, -1))
    assert (found >= bounds.lo).all()
    assert (found <= bounds.hi).all()


@pytest.mark.parametrize(
    "name",
    [
        *("add", "sub", "mul", "add int", "mul int", "clamp", "square"),
        *("quotient int", "reciprocal", "negative reciprocal"),
    ],
)
def test_bounds_of_exact_primitives_are_reached(name: str) -> None:
    a, b = Interval.of(-7, 100, I32), Interval.of(-2, 9, I32)
    bounds = PRIMITIVES[name](IntervalBackend(), a, b)
    left, right = np.meshgrid(np.arange(-7, 101, dtype=np.int32), np.arange(-2, 10, dtype=np.int32))
    found = PRIMITIVES[name](NumpyBackend(), left, right)
    assert (found.min(), found.max()) == (bounds.min, bounds.max)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([(1, 1), (2, 1), (4, 2), (4, 4)]), st.integers(1, 4), st.integers(0, 255))
def test_accumulators_are_bounded_and_the_bound_is_reached(
    seed: int, shape: tuple[int, int], kernel: int, zero_point: int
) -> None:
    channels, groups = shape
    generator = np.random.default_rng(seed)
    weight = generator.integers(-127, 128, (groups * 2, channels // groups, kernel)).astype(np.int8)
    lo = generator.integers(0, 200, channels)
    hi = lo + generator.integers(0, 56, channels)
    layout: dict[str, Any] = {"strides": (1,), "pads": ((kernel, kernel),), "dilations": (1,)}
    layout["groups"] = groups
    f = IntervalBackend()
    source = Interval.of(lo[:, None], hi[:, None], U8)
    bounds = f.conv(source, f.constant("w", weight), zero_point=zero_point, **layout)
    x = generator.integers(lo[:, None], hi[:, None] + 1, (4, channels, 9)).astype(np.uint8)
    found = NumpyBackend().conv(x, weight, zero_point=zero_point, **layout)
    assert (found >= bounds.lo).all()
    assert (found <= bounds.hi).all()
    if (lo <= zero_point).all() and (zero_point <= hi).all():
        # the worst input for output 0: each tap's extreme by the sign of its weight
        rows = slice(0, channels // groups)
        worst = np.full((1, channels, kernel), zero_point)
        worst[0, rows] = np.where(weight[0] > 0, hi[rows, None], lo[rows, None])
        layout["pads"] = ((0, 0),)
        peak = NumpyBackend().conv(worst.astype(np.uint8), weight, zero_point=zero_point, **layout)
        assert int(peak[0, 0, 0]) == int(bounds.hi[0, 0])


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 6))
def test_what_joins_channels_is_bounded(seed: int, channels: int, frames: int) -> None:
    generator = np.random.default_rng(seed)
    lo = generator.integers(-50, 50, channels)
    hi = lo + generator.integers(0, 60, channels)
    v = generator.integers(lo[:, None], hi[:, None] + 1, (3, channels, frames)).astype(np.int32)
    v[0], v[1] = lo[:, None], hi[:, None]
    bounds = Interval.of(lo[:, None], hi[:, None], I32)
    for name, define in {
        "sum": lambda f, v: f.reduce(v, "sum", "channels", channels),
        "sum of a row": lambda f, v: f.reduce(v, "sum", "frames", frames),
        "peak": lambda f, v: f.reduce(v, "peak", "channels", channels),
        "peak of a row": lambda f, v: f.reduce(v, "peak", "frames", frames),
        "below the peak": lambda f, v: f.below_peak(v),
    }.items():
        found, proven = define(NumpyBackend(), v), define(IntervalBackend(), bounds)
        assert (found >= proven.min).all(), name
        assert (found <= proven.max).all(), name
        if name == "sum":
            assert (found.min(), found.max()) == (proven.min, proven.max)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 255), st.integers(0, 255), st.integers(1, 9))
def test_products_of_activations_are_bounded(seed: int, za: int, zb: int, terms: int) -> None:
    generator = np.random.default_rng(seed)
    ends = [sorted(generator.integers(0, 256, 2).tolist()) for _ in range(2)]
    a, b = (generator.integers(lo, hi + 1, (1, 1, terms, terms)).astype(np.uint8) for lo, hi in ends)
    a[0, 0, 0], b[0, 0, :, 0] = ends[0][0], ends[1][1]
    f = IntervalBackend()
    left, right = (Interval.of(lo, hi, U8) for lo, hi in ends)
    # no more than ``terms`` products are in a sum, and maybe fewer: what is masked counts for nothing
    for count in (terms, Interval.of(1, terms, I64)):
        proven = f.matmul(left, right, za=za, zb=zb, terms=count)
        found = NumpyBackend().matmul(a, b, za=za, zb=zb, terms=terms)
        assert (found >= proven.min).all()
        assert (found <= proven.max).all()


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 16))
def test_shift_offset_keeps_floor_and_parity(low: int, c: int) -> None:
    offset = shift_offset(Interval.of(low, low, I32), c)
    assert low + offset >= 0
    assert offset % (1 << (c + 1)) == 0
    assert offset == 0 or low + offset < 1 << (c + 1)
    assert (low >> c) == ((low + offset) >> c) - (offset >> c)


def test_lookup_bounds_only_what_can_be_reached() -> None:
    f = IntervalBackend()
    entries = np.arange(256, dtype=np.uint8)[::-1]
    bounds = f.lookup(Interval.of(10, 20, U8), f.constant("t", entries))
    assert (bounds.min, bounds.max) == (235, 245)


# -- programs that must be refused ---------------------------------------------------------------


def program_of(*code: Instruction, max_frames: int = 1000, **constants: np.ndarray) -> Program:
    """A program from the features through ``code``; its last value leaves as the logits.

    The features have the zero point that the first instruction takes, all else the one it is written with.
    """
    zero_point = code[0].attrs.get("zx", 0) if code[0].op != "add_requant" else 0
    attrs = {"scale": 1.0, "zero_point": zero_point, "lo": 0, "hi": 255, "type": "uint8"}
    way_in = Instruction("quantize_input", "x", ("audio_signal",), attrs)
    values = {"x": ValueInfo("uint8", 1.0, zero_point, 0, 255)} | {
        i.out: ValueInfo(i.attrs["type"], 1.0, i.attrs.get("zy", 0), i.attrs["lo"], i.attrs["hi"])
        for i in code
        if "lo" in i.attrs
    }
    channels = next((w.shape[1] for w in constants.values() if w.ndim == 3), 1)
    inputs, _ = ctc_ports(
        channels, 1, features="audio_signal", lengths="length", logits="y", encoded="length"
    )
    last = code[-1]
    frames = 1 if last.op == "mean_requant" else "frames"
    outputs = (Port("logits", last.out, last.attrs.get("type", "uint8"), ("batch", 1, frames)),)
    return Program(inputs, outputs, [way_in, *code], dict(constants), values, max_frames)


def conv_of(out: str = "y", **changes: Any) -> Instruction:
    attrs: dict[str, Any] = {
        "zx": 0,
        "c": 8,
        "zy": 0,
        "lo": 0,
        "hi": 255,
        "type": "uint8",
        "saturate": False,
        "stride": 1,
        "padding": (0, 0),
        "dilation": 1,
        "groups": 1,
    }
    return Instruction("conv_requant", out, ("x", "w", "b", "m"), {**attrs, **changes}, "layer")


def conv_constants(weight: int, fan_in: int, bias: int = 0, m: int = 1) -> dict[str, np.ndarray]:
    return {
        "w": np.full((1, fan_in, 1), weight, dtype=np.int8),
        "b": np.array([bias], dtype=np.int32),
        "m": np.array([m], dtype=np.int32),
    }


MEAN = {"zx": 0, "fraction": 0, "m": 1, "c": 0, "zy": 0, "lo": 0, "hi": 255, "type": "uint8"}


def mean_of(lengths: str = "length", **changes: Any) -> list[Instruction]:
    return [
        Instruction("time_mask", "mask", ("x", lengths)),
        Instruction("mean_requant", "y", ("x", "mask", lengths), {**MEAN, **changes}),
    ]


REFUSED: dict[str, tuple[Program, str]] = {
    "weights overflow the accumulator": (
        program_of(conv_of(), **conv_constants(127, 70000)),
        r"y \(conv_requant\): .*accumulator may reach",
    ),
    "raw unsigned products overflow": (
        # the centred sum fits, but u8×u8 kernels accumulate the raw bytes first
        program_of(conv_of(), **conv_constants(1, 33030)),
        r"y \(conv_requant\): raw accumulator may reach",
    ),
    "bias overflows the accumulator": (
        program_of(conv_of(), **conv_constants(127, 8, bias=2**31 - 1)),
        r"y \(conv_requant\): add may reach",
    ),
    "negative bias overflows the accumulator": (
        program_of(conv_of(), **conv_constants(-127, 8, bias=-(2**31))),
        r"y \(conv_requant\): add may reach",
    ),
    "product with the multiplier overflows": (
        program_of(conv_of(), **conv_constants(127, 8, m=2**14)),
        r"y \(conv_requant\): mul may reach",
    ),
    "shift without headroom": (
        program_of(
            conv_of(zx=128, type="int32", lo=-(2**15), hi=2**15 - 1), **conv_constants(127, 64, m=1500)
        ),
        r"y \(conv_requant\): shift may reach",
    ),
    "an offset of the shift that is no int32, though the sum with it is": (
        program_of(conv_of(c=30), **conv_constants(-1, 1, bias=-1)),
        r"y \(conv_requant\): shift may reach",
    ),
    "result does not fit its type": (
        program_of(conv_of(hi=300, c=0), **conv_constants(127, 8)),
        r"y \(conv_requant\): \[0, 300\] is no range of uint8",
    ),
    "result below its type": (
        program_of(conv_of(lo=-1, zx=9, c=0), **conv_constants(127, 8)),
        r"y \(conv_requant\): \[-1, 255\] is no range of uint8",
    ),
    "sum over too many frames": (
        program_of(*mean_of(), max_frames=10_000_000),
        r"y \(mean_requant\): sum over 10000000 frames may reach",
    ),
    "fraction over too many frames": (
        program_of(*mean_of(fraction=8), max_frames=50_000),
        r"y \(mean_requant\): mul may reach",
    ),
    "a mean over frames that are not there": (
        program_of(
            Instruction("length_step", "n", ("length",), {"before": -3, "divisor": 1, "after": 0}),
            *mean_of("n"),
        ),
        r"mask \(time_mask\): needs lengths that count its frames, frames, found those of frames-3",
    ),
    "lengths beyond int32": (
        program_of(*mean_of(), max_frames=2**31),
        r"y \(mean_requant\): lengths as int32 may reach",
    ),
    "sum of activations overflows": (
        program_of(
            Instruction(
                "add_requant",
                "y",
                ("x", "x"),
                {"zx": (0, 0), "m": (2**23, 2**22), "c": 1} | {"zy": 0, "lo": 0, "hi": 255, "type": "uint8"},
            )
        ),
        r"y \(add_requant\): add may reach",
    ),
    "product of activations overflows": (
        program_of(
            Instruction(
                "mul_requant",
                "y",
                ("x", "x"),
                {"za": 0, "zb": 0, "m": 2**16, "c": 1, "zy": 0, "lo": 0, "hi": 255, "type": "uint8"},
            )
        ),
        r"y \(mul_requant\): mul may reach",
    ),
    "attribute beyond int32 that meets nothing but zeros": (
        program_of(
            conv_of("z", hi=0),
            Instruction(
                "mul_requant",
                "y",
                ("z", "z"),
                {"za": 0, "zb": 0, "m": 2**40, "c": 1, "zy": 0, "lo": 0, "hi": 255, "type": "uint8"},
            ),
            **conv_constants(1, 1),
        ),
        r"y \(mul_requant\): m must be 1 ≤ m < 2\^31, found 1099511627776",
    ),
    "input format wider than a byte": (
        program_of(
            Instruction(
                "quantize_input",
                "y",
                ("audio_signal",),
                {"scale": 1.0, "zero_point": 0, "lo": 0, "hi": 256, "type": "uint8"},
            )
        ),
        r"y \(quantize_input\): \[0, 256\] is no range of uint8",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_instruction_named(name: str) -> None:
    program, message = REFUSED[name]
    with pytest.raises(ProofError, match=message):
        prove(program)


def test_saturating_first_repairs_the_product() -> None:
    program = program_of(conv_of(saturate=True), **conv_constants(127, 8, m=2**14))
    assert prove(program).peak <= I32.hi // 2


def test_a_shorter_limit_repairs_the_sum() -> None:
    program = program_of(*mean_of(fraction=8), max_frames=30_000)
    assert prove(program).peak > 0


def test_a_mean_of_negatives_is_the_same_everywhere() -> None:
    # a sum below zero is divided like any other, and the mean of it is that of no bytes: 0
    program = program_of(
        conv_of("s", lo=-5, hi=5, zx=5, c=0, type="int32"),
        Instruction("time_mask", "mask", ("s", "length")),
        Instruction("mean_requant", "y", ("s", "mask", "length"), {**MEAN, "type": "int32"}),
        **conv_constants(1, 1),
    )
    prove(program)
    features = np.array([[[-5, -4, -3, 4]], [[4, 4, 4, 4]], [[-5, -5, -5, 4]]], dtype=np.float32)
    lengths = np.array([3, 4, 4])
    (wanted,) = program.run(NumpyBackend(), features, lengths)
    assert wanted.ravel().tolist() == [0, 4, 0]
    (found,) = program.run(TorchBackend(), torch.from_numpy(features), torch.from_numpy(lengths))
    np.testing.assert_array_equal(found.numpy(), wanted)
    for backend in (OnnxStrictBackend(), OnnxFusedBackend()):
        session = session_of(program, backend)
        exported = session.run(["logits"], {"audio_signal": features, "length": lengths})[0]
        np.testing.assert_array_equal(exported, wanted)


# -- the reference refuses to wrap ---------------------------------------------------------------

I32_MAX = np.array([2**31 - 1], dtype=np.int32)
#: of 8 frames, or of the distances of 4
TABLE = np.zeros((1, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    "overflow",
    [
        lambda f: f.add(I32_MAX, 1),
        lambda f: f.sub(-I32_MAX, 2),
        lambda f: f.mul(I32_MAX, I32_MAX),
        lambda f: f.mul(-I32_MAX, 2),
        lambda f: f.reduce(np.repeat(I32_MAX[None, None], 2, axis=2), "sum", "frames", np.array([2])),
        lambda f: f.cast(np.array([256], dtype=np.int32), U8),
        lambda f: f.cast(np.array([-1], dtype=np.int32), U8),
        lambda f: f.cast(np.array([128], dtype=np.int32), I8),
        lambda f: f.cast(np.array([2**31], dtype=np.int64), I32),
        lambda f: f.per_batch(np.array([2**31], dtype=np.int64)),
        lambda f: f.quotient(np.array([5], dtype=np.int32), np.array([0], dtype=np.int32)),
        lambda f: f.quotient(np.array([5], dtype=np.int32), np.array([-2], dtype=np.int32)),
        lambda f: f.quotient(np.array([5], dtype=np.int64), 0),
        lambda f: f.square(np.array([50_000], dtype=np.int32)),
        lambda f: f.reduce(np.repeat(I32_MAX[None, None], 2, axis=1), "sum", "channels", 2),
        lambda f: f.below_peak(np.array([2**30, -(2**31)], dtype=np.int32)),
        lambda f: f.quotient(np.array([5], dtype=np.int32), 0),
        lambda f: f.quotient(5, np.array([0], dtype=np.int32)),
        lambda f: f.quotient(-5, np.array([1, 0], dtype=np.int32)),
        lambda f: f.isqrt(np.array([0], dtype=np.int64)),
        lambda f: f.isqrt(np.array([1 << 52], dtype=np.int64)),
        lambda f: f.slice_frames(TABLE, np.zeros((1, 1, 5), dtype=np.uint8), around=True),
        lambda f: f.slice_frames(TABLE, np.zeros((1, 1, 9), dtype=np.uint8)),
        lambda f: f.matmul(
            np.full((1, 40_000), 255, dtype=np.uint8),
            np.full((40_000, 1), 255, dtype=np.uint8),
            za=0,
            zb=0,
            terms=1,
        ),
        lambda f: f.conv(
            np.full((1, 70000, 1), 255, dtype=np.uint8),
            np.full((1, 70000, 1), 127, dtype=np.int8),
            zero_point=0,
            strides=(1,),
            pads=((0, 0),),
            dilations=(1,),
            groups=1,
        ),
    ],
)
def test_numpy_raises_rather_than_wraps(overflow: Any) -> None:
    with pytest.raises(ProofError):
        overflow(NumpyBackend())


def test_numpy_keeps_int64_lengths() -> None:
    lengths = np.array([2**40], dtype=np.int64)
    assert NumpyBackend().add(lengths, 1).tolist() == [2**40 + 1]


def test_an_overflowing_convolution_raises_on_data_as_well() -> None:
    constants = conv_constants(127, 8, m=2**14)
    program = program_of(conv_of(), **constants)
    loud = np.full((1, 8, 3), 255, dtype=np.float32)
    with pytest.raises(ProofError, match="int32: overflow"):
        program.run(NumpyBackend(), loud, np.array([3]))
    quiet = np.zeros((1, 8, 3), dtype=np.float32)
    (logits,) = program.run(NumpyBackend(), quiet, np.array([3]))
    assert not logits.any()


def test_only_constants_are_known_exactly() -> None:
    f = IntervalBackend()
    f.where = "some layer"
    with pytest.raises(ProofError, match="some layer: expected a constant operand"):
        f.array(Interval.of(0, 1, I32))


def test_lengths_start_at_one() -> None:
    lengths = length_interval(77)
    assert (lengths.min, lengths.max, lengths.type) == (1, 77, I64)


def test_definition_runs_without_a_program() -> None:
    # the operators are plain functions of a backend
    f = NumpyBackend()
    constants = conv_constants(2, 1, bias=1, m=3)
    attrs = conv_of(c=1).attrs
    x = np.array([[[0, 1, 2]]], dtype=np.uint8)
    found = conv_requant(f, x, *constants.values(), **attrs)
    # (2x + 1)·3 / 2 half to even: 1.5, 4.5, 7.5
    assert found.tolist() == [[[2, 4, 8]]]


# -- memory --------------------------------------------------------------------------------------


def test_a_proof_takes_little_memory_beside_the_weights() -> None:
    weight = np.random.default_rng(0).integers(-127, 128, (1024, 4096, 1)).astype(np.int8)
    tracemalloc.start()
    try:
        backend = IntervalBackend()
        layout: dict[str, Any] = {"strides": (1,), "pads": ((0, 0),), "dilations": (1,), "groups": 1}
        found = backend.conv(Interval.of(0, 255, U8), backend.constant("w", weight), zero_point=3, **layout)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # as Python ints they would take 16 bytes each
    assert peak < 4 * weight.size
    wide = weight[:, :, 0].astype(np.int64)
    positive, negative = np.maximum(wide, 0).sum(axis=1), np.minimum(wide, 0).sum(axis=1)
    assert np.array_equal(found.hi[:, 0], 252 * positive - 3 * negative)
    assert np.array_equal(found.lo[:, 0], 252 * negative - 3 * positive)


def test_bounds_of_a_constant_are_its_integers() -> None:
    array = np.array([[3, -2], [7, 0]], dtype=np.int32)
    known = IntervalBackend().constant("c", array)
    assert (known.min, known.max, known.type) == (-2, 7, I32)
    assert np.array_equal(known.lo, array)
    assert np.array_equal(known.hi, array)
    assert known.exact is array
