"""The report without recordings: what it measures, and of which files."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.calibration.shortfall import BLIND
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.errors import ConfigError, VerificationError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.measure.compare import compare
from zeroq_asr.measure.qualities import FrameMeter, Function, Meter, functions
from zeroq_asr.measure.report import report
from zeroq_asr.synthesis.sources import make_features

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=2)


@pytest.fixture(scope="module")
def file(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "small.onnx"
    zq.quantize(small_model, path, synthesis=FAST)
    return path


@pytest.fixture(scope="module")
def found(small_model: Any, file: Path) -> zq.QualityReport:
    return report(small_model, file, FAST)


def test_every_value_with_a_float_counterpart_is_measured(found: zq.QualityReport, small_model: Any) -> None:
    graph = capture(small_model.network, small_model.example_input(), "small")
    measured = [value.name.removesuffix(":quantized") for value in found.values]
    assert measured[0] == graph.inputs[0]
    assert measured[-1] == graph.outputs[0]
    assert {n.out for n in graph.nodes if n.op in ("conv1d", "add", "mul", "sigmoid")} <= {*measured}
    assert all(value.low < value.high for value in found.values)
    # what is zero throughout, a channel mean behind a dead layer, has no noise
    assert all(value.sqnr > 10 for value in found.values)


def test_noise_at_the_input_is_that_of_eight_bits(found: zq.QualityReport) -> None:
    first = found.values[0]
    # a uniform error of a step against features of variance 1, but for what is clipped
    step = (first.high - first.low) / 255
    assert first.clipped < 0.01
    assert first.sqnr == pytest.approx(10 * math.log10(12 / step**2), abs=1.5)


def test_the_features_are_held_out_and_the_frames_those_of_compare(
    found: zq.QualityReport, small_model: Any
) -> None:
    row = compare(small_model, synthesis=FAST).rows[1]
    assert found.divergence == pytest.approx(row.divergence, rel=0.01)
    assert found.frames == pytest.approx(row.frames)


def test_confidence_is_low_where_ranges_miss_speech(small_model: Any, tmp_path: Path) -> None:
    quality = {}
    for margin in (0.5, 1.1):
        calibration = zq.CalibrationSpec("speech", margin=margin)
        zq.quantize(small_model, tmp_path / "x.onnx", synthesis=FAST, calibration=calibration)
        quality[margin] = report(small_model, tmp_path / "x.onnx", FAST)
    assert quality[0.5].ranges_miss > BLIND > quality[1.1].ranges_miss
    assert quality[0.5].features_miss == quality[1.1].features_miss
    assert quality[0.5].to_dict()["confidence"] == "low"


def test_confidence_is_low_where_the_held_out_features_miss_speech(small_model: Any, tmp_path: Path) -> None:
    zq.quantize(small_model, tmp_path / "x.onnx", synthesis=FAST, calibration=zq.CalibrationSpec("speech"))
    noise, speech = (
        report(small_model, tmp_path / "x.onnx", held_out=make_features(small_model, FAST, source))
        for source in ("noise", "speech")
    )
    assert noise.source == speech.source == "given"
    assert noise.ranges_miss == speech.ranges_miss
    assert (noise.blind, speech.blind) == (True, False)
    assert speech.to_dict()["confidence"] == "high"


def test_fewer_bits_are_worse_everywhere(small_model: Any, found: zq.QualityReport, tmp_path: Path) -> None:
    zq.quantize(small_model, tmp_path / "x.onnx", synthesis=FAST, spec=zq.QuantSpec.parse_bits("4"))
    low = report(small_model, tmp_path / "x.onnx", FAST)
    assert low.divergence > found.divergence
    pairs = zip(low.values, found.values, strict=True)
    assert all(a.sqnr < b.sqnr or math.isinf(b.sqnr) for a, b in pairs)


def test_equalized_values_are_not_compared(small_model: Any, tmp_path: Path, found: zq.QualityReport) -> None:
    spec = zq.QuantSpec(equalization=1.0)
    zq.quantize(small_model, tmp_path / "x.onnx", synthesis=FAST, spec=spec)
    equalized = report(small_model, tmp_path / "x.onnx", FAST)
    missing = {v.name for v in found.values} - {v.name for v in equalized.values}
    assert missing
    assert equalized.values[-1].sqnr == pytest.approx(found.values[-1].sqnr, abs=6)


def test_a_meter_by_hand() -> None:
    meter = Meter(ValueInfo("uint8", 0.5, 2, 0, 10))  # reals from -1 to 4
    meter.add(torch.tensor([-1.0, 0.0, 1.2, 6.0]), torch.tensor([0, 2, 4, 10], dtype=torch.uint8))
    quality = meter.quality("x")
    assert (quality.low, quality.high, quality.reach, quality.clipped) == (-1.0, 4.0, 1.5, 0.25)
    signal, noise = 1 + 1.44 + 36, 0.04 + 4
    assert quality.sqnr == pytest.approx(10 * math.log10(signal / noise))
    # half a step beyond the end still rounds to it
    near = Meter(ValueInfo("uint8", 0.5, 2, 0, 10))
    near.add(torch.tensor([4.2, -1.2]), torch.tensor([10, 0], dtype=torch.uint8))
    assert near.quality("x").clipped == 0


def test_a_meter_in_front_of_a_flat_end_by_hand() -> None:
    relu6 = FloatNode("clamp", "y", ("x",), {"clamp": (0.0, 2.0)})
    info = ValueInfo("uint8", 0.5, 2, 0, 10)  # reals from -1 to 4
    real, integers = torch.tensor([-9.0, 0.0, 1.2, 6.0]), torch.tensor([0, 2, 4, 10], dtype=torch.uint8)
    meter = Meter(info, Function(relu6, 0.1))
    meter.add(real, integers)
    quality = meter.quality("x")
    # what is beyond both ends is the same behind the function; 1.2 has become 1
    assert (quality.reach, quality.clipped) == (9.0, 0.0)
    assert quality.sqnr == pytest.approx(10 * math.log10((1.44 + 4) / 0.04))
    lost = Meter(ValueInfo("uint8", 0.5, 2, 0, 4), Function(relu6, 0.1))  # to 1, where it still rises
    lost.add(real, torch.tensor([0, 2, 4, 4], dtype=torch.uint8))
    assert lost.quality("x").clipped == 0.25


def test_what_a_function_alone_reads_is_judged_behind_it(conformer_of: Any) -> None:
    # a Conformer's Swish reads what nobody else does; a sigmoid's operand that is read twice has no function
    network = conformer_of()
    x = torch.zeros(1, 16, 64)
    graph = prepared_graph(capture(network, (x, torch.tensor([64])), "small"))
    program = SimpleNamespace(values={n.out: ValueInfo("uint8", 0.5, 0, 0, 255) for n in graph.nodes})
    read = functions(graph, program)  # type: ignore[arg-type]  # a stand-in
    swish = [node for node in graph.nodes if node.op == "silu"]
    assert swish
    assert {node.ins[0] for node in swish} <= {*read}
    assert not {name for node in graph.nodes if node.op in ("mul", "add") for name in node.ins} & {*read}


def test_reports_are_json(found: zq.QualityReport) -> None:
    again = json.loads(json.dumps(found.to_dict()))
    assert again["values"][0]["name"] == "audio_signal:quantized"
    assert again["statistics"][0]["channels"] > 0


def test_a_file_that_does_not_verify_is_not_measured(small_model: Any, file: Path, tmp_path: Path) -> None:
    changed = onnx.load(file)
    for entry in changed.metadata_props:
        if entry.key == "vocab_size":
            entry.value = "99"
    onnx.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(VerificationError, match="'vocab_size' was changed"):
        report(small_model, tmp_path / "changed.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(VerificationError, match="is not an ONNX file"):
        report(small_model, tmp_path / "text.onnx")


def test_other_files_are_refused(small_model: Any, file: Path, tmp_path: Path) -> None:
    other = copy.copy(small_model)
    network = torch.nn.Module()
    network.add_module("elsewhere", small_model.network)
    network.forward = small_model.network.forward  # type: ignore[method-assign]
    object.__setattr__(other, "network", network.eval())
    with pytest.raises(ConfigError, match="another network"):
        report(other, file, FAST)
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(VerificationError):
        report(small_model, tmp_path / "x.onnx", FAST)


def test_a_frame_adds_no_more_than_ln_2_to_the_bounded_divergence() -> None:
    meter = FrameMeter(scale=0.5)
    sure = torch.tensor([[60.0, 0.0], [0.0, 0.0]])
    meter.add(sure, torch.tensor([[0, 120], [7, 7]]))
    assert meter.divergence == pytest.approx(60 / 2)
    assert meter.bounded_divergence == pytest.approx(math.log(2) / 2)
    assert meter.wrong == 0.5
    # between: of p = (3/4, 1/4) and its mirror
    meter = FrameMeter()
    meter.add(torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, math.log(3)]]))
    assert meter.bounded_divergence == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert FrameMeter().bounded_divergence == 0
