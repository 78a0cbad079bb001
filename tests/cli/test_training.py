"""Times and sizes as the command reads them, and what it refuses before the long work begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from zeroq_asr.cli import app
from zeroq_asr.cli.training import budget, duration
from zeroq_asr.errors import ConfigError


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5H", 5400)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("8MB", 8_000_000), ("500 kB", 500_000), ("2000", 2000)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert budget(text) == size


@pytest.mark.parametrize("text", ["", "30", "0s", "-5m", "m", "1d", "٣m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the time"):
        duration(text)


@pytest.mark.parametrize("text", ["", "0", "MB", "-1kB", "8TB", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the size"):
        budget(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--train", "5m"], "--train: is of weights of 5 bits or fewer, and there are none"),
        (["--reconstruct", "--bits", "w6a8"], "--reconstruct: is of weights of 5 bits or fewer"),
        (["--resume"], "--resume: is of weights of 5 bits or fewer"),
        (["--set", "distillation=60"], "--set: distillation is of weights of 5 bits or fewer"),
        (["--set", "section_steps=9", "--preset", "fast"], "--set: section_steps is of weights of 5 bits"),
        (["--set", "weight_bits=4", "--bits", "8"], "--bits: sets weight_bits, and so does --set"),
        (["--set", "iterations=4", "--iterations", "8"], "--iterations: sets iterations, and so does --set"),
        (["--percentile", "99.9"], "--percentile: is of --method percentile, and the method is auto"),
        (["--calibration", "noise", "--patience", "3"], "--patience: is of features that are optimised"),
        (["--calibration", "speech", "--frames", "64"], "--frames: is of features that are optimised"),
        (["--max-size", "8MB", "--bits", "w4a8"], "and so does --bits"),
        (["--device", "cpu"], "--device: is where weights are trained, and none are"),
        (["--device", "auto", "--bits", "w4a8"], "--device: is where weights are trained, and none are"),
        (["--device", "tpu", "--bits", "w1a8"], "is not one of cpu, cuda, cuda:N, auto"),
        (["--device", "cuda:7", "--bits", "w1a8"], "--device: there is no 'cuda:7': PyTorch"),
        (["--set", "device=cuda:7", "--bits", "w1a8"], "--device: there is no 'cuda:7': PyTorch"),
        (["--progressive", "--bits", "w2a8"], "--progressive: is how --train begins; say --train TIME, too"),
        (["--set", "progressive=[8,4]", "--bits", "w2a8"], "are of a distillation, and there is none"),
        (["--plot", "x.svg"], "draws a search for a plan, and there is none"),
        (["--max-size", "8MB", "--plot", "x.bmp"], "cannot draw .bmp"),
        (["--max-time", "1.5"], "--max-time: is of a search for a plan, and there is none; say"),
        (["--max-time", "0.9", "--max-size", "8MB"], "--max-time: the factor must be a finite number >= 1"),
        (["--max-time", "nan", "--max-loss", "0.03"], "--max-time: the factor must be a finite number >= 1"),
    ],
)
def test_what_cannot_be_done_is_said_first(tmp_path: Path, options: list[str], said: str) -> None:
    command = ["quantize", str(tmp_path / "missing.pt"), *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert said in result.stderr


def stopped(folder: Path) -> Path:
    """The file of a training that was stopped, beside what it was to write."""
    run = folder / "x.onnx.training"
    run.write_bytes(b"how far it is")
    return run


@pytest.mark.parametrize("asked", [["--bits", "w4a8", "--train", "5m"], ["--bits", "w1a8"]], ids="/".join)
def test_a_training_that_was_stopped_is_not_lost(tmp_path: Path, asked: list[str]) -> None:
    run = stopped(tmp_path)
    command = ["quantize", str(tmp_path / "missing.pt"), "-o", str(tmp_path / "x.onnx"), *asked]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "x.onnx.training: is there already" in result.stderr
    assert "say --resume, or --force to begin anew" in result.stderr
    for answer in ("--resume", "--force"):
        result = CliRunner().invoke(app, [*command, answer])
        # it goes on to what is wrong next
        assert "there is no such file" in result.stderr
        assert ("replaces" in result.stderr) == (answer == "--force")
    assert run.read_bytes() == b"how far it is"


def test_a_model_is_no_run_of_training(tmp_path: Path) -> None:
    run = stopped(tmp_path)
    command = ["quantize", str(run), "-o", str(tmp_path / "x.onnx"), "--bits", "w4a8", "--train", "5m"]
    result = CliRunner().invoke(app, [*command, "--force"])
    assert result.exit_code == 2
    assert "x.onnx.training: is the input itself" in result.stderr


@pytest.mark.parametrize(
    "asked", [["--bits", "8"], ["--bits", "w4a8"], ["--bits", "w1a8", "--no-reconstruct"]]
)
def test_what_trains_nothing_heeds_no_run(tmp_path: Path, asked: list[str]) -> None:
    stopped(tmp_path)
    command = ["quantize", str(tmp_path / "missing.pt"), "-o", str(tmp_path / "x.onnx"), *asked]
    result = CliRunner().invoke(app, command)
    assert "training" not in result.stderr
