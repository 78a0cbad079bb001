"""The command starts at once: nothing is imported before it is needed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from zeroq_asr._version import __version__
from zeroq_asr.cli import app
from zeroq_asr.cli.commands import COMMANDS, function_of

#: each takes a tenth of a second or more, some take seconds
SLOW = {"torch", "onnx", "onnxruntime", "transformers", "numpy", "rich", "yaml", "pydantic", "zeroq_asr._api"}
#: runs the command as a process does, and tells on stderr what it imported of these
CODE = f"""
import atexit, sys
atexit.register(lambda: print(*sorted({SLOW!r} & {{*sys.modules}}), file=sys.stderr))
sys.argv = ["zeroq-asr", *sys.argv[1:]]
from zeroq_asr.cli import main
main()
"""


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS)],
    ids=" ".join,
)
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == []
    assert __version__ in done.stdout if arguments == ["--version"] else "Usage: zeroq-asr" in done.stdout


def test_what_help_says_of_a_command_is_how_its_docstring_begins() -> None:
    for name, (_, summary) in COMMANDS.items():
        text = inspect.getdoc(function_of(name)) or ""
        assert summary == " ".join(text.partition("\n\n")[0].split()), name


def test_help_lists_every_command_and_a_misspelt_one_is_guessed() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert all(f"\n  {name} " in text for name in COMMANDS)
    wrong = CliRunner().invoke(app, ["quantise"])
    assert wrong.exit_code == 2
    assert "Did you mean 'quantize'?" in wrong.output


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_show_no_type(name: str) -> None:
    """And options the type of a value, where they have no name for it."""
    text = CliRunner().invoke(app, [name, "--help"]).output
    assert "--json  " in text
    assert "<bool>" not in text
