"""Histograms that stream, the rules that turn them into ranges, and calibration as a whole."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zeroq_asr.calibration.calibrate import (
    MAX_INPUTS,
    METHODS,
    Histogram,
    calibrate,
    minmax_range,
    mse_range,
    percentile_range,
)
from zeroq_asr.config import MADE_MARGIN, CalibrationSpec
from zeroq_asr.errors import CalibrationError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode

#: ranges as they were observed
SPEC = CalibrationSpec(margin=1.0)
# a value 2^53 times smaller than the limit may fall into either cell beside zero
FLOATS = st.floats(-1e6, 1e6, width=32).map(lambda v: v if abs(v) > 1e-6 else 0.0)


def histogram_of(*parts: Tensor, bins: int = 2048) -> Histogram:
    h = Histogram(bins)
    for part in parts:
        h.add(part)
    return h


def exact_counts(values: np.ndarray, h: Histogram) -> np.ndarray:
    """What the cells should hold, in float64."""
    width = 2 * h.limit / len(h.counts)
    cells = np.floor(values.astype(np.float64) / width).astype(int) + len(h.counts) // 2
    return np.bincount(cells, minlength=len(h.counts))


# -- histograms ----------------------------------------------------------------------------------


def test_counts_are_exact_after_doublings() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1000, generator=generator) * 10.0**k for k in (-3, -1, 0, 2, 1, 4)]
    h = histogram_of(*parts)
    np.testing.assert_array_equal(h.counts, exact_counts(torch.cat(parts).numpy(), h))


@given(st.lists(st.lists(FLOATS, min_size=1, max_size=20), min_size=1, max_size=6))
def test_streamed_counts_equal_counts_at_once(parts: list[list[float]]) -> None:
    h = histogram_of(*(torch.tensor(p) for p in parts), bins=64)
    values = np.concatenate([np.array(p, dtype=np.float32) for p in parts])
    assert h.total == len(values)
    assert h.min == values.min()
    assert h.max == values.max()
    assert h.limit > np.abs(values).max()
    np.testing.assert_array_equal(h.counts, exact_counts(values, h))


@given(st.lists(FLOATS, min_size=2, max_size=30), st.randoms())
def test_order_does_not_matter(values: list[float], random: object) -> None:
    # the same first value fixes the starting width; any later order must give the same counts
    first, rest = values[0], values[1:]
    turned = rest[::-1]
    a = histogram_of(*(torch.tensor([v]) for v in (first, *rest)), bins=64)
    b = histogram_of(*(torch.tensor([v]) for v in (first, *turned)), bins=64)
    assert (a.limit, a.min, a.max) == (b.limit, b.min, b.max)
    np.testing.assert_array_equal(a.counts, b.counts)


def test_many_equal_values_are_all_counted() -> None:
    # behind a ReLU tens of millions of values are zero; float32 counts stop at 2^24
    count = (1 << 24) + 4099
    h = histogram_of(torch.zeros(1).expand(count))
    assert h.total == count


def test_memory_does_not_grow() -> None:
    h = Histogram(256)
    h.add(torch.randn(10))
    before = sys.getsizeof(h.counts)
    for scale in (1e-3, 1.0, 1e3, 1e6):
        h.add(torch.randn(50_000) * scale)
    assert h.counts.shape == (256,)
    assert sys.getsizeof(h.counts) == before
    assert {k for k, v in vars(h).items() if isinstance(v, (np.ndarray, Tensor, list))} == {"counts"}


def test_extremes_are_exact_not_those_of_cells() -> None:
    h = histogram_of(torch.tensor([0.1, -0.3]), torch.tensor([123.456]), bins=16)
    assert h.min == np.float32(-0.3)
    assert h.max == np.float32(123.456)


@pytest.mark.parametrize("peak", [1.0, 0.5, 2.0**-30, 2.0**40, -1.0])
def test_a_peak_on_the_edge_of_a_cell_is_inside(peak: float) -> None:
    h = histogram_of(torch.tensor([peak]))
    assert h.total == 1
    assert h.limit > abs(peak)
    assert h.edges[0] <= peak < h.edges[-1]


def test_shape_and_type_do_not_matter() -> None:
    values = torch.randn(2, 3, 5)
    flat = histogram_of(values)
    for other in (values.transpose(1, 2), values.double(), values.flatten()):
        np.testing.assert_array_equal(histogram_of(other).counts, flat.counts)
    half = histogram_of(values.half())
    assert half.total == 30


def test_nothing_adds_nothing() -> None:
    h = histogram_of(torch.zeros(2, 0))
    assert h.total == 0
    assert h.limit == 0.0


def test_zeros_then_values() -> None:
    h = histogram_of(torch.zeros(5), torch.tensor([3.0, -1.0]))
    assert (h.min, h.max, h.total) == (-1.0, 3.0, 7)
    np.testing.assert_array_equal(h.counts, exact_counts(np.array([0, 0, 0, 0, 0, 3.0, -1.0]), h))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    h = histogram_of(torch.ones(3))
    with pytest.raises(CalibrationError):
        h.add(torch.tensor([0.0, bad]))
    assert h.total == 3


@pytest.mark.parametrize("bins", [0, 2, 3, 6, 1001])
def test_bins_come_in_fours(bins: int) -> None:
    with pytest.raises(CalibrationError, match="multiple of 4"):
        Histogram(bins)


# -- ranges --------------------------------------------------------------------------------------


def draw(kind: str, count: int = 20_000) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(count, generator=generator)
    return {
        "normal": normal,
        "heavy": normal * torch.rand(count, generator=generator).pow(-0.4),
        "relu": normal.relu(),
        "negative": -normal.relu(),
        "shifted": normal + 3,
        "above": normal.abs() + 1,
        "below": -normal.abs() - 1,
        "outlier": torch.cat([normal, torch.tensor([500.0])]),
        "skewed": torch.where(normal > 0, normal * 30, normal),
    }[kind]


KINDS = ("normal", "heavy", "relu", "negative", "shifted", "above", "below", "outlier", "skewed")


@pytest.mark.parametrize("kind", KINDS)
def test_minmax(kind: str) -> None:
    values = draw(kind)
    assert minmax_range(histogram_of(values), SPEC, 255) == (values.min(), values.max())


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99, 100.0])
@pytest.mark.parametrize("kind", KINDS)
def test_percentile_against_the_samples(kind: str, percentile: float) -> None:
    values = draw(kind).double().numpy()
    h = histogram_of(torch.from_numpy(values), bins=8192)
    lo, hi = percentile_range(h, replace(SPEC, method="percentile", percentile=percentile), 255)
    cell = 2 * h.limit / len(h.counts)
    assert values.min() <= lo <= hi <= values.max()
    # what was asked for is kept, and one cell less at either end would not keep it
    share = 1 - percentile / 100
    one_sided = values.min() >= 0 or values.max() <= 0
    tail = share if one_sided else share / 2
    below, above = (values < lo).mean(), (values > hi).mean()
    assert below <= tail + 1e-12
    assert above <= tail + 1e-12
    if values.max() > 0:
        assert (values > hi - 1.001 * cell).mean() >= tail
    if values.min() < 0:
        assert (values < lo + 1.001 * cell).mean() >= tail


def squared_error(values: np.ndarray, lo: float, hi: float, levels: int) -> float:
    """The error of quantizing every sample, without any model of it."""
    step = (hi - lo) / levels
    zero = np.rint(-lo / step)
    q = np.clip(np.rint(values / step) + zero, 0, levels)
    return float((((q - zero) * step - values) ** 2).mean())


# where all but one value would round to zero, the error is no longer that of rounding
@pytest.mark.parametrize(
    ("kind", "levels"), [(k, n) for k in KINDS for n in (255, 63, 15, 7) if k != "outlier" or n == 255]
)
def test_mse_against_brute_force(kind: str, levels: int) -> None:
    values = draw(kind).numpy().astype(np.float64)
    h = histogram_of(torch.from_numpy(values))
    lo, hi = mse_range(h, SPEC, levels)
    # zero is always representable, whatever the range says
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    found = squared_error(values, lo, hi, levels)
    least, highest = min(values.min(), 0.0), max(values.max(), 0.0)
    fractions = np.linspace(0.2, 1.0, 17)
    best = min(
        squared_error(values, least * a, highest * b, levels)
        for a in (fractions if least < 0 else [0.0])
        for b in (fractions if highest > 0 else [0.0])
    )
    assert found <= best * 1.15 + 1e-12


def test_mse_clips_an_outlier_that_minmax_keeps() -> None:
    values = draw("outlier")
    h = histogram_of(values)
    assert minmax_range(h, SPEC, 15)[1] == 500.0
    assert mse_range(h, SPEC, 15)[1] < 500.0


def test_mse_of_one_sided_values_ends_at_zero() -> None:
    lo, hi = mse_range(histogram_of(draw("relu")), SPEC, 255)
    assert lo == 0.0
    assert hi > 0.0
    lo, hi = mse_range(histogram_of(draw("negative")), SPEC, 255)
    assert lo < 0.0
    assert hi == 0.0


def test_mse_treats_both_signs_alike() -> None:
    for kind in KINDS:
        values = draw(kind)
        lo, hi = mse_range(histogram_of(values), SPEC, 31)
        turned_lo, turned_hi = mse_range(histogram_of(-values), SPEC, 31)
        step = float(values.abs().max()) * 0.05
        assert abs(lo + turned_hi) <= step, kind
        assert abs(hi + turned_lo) <= step, kind


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_ranges_never_exceed_what_was_seen(method: str, kind: str) -> None:
    values = draw(kind)
    lo, hi = METHODS[method](histogram_of(values), replace(SPEC, method=method), 255)
    assert lo <= hi
    assert min(float(values.min()), 0.0) <= lo
    assert hi <= max(float(values.max()), 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_alone_have_an_empty_range(method: str) -> None:
    h = histogram_of(torch.zeros(2, 3), torch.zeros(4))
    assert METHODS[method](h, replace(SPEC, method=method), 255) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-20])
def test_one_value_alone_is_its_own_range(method: str, value: float) -> None:
    h = histogram_of(torch.full((10,), value))
    lo, hi = METHODS[method](h, replace(SPEC, method=method), 255)
    # to the precision of float32, and with zero in or out of the range
    assert min(lo, 0.0) == pytest.approx(min(value, 0.0), rel=0.1)
    assert max(hi, 0.0) == pytest.approx(max(value, 0.0), rel=0.1)


# -- calibration ---------------------------------------------------------------------------------


def graph() -> FloatGraph:
    layout = {"stride": 1, "padding": (1, 1), "dilation": 1, "groups": 1}
    weight = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))
    nodes = [
        FloatNode("conv1d", "h", ("x",), {"weight": weight, "bias": torch.zeros(4), **layout}),
        FloatNode("clamp", "r", ("h",), {"clamp": (0.0, None)}),
        FloatNode("length_step", "m", ("n",), {"before": 0, "divisor": 2, "after": 0}),
        FloatNode("mask_time", "z", ("r", "n"), {}),
        FloatNode("transpose", "y", ("z",), {"perm": (0, 2, 1)}),
    ]
    return FloatGraph(("x", "n"), ("y", "m"), nodes)


def utterances() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(3, frames, generator=generator) * (1 + frames / 50) for frames in (7, 50, 1, 23)]


@pytest.mark.parametrize("method", METHODS)
def test_every_real_value_gets_a_range(method: str) -> None:
    ranges = calibrate(graph(), utterances(), replace(SPEC, method=method)).ranges
    # lengths are integers already
    assert set(ranges) == {"x", "h", "r", "z", "y"}
    assert all(np.isfinite(r).all() and r[0] <= r[1] for r in ranges.values())
    assert all(type(end) is float for r in ranges.values() for end in r)
    assert ranges["r"][0] >= 0.0


def test_minmax_ranges_are_exact_over_different_lengths() -> None:
    g, data = graph(), utterances()
    ranges = calibrate(g, data, SPEC).ranges
    outputs = [g.run(u[None], torch.tensor([u.shape[1]]))[0] for u in data]
    assert ranges["x"] == (min(float(u.min()) for u in data), max(float(u.max()) for u in data))
    assert ranges["y"] == (min(float(u.min()) for u in outputs), max(float(u.max()) for u in outputs))


@pytest.mark.parametrize("method", METHODS)
def test_order_of_utterances_does_not_matter(method: str) -> None:
    spec = replace(SPEC, method=method)
    assert (
        calibrate(graph(), utterances(), spec).ranges == calibrate(graph(), utterances()[::-1], spec).ranges
    )


def test_features_may_be_a_generator_and_are_read_once() -> None:
    read = 0

    def stream() -> object:
        nonlocal read
        for utterance in utterances():
            read += 1
            yield utterance

    assert calibrate(graph(), stream(), SPEC).ranges == calibrate(graph(), utterances(), SPEC).ranges
    assert read == 4


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.integers(0, 30), st.booleans())
def test_parts_that_are_merged_are_the_whole(values: list[float], cut: int, extremes_alone: bool) -> None:
    whole, first, second = (Histogram(16, extremes_alone=extremes_alone) for _ in range(3))
    whole.add(torch.tensor(values))
    first.add(torch.tensor(values[:cut]))
    second.add(torch.tensor(values[cut:]))
    first.merge(second)
    assert (first.min, first.max) == (whole.min, whole.max)
    if not extremes_alone:
        assert first.total == whole.total
        # cells may be wider where a part began with larger values: both are exact at the coarser width
        while whole.limit < first.limit:
            whole._double()
        while first.limit < whole.limit:
            first._double()
        assert first.counts.tolist() == whole.counts.tolist()


def test_progress_counts_utterances() -> None:
    seen: list[tuple[str, int, int]] = []
    calibrate(graph(), utterances(), SPEC, total=4, progress=lambda *a: seen.append(a))
    assert seen == [("calibrate", i, 4) for i in range(5)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_features_name_the_utterance(bad: float) -> None:
    data = utterances()
    data[2][0, 0] = bad
    with pytest.raises(CalibrationError, match=r"utterance 3.*NaN or infinity"):
        calibrate(graph(), data, SPEC)


def test_no_features() -> None:
    with pytest.raises(CalibrationError, match="no features"):
        calibrate(graph(), [], SPEC)


def test_an_overflow_inside_names_the_layer() -> None:
    g = graph()
    g.nodes[0].attrs["weight"] = g.nodes[0].attrs["weight"] * 3e38
    with pytest.raises(CalibrationError, match=r"\bh\b"):
        calibrate(g, utterances(), SPEC)


def test_levels_change_only_the_mse_range() -> None:
    def ranges(method: str, levels: int) -> dict[str, tuple[float, float]]:
        return calibrate(graph(), utterances(), replace(SPEC, method=method), levels=levels).ranges

    assert ranges("minmax", 3) == ranges("minmax", 255)
    assert ranges("percentile", 3) == ranges("percentile", 255)
    fine, coarse = ranges("mse", 255)["h"], ranges("mse", 3)["h"]
    assert coarse[1] - coarse[0] < fine[1] - fine[0]


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
@settings(deadline=None)
@given(st.sampled_from(sorted(METHODS)))
def test_ranges_scale_with_the_values(scale: float, method: str) -> None:
    # by a power of two, so that cells move along exactly
    factor = 2.0 ** round(np.log2(scale))
    values = draw("normal", 500)
    rule: Callable[..., tuple[float, float]] = METHODS[method]
    lo, hi = rule(histogram_of(values), SPEC, 255)
    far = rule(histogram_of(values * factor), SPEC, 255)
    assert far == pytest.approx((lo * factor, hi * factor))


def test_made_features_get_wider_ranges_than_audio() -> None:
    """Statistic matching says nothing about tails; real recordings have theirs."""
    exact = calibrate(graph(), utterances(), SPEC).ranges
    assert calibrate(graph(), utterances(), CalibrationSpec(source="calls.jsonl")).ranges == exact
    for source in ("synthetic", "noise", "features.npz"):
        wide = calibrate(graph(), utterances(), CalibrationSpec(source=source)).ranges
        assert wide == {name: (lo * MADE_MARGIN, hi * MADE_MARGIN) for name, (lo, hi) in exact.items()}
    half = calibrate(graph(), utterances(), CalibrationSpec(margin=0.5)).ranges
    assert half["x"] == (exact["x"][0] / 2, exact["x"][1] / 2)


def test_means_are_those_of_what_is_convolved() -> None:
    g, data = graph(), utterances()
    convolved = {node.ins[0] for node in g.nodes if node.op == "conv1d"}
    means = calibrate(g, data, SPEC).means
    assert set(means) == convolved
    # over all frames of all utterances, however long each is
    np.testing.assert_allclose(means["x"], torch.cat(data, dim=1).double().mean(dim=1).numpy(), rtol=1e-12)


def kept(seen: list[Tensor], name: str, value: Tensor) -> None:
    if name == "h":
        seen.append(value[0])


def test_means_of_images_are_over_time_and_frequency() -> None:
    layout = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(out, ins, 3, 3, generator=generator) for out, ins in ((2, 1), (4, 2))]
    nodes = [
        FloatNode("image", "i", ("x",)),
        FloatNode("conv2d", "h", ("i",), {"weight": weights[0], "bias": torch.zeros(2), **layout}),
        FloatNode("conv2d", "k", ("h",), {"weight": weights[1], "bias": torch.zeros(4), **layout}),
        FloatNode("flatten", "f", ("k",), {"channels": 12}),
        FloatNode("transpose", "y", ("f",), {"perm": (0, 2, 1)}),
    ]
    g, data = FloatGraph(("x", "n"), ("y", "n"), nodes), utterances()
    seen: list[Tensor] = []
    for one in data:
        g.run(one[None], torch.tensor([one.shape[1]]), observe=partial(kept, seen))
    means = calibrate(g, data, SPEC).means
    assert set(means) == {"i", "h"}
    np.testing.assert_allclose(means["i"], [torch.cat(data, dim=1).double().mean().item()], rtol=1e-9)
    wanted = torch.cat(seen, dim=1).double().mean(dim=(1, 2)).numpy()
    np.testing.assert_allclose(means["h"], wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("inputs", "kernel", "stride", "dilation"), [(6, 1, 1, 1), (6, 1, 2, 1), (3, 5, 1, 1), (2, 3, 2, 3)]
)
def test_covariances_are_those_of_what_a_row_is_multiplied_with(
    inputs: int, kernel: int, stride: int, dilation: int
) -> None:
    weight = torch.randn(4, inputs, kernel)
    attrs = {"weight": weight, "bias": torch.zeros(4), "stride": stride, "dilation": dilation}
    attrs |= {"padding": (6, 6), "groups": 1}
    graph = FloatGraph(("x", "n"), ("y", "n"), [FloatNode("conv1d", "y", ("x",), attrs)])
    parts = [torch.randn(inputs, frames) * 2 + 1 for frames in (40, 7, 25, 1)]
    found = calibrate(graph, parts, SPEC, covariances=True).covariances["y"]
    span = (kernel - 1) * dilation + 1
    rows = [
        part[:, t : t + span : dilation].flatten().numpy()
        for part in parts
        for t in range(0, part.shape[1] - span + 1, stride)
    ]
    np.testing.assert_allclose(found, np.cov(np.array(rows).T, bias=True), atol=1e-5)
    assert found.shape == (inputs * kernel, inputs * kernel)
    assert calibrate(graph, parts, SPEC).covariances == {}


def test_no_covariance_where_there_is_no_window_or_too_many_inputs() -> None:
    def graph(inputs: int, groups: int = 1) -> FloatGraph:
        attrs = {"weight": torch.randn(groups, inputs, 3), "bias": torch.zeros(groups), "stride": 1}
        attrs |= {"dilation": 1, "padding": (1, 1), "groups": groups}
        return FloatGraph(("x", "n"), ("y", "n"), [FloatNode("conv1d", "y", ("x",), attrs)])

    for network, features in (
        (graph(4), torch.randn(4, 2)),
        (graph(MAX_INPUTS), torch.randn(MAX_INPUTS, 5)),
        (graph(1, groups=4), torch.randn(4, 20)),
    ):
        assert calibrate(network, [features], SPEC, covariances=True).covariances == {}


def test_auto_goes_by_the_bits() -> None:
    for bits, method, kept, margin in (
        (8, "minmax", 99.99, MADE_MARGIN),
        (7, "percentile", 99.999, 1.0),
        (6, "percentile", 99.99, 1.0),
    ):
        found = CalibrationSpec().resolved(2**bits - 1)
        assert (found.method, found.percentile, found.widening) == (method, kept, margin)
    assert CalibrationSpec(margin=1.3).resolved(63).widening == 1.3
    chosen = CalibrationSpec(method="mse")
    assert chosen.resolved(63) == chosen
