"""Widths that training steps down through: which there are, and how time is shared."""

from __future__ import annotations

from typing import Any

import pytest

import zeroq_asr as zq
from zeroq_asr.errors import ConfigError
from zeroq_asr.integer.grid import GRIDS, grid_of
from zeroq_asr.registry import traits_of
from zeroq_asr.training.widths import bits_of, shares, widths_above


@pytest.fixture(scope="module")
def graph(small_model: Any) -> Any:
    return zq.prepare(small_model, calibration=zq.CalibrationSpec("noise"), check_ranges=False).graph


def test_levels_are_told_apart_by_so_many_bits() -> None:
    wanted = {"int8": 8, "int4": 4, "full4": 4, "logistic4": 4, "int3": 3, "ternary": 2, "midrise2": 2}
    assert {name: bits_of(GRIDS[name]) for name in wanted} == wanted
    assert bits_of(grid_of("binary")) == 1


def test_only_what_is_narrower_is_widened(graph: Any) -> None:
    first, second, *others = [node.out for node in graph.nodes if traits_of(node).holds_weight]
    plan = zq.Plan(weights=(("*", "int8"), (first, "ternary"), (second, "int4")))
    eight, four = widths_above(graph, plan, (8, 4, 2))
    assert (eight.bits, four.bits) == (8, 4)

    def grids(plan: zq.Plan) -> dict[str, str]:
        resolved = plan.resolve(graph)
        return {n.out: resolved.grid(n).name for n in graph.nodes if traits_of(n).holds_weight}

    assert grids(eight.plan) == dict.fromkeys([first, second, *others], "int8")
    # grids of four bits stay what they are
    assert grids(four.plan) == {**grids(eight.plan), first: "logistic4", second: "int4"}
    assert (eight.plan.values, eight.plan.logit_bits) == (plan.values, plan.logit_bits)
    assert widths_above(graph, zq.Plan(weights=(("*", "int8"),)), (8, 4, 2)) == []


@pytest.mark.parametrize(("steps", "count"), [(10, 3), (3, 3), (7, 1), (0, 2)])
def test_time_is_shared(steps: int, count: int) -> None:
    parts = shares(zq.TrainingSpec(distillation=90.0, distillation_steps=steps), count)
    assert len(parts) == count
    assert sum(one.distillation_steps for one in parts) == steps
    assert sum(one.distillation for one in parts) == pytest.approx(90.0)
    assert max(p.distillation_steps for p in parts) - min(p.distillation_steps for p in parts) <= 1


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 widths need a step each, there are 3"):
        shares(zq.TrainingSpec(distillation_steps=3), 4)
