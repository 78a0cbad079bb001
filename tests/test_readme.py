"""Every command and every line of Python in the README runs as it is written there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from small_transducers import nemo_config, nemo_state
from typer.testing import CliRunner

from zeroq_asr.cli.commands import COMMANDS, app

README = Path(__file__).parents[1] / "README.md"
CHECKPOINT, TRANSDUCER = "stt_en_quartznet15x5.nemo", "stt_en_conformer_transducer.nemo"
PLACEHOLDERS = {"MODEL": CHECKPOINT, "FILE": "stt_en_quartznet15x5.int8.onnx", "TRANSDUCER": TRANSDUCER}


def _blocks(language: str) -> list[str]:
    # every block, so that no closing fence is taken for an opening one
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    return [text for name, text in fences if name == language]


def _commands() -> list[str]:
    lines = [line for block in _blocks("") for line in block.splitlines()]
    commands = [line.partition("#")[0].strip() for line in lines if line.startswith("zeroq-asr ")]
    return list(dict.fromkeys(commands))


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_nemo: Callable[..., Path],
    conv_config: dict[str, Any],
    conv_state: dict[str, torch.Tensor],
    speech_like: np.ndarray,
) -> Path:
    """A folder with the files that the README speaks of, small ones."""
    monkeypatch.chdir(tmp_path)
    write_nemo(conv_config, conv_state, name=CHECKPOINT)
    write_nemo(nemo_config(), nemo_state(nemo_config()), name=TRANSDUCER)
    durations = nemo_config(durations=(0, 1, 2))
    write_nemo(durations, nemo_state(durations), name="parakeet_tdt.nemo")
    soundfile.write(tmp_path / "call.flac", speech_like, 16000)
    line = {"audio_filepath": "call.flac", "duration": 0.5, "text": "a call"}
    swept = {"models": CHECKPOINT, "bits": 8, "calibration": "noise", "manifests": "test.jsonl"}
    (tmp_path / "sweep.yaml").write_text(json.dumps(swept))
    for name in ("test.jsonl", "real.jsonl"):
        (tmp_path / name).write_text(json.dumps(line) + "\n")
    return tmp_path


def test_the_readme_has_every_command() -> None:
    used = {shlex.split(command)[1] for command in _commands()}
    assert used == {*COMMANDS}


def test_commands_run_in_order(folder: Path) -> None:
    for command in _commands():
        arguments = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)[1:]]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{command}: {result.output}"
    assert (folder / "stt_en_quartznet15x5.int8.onnx").is_file()
    assert (folder / "features.npz").is_file()


def test_python_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in _blocks("python"):
        exec(compile(block, str(README), "exec"), {})
    assert (folder / "quartznet.int8.onnx").is_file()
    # the texts of one call, and the words of it
    assert len(capsys.readouterr().out.splitlines()) == 2
