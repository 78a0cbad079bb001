"""The commands, and the options that may stand before them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from zeroq_asr._version import __version__
from zeroq_asr.cli import exits
from zeroq_asr.cli.options import AsJson, Developer, Quiet
from zeroq_asr.errors import ConfigError

#: in the order of --help: the module of ``zeroq_asr.cli`` that has the function of that name, and how the
#: function's docstring begins.  So --help imports none of them, and a command its own alone
COMMANDS: dict[str, tuple[str, str]] = {
    "quantize": ("quantize", "Quantize MODEL to an integer-only ONNX file, proven and without any data."),
    "verify": (
        "verify",
        "Verify that FILE is the proven integer program that it says it is; exit code 5 if not.",
    ),
    "transcribe": (
        "transcribe",
        "Print what is said in recordings: a line each, with its path and a tab before it for several.",
    ),
    "evaluate": (
        "evaluate",
        "Measure the error rates and the speed of MODEL on recordings with known text.",
    ),
    "bench": ("bench", "Measure time, memory and size of every form, their runs interleaved."),
    "compare": (
        "compare",
        "Compare MODEL quantized without data, with real data, from noise, and by ONNX Runtime itself.",
    ),
    "sweep": (
        "sweep",
        "Quantize and evaluate every combination of models, formats, seeds, sources and recordings in FILE.",
    ),
    "report": (
        "report",
        "Report how near FILE is to MODEL, on features that are made for it: no recording is needed.",
    ),
    "inspect": ("inspect", "Say what is inside a checkpoint, a quantized file or any other ONNX file."),
    "bundle": (
        "bundle",
        "Write the folder in which sherpa-onnx or onnx-asr takes FILE, whose integers stay the same.",
    ),
    "export": (
        "export",
        "Write FILE again, its program unchanged: to take audio or features, or to load faster here.",
    ),
    "synthesize": (
        "synthesize",
        "Make features that MODEL takes for speech, and say how well its statistics are met.",
    ),
    "doctor": ("doctor", "Tell which integer kernels are exact and fast on this machine, by trying them."),
    "demo": (
        "demo",
        "Synthesize, quantize, verify, compare and measure, on the model that comes with the package.",
    ),
}


def function_of(name: str) -> Callable[..., Any]:
    """Return the function behind a command of ``COMMANDS``."""
    function: Callable[..., Any] = getattr(
        importlib.import_module(f"zeroq_asr.cli.{COMMANDS[name][0]}"), name
    )
    return function


class _Parsers(Mapping[str, Any]):
    """The parser of each command, made when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        alone = _typer(add_completion=False)
        alone.command()(function_of(name))
        return _with_names(typer.main.get_command(alone))

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


#: what --help calls a number, by Python's name of its type
_NUMBERS = {"int": "N", "float": "X"}


def _with_names(command: Any) -> Any:
    """Return a command whose help shows what a value is called, and no type of Python's."""
    for param in command.params:
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None
        elif param.metavar is None and not param.is_flag:
            kind = param.display_type(None).strip("<>").split(" ")[0]
            param.metavar = _NUMBERS.get(kind, "TEXT")
    return command


class Commands(TyperGroup):
    """The commands, a wrong use of which is one line like every other error."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        parsers: Any = _Parsers()
        self.commands = parsers

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return [*COMMANDS]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write what each command does, whole and without making its parser."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, those of completion as --help is."""
        params = super().get_params(ctx)
        for param in params:
            if param.name in ("install_completion", "show_completion"):
                param.default = False
        return params

    def get_help_option(self, ctx: Any) -> Any:
        """Return --help, a plain flag: an option that is neither given nor False is checked by pydantic."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def main(self, *args: Any, **settings: Any) -> NoReturn:
        """Run a command and exit with its code."""
        settings["standalone_mode"] = False
        try:
            code = super().main(*args, **settings)
        except _USAGE as error:
            if error.__class__.__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                print(exits.line_of(_told(error)), file=sys.stderr)
                if "--json" in (settings.get("args") or sys.argv):
                    from zeroq_asr.cli.terminal import json_error

                    print(json_error(_told(error)))
            sys.exit(exits.USAGE)
        sys.exit(code if isinstance(code, int) else exits.OK)


#: typer's, or click's beneath it: it has no public name
_USAGE: Any = typer.BadParameter.__bases__[0]


def _told(error: Any) -> ConfigError:
    command = error.ctx.command_path if error.ctx is not None else "zeroq-asr"
    problem = error.format_message().strip().removesuffix(".")
    return ConfigError(command, problem, f"see {command} --help")


def _typer(**settings: Any) -> typer.Typer:
    """Return a parser as all of ours are: its help is plain text, which comes without waiting for rich."""
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


# the \b keeps its line breaks
_EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {text}" for code, text in exits.MEANINGS.items())

app = _typer(
    name="zeroq-asr",
    cls=Commands,
    help="Integer-only quantization of pretrained speech recognisers, without any data.",
    epilog=_EPILOG,
    no_args_is_help=True,
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
