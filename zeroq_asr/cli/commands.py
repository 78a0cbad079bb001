"""The commands, and the options that may stand before them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

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
from zeroq_asr.errors import ConfigError

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


class Commands(TyperGroup):
    """The commands, a wrong use of which is one line like every other error."""

    def main(self, *args: Any, **settings: Any) -> NoReturn:
        """Run a command and exit with its code."""
        settings["standalone_mode"] = False
        try:
            code = super().main(*args, **settings)
        except _USAGE as error:
            if error.__class__.__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                print(_line(error), file=sys.stderr)
            sys.exit(exits.USAGE)
        sys.exit(code if isinstance(code, int) else exits.OK)


#: typer's, or click's beneath it: it has no public name
_USAGE: Any = typer.BadParameter.__bases__[0]


def _line(error: Any) -> str:
    command = error.ctx.command_path if error.ctx is not None else "zeroq-asr"
    problem = error.format_message().strip().removesuffix(".")
    return exits.line_of(ConfigError(command, problem, f"see {command} --help"))


# the \b keeps its line breaks
_EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {text}" for code, text in exits.MEANINGS.items())

app = typer.Typer(
    name="zeroq-asr",
    cls=Commands,
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
