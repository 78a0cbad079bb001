"""What is learned of a layer stays on its grid, and its steps stay dyadic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zeroq_asr as zq
from zeroq_asr.integer.dyadic import largest_shift
from zeroq_asr.integer.grid import GRIDS, grid_of
from zeroq_asr.integer.proof import prove
from zeroq_asr.training.layers import TrainedLayer, nearest_level, trained_layers, with_learned, with_real


@pytest.fixture(scope="module")
def prepared(small_model: Any) -> zq.Prepared:
    return zq.prepare(small_model, calibration=zq.CalibrationSpec("noise"), check_ranges=False)


def layers_of(prepared: zq.Prepared, grid: str) -> tuple[Any, list[TrainedLayer]]:
    plan = zq.Plan(weights=(("*", grid),))
    program = zq.build(prepared, plan)
    made = {i.out for i in program.code}
    nodes = [n for n in prepared.graph.nodes if "weight" in n.attrs and n.out in made]
    return program, trained_layers(nodes, program, plan.resolve(prepared.graph))


def test_what_diverged_has_a_level_still() -> None:
    found = nearest_level(torch.tensor([[np.nan, np.inf, -np.inf]]), grid_of("logistic4"))
    assert found.tolist() == [[64.0, 64.0, -64.0]]


@pytest.mark.parametrize("name", list(GRIDS))
@given(values=st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=40))
def test_the_nearest_level_is_the_grids(name: str, values: list[float]) -> None:
    grid = grid_of(name)
    found = nearest_level(torch.tensor(values), grid)
    wanted = grid.nearest(np.array(values))
    # halfway, whichever is as near
    levels = np.array(grid.levels)
    distance = np.abs(np.array(values)[:, None] - levels).min(axis=1)
    assert np.allclose(np.abs(found.numpy() - values), distance)
    assert np.allclose(np.abs(wanted - values), distance)


@pytest.mark.parametrize("grid", ["logistic4", "int4", "int3", "logistic2", "midrise2", "ternary", "binary"])
def test_nothing_learned_is_the_program(prepared: zq.Prepared, grid: str) -> None:
    program, layers = layers_of(prepared, grid)
    assert all(layer.rounding for layer in layers)
    same = with_learned(program, {layer.name: layer.learned() for layer in layers})
    for before, after in zip(program.code, same.code, strict=True):
        for a, b in zip(before.ins, after.ins, strict=True):
            if a in program.constants:
                assert np.array_equal(program.constants[a], same.constants[b])
    assert set(same.constants) >= {name for i in same.code for name in i.ins if name in same.constants}


@pytest.mark.parametrize("grid", ["int4", "logistic4", "midrise2", "binary"])
def test_whatever_is_learned_is_proven(prepared: zq.Prepared, grid: str) -> None:
    program, layers = layers_of(prepared, grid)
    torch.manual_seed(0)
    for layer in layers:
        with torch.no_grad():
            layer.latent += 2 * torch.randn_like(layer.latent)
            layer.log_step += torch.randn_like(layer.log_step)
            layer.bias += torch.randn_like(layer.bias)
        layer.settle()
    learned = {layer.name: layer.learned() for layer in layers}
    for layer in layers:
        made = learned[layer.name]
        assert grid_of(grid).holds(made.weight)
        assert made.multiplier.min() >= 1
        a = layer.instruction.attrs
        assert largest_shift(a["lo"], a["hi"], a["zy"], int(made.multiplier.max())) >= a["c"]
    changed = with_learned(program, learned)
    assert prove(changed).headroom_bits >= 0
    assert changed.digest() != program.digest()


@pytest.mark.parametrize("grid", ["int8", "int4", "binary"])
def test_what_is_real_is_what_the_integers_stand_for(prepared: zq.Prepared, grid: str) -> None:
    _, layers = layers_of(prepared, grid)
    means = prepared.calibrated().means
    torch.manual_seed(0)
    for layer in layers:
        with torch.no_grad():
            layer.bias += torch.randn_like(layer.bias)
    real = {layer.name: layer.real() for layer in layers}
    graph = with_real(prepared.graph, real, means)
    for node, layer in ((n, one) for n in graph.nodes for one in layers if one.name == n.out):
        made = real[layer.name]
        integers = layer.integers()
        step = integers.multiplier.double() * layer.ratio
        torch.testing.assert_close(made.rounded, integers.weight * step.reshape(layer.across))
        # biases that lowering corrects for rounding are those that were learned
        rounding = (node.attrs["weight"] - made.rounded).flatten(2).sum(2).numpy()
        if node.attrs["groups"] == 1:
            corrected = node.attrs["bias"].numpy() + rounding @ means[node.ins[0]]
            np.testing.assert_allclose(corrected, made.bias.numpy(), rtol=1e-5, atol=1e-6)
    untouched = with_real(prepared.graph, {}, means)
    assert untouched.nodes == prepared.graph.nodes


def test_eight_bits_are_left_as_they_are(prepared: zq.Prepared) -> None:
    _, layers = layers_of(prepared, "int8")
    assert not any(layer.rounding for layer in layers)
    before = [layer.learned() for layer in layers]
    for layer in layers:
        with torch.no_grad():
            layer.latent += 1
            layer.bias += 1
    for layer, old in zip(layers, before, strict=True):
        new = layer.learned()
        assert np.array_equal(new.weight, old.weight)
        assert np.array_equal(new.multiplier, old.multiplier)
        assert not np.array_equal(new.bias, old.bias)
