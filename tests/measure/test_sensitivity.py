"""What quantizing each layer alone costs, against doing just that."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.grid import symmetric
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.lowering.formats import byte_format
from zeroq_asr.measure.replays import Replay, replays_of
from zeroq_asr.measure.sensitivity import rounded, rounded_weight
from zeroq_asr.registry import OPERATORS

MELS, TOKENS = 6, 5


class Network(nn.Module):
    """Two convolutions and a sum: what the second adds does not depend on the first."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv1d(MELS, 8, 3, padding=1)
        self.right = nn.Conv1d(MELS, 8, 1)
        self.head = nn.Linear(8, TOKENS)

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.left(x).relu() + self.right(x)
        return self.head(y.transpose(1, 2)), n


@pytest.fixture(scope="module")
def graph() -> FloatGraph:
    torch.manual_seed(0)
    network = Network().eval().requires_grad_(False)
    return capture(network, (torch.randn(2, MELS, 30), torch.tensor([30, 30])))


def test_a_replay_without_a_change_is_the_run(graph: FloatGraph) -> None:
    x, n = torch.randn(1, MELS, 20), torch.tensor([17])
    wanted, _ = graph.run(x, n)
    assert torch.equal(Replay(graph, x, n).logits(), wanted[0, :17])


def test_utterances_of_one_length_are_replayed_together(graph: FloatGraph) -> None:
    utterances = [torch.randn(MELS, frames) for frames in (20, 20, 13, 20)]
    replays = replays_of(graph, utterances)
    name = graph.inputs[0]
    for changes in ({}, {name: torch.neg}):
        found = [replay.logits(changes) for replay in replays]
        assert [len(logits) for logits in found] == [40, 13, 20]
        alone = [Replay(graph, x[None], torch.tensor([x.shape[1]])).logits(changes) for x in utterances]
        assert torch.allclose(torch.cat(found), torch.cat(alone), atol=1e-5)


def test_a_replay_changes_what_it_is_told_to(graph: FloatGraph) -> None:
    x, n = torch.randn(1, MELS, 20), torch.tensor([20])
    replay = Replay(graph, x, n)
    name = graph.inputs[0]
    wanted, _ = graph.run(2 * x, n)
    assert torch.equal(replay.logits({name: lambda v: 2 * v}), wanted[0])
    # and forgets it
    plain, _ = graph.run(x, n)
    assert torch.equal(replay.logits(), plain[0])
    weight = next(node for node in graph.nodes if node.out == "right").attrs["weight"]
    gone = replay.logits(weights={"right": torch.zeros_like(weight)})
    bias = next(node for node in graph.nodes if node.out == "right").attrs["bias"]
    alike = replay.logits({"right": lambda v: bias[:, None].expand_as(v)})
    assert torch.allclose(gone, alike)
    nothing = replay.logits({}, {"right": torch.zeros_like(weight)}, {"right": torch.zeros_like(bias)})
    assert torch.allclose(nothing, replay.logits({"right": torch.zeros_like}))


def test_only_what_follows_runs_again(graph: FloatGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Replay(graph, torch.randn(1, MELS, 20), torch.tensor([20]))
    seen: list[str] = []
    for op, record in list(OPERATORS.items()):
        if record.meaning is not None:
            counted = partial(_counted, seen, op, record.meaning)
            monkeypatch.setitem(OPERATORS, op, dataclasses.replace(record, meaning=counted))
    replay.logits({"left": lambda v: v + 1})
    # the sum, the head and a transpose or two; neither of the convolutions before them
    assert seen.count("conv1d") == 1


def _counted(seen: list[str], op: str, function: object, *args: object, **attrs: object) -> object:
    seen.append(op)
    return function(*args, **attrs)  # type: ignore[operator]


def test_rounding_values() -> None:
    x = torch.linspace(-1.0, 3.0, 1001)
    info = byte_format((-1.0, 3.0), 8)
    assert float((rounded(x, info) - x).abs().max()) <= info.scale * 0.5 + 1e-6
    assert torch.unique(rounded(x, info)).numel() == 256
    word = ValueInfo("int32", 0.5, 0, -3, 3)
    assert rounded(torch.tensor([0.3, 9.0, -9.0]), word).tolist() == [0.5, 1.5, -1.5]


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_weights(bits: int) -> None:
    weight = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    weight[2] *= 1e-3
    weight[3] = 0
    found = rounded_weight(weight, bits)
    assert found.shape == weight.shape
    peak = weight.abs().amax(dim=(1, 2), keepdim=True)
    levels = symmetric(bits).levels
    widest = max(b - a for a, b in itertools.pairwise(levels)) / levels[-1]
    # an all-zero channel gets the smallest weights there are, on a grid without 0
    assert bool(((found - weight).abs() <= widest * peak + 1e-3).all())
    assert rounded_weight(torch.zeros(2, 1, 1), bits).abs().sum() == 0


@pytest.fixture(scope="module")
def model() -> zq.AsrModel:
    return zq.embedded_model()


@pytest.fixture(scope="module")
def found(model: zq.AsrModel) -> zq.Sensitivity:
    return zq.sensitivity(
        model,
        synthesis=zq.SynthesisSpec(batch=2, frames=64),
        calibration=zq.CalibrationSpec("noise"),
    )


def test_every_layer_is_ranked(found: zq.Sensitivity) -> None:
    costs = [layer.divergence for layer in found.layers]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 0
    results = {layer.name for layer in found.layers if layer.kind == "result"}
    weights = {layer.name for layer in found.layers if layer.kind == "weights"}
    assert weights - results == {"decoder.decoder_layers.0"}, "the logits have 16 bits anyway"
    assert (found.utterances, found.source) == (2, "noise")
    json.dumps(found.to_dict(), allow_nan=False)


def test_16_bits_cost_next_to_nothing(model: zq.AsrModel, found: zq.Sensitivity) -> None:
    worst = next(layer for layer in found.layers if layer.can_have_16_bits)
    again = zq.sensitivity(
        model,
        zq.QuantSpec(layer_bits=((worst.name, 16),)),
        zq.SynthesisSpec(batch=2, frames=64),
        zq.CalibrationSpec("noise"),
    )
    same = next(layer for layer in again.layers if (layer.name, layer.kind) == (worst.name, "result"))
    assert same.bits == 16
    assert same.sqnr > worst.sqnr + 30
    assert same.divergence < worst.divergence / 100


def test_saved_features_are_used(model: zq.AsrModel, tmp_path: Path) -> None:
    made = zq.gaussian_noise(model, zq.SynthesisSpec(batch=2, frames=40))
    made.save(tmp_path / "noise.npz")
    found = zq.sensitivity(model, calibration=zq.CalibrationSpec(str(tmp_path / "noise.npz")))
    assert found.source == "features"
    assert math.isfinite(found.layers[0].sqnr)
    assert np.isfinite([layer.divergence for layer in found.layers]).all()
