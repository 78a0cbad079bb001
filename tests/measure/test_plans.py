"""Plans to a budget: they keep to it, each of the row is smaller than the one before, and none is silent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zeroq_asr as zq
from zeroq_asr.errors import ConfigError
from zeroq_asr.measure import plans
from zeroq_asr.measure.plan_picture import draw_row

OFF = zq.TrainingSpec(reconstruction="off")


class Wide(nn.Module):
    """Layers so large that their weights are most of a file."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(16, 160, 5, padding=2),
            nn.ReLU(),
            *(layer for _ in range(4) for layer in (nn.Conv1d(160, 160, 1), nn.ReLU())),
            nn.Conv1d(160, 29, 1),
        )

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 8 * self.layers(x).transpose(1, 2), lengths


@pytest.fixture(scope="module")
def prepared(small_model: Any) -> zq.Prepared:
    torch.manual_seed(0)
    network = Wide().eval().requires_grad_(False)
    model = dataclasses.replace(
        small_model, network=network, name="wide", architecture="", config={}, subsampling_factor=1
    )
    return zq.prepare(
        model,
        also=[zq.QuantSpec.parse_bits("w4a8")],
        synthesis=zq.SynthesisSpec(speakers=2, seconds=1.0),
        calibration=zq.CalibrationSpec("speech"),
    )


@pytest.mark.parametrize("dialect", ["fused", "strict"])
def test_a_size_is_kept(prepared: zq.Prepared, tmp_path: Path, dialect: str) -> None:
    eight = zq.quantize(prepared, training=OFF, dialect=dialect).size
    budget = eight * 2 // 3
    found = zq.find_plan(prepared, max_size=budget, dialect=dialect)
    made = zq.quantize(
        prepared, tmp_path / "x.onnx", spec=found.plan, search=found.row, training=OFF, dialect=dialect
    )
    # with the row that it keeps
    assert made.size == found.chosen.bytes <= budget
    assert found.chosen.measured is not None
    assert sum(found.chosen.layers) == sum(found.points[0].layers)
    assert zq.verify(tmp_path / "x.onnx").program_sha256 == made.program.digest()
    # what is searched is what is written, and a file says it
    assert zq.Plan.from_yaml(found.plan.to_yaml()) == found.plan
    assert made.deployment.recipe["plan"]["yaml"] == found.plan.to_yaml()


def test_each_plan_of_the_row_has_fewer_bits(prepared: zq.Prepared) -> None:
    few = zq.quantize(prepared, spec=zq.QuantSpec.parse_bits("w4a8"), training=OFF).size
    # a size below that of four bits throughout needs the whole row
    for budget, last in ({"max_loss": 0.0}, (2, 4, 0)), ({"max_size": few - 5000}, (0, 0, 6)):
        points = zq.find_plan(prepared, **budget).points  # type: ignore[arg-type]
        assert points[0].layers == (6, 0, 0)
        assert points[-1].layers == last
        bits = [8 * a + 4 * b + 2 * c for a, b, c in (point.layers for point in points)]
        assert bits == sorted(bits, reverse=True)
        assert len(set(bits)) == len(bits)
        predicted = [point.predicted for point in points]
        assert predicted == sorted(predicted)


def test_no_layer_has_fewer_bits_than_w4a8_has_unless_a_size_asks_for_it(prepared: zq.Prepared) -> None:
    few = zq.QuantSpec.parse_bits("w4a8")
    found = zq.find_plan(prepared, max_loss=1e9)
    assert zq.build(prepared, found.plan).digest() == zq.build(prepared, few).digest()
    size = zq.quantize(prepared, spec=few, training=OFF).size
    assert zq.find_plan(prepared, max_size=size + 1000).chosen.layers == found.chosen.layers
    # not that of the loss: where sensitive layers may have four bits, they have
    bold = dataclasses.replace(
        prepared, specs=tuple(dataclasses.replace(s, sensitive_bits=4) for s in prepared.specs)
    )
    assert zq.find_plan(bold, max_loss=1e9).chosen.layers == (0, 6, 0)


def test_a_plan_is_judged_by_the_features_on_which_it_loses_most(
    prepared: zq.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    plain = plans.Heard.divergence

    def divergence(heard: Any, program: Any) -> float:
        losses.append(plain(heard, program))
        return losses[-1]

    monkeypatch.setattr(plans.Heard, "divergence", divergence)
    found = zq.find_plan(prepared, max_loss=1e9)
    speech, ranges, speech_then, ranges_then = losses
    assert speech != ranges
    assert found.chosen.measured == max(speech_then - speech, ranges_then - ranges)


def test_more_loss_allows_fewer_bits(prepared: zq.Prepared) -> None:
    found = [zq.find_plan(prepared, max_loss=loss) for loss in (0.0, 0.05, 1e9)]
    sizes = [one.chosen.bytes for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    for one, loss in zip(found, (0.0, 0.05, 1e9), strict=True):
        assert one.chosen.measured is None or one.chosen.measured <= loss


def test_a_budget_that_cannot_be_kept_is_said(prepared: zq.Prepared) -> None:
    with pytest.raises(ConfigError, match="no plan is as small as 100 bytes"):
        zq.find_plan(prepared, max_size=100)
    with pytest.raises(ConfigError, match="needs a budget"):
        zq.find_plan(prepared)
    with pytest.raises(ConfigError, match="max_time alone is none"):
        zq.find_plan(prepared, max_time=1.5)
    for factor in (0.99, float("nan"), float("inf"), True):
        with pytest.raises(ConfigError, match="max_time must be a finite number >= 1"):
            zq.find_plan(prepared, max_loss=0.1, max_time=factor)
    least = zq.find_plan(prepared, max_loss=1e9).chosen.bytes
    with pytest.raises(ConfigError, match="more than -1"):
        zq.find_plan(prepared, max_size=least + 20_000, max_loss=-1.0)


def test_a_file_keeps_the_row_that_its_plan_was_chosen_from(prepared: zq.Prepared, tmp_path: Path) -> None:
    found = zq.find_plan(prepared, max_loss=0.05)
    path = tmp_path / "x.onnx"
    zq.quantize(prepared, path, spec=found.plan, search=found.row, training=OFF)
    told = zq.report(prepared.model, path, zq.SynthesisSpec(speakers=2, seconds=1.0))
    assert told.search == found.row
    assert told.search.points[told.search.chosen] == found.chosen
    assert zq.inspect_file(path)["recipe"]["search"] == json.loads(json.dumps(found.row.to_dict()))
    for ending in ("svg", "png"):
        draw_row(found.row, tmp_path / f"plans.{ending}", "wide")
    assert "sum of layers alone" in (tmp_path / "plans.svg").read_text()
    assert (tmp_path / "plans.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="a row of plans is of a plan"):
        zq.quantize(prepared, search=found.row)


def test_a_row_that_cannot_be_one_is_refused() -> None:
    point = {"layers": [3, 0, 0], "bytes": 10, "predicted": 0.0, "measured": None}
    row = zq.PlanRow.from_dict({"points": [point, {**point, "bytes": 5}], "chosen": 1})
    # of a file that knows nothing of values of 16 bits
    assert (row.wide_values, row.products, row.of_values) == (0, 1.0, "")
    assert zq.PlanRow.from_dict(json.loads(json.dumps(row.to_dict()))) == row
    for broken, match in (
        ({"points": [], "chosen": 0}, "must be a list of plans"),
        ({"points": 3, "chosen": 0}, "must be a list of plans"),
        ({"points": [point], "chosen": 1}, "chosen must be a whole number from 0 to 0"),
        ({"points": [{**point, "layers": [1, 2]}], "chosen": 0}, "layers must be three numbers"),
        ({"points": [{**point, "layers": [1, 2, -1]}], "chosen": 0}, "a number of layers"),
        ({"points": [{**point, "bytes": "10"}], "chosen": 0}, "bytes must be a whole number"),
        ({"points": [{**point, "predicted": float("nan")}], "chosen": 0}, "predicted must be a finite"),
        ({"points": [{**point, "measured": True}], "chosen": 0}, "measured must be a finite"),
        ({"points": [{**point, "loss": 1}], "chosen": 0}, "unknown keys"),
        ({"points": [7], "chosen": 0}, "expected an object"),
        ({"points": [point], "chosen": 0, "best": 0}, "unknown keys"),
        ({"points": [point], "chosen": 0, "wide_values": -1}, "wide_values must be a whole number"),
        ({"points": [point], "chosen": 0, "products": 0.5}, "products must be a finite number >= 1"),
    ):
        with pytest.raises(ConfigError, match=match):
            zq.PlanRow.from_dict(broken)
