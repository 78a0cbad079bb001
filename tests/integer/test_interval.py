"""The proof: sound on random programs, and it fails where a program could overflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend, length_interval, shift_offset
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.program import Instruction, Program
from zeroq_asr.integer.proof import prove
from zeroq_asr.integer.types import BOOL, I8, I32, I64, U8, IntType
from zeroq_asr.operators import OPS
from zeroq_asr.operators.conv_requant import conv_requant

from .programs import MAX_FRAMES, random_features, random_program

SEEDS = st.integers(0, 2**32 - 1)


# -- soundness -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(SEEDS, SEEDS)
def test_every_value_lies_in_its_proven_interval(seed: int, data: int) -> None:
    program = random_program(seed)
    proven: dict[str, Interval] = {}
    program.run(IntervalBackend(), None, length_interval(MAX_FRAMES), lambda i, v: proven.update({i.out: v}))

    def check(i: Instruction, value: np.ndarray) -> None:
        bounds = proven[i.out]
        assert value.dtype.name == bounds.type.name, i
        assert (value >= bounds.lo).all(), i
        assert (value <= bounds.hi).all(), i

    program.run(NumpyBackend(), *random_features(data), check)


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
    "reciprocal": lambda f, a, b: f.reciprocal(5000, f.clamp(b, 1, 900)),
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
    "name", ["add", "sub", "mul", "add int", "mul int", "clamp", "square", "quotient int", "reciprocal"]
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
    layout = {"stride": 1, "padding": (kernel, kernel), "dilation": 1, "groups": groups}
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
        layout["padding"] = (0, 0)
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
        "sum": lambda f, v: f.sum_channels(v, channels),
        "peak": lambda f, v: f.peak_channels(v),
        "peak of a row": lambda f, v: f.peak_time(v),
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
    """A program from the features through ``code``; its last value counts as the logits."""
    way_in = Instruction(
        "quantize_input",
        "x",
        ("audio_signal",),
        {"scale": 1.0, "zero_point": 0, "lo": 0, "hi": 255, "type": "uint8"},
    )
    outputs = (code[-1].out, "length")
    channels = next((w.shape[1] for w in constants.values() if w.ndim == 3), 1)
    return Program(
        ("audio_signal", "length"), outputs, [way_in, *code], dict(constants), {}, channels, max_frames
    )


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
    "division by a length of zero": (
        program_of(
            Instruction("length_step", "n", ("length",), {"before": -3, "divisor": 1, "after": 0}),
            *mean_of("n"),
        ),
        r"y \(mean_requant\): divide needs a ≥ 0 and b ≥ 1, found a ≥ 0, b ≥ 0",
    ),
    "division of a negative sum": (
        program_of(
            conv_of("s", lo=-5, hi=5, zx=5, c=0, type="int32"),
            Instruction("time_mask", "mask", ("s", "length")),
            Instruction("mean_requant", "y", ("s", "mask", "length"), MEAN),
            **conv_constants(1, 1),
        ),
        r"y \(mean_requant\): divide needs a ≥ 0",
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
        Program(
            ("audio_signal", "length"),
            ("x", "length"),
            [
                Instruction(
                    "quantize_input",
                    "x",
                    ("audio_signal",),
                    {"scale": 1.0, "zero_point": 0, "lo": 0, "hi": 256, "type": "uint8"},
                )
            ],
            {},
            {},
            1,
            10,
        ),
        r"x \(quantize_input\): \[0, 256\] is no range of uint8",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_instruction_named(name: str) -> None:
    program, message = REFUSED[name]
    with pytest.raises(ProofError, match=message):
        prove(program)


WORDS = Interval.of(-(2**15), 2**15 - 1, I32)
BYTES = Interval.of(0, 255, U8)
FORM = {"zy": 0, "lo": 0, "hi": 255, "type": "uint8"}


def norm(channels: int, source: Interval = WORDS, m: int = 512, **changes: Any) -> Any:
    """Bounds of a layer norm over ``channels``."""
    f = IntervalBackend()
    vectors = [f.constant(name, np.full(channels, value, np.int32)) for name, value in (("m", m), ("b", 0))]
    attrs = {"channels": channels, "epsilon": 0, "c": 8, **FORM, **changes}
    return OPS["layer_norm"].define(f, source, *vectors, **attrs)


def instance_norm(frames: int, m: int = 8192, **changes: Any) -> Any:
    """Bounds of an instance norm over ``frames``."""
    f = IntervalBackend(frames)
    vectors = [f.constant(name, np.full(2, value, np.int32)) for name, value in (("m", m), ("b", 0))]
    attrs = {"zx": 0, "channels": 2, "epsilon": 0, "c": 8, **FORM, **changes}
    mask = Interval.of(0, 1, BOOL)
    return OPS["instance_norm"].define(f, WORDS, mask, length_interval(frames), *vectors, **attrs)


def attention(frames: int = 1000, position: bool = True, **changes: Any) -> Any:
    """Bounds of an attention of one head to ``frames``."""
    f = IntervalBackend()
    attrs: dict[str, Any] = {"heads": 1, "size": 64, "up": 16, "mp": 9, "cap": 1023, "shift": 0, "m": 600}
    attrs |= {"c": 16, **dict.fromkeys(("zq", "zk", "zv", "zp", "zr"), 128), **FORM}
    table = f.constant("t", np.arange(255, -1, -1).repeat(4).astype(np.uint8))
    mask = Interval.of(0, 1, BOOL)
    operands = (BYTES, BYTES, BYTES, mask, length_interval(frames), table, table)
    distances = (BYTES, BYTES) if position else ()
    return OPS["attention"].define(f, *operands, *distances, **{**attrs, **changes})


FITS: dict[str, Callable[[], Interval]] = {
    "norm": lambda: norm(1024),
    "norm of bytes": lambda: norm(4096, BYTES),
    "norm of the largest epsilon": lambda: norm(64, epsilon=2**39 - 1),
    "instance norm": lambda: instance_norm(100_000),
    "instance norm of the largest epsilon": lambda: instance_norm(1000, epsilon=2**39 - 1),
    "attention": attention,
    "attention to many frames": lambda: attention(33_025),
}
OVERFLOWS: dict[str, tuple[Callable[[], Interval], str]] = {
    "norm of too many channels": (lambda: norm(70_000), "sum over 70000 channels may reach"),
    "norm with too large multipliers": (lambda: norm(64, m=1 << 17), "mul may reach"),
    "norm with too large an epsilon": (lambda: norm(64, epsilon=2**46), "isqrt needs"),
    "norm that shifts too far": (lambda: norm(64, c=30, zy=0, type="int32"), "add may reach|shift may reach"),
    "instance norm of endless utterances": (lambda: instance_norm(2**31), "lengths as int32 may reach"),
    "instance norm with too large multipliers": (lambda: instance_norm(9, m=1 << 16), "mul may reach"),
    "attention with too large scores": (lambda: attention(up=1 << 12), "mul may reach"),
    "attention with too large scores of both kinds": (lambda: attention(up=1040, mp=1040), "add may reach"),
    "attention with scores too far apart": (lambda: attention(up=1 << 10), "below_peak may reach"),
    "attention over too many channels": (lambda: attention(size=40_000, up=1), "raw accumulator may reach"),
    "attention to too many frames": (lambda: attention(33_026), "raw accumulator may reach"),
    "attention beyond its table": (lambda: attention(cap=1024), "lookup in 1024 entries"),
    "attention with too large a multiplier": (lambda: attention(m=1 << 17), "mul may reach"),
}


@pytest.mark.parametrize("name", FITS)
def test_what_fits_is_proven(name: str) -> None:
    bounds = FITS[name]()
    assert (bounds.min, bounds.max) == (0, 255)


@pytest.mark.parametrize("name", OVERFLOWS)
def test_what_may_overflow_is_refused(name: str) -> None:
    make, message = OVERFLOWS[name]
    with pytest.raises(ProofError, match=message):
        make()


def test_saturating_first_repairs_the_product() -> None:
    program = program_of(conv_of(saturate=True), **conv_constants(127, 8, m=2**14))
    assert prove(program).peak <= I32.hi // 2


def test_a_shorter_limit_repairs_the_sum() -> None:
    program = program_of(*mean_of(fraction=8), max_frames=30_000)
    assert prove(program).peak > 0


# -- the reference refuses to wrap ---------------------------------------------------------------

I32_MAX = np.array([2**31 - 1], dtype=np.int32)


@pytest.mark.parametrize(
    "overflow",
    [
        lambda f: f.add(I32_MAX, 1),
        lambda f: f.sub(-I32_MAX, 2),
        lambda f: f.mul(I32_MAX, I32_MAX),
        lambda f: f.mul(-I32_MAX, 2),
        lambda f: f.sum_time(np.repeat(I32_MAX[None, None], 2, axis=2), np.array([2])),
        lambda f: f.cast(np.array([256], dtype=np.int32), U8),
        lambda f: f.cast(np.array([-1], dtype=np.int32), U8),
        lambda f: f.cast(np.array([128], dtype=np.int32), I8),
        lambda f: f.cast(np.array([2**31], dtype=np.int64), I32),
        lambda f: f.per_batch(np.array([2**31], dtype=np.int64)),
        lambda f: f.divide(np.array([5], dtype=np.int32), np.array([0], dtype=np.int32)),
        lambda f: f.divide(np.array([-5], dtype=np.int32), 2),
        lambda f: f.divide(np.array([5], dtype=np.int64), 0),
        lambda f: f.square(np.array([50_000], dtype=np.int32)),
        lambda f: f.sum_channels(np.repeat(I32_MAX[None, None], 2, axis=1), 2),
        lambda f: f.below_peak(np.array([2**30, -(2**31)], dtype=np.int32)),
        lambda f: f.quotient(np.array([5], dtype=np.int32), 0),
        lambda f: f.reciprocal(5, np.array([0], dtype=np.int32)),
        lambda f: f.isqrt(np.array([0], dtype=np.int64)),
        lambda f: f.isqrt(np.array([1 << 52], dtype=np.int64)),
        lambda f: f.middle(np.zeros((1, 8), dtype=np.uint8), np.zeros((1, 1, 5), dtype=np.uint8)),
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
            stride=1,
            padding=(0, 0),
            dilation=1,
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
    logits, _ = program.run(NumpyBackend(), quiet, np.array([3]))
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
