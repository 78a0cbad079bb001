"""Primitives by themselves: every interpreter does what the vocabulary says, and what it says is checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.backends.patterns import parse
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.types import I32, I64, TYPES

Define = Callable[..., Any]


def bounds_of(array: np.ndarray) -> Interval:
    """What the proof knows of an operand: the ends of all its entries."""
    kind = I64 if array.dtype == np.int64 else TYPES[array.dtype.name]
    return Interval.of(int(array.min()), int(array.max()), kind)


def run_strict(
    define: Define,
    operands: list[np.ndarray],
    constants: list[np.ndarray],
    backend: OnnxStrictBackend | None = None,
) -> list[np.ndarray]:
    """Run primitives as ONNX, over operands whose every extent but the channels' is free."""
    backend = backend or OnnxStrictBackend()
    syms, inputs, feeds = [], [], {}
    for k, array in enumerate(operands):
        dims = [d if axis == 1 else f"d{k}_{axis}" for axis, d in enumerate(array.shape)]
        syms.append(backend.input(f"x{k}", bounds_of(array), (*dims,)))
        inputs.append(
            helper.make_tensor_value_info(f"x{k}", helper.np_dtype_to_tensor_dtype(array.dtype), dims)
        )
        feeds[f"x{k}"] = array
    syms += [backend.constant(f"c{k}", array) for k, array in enumerate(constants)]
    made = define(backend, *syms)
    results = made if isinstance(made, tuple) else (made,)
    nodes = [*backend.nodes]
    nodes += [helper.make_node("Identity", [v.name], [f"y{k}"]) for k, v in enumerate(results)]
    outputs = [onnx.ValueInfoProto(name=f"y{k}") for k in range(len(results))]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [*backend.initializers.values()])
    opsets = [helper.make_opsetid("", 18)]
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


def check(
    define: Define,
    operands: list[np.ndarray],
    wanted: np.ndarray | tuple[np.ndarray, ...],
    constants: list[np.ndarray] | None = None,
) -> None:
    """Every interpreter gives ``wanted``, and the proof holds it."""
    constants = constants or []
    expected = wanted if isinstance(wanted, tuple) else (wanted,)
    f, t, proof = NumpyBackend(), TorchBackend(), IntervalBackend()
    known = [f.constant(f"c{k}", v) for k, v in enumerate(constants)]
    tensors = [torch.from_numpy(v) for v in operands]
    tensors += [t.constant(f"c{k}", v) for k, v in enumerate(constants)]
    bounds = [bounds_of(v) for v in operands]
    bounds += [proof.constant(f"c{k}", v) for k, v in enumerate(constants)]
    made = {
        "numpy": define(f, *operands, *known),
        "torch": define(t, *tensors),
        "strict": (*run_strict(define, operands, constants),),
    }
    for name, given in made.items():
        for found, right in zip(given if isinstance(given, tuple) else (given,), expected, strict=True):
            array = found.numpy() if isinstance(found, torch.Tensor) else found
            assert array.dtype == right.dtype, name
            np.testing.assert_array_equal(array, right, err_msg=name)
    proven = define(proof, *bounds)
    for interval, right in zip(proven if isinstance(proven, tuple) else (proven,), expected, strict=True):
        assert interval.min <= right.min() <= right.max() <= interval.max


# -- quotients ---------------------------------------------------------------------------------------

DIVIDENDS = [-(2**31), 1 - 2**31, -1001, -1000, -999, -7, -1, 0, 1, 6, 7, 8, 999, 1000, 2**31 - 2, 2**31 - 1]
DIVISORS = [1, 2, 3, 7, 1000, 2**30, 2**31 - 1]


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_quotients_are_cut_toward_zero(kind: type[np.generic]) -> None:
    a, b = (v.astype(kind) for v in np.meshgrid(DIVIDENDS, DIVISORS))
    wanted = np.array([[math.trunc(Fraction(p, q)) for p in DIVIDENDS] for q in DIVISORS]).astype(kind)
    check(lambda f, p, q: f.quotient(p, q), [a, b], wanted)
    for place, divisor in enumerate(DIVISORS):
        check(lambda f, p, q=divisor: f.quotient(p, q), [a[:1]], wanted[place : place + 1])
    for place, dividend in enumerate(DIVIDENDS):
        check(lambda f, q, p=dividend: f.quotient(p, q), [b[:, :1]], wanted[:, place : place + 1])


def test_a_dividend_must_fit() -> None:
    with pytest.raises(ProofError, match="dividend may reach"):
        IntervalBackend().quotient(2**31, Interval.of(1, 2, I32))
    for backend, one, none in (
        (IntervalBackend(), Interval.of(5, 5, I32), Interval.of(0, 2, I32)),
        (NumpyBackend(), np.array([5], np.int32), np.array([2, 0], np.int32)),
    ):
        for a in (one, 5):
            with pytest.raises(ProofError, match="b ≥ 1"):
                backend.quotient(a, none)  # type: ignore[attr-defined]  # one of two


# -- reductions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "place"), [("channels", 1), ("frames", 2)])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_reductions_keep_their_axis(axis: str, place: int, kind: type[np.generic]) -> None:
    v = np.random.default_rng(0).integers(-99, 50, (3, 5, 7)).astype(kind)
    total, peak = v.sum(axis=place, keepdims=True), np.abs(v).max(axis=place, keepdims=True)
    terms = v.shape[place]
    check(lambda f, x: f.reduce(x, "sum", axis, terms), [v], total.astype(kind))
    check(lambda f, x: f.reduce(x, "peak", axis, terms), [v], peak)


def test_the_lowest_integer_has_no_magnitude() -> None:
    v = np.full((1, 2, 2), -(2**31), dtype=np.int32)
    for axis in ("channels", "frames"):
        with pytest.raises(ProofError, match="overflow"):
            NumpyBackend().reduce(v, "peak", axis, 2)  # type: ignore[arg-type]  # is to be refused
        with pytest.raises(ProofError, match="peak may reach"):
            IntervalBackend().reduce(bounds_of(v), "peak", axis, 2)  # type: ignore[arg-type]  # is to be refused


# -- convolutions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(("channels", "out", "groups"), [(1, 3, 1), (4, 6, 2), (4, 8, 4), (5, 2, 1)])
@pytest.mark.parametrize(
    ("strides", "pads", "dilations", "taps"),
    [
        ((1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1)),
        ((2, 1), ((3, 0), (0, 2)), (1, 1), (3, 2)),
        ((1, 3), ((0, 1), (4, 4)), (2, 1), (2, 5)),
        ((3, 2), ((5, 6), (1, 0)), (3, 2), (4, 3)),
    ],
)
def test_convolutions_of_one_axis_and_of_two(
    axes: int,
    channels: int,
    out: int,
    groups: int,
    strides: tuple[int, int],
    pads: tuple[tuple[int, int], tuple[int, int]],
    dilations: tuple[int, int],
    taps: tuple[int, int],
) -> None:
    generator = np.random.default_rng(channels)
    x = generator.integers(0, 256, (2, channels, 19, 11)[: 2 + axes]).astype(np.uint8)
    w = generator.integers(-127, 128, (out, channels // groups, *taps[:axes])).astype(np.int8)
    layout = {"strides": strides[:axes], "pads": pads[:axes], "dilations": dilations[:axes], "groups": groups}
    around = [side for pair in reversed(pads[:axes]) for side in pair]
    centred = torch.nn.functional.pad(torch.from_numpy(x.astype(np.float64) - 77), around)
    convolve = torch.nn.functional.conv1d if axes == 1 else torch.nn.functional.conv2d
    acc = convolve(
        centred,
        torch.from_numpy(w.astype(np.float64)),
        stride=strides[:axes],
        dilation=dilations[:axes],
        groups=groups,
    )
    wanted = acc.numpy().astype(np.int32)
    check(lambda f, v, k: f.conv(v, k, zero_point=77, **layout), [x], wanted, [w])


# -- moves -------------------------------------------------------------------------------------------

#: pattern, extents of the operand, extents that are told, and what numpy does for it
REARRANGED: list[tuple[str, tuple[int, ...], dict[str, int], Callable[[np.ndarray], np.ndarray]]] = [
    ("b (h e) t -> b h e t", (2, 6, 5), {"h": 2, "e": 3}, lambda v: v.reshape(2, 2, 3, 5)),
    ("b (h e) t -> b h e t", (2, 6, 5), {"h": 2}, lambda v: v.reshape(2, 2, 3, 5)),
    (
        "b (h e) t -> b h t e",
        (2, 6, 5),
        {"e": 3},
        lambda v: v.reshape(2, 2, 3, 5).transpose(0, 1, 3, 2),
    ),
    ("b h e t -> b (h e) t", (2, 3, 4, 5), {"he": 12}, lambda v: v.reshape(2, 12, 5)),
    ("b h e t -> b h t e", (2, 3, 4, 5), {}, lambda v: v.transpose(0, 1, 3, 2)),
    ("b c t -> b t c", (2, 3, 5), {}, lambda v: v.transpose(0, 2, 1)),
    ("b c t -> t c b", (2, 3, 5), {}, lambda v: v.transpose(2, 1, 0)),
    ("b c t -> b c t", (2, 3, 5), {}, lambda v: v),
    ("b m t -> b 1 t m", (2, 3, 5), {}, lambda v: v.transpose(0, 2, 1)[:, None]),
    ("b 1 t m -> b m t", (2, 1, 5, 3), {}, lambda v: v[:, 0].transpose(0, 2, 1)),
    (
        "b c t f -> b (c f) t",
        (2, 3, 5, 4),
        {"cf": 12},
        lambda v: v.transpose(0, 1, 3, 2).reshape(2, 12, 5),
    ),
    ("b 1 t -> b 1 1 t", (2, 1, 5), {}, lambda v: v[:, None]),
    ("b 1 t -> b 1 t 1", (2, 1, 5), {}, lambda v: v[..., None]),
    ("b 1 t -> b t", (2, 1, 5), {}, lambda v: v[:, 0]),
]


@pytest.mark.parametrize("place", range(len(REARRANGED)), ids=lambda place: REARRANGED[place][0])
def test_axes_are_rearranged(place: int) -> None:
    pattern, shape, sizes, by_hand = REARRANGED[place]
    v = np.random.default_rng(place).permutation(math.prod(shape)).reshape(shape).astype(np.int32)
    check(lambda f, x: f.rearrange(x, pattern, **sizes), [v], by_hand(v))


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "b c t", "b c t->b t c", "b c t -> b t", "b c t -> b t c c", "b c -> b t", "b  c -> c b"),
        *("B c -> c B", "b (c) -> b c", "b (c t -> b c t", "b ((c t)) -> b c t", "b 2 t -> b t", "b () -> b"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is no pattern like|name the same letters"):
        parse(pattern)


@pytest.mark.parametrize(
    ("pattern", "shape", "sizes"),
    [
        ("b c t -> b t c", (2, 3), {}),
        ("b (h e) t -> b h e t", (2, 6, 5), {}),
        ("b (h e) t -> b h e t", (2, 6, 5), {"h": 4}),
        ("b (h e) t -> b h e t", (2, 6, 5), {"h": 2, "e": 2}),
        ("b (h e) t -> b h e t", (2, 6, 5), {"h": 0}),
        ("b h e t -> b (h e) t", (2, 3, 4, 5), {"he": 13}),
        ("b c t -> b t c", (2, 3, 5), {"c": 4}),
        ("b c t -> b t c", (2, 3, 5), {"x": 4}),
        ("b 1 t -> b t", (2, 3, 5), {}),
    ],
)
def test_operands_of_other_extents_are_refused(
    pattern: str, shape: tuple[int, ...], sizes: dict[str, int]
) -> None:
    with pytest.raises(ProofError, match="rearrange"):
        NumpyBackend().rearrange(np.zeros(shape, np.uint8), pattern, **sizes)


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_tables_are_sliced_from_their_start_or_around_their_middle(kind: type[np.generic]) -> None:
    table = np.random.default_rng(0).permutation(3 * 12).reshape(3, 12).astype(kind)
    given = np.int32 if kind is np.int16 else kind
    for frames in (1, 4, 6, 12):
        like = np.zeros((2, 5, frames), np.uint8)
        like[0, 0, 0] = 1
        wanted = table[None, :, :frames].astype(given)
        check(lambda f, x, t: f.slice_frames(t, x), [like], wanted, [table])
        if frames <= 6:
            middle = table[None, :, 6 - frames : 6 + frames].astype(given)
            check(lambda f, x, t: f.slice_frames(t, x, around=True), [like], middle, [table])


def test_columns_come_and_go() -> None:
    v = np.random.default_rng(0).integers(3, 250, (2, 3, 5, 4)).astype(np.uint8)
    for value in (0, 1, 255):
        wide = np.concatenate((v, np.full((2, 3, 5, 1), value, np.uint8)), axis=3)
        check(lambda f, x, n=value: f.append_column(x, n), [v], wide)
        check(lambda f, x, n=value: f.split_columns(f.append_column(x, n), 4), [v], (v, wide[..., 4:]))
    check(lambda f, x: f.split_columns(x, 1), [v], (v[..., :1], v[..., 1:]))


def test_torch_reads_the_array_of_the_tensor_at_hand() -> None:
    backend = TorchBackend()
    gone = [id(backend.constant("w", np.full(4, k, dtype=np.int32))) for k in range(64)]
    # memory of tensors that are gone is given to others, and with it their identity
    for k in range(64):
        tensor = torch.full((3,), -k, dtype=torch.int32)
        np.testing.assert_array_equal(backend.array(tensor), tensor.numpy())
        gone.append(id(tensor))
    assert len({*gone}) < len(gone)


# -- recurrences -------------------------------------------------------------------------------------


def test_a_value_is_filled_for_a_batch() -> None:
    like = np.zeros((3, 2, 5), np.uint8)
    check(lambda f, x: f.filled(x, 4, -7, I32), [like], np.full((3, 4, 1), -7, np.int32))


def test_channels_are_joined() -> None:
    a, b = (np.random.default_rng(k).integers(0, 256, (2, 3 + k, 5)).astype(np.uint8) for k in range(2))
    check(lambda f, x, y: f.join_channels(x, y), [a, b], np.concatenate([a, b], axis=1))
    with pytest.raises(ProofError, match="joins uint8 and int32"):
        IntervalBackend().join_channels(Interval.of(0, 1, TYPES["uint8"]), Interval.of(0, 1, I32))


@pytest.mark.parametrize("backwards", [False, True])
def test_a_scan_runs_either_way(backwards: bool) -> None:
    x = np.random.default_rng(0).integers(-9, 10, (2, 3, 6)).astype(np.int32)

    def total(f: Any, v: Any) -> Any:
        def step(carried: list[Any], inputs: list[Any]) -> tuple[list[Any], list[Any]]:
            after = f.clamp(f.add(carried[0], inputs[0]), -20, 20)
            return [after], [after]

        start = f.filled(v, 3, 0, I32)
        _, (every,) = f.scan(step, [start], [v], bounds=[(-20, 20)], backwards=backwards)
        return every

    order = range(5, -1, -1) if backwards else range(6)
    wanted, held = np.zeros_like(x), np.zeros((2, 3), np.int32)
    for t in order:
        held = np.clip(held + x[:, :, t], -20, 20)
        wanted[:, :, t] = held
    check(total, [x], wanted)


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize(
    "index", [tuple(range(3, 15)), tuple(range(20)), (3, 5, 4, *range(6, 15)), (7,)], ids=str
)
def test_neighbouring_channels_are_a_slice_in_short_files(
    kind: type, short: bool, index: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 20, 5)).astype(kind)
    backend = OnnxStrictBackend()
    backend.short = short
    (found,) = run_strict(lambda f, v: f.take_channels(v, index), [x], [], backend)
    np.testing.assert_array_equal(found, x[:, list(index)])
    neighbours = len(index) > 8 and index == tuple(sorted(index))
    assert [node.op_type for node in backend.nodes] == ["Slice" if short and neighbours else "Gather"]
    if short and neighbours:
        (name,) = backend.nodes[0].output
        assert backend.dims[name] == ("d0_0", len(index), "d0_2")
