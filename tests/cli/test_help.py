"""What --help shows, and what a shell completes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from zeroq_asr.cli import app
from zeroq_asr.cli.commands import COMMANDS


def run(*args: str, **variables: str) -> Any:
    result = CliRunner().invoke(app, [*args], env=variables, prog_name="zeroq-asr")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", [*COMMANDS])
def test_help_names_values_and_shows_no_types(command: str) -> None:
    text = run(command, "--help")
    assert not re.search(r"<(list|str|int|float|bool|path)|\[\[|\]\]|\{\{", text), text
    # every option that takes a value says what it is called
    options = typer.main.get_command(app).commands[command].params
    assert all(p.metavar for p in options if p.param_type_name == "option" and not p.is_flag)


@pytest.mark.parametrize("option", ["--calibration", "--calibration-limit", "--top", "--limit", "--output"])
def test_an_option_means_one_thing(option: str) -> None:
    helps = set()
    for command in COMMANDS:
        for param in typer.main.get_command(app).commands[command].params:
            if option in param.opts and param.param_type_name == "option":
                helps.add(param.metavar)
    assert helps
    # compare takes one of several sources at a time, all others any source
    allowed = {"--calibration": {"SOURCE", "NAME"}, "--output": {"FILE", "PATH"}}
    assert helps <= allowed.get(option, {"N"})


def test_old_spellings_are_gone() -> None:
    for command, option in (("report", "--worst"), ("inspect", "--features"), ("compare", "--source")):
        result = CliRunner().invoke(app, [command, "m", option, "x"])
        assert result.exit_code == 2
        assert f"No such option: {option}" in result.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [("zeroq-asr tr", ["transcribe"]), ("zeroq-asr transcribe --fo", ["--format", "--force"])],
)
def test_a_shell_completes_commands_and_options(line: str, expected: list[str]) -> None:
    variables = {
        **os.environ,
        "_ZEROQ_ASR_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    result = subprocess.run(
        [sys.executable, "-m", "zeroq_asr"], env=variables, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout.split()) == (0, expected), result.stderr
