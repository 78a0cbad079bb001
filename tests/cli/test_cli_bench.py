"""The commands that look at the machine and the package's own model: bench, doctor, demo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app


def _run(*args: object) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def checkpoint(
    write_nemo: Callable[..., Path], conv_config: dict[str, Any], conv_state: dict[str, torch.Tensor]
) -> Path:
    return write_nemo(conv_config, conv_state)


def test_bench_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("--rounds", 1, "--seconds", "0.5,1", "--threads", "1,2", "--plot", tmp_path / "times.png")
    result = _run("bench", checkpoint, *arguments)
    assert result.exit_code == 0, result.output
    for heading in ("0.5 s of audio, 1 thread,", "1 s of audio, 2 threads,"):
        assert heading in result.stdout
    assert result.stdout.count("float, depthwise as 2-D") == 4 + 1  # and once in the legend
    assert (tmp_path / "times.png").is_file()


def test_bench_in_json_and_bare(checkpoint: Path) -> None:
    result = _run("bench", checkpoint, "--rounds", 1, "--seconds", 0.5, "--json")
    found = json.loads(result.stdout)
    assert found["baseline"] == "float, depthwise as 2-D"
    assert {row["dialect"] for row in found["rows"]} >= {"float", "fused", "strict", "qdq", "ort static"}
    bare = _run("bench", checkpoint, "--rounds", 1, "--seconds", 0.5, "--quiet")
    assert len(bare.stdout.splitlines()) == len(found["rows"])


def test_bench_of_what_is_kept_in_float(checkpoint: Path) -> None:
    result = _run(
        "bench", checkpoint, "--rounds", 1, "--seconds", 0.5, "--keep-float", "*.mconv.0.conv", "--json"
    )
    assert result.exit_code == 0, result.output
    rows = {row["label"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows["fused W8"]["median_seconds"] > 0
    assert rows["strict W8"]["absent"] == "strict cannot hold float islands"


def test_bare_bench_runs_on_the_embedded_model() -> None:
    result = _run("bench", "--rounds", 1, "--seconds", 1, "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["rows"]) >= 9
    # its files are of noise, which is no matter for time
    assert "warning: " not in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_bench_on_a_device_that_is_not_there(checkpoint: Path) -> None:
    result = _run("bench", checkpoint, "--device", "cuda")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("no CUDA device here") == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent.onnx"], 3, "absent.onnx: cannot be read"),
        (["absent.nemo"], 3, "absent.nemo"),
        (["a.nemo", "b.nemo"], 2, "both checkpoints"),
        (["--threads", "two"], 2, "cannot read 'two'"),
        (["--threads", "1.5"], 2, "whole numbers"),
        (["--seconds", "-1"], 2, "seconds must lie in"),
        (["--device", "tpu"], 2, "unknown device"),
        (["--keep-float", "encoder.*", "absent.onnx"], 2, "there is no checkpoint to quantize"),
        (["--keep-float", "no.such.layer"], 2, "no.such.layer"),
        (["--plot", "times.gif"], 2, "use .png, .svg, .pdf"),
        (["--plot", "nowhere/times.png"], 2, "there is no folder"),
    ],
)
def test_bench_refuses(
    arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run("bench", *arguments)
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words in line
    assert result.stdout == ""


def test_doctor() -> None:
    result = _run("doctor")
    assert result.exit_code == 0, result.output
    for words in ("instruction sets", "--target auto, 8 bits", "pointwise", "depthwise", "GMAC/s"):
        assert words in result.stdout
    target = _run("doctor", "--quiet").stdout.strip()
    assert target == zq.QuantSpec.from_dict(_settled(8)).target


def _settled(bits: int) -> dict[str, Any]:
    from zeroq_asr.deployment.machine import settled

    return settled(zq.QuantSpec(weight_bits=bits, target="auto")).to_dict()


def test_quantize_says_which_target_it_took(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "auto.onnx"
    fast = ("--batch", 1, "--frames", 64, "--iterations", 1)
    result = _run("quantize", checkpoint, "-o", output, "--target", "auto", *fast)
    assert result.exit_code == 0, result.output
    target = _settled(8)["target"]
    assert f"fused, for {target}: " in result.stdout
    assert zq.verify(output).target == target


def test_demo(tmp_path: Path) -> None:
    folder = tmp_path / "my demo"
    result = _run("demo", folder, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    labels = [row["label"] for row in found["comparison"]["rows"]]
    assert labels == ["float", "data-free", "real data", "ORT static, real data", "ORT dynamic", "noise"]
    assert found["certificate"]["program_sha256"] == found["quantized"]["program_sha256"]
    assert found["benchmark"]["rows"]
    # what it leaves is enough for the two commands
    assert (
        _run("quantize", folder / "model.pt", "-o", tmp_path / "again.onnx", "--iterations", 1).exit_code == 0
    )
    evaluated = _run("evaluate", folder / "model.int8.onnx", "--manifest", folder / "test.jsonl", "--json")
    assert json.loads(evaluated.stdout)["words"]["rate"] < 0.3
