"""The examples run as their docstrings say."""

from __future__ import annotations

import ast
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


def test_from_python_and_then_without_this_package(tmp_path: Path) -> None:
    done = _python(tmp_path, "quantize_from_python.py")
    lines = done.splitlines()
    read = [line.removeprefix("read: ") for line in lines if line.startswith("read: ")]
    assert len(read) == 3
    assert lines[-2].startswith("float WER on these: ")
    assert lines[-1].startswith("integer WER on these: ")
    clips = sorted((tmp_path / "zeroq-demo" / "clips").iterdir())[:3]
    # the file stands alone: the same text from ONNX Runtime and NumPy
    alone = _python(tmp_path, "transcribe_onnxruntime.py", "recogniser.int8.onnx", *clips)
    assert alone.splitlines() == read


def test_the_bare_transcriber_imports_nothing_of_ours() -> None:
    source = (EXAMPLES / "transcribe_onnxruntime.py").read_text()
    imported = {
        name.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported <= {"__future__", "json", "sys", "numpy", "onnxruntime", "soundfile"}


def _python(folder: Path, script: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
