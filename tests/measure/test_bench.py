"""The clock: who is measured, what is counted, and what is refused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.deployment import float_files
from zeroq_asr.deployment.export import Deployment
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.measure.bench.contenders import BASELINE, of_file, of_torch
from zeroq_asr.measure.bench.plot import plot


@pytest.fixture
def model(
    write_nemo: Callable[..., Path], conv_config: dict[str, Any], conv_state: dict[str, torch.Tensor]
) -> zq.AsrModel:
    return zq.load_checkpoint(write_nemo(conv_config, conv_state))


@pytest.fixture
def file(model: zq.AsrModel, tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    noise = zq.CalibrationSpec(source="noise")
    zq.quantize(model, path, calibration=noise, synthesis=zq.SynthesisSpec(batch=1, frames=64))
    return path


def test_every_form_of_a_checkpoint(model: zq.AsrModel) -> None:
    result = zq.bench(model=model, seconds=(0.5, 1.0), threads=(1, 2), rounds=2)
    labels = {row.label for row in result.rows}
    expected = {
        "float, as exported (1-D)",
        BASELINE,
        "fused W8",
        "fused W7",
        "strict W8",
        "qdq W8",
        "ORT static, u8 × u8",
        "ORT static, u8 × s8",
        "ORT dynamic",
    }
    assert labels - {"fused W8 at full range"} == expected
    assert ("fused W8 at full range" in labels) == result.machine.exact_at_full_range
    assert len(result.rows) == 4 * len(labels)
    for row in result.rows:
        assert row.absent == ""
        assert row.median is not None
        assert row.median > 0
        assert row.real_time_factor == pytest.approx(row.median / row.seconds)
        assert row.load_seconds is not None
        assert row.load_seconds > 0
        assert row.peak_bytes is None or row.peak_bytes > 0
        base = next(
            r for r in result.rows if (r.label, r.seconds, r.threads) == (BASELINE, row.seconds, row.threads)
        )
        assert base.median is not None
        assert row.speedup == pytest.approx(base.median / row.median)


def test_a_float_network_of_more_than_2_gib_is_measured_like_others(
    model: zq.AsrModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_files, "MOST", 100)
    small = zq.bench(against=model, seconds=(0.5,), rounds=1)
    assert {row.absent for row in small.rows} == {""}
    for row in small.rows:
        # all of its weights count, and it loads in a process of its own
        assert row.size > 0.9 * model.float_bytes or "ORT" in row.label
        assert row.load_seconds is not None
    assert not [*Path(tempfile.gettempdir()).glob("zeroq-asr-*/*.data")]


def test_what_was_prepared_is_not_captured_again(model: zq.AsrModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = zq.prepare(model, synthesis=zq.SynthesisSpec(batch=1, frames=64, iterations=1))
    captured = []

    def noted(*args: Any, **fields: Any) -> Any:
        captured.append(fields["allow_float"])
        return capture(*args, **fields)

    monkeypatch.setattr("zeroq_asr.measure.bench.contenders.capture", noted)
    found = zq.bench(model=prepared, seconds=[0.5], rounds=1)
    assert captured == []
    labels = [row.label for row in zq.bench(model=model, seconds=[0.5], rounds=1).rows]
    assert [row.label for row in found.rows] == labels
    # a format that allows others is of another graph
    zq.bench(model=prepared, spec=zq.QuantSpec(allow_float=True), seconds=[0.5], rounds=1)
    assert captured == [False, True]


def test_files_against_a_checkpoint(model: zq.AsrModel, file: Path) -> None:
    result = zq.bench([file, file], against=model, seconds=[0.5], rounds=1)
    labels = [row.label for row in result.rows]
    assert labels[:2] == ["small.onnx", "small.onnx (2)"]
    assert BASELINE in labels
    assert not any(label.startswith(("fused", "strict", "qdq")) for label in labels)
    assert result.rows[0].size == file.stat().st_size
    assert result.rows[0].dialect == "fused"
    assert result.rows[0].spread == 0


def test_what_is_kept_in_float_is_measured(model: zq.AsrModel, file: Path) -> None:
    spec = zq.QuantSpec(keep_float=("encoder.*",))
    found = {row.label: row for row in zq.bench(model=model, spec=spec, seconds=[0.5], rounds=1).rows}
    for label in ("fused W8", "fused W7", BASELINE, "ORT static, u8 × u8"):
        assert found[label].median
    for dialect in ("strict", "qdq"):
        assert found[f"{dialect} W8"].absent == f"{dialect} cannot hold float islands"
    plain = {row.label: row for row in zq.bench(model=model, seconds=[0.5], rounds=1).rows}
    assert plain["fused W8"].size != found["fused W8"].size
    with pytest.raises(zq.ConfigError, match=r"--keep-float: there is no checkpoint to quantize"):
        zq.bench([file], spec=spec, rounds=1)


def test_files_alone_are_compared_with_the_first(file: Path) -> None:
    result = zq.bench([file], seconds=[0.5], rounds=3)
    assert result.baseline == "small.onnx"
    assert result.rows[0].speedup == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_absent_device_is_a_row_that_says_so(model: zq.AsrModel, file: Path) -> None:
    result = zq.bench([file], model=model, devices=["cuda"], seconds=[0.5], rounds=1)
    assert {row.label for row in result.rows if row.engine == "torch"} == {
        "torch, float32",
        "torch, float16",
        "torch, integer program W8",
    }
    for row in result.rows:
        assert row.absent
        assert row.median is None
    assert result.baseline == ""


def test_what_a_gpu_would_run_runs_on_the_cpu(model: zq.AsrModel) -> None:
    features = np.random.default_rng(0).standard_normal((1, 16, 64)).astype(np.float32)
    found = of_torch(model, "cpu")
    assert [c.label for c in found] == [
        "torch, float32",
        "torch, float16",
        "torch, integer program W8",
    ]
    for contender in found:
        contender.open(1, features)()
    assert found[0].size == 2 * found[1].size > found[2].size > 0
    assert [c.label for c in of_torch(model, "cpu", peers_only=True)] == ["torch, float32", "torch, float16"]
    # measuring leaves the network as it was
    assert next(model.network.parameters()).dtype == torch.float32


def test_one_that_cannot_run_is_a_row_that_says_why(model: zq.AsrModel, file: Path) -> None:
    # the file is proven to 60 s and refuses more
    result = zq.bench([file], against=model, seconds=[61.0], rounds=1)
    row, *others = result.rows
    assert row.absent.startswith("fails: ")
    assert row.median is None
    assert all(other.median for other in others)


def test_no_length_or_thread_count_is_measured_twice(file: Path) -> None:
    assert len(zq.bench([file], seconds=[0.5, 0.5], threads=[1, 1], rounds=1).rows) == 1


def test_the_processs_threads_stay_as_they_were(file: Path) -> None:
    before = torch.get_num_threads()
    zq.bench([file], seconds=[0.5], threads=[before + 1], rounds=1)
    assert torch.get_num_threads() == before


def test_a_file_of_another_tool_says_no_rate(model: zq.AsrModel, tmp_path: Path) -> None:
    graph = capture(model.network, model.example_input(), model.name)
    plain = export_float(graph, Deployment("plain", model.frontend, model.tokenizer, 60.0, 2))
    del plain.metadata_props[:]
    (tmp_path / "plain.onnx").write_bytes(plain.SerializeToString())
    contender, mels, rate = of_file(tmp_path / "plain.onnx")
    assert (contender.dialect, mels, rate) == ("onnx", 16, None)
    assert zq.bench([tmp_path / "plain.onnx"], seconds=[0.5], rounds=1).rows[0].median


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": [0.0]}, "seconds must lie in"),
        ({"threads": [0]}, "threads must lie in"),
        ({"devices": ["tpu"]}, "unknown device"),
        ({"rounds": 0}, "rounds must be"),
    ],
)
def test_senseless_numbers(model: zq.AsrModel, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(zq.ConfigError, match=words):
        zq.bench(model=model, **changes)


def test_nothing_to_measure() -> None:
    with pytest.raises(zq.ConfigError, match="nothing to measure"):
        zq.bench()


def test_contenders_of_different_features(model: zq.AsrModel, file: Path) -> None:
    with pytest.raises(zq.ConfigError, match="different features: 16 and 64 mels"):
        zq.bench([file], model=zq.embedded_model(), rounds=1)


def test_a_file_that_is_no_recogniser(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model at all")
    with pytest.raises(zq.CheckpointError, match="ONNX"):
        zq.bench([broken])
    with pytest.raises(zq.CheckpointError, match="cannot be read"):
        zq.bench([tmp_path / "absent.onnx"])


def test_plots(model: zq.AsrModel, file: Path, tmp_path: Path) -> None:
    result = zq.bench([file], seconds=[0.5], rounds=2, threads=[1, 2])
    plot(result, tmp_path / "times.svg")
    drawn = (tmp_path / "times.svg").read_text()
    assert drawn.startswith("<?xml")
    plot(result, tmp_path / "times.png")
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(zq.ConfigError, match=r"use \.png, \.svg, \.pdf"):
        plot(result, tmp_path / "times.gif")
