"""Programs of mixed widths: each is the one that lowering makes, with the weights that rounding makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.integer.grid import symmetric
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.measure.widths import Widths
from zeroq_asr.speech.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=["convolutions", "conformer"])
def widths(request: pytest.FixtureRequest, small_model: Any, conformer_of: Any) -> Widths:
    model = small_model
    if request.param == "conformer":
        tokenizer = Tokenizer(tuple("abcd"), "characters")
        model = dataclasses.replace(
            model,
            network=conformer_of(),
            tokenizer=tokenizer,
            architecture="",
            config={},
            subsampling_factor=4,
        )
    prepared = zq.prepare(
        model,
        also=[zq.QuantSpec.parse_bits("w4a8")],
        synthesis=zq.SynthesisSpec(speakers=2, seconds=1.0),
        calibration=zq.CalibrationSpec("speech"),
    )
    return Widths(prepared, Plan.of(prepared.spec))


def test_a_mixture_is_the_program_of_its_plan(widths: Widths) -> None:
    mixed = {node.out: (8, 4, 2)[k % 3] for k, group in enumerate(widths.groups) for node in group}
    for bits in ({}, mixed):
        plan = widths.plan(bits)
        wanted = zq.build(widths.prepared, plan)
        found = widths.mixed(bits)
        assert found.digest() == wanted.digest()
        assert found.packings == wanted.packings


def test_layers_that_a_plan_cannot_tell_apart_are_one_group(widths: Widths) -> None:
    together = [{node.out for node in group} for group in widths.groups]
    assert sum(map(len, together)) == len(widths.layers)
    graph = widths.prepared.graph
    for group in together:
        for name in group:
            grids = Plan(((name, "int4"),)).resolve(graph).grids
            assert grids.keys() <= group


def test_the_weights_are_those_that_the_integers_stand_for(widths: Widths) -> None:
    for node in (widths.layers[0], widths.layers[-1], widths.layers[len(widths.layers) // 2]):
        weight, bias = node.attrs["weight"], node.attrs["bias"]
        for width, most in (8, 0.02), (4, 0.2), (2, 0.7):
            real, offset = widths.real(node, width)
            assert real.shape == weight.shape
            assert float((real - weight).norm() / weight.norm()) < most
            levels = [len(row.unique()) for row in real.reshape(len(real), -1)]
            assert max(levels) <= len(symmetric(width).levels)
            if width == 8:
                assert torch.allclose(offset, bias.float(), atol=0.05 * float(bias.abs().max()))


def test_a_program_is_lowered_once(widths: Widths, monkeypatch: pytest.MonkeyPatch) -> None:
    first = widths.program(4)

    def fails(*given: Any) -> Any:
        raise AssertionError("lowered again")

    monkeypatch.setattr("zeroq_asr.measure.widths.build", fails)
    assert widths.program(4) is first
    widths.mixed({widths.layers[1].out: 4})
