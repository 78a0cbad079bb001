"""Cross-layer equalization: the same function, channels that reach more evenly far."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zeroq_asr.calibration.equalize import LIMIT, depthwise_places, equalize
from zeroq_asr.capture.capture import capture
from zeroq_asr.config import QuantSpec, SynthesisSpec
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.pipeline import quantize

CHANNELS = 6


class Pairs(nn.Module):
    """A depthwise and a pointwise convolution, masked in between, whose channels differ widely."""

    def __init__(self, clamp: bool = False, shared: bool = False) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.pointwise = nn.Conv1d(CHANNELS, 5, 1)
        self.clamp, self.shared = clamp, shared
        with torch.no_grad():
            self.depthwise.weight *= torch.logspace(-0.7, 0.7, CHANNELS)[:, None, None]

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        x = self.depthwise(x)
        if self.clamp:
            x = x.relu()
        y = self.pointwise(x * (torch.arange(x.shape[2])[None] < n[:, None])[:, None])
        if self.shared:
            y = y + x[:, torch.arange(5)]
        return y.transpose(1, 2), n


def captured(network: nn.Module) -> FloatGraph:
    torch.manual_seed(0)
    example = (torch.randn(2, CHANNELS, 30), torch.tensor([30, 20]))
    return capture(network.eval().requires_grad_(False), example, "pairs")


def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(CHANNELS, 40, generator=generator) for _ in range(4)]


def peaks(graph: FloatGraph) -> Tensor:
    found = []
    name = next(depthwise_places(graph)).value
    for x in features():
        graph.run(
            x[None], torch.tensor([40]), observe=lambda n, v: found.append(v.abs()) if n == name else None
        )
    return torch.cat(found).amax(dim=(0, 2))


@pytest.mark.parametrize("exponent", [0.25, 1.0])
def test_the_function_stays(exponent: float) -> None:
    graph = captured(Pairs())
    other = equalize(graph, features(), exponent)
    x, n = torch.randn(3, CHANNELS, 50), torch.tensor([50, 17, 3])
    for found, wanted in zip(other.run(x, n), graph.run(x, n), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_channels_reach_as_far_as_the_exponent_says() -> None:
    graph = captured(Pairs())
    before = peaks(graph)
    assert before.max() / before.min() > 10
    whole, half = (peaks(equalize(graph, features(), e)) for e in (1.0, 0.5))
    torch.testing.assert_close(whole, torch.full_like(whole, float(before.median())), rtol=1e-4, atol=0)
    torch.testing.assert_close(half / half.median(), (before / before.median()).sqrt(), rtol=1e-4, atol=0)


def test_no_channel_is_scaled_without_limit() -> None:
    network = Pairs()
    with torch.no_grad():
        network.depthwise.weight[0] = 0
        network.depthwise.bias[0] = 0  # type: ignore[index]  # this one has a bias
    graph = captured(network)
    other = equalize(graph, features(), 1.0)
    old, new = (
        g.producer()[next(depthwise_places(g)).readers[0]].attrs["weight"][:, 0] for g in (graph, other)
    )
    torch.testing.assert_close(new, old / LIMIT)


@pytest.mark.parametrize("network", [Pairs(clamp=True), Pairs(shared=True)])
def test_other_readers_and_clamps_are_left_alone(network: nn.Module) -> None:
    graph = captured(network)
    assert list(depthwise_places(graph)) == []
    assert equalize(graph, features(), 1.0).nodes == graph.nodes


def test_quantize_takes_it(small_model: Any) -> None:
    fast = SynthesisSpec(batch=2, frames=64, iterations=2)
    plain = quantize(small_model, synthesis=fast)
    equalized = quantize(small_model, synthesis=fast, spec=QuantSpec(equalization=0.5))
    assert plain.program.digest() != equalized.program.digest()
    assert equalized.deployment.recipe["quantization"]["equalization"] == 0.5
