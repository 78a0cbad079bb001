"""What plans say of layers: sensitive ones keep their bits unless they are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import zeroq_asr as zq
from zeroq_asr.config.plan_file import EVERYTHING
from zeroq_asr.errors import ConfigError
from zeroq_asr.integer.grid import grid_of, symmetric
from zeroq_asr.lowering.plan import Plan, sensitive_layers


@pytest.fixture(scope="module")
def prepared(small_model: Any) -> zq.Prepared:
    return zq.prepare(small_model, calibration=zq.CalibrationSpec("noise"), check_ranges=False)


def weights(prepared: zq.Prepared, plan: Plan) -> dict[str, Any]:
    program = zq.build(prepared, plan)
    holding = {node.out for node in prepared.graph.nodes if "weight" in node.attrs}
    return {i.out: program.constants[i.ins[1]] for i in program.code if i.out in holding}


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_sensitive_layers_keep_eight_bits(prepared: zq.Prepared, bits: int) -> None:
    found = weights(prepared, Plan.of(zq.QuantSpec(weight_bits=bits, rounding="nearest")))
    sensitive = sensitive_layers(prepared.graph)
    nodes = {n.out: n for n in prepared.graph.nodes}
    assert any(nodes[name].attrs["groups"] > 1 for name in sensitive)
    holding = [n.out for n in prepared.graph.nodes if n.out in found]
    assert {holding[0], holding[-1]} <= {*sensitive}
    coarse = {name for name, weight in found.items() if symmetric(bits).holds(weight)}
    assert coarse == found.keys() - {*sensitive}
    assert coarse


@pytest.mark.parametrize("bits", [5, 7, 8])
def test_with_more_bits_all_layers_are_alike(bits: int) -> None:
    assert Plan.of(zq.QuantSpec(weight_bits=bits)).sensitive_bits is None


@pytest.mark.parametrize("grid", ["int4", "full4", "ternary", "midrise2", "logistic4", "int8"])
@pytest.mark.parametrize("sensitive", [None, 2, 8])
def test_a_file_says_whether_sensitive_layers_are_finer(
    tmp_path: Path, grid: str, sensitive: int | None
) -> None:
    plan = Plan(weights=((EVERYTHING, grid),), sensitive_bits=sensitive)
    path = tmp_path / "plan.yaml"
    path.write_text(plan.to_yaml())
    read = Plan.of(zq.QuantSpec.parse_bits(str(path)))
    assert read.weights[-1] == (EVERYTHING, grid)
    nothing_said = sensitive is None or grid == f"int{sensitive}"
    assert read.sensitive_bits == (None if nothing_said else sensitive)


def test_what_is_named_is_as_it_is_said(prepared: zq.Prepared) -> None:
    first = sensitive_layers(prepared.graph)[0]
    plan = Plan(weights=((EVERYTHING, "int4"), (first, "binary")), sensitive_bits=8)
    found = weights(prepared, plan)
    assert grid_of("binary").holds(found[first])
    assert Plan.from_yaml(plan.to_yaml()) == plan


def test_all_layers_can_be_as_coarse(prepared: zq.Prepared) -> None:
    found = weights(prepared, Plan.of(zq.QuantSpec(weight_bits=1, sensitive_bits=1)))
    assert all(grid_of("binary").holds(weight) for weight in found.values())


@pytest.mark.parametrize("bits", [0, 9, True, "8"])
def test_bits_that_there_are_not_are_refused(bits: Any) -> None:
    with pytest.raises(ConfigError, match="sensitive_bits"):
        Plan(sensitive_bits=bits)
    with pytest.raises(ConfigError, match="sensitive_bits"):
        zq.QuantSpec(sensitive_bits=bits)
