"""Sections of a network: together they are the network, in integers and in floats."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.training.layers import trained_layers
from zeroq_asr.training.sections import _Straight, real, rounded, sections, surroundings

FRAMES = 64


@pytest.fixture(scope="module", params=["quartznet", "conformer", "rotary"])
def built(
    request: pytest.FixtureRequest, small_model: Any, conformer_of: Callable[..., Any]
) -> tuple[FloatGraph, Program, Plan]:
    """A float graph, its program at four bits, and the plan."""
    model = small_model
    if request.param != "quartznet":
        kind = {"self_attention_model": "rel_pos"} if request.param == "conformer" else {"n_layers": 3}
        tokens = zq.Tokenizer(tuple("abcd"), "characters")
        model = zq.AsrModel(conformer_of(**kind), zq.FrontendConfig(features=16), tokens, request.param)
    plan = Plan(weights=(("*", "int4"),))
    prepared = zq.prepare(model, calibration=zq.CalibrationSpec("noise"), check_ranges=False)
    return prepared.graph, zq.build(prepared, plan), plan


def features() -> tuple[torch.Tensor, torch.Tensor]:
    values = np.random.default_rng(1).normal(size=(3, 16, FRAMES)).astype(np.float32)
    return torch.from_numpy(values), torch.full((3,), FRAMES)


def test_their_integers_are_the_programs(built: tuple[FloatGraph, Program, Plan]) -> None:
    graph, program, _ = built
    given, lengths = features()
    around, backend = surroundings(graph, program, given, lengths), TorchBackend()
    parts, value = sections(graph, program), given
    assert len(parts) > 2
    assert parts[0].enters == graph.inputs[0]
    assert parts[-1].leaves == graph.outputs[0]
    assert all(a.leaves == b.enters for a, b in itertools.pairwise(parts))
    for part in parts:
        value = part.integers(backend, value, around)
    with torch.inference_mode():
        wanted = program.run(TorchBackend(), given, lengths)[0]
    assert torch.equal(value, wanted)


def test_their_floats_are_the_networks(built: tuple[FloatGraph, Program, Plan]) -> None:
    graph, program, _ = built
    given, lengths = features()
    around, value = surroundings(graph, program, given, lengths), given
    for part in sections(graph, program):
        value = part.target(value, around)
    torch.testing.assert_close(value, graph.run(given, lengths)[0])


def test_training_runs_on_the_very_integers(built: tuple[FloatGraph, Program, Plan]) -> None:
    graph, program, plan = built
    given, lengths = features()
    around, backend = surroundings(graph, program, given, lengths), TorchBackend()
    resolved = plan.resolve(graph)
    value, found, trained = given, None, []
    for part in sections(graph, program):
        layers = trained_layers(part.layers(), program, resolved)
        trained += layers
        integers = {layer.name: layer.integers() for layer in layers}
        value, found = part.forward(backend, value, around, integers, found)
    assert found is not None
    with torch.inference_mode():
        wanted = program.run(TorchBackend(), given, lengths)[0]
    # nothing was learned yet, so they are those of the program
    assert torch.equal(value, wanted)
    info = program.values[graph.outputs[0]]
    assert torch.equal(found.detach(), real(wanted, info))
    found.square().mean().backward()
    for layer in trained:
        assert layer.latent.grad is not None, layer.name
        assert torch.isfinite(layer.latent.grad).all()
        assert layer.log_step.grad is not None
        assert layer.bias.grad is not None
    moved = [layer for layer in trained if layer.latent.grad.abs().max() > 0]
    assert len(moved) > 0.8 * len(trained)


def test_integers_of_real_values_and_back(built: tuple[FloatGraph, Program, Plan]) -> None:
    _, program, _ = built
    for info in program.values.values():
        integers = torch.arange(info.lo, info.lo + min(info.hi - info.lo, 500) + 1)
        assert torch.equal(rounded(real(integers, info), info).long(), integers)


def test_gradients_pass_integers_but_not_where_values_saturate() -> None:
    value = torch.tensor([-3.0, -0.5, 0.4, 2.5], requires_grad=True)
    made = torch.tensor([-1.0, -0.5, 0.5, 1.0])
    given = _Straight.apply(value, made, -1.0, 1.0)
    assert torch.equal(given.detach(), made)
    (gradient,) = torch.autograd.grad((given * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum(), value)
    assert gradient.tolist() == [0.0, 2.0, 3.0, 0.0]
