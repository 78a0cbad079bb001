"""Smoothing keeps the function and evens out what the channels reach."""

from __future__ import annotations

import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.calibration.equalize import places, smooth
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.graph.float_graph import FloatGraph


@pytest.fixture(scope="module")
def graph() -> FloatGraph:
    model = zq.load_checkpoint(zq.embedded_files().conformer)
    return prepared_graph(capture(model.network, model.example_input(), model.name))


def features(seed: int) -> torch.Tensor:
    return torch.randn(64, 80, generator=torch.Generator().manual_seed(seed))


def test_every_layer_has_its_places(graph: FloatGraph) -> None:
    found = list(places(graph))
    # four norms that only linear layers read, the values of attention, the gated product; and the last norm
    assert len(found) == 6 * 6 + 1
    assert sum(place.maker.endswith("linear_v") for place in found) == 6
    assert sum(len(place.readers) == 4 for place in found) == 6


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_the_function_stays(graph: FloatGraph, exponent: float) -> None:
    smoothed = smooth(graph, [features(0)], exponent)
    x, length = features(1)[None], torch.tensor([80])
    before, after = (g.run(x, length)[0] for g in (graph, smoothed))
    assert (before - after).abs().max() < 2e-3
    assert (before - after).abs().max() > 0


def test_channels_reach_more_evenly(graph: FloatGraph) -> None:
    smoothed = smooth(graph, [features(0)], 1.0)
    spreads = []
    for one in (graph, smoothed):
        peaks: dict[str, torch.Tensor] = {}
        wanted = {place.value for place in places(graph)}

        def note(
            name: str, value: torch.Tensor, peaks: dict[str, torch.Tensor] = peaks, wanted: set[str] = wanted
        ) -> None:
            if name in wanted:
                peaks[name] = value.abs().amax(dim=(0, 2))

        one.run(features(0)[None], torch.tensor([80]), observe=note)
        spreads.append(sum(float(p.max() / p.median()) for p in peaks.values()) / len(peaks))
    assert spreads[1] < 1.05 < spreads[0]


def test_a_graph_without_such_places_stays_as_it_is() -> None:
    model = zq.embedded_model()
    graph = capture(model.network, model.example_input(), model.name)
    assert [n.attrs for n in smooth(graph, [features(0)], 0.5).nodes] == [n.attrs for n in graph.nodes]
