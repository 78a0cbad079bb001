"""The commands, and the options that may stand before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from zeroq_asr._version import __version__
from zeroq_asr.cli import exits
from zeroq_asr.cli.bench import bench
from zeroq_asr.cli.compare import compare
from zeroq_asr.cli.demo import demo
from zeroq_asr.cli.doctor import doctor
from zeroq_asr.cli.inspect import inspect
from zeroq_asr.cli.options import AsJson, Developer, Quiet
from zeroq_asr.cli.quantize import quantize
from zeroq_asr.cli.recognize import evaluate, transcribe
from zeroq_asr.cli.report import report
from zeroq_asr.cli.synthesize import synthesize
from zeroq_asr.cli.verify import verify

#: in the order of --help; a new command is a new module and a name here
COMMANDS: tuple[Callable[..., Any], ...] = (
    quantize,
    verify,
    transcribe,
    evaluate,
    bench,
    compare,
    report,
    inspect,
    synthesize,
    doctor,
    demo,
)

# the \b keeps its line breaks
_EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {text}" for code, text in exits.MEANINGS.items())

app = typer.Typer(
    name="zeroq-asr",
    help="Integer-only quantization of pretrained speech recognisers, without any data.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    ctx: typer.Context,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Integer-only quantization of pretrained speech recognisers, without any data."""
    ctx.obj = {"as_json": as_json, "quiet": quiet, "developer": developer}


for _command in COMMANDS:
    app.command()(_command)
