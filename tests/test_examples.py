"""The examples run as their docstrings say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_own_network(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "own_network.py", tmp_path)
    subprocess.run([sys.executable, "own_network.py", "own.pt"], cwd=tmp_path, check=True)
    quantize = [sys.executable, "-m", "zeroq_asr", "quantize", "own.pt", "--loader", "own_network:load"]
    subprocess.run([*quantize, "--iterations", "2", "--quiet"], cwd=tmp_path, check=True)
    verify = [sys.executable, "-m", "zeroq_asr", "verify", "own.int8.onnx", "--quiet"]
    done = subprocess.run(verify, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert len(done.stdout.strip()) == 64  # the program's hash
