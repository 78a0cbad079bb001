"""Processes that torchrun starts train one program: one file is written, and one process speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import zeroq_asr as zq
from zeroq_asr.errors import ConfigError
from zeroq_asr.training.processes import Processes, joined, processes

QUICK = ("training_speakers=2", "held_out=1", "training_seconds=0.64", "training_batch=2", "rounding=nearest")


def started(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Quantize the embedded recogniser by two processes, each of one thread."""
    model = zq.embedded_files().model
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python"]
    program = [sys.executable, "-m", "zeroq_asr", "quantize", str(model), "--calibration", "noise"]
    settings = [part for setting in QUICK for part in ("--set", setting)]
    return subprocess.run(
        [sys.executable, *command, *program, "-o", str(folder / "out.onnx"), *settings, *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    done = started(tmp_path, "--bits", "w2a8", "--set", "distillation_steps=3", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert told["training"]["distillation"]["steps"] == 3
    assert zq.verify(tmp_path / "out.onnx").program_sha256 == told["program_sha256"]


def test_processes_that_do_not_train_are_refused(tmp_path: Path) -> None:
    done = started(tmp_path, "--bits", "8")
    assert done.returncode != 0
    assert "started 2 processes, which only train together; say --train TIME" in done.stderr
    assert not [*tmp_path.iterdir()]


def _worker(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined() as group:
        assert group == Processes(rank, 2) == processes()
        mean = group.mean(torch.tensor([1.0, 4.0]) * (rank + 1))
        first = group.of_first(rank + 0.25)
        group.require_same("programs", "a")
        problem = ""
        try:
            group.require_same("features", str(rank))
        except ConfigError as error:
            problem = str(error)
    assert not dist.is_initialized()
    Path(folder, f"{rank}.json").write_text(json.dumps([mean.tolist(), first, problem]))


def test_they_average_and_compare(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, (port, str(tmp_path)), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    mean, first, problem = found[0]
    np.testing.assert_array_equal(mean, [1.5, 6.0])
    assert first == 0.25
    assert "the processes made different features" in problem


def test_one_alone_is_its_own_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as group:
        assert group == Processes()
        assert group.leads
        values = torch.tensor([3.0])
        assert group.mean(values) is values
        assert group.of_first(2.5) == 2.5
        group.require_same("programs", "a")


@pytest.mark.parametrize(
    "given", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0"}, {"WORLD_SIZE": "abc"}], ids=str
)
def test_what_a_scheduler_sets_is_no_torchrun(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with joined() as group:
        assert group.count == 1


@pytest.mark.parametrize("changed", [{"WORLD_SIZE": "abc"}, {"MASTER_PORT": "xx"}, {"RANK": "x"}], ids=str)
def test_variables_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    good = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in {**good, **changed}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="cannot join the other processes"), joined():
        pass
