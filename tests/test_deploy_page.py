"""The snippets of docs/deploy.md run in order, and print one transcript."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from runtimes import missing, required

PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
SPOKEN = "do not let the idea"


def _blocks() -> list[tuple[str, str]]:
    fences: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return fences


def test_the_page_has_all_runtimes() -> None:
    languages = [language for language, _ in _blocks()]
    assert sorted({*languages}) == ["cpp", "js", "python"]
    assert (languages.count("python"), languages.count("js"), languages.count("cpp")) == (12, 2, 2)


def test_every_snippet_prints_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("sherpa_onnx", "onnx_asr", "openvino"):
        required(module)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, (language, text) in enumerate(_blocks()):
        if language == "python":
            exec(compile(text, f"{PAGE.name}, block {number}", "exec"), names)
            printed = capsys.readouterr().out.splitlines()
            assert printed == ([SPOKEN] if "print(" in text else []), text
    _run_javascript(tmp_path)


def _run_javascript(folder: Path) -> None:
    """Run the snippet with the modules that ZEROQ_NODE_MODULES names; `make node` puts them there."""
    modules = os.environ.get("ZEROQ_NODE_MODULES")
    if modules is None or shutil.which("node") is None:
        if modules is not None:
            missing("node is not installed")
        return
    (folder / "node_modules").symlink_to(modules)
    for script in (text for language, text in _blocks() if language == "js"):
        (folder / "snippet.mjs").write_text(script)
        command = ["node", "snippet.mjs"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, f"{SPOKEN}\n"), done.stderr
