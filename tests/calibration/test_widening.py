"""Range rules that use the checkpoint's own statistics: what they widen, and by how much."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.calibration.widening import with_floor, with_shortfall
from zeroq_asr.capture.capture import capture
from zeroq_asr.config import CalibrationSpec
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode, Promise

MEAN, DEVIATION = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 1.0]).double()


def graph(**attrs: Any) -> FloatGraph:
    nodes = [
        FloatNode("conv1d", "a", ("x",), attrs, "a", Promise("a.norm", MEAN, DEVIATION)),
        FloatNode("tanh", "b", ("a",)),
        FloatNode("conv1d", "c", ("b",), {}, "c", Promise("c.norm", MEAN, DEVIATION)),
        FloatNode("add", "d", ("b", "c")),
    ]
    return FloatGraph(("x", "n"), ("d", "n"), nodes)


RANGES = {"x": (-1.0, 1.0), "a": (-3.0, 1.5), "b": (-1.0, 1.0), "c": (-100.0, 100.0), "d": (-2.0, 3.0)}


def test_a_floor_reaches_to_the_widest_channel() -> None:
    found = with_floor(RANGES, graph(), 4.0)
    assert found["a"] == (-6.0, 3.0)  # -2 - 4·1 and 1 + 4·0.5
    assert {name: found[name] for name in "xbcd"} == {name: RANGES[name] for name in "xbcd"}


@pytest.mark.parametrize(
    ("clamp", "wanted"), [((0.0, None), (0.0, 3.0)), ((-1.0, 2.0), (-1.0, 2.0)), ((4.0, None), (0.0, 4.0))]
)
def test_a_floor_stays_within_the_clamp(clamp: Any, wanted: tuple[float, float]) -> None:
    assert with_floor({"a": (0.0, 1.5)}, graph(clamp=clamp), 4.0)["a"] == pytest.approx(
        (min(0.0, wanted[0]), max(1.5, wanted[1]))
    )


def test_a_shortfall_widens_up_to_the_next_normalization() -> None:
    found = with_shortfall(RANGES, graph(), {"a.norm": 0.5, "c.norm": 1.3})
    assert found["x"] == RANGES["x"]
    assert found["a"] == (-6.0, 3.0)
    assert found["b"] == (-2.0, 2.0)
    # more than was stored narrows nothing; a sum takes the worse of its operands
    assert found["c"] == RANGES["c"]
    assert found["d"] == (-4.0, 6.0)


def test_captured_networks_keep_what_their_normalizations_promise(small_model: Any) -> None:
    network = small_model.network
    found = capture(network, small_model.example_input(), "small")
    promised = {node.promise.layer: node.promise for node in found.nodes if node.promise is not None}
    norms = {n: m for n, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm1d)}
    assert set(promised) == set(norms)
    for name, norm in norms.items():
        share = (norm.running_var / (norm.running_var + norm.eps)).sqrt()
        torch.testing.assert_close(promised[name].mean.float(), norm.bias)
        torch.testing.assert_close(promised[name].deviation.float(), norm.weight.abs() * share)


def test_calibration_applies_both(small_model: Any) -> None:
    found = capture(small_model.network, small_model.example_input(), "small")
    features = [torch.randn(16, 50, generator=torch.Generator().manual_seed(0))]
    plain = calibrate(found, features, CalibrationSpec()).ranges
    layers = [node.promise.layer for node in found.nodes if node.promise is not None]
    floor = calibrate(found, features, CalibrationSpec(floor=20.0)).ranges
    spec = CalibrationSpec(shortfall=True)
    short = calibrate(found, features, spec, reached=dict.fromkeys(layers, 0.5)).ranges
    wider = [n.out for n in found.nodes if n.promise is not None]
    assert all(floor[name][1] > plain[name][1] for name in wider)
    assert all(short[name][1] == pytest.approx(2 * plain[name][1]) for name in wider)
    # audio has no account of its own, so there is nothing to fall short of
    assert calibrate(found, features, spec).ranges == plain
