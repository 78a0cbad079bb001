"""How the library's own warnings reach the user of the command."""

from __future__ import annotations

import warnings
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from zeroq_asr.cli.options import AsJson, Developer, Quiet
from zeroq_asr.cli.terminal import session
from zeroq_asr.errors import ZeroqWarning, warn

app = typer.Typer()


@app.command()
def command(
    ctx: typer.Context,
    theirs: Annotated[bool, typer.Option("--theirs")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        if theirs:
            warnings.warn("theirs", RuntimeWarning, stacklevel=1)
            return
        for _ in range(2):
            warn("a\x1b[2J.wav", "is\nodd", "look at it")
        terminal.result({"a": 1}, "bare")


@pytest.mark.parametrize("option", ["--json", "--quiet", None])
def test_a_warning_is_one_line_on_stderr_and_told_once(option: str | None) -> None:
    result = CliRunner().invoke(app, [option] if option else [])
    assert result.exit_code == 0
    assert result.stderr == "warning: a\\x1b[2J.wav: is odd; look at it\n"
    as_json = '{\n  "schema": 1,\n  "a": 1\n}\n'
    assert result.stdout == {"--json": as_json, "--quiet": "bare\n", None: ""}[option]


def test_warnings_of_others_go_where_they_would() -> None:
    with pytest.warns(RuntimeWarning, match="theirs"):
        result = CliRunner().invoke(app, ["--theirs"])
    assert (result.exit_code, result.stderr) == (0, "")


def test_in_python_it_is_a_warning_like_others() -> None:
    with pytest.warns(ZeroqWarning, match=r"^here: is odd$") as caught:
        warn("here", "is odd")
    assert caught[0].message.problem == "is odd"
    assert caught[0].filename == __file__
