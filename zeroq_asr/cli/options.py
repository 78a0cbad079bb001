"""Options that commands share, and the checks of their values."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from zeroq_asr.config import CalibrationSpec
from zeroq_asr.config.calibration import MADE
from zeroq_asr.config.choices import HEADS
from zeroq_asr.config.settings import with_fields
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the bare result only.")]
Developer = Annotated[
    bool,
    typer.Option("--traceback", envvar="ZEROQ_TRACEBACK", help="For developers: show where an error arose."),
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="YAML", help="The model_config.yaml of weights that come without one."),
]
Loader = Annotated[
    str | None,
    typer.Option(metavar="MODULE:FUNCTION", help="Your own function that reads MODEL; its code is run."),
]
Language = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="Which language a Hugging Face model of many (MMS) recognizes: fra."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="What an ONNX file of other tools came from; lends frontend and tokens."
    ),
]
Channel = Annotated[
    str | None,
    typer.Option(
        metavar="N|average",
        help="What is heard of recordings with several channels: that numbered N, from 0, or their average; "
        "by default their average, with a warning.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other field of QuantSpec, SynthesisSpec, CalibrationSpec, LabelSpec or TrainingSpec, "
        "e.g. init=speech; repeatable.",
    ),
]
KeepFloat = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LAYER",
        help="Keep a layer in float: a path, a value's name or a glob; repeatable. Then the file is not "
        "integer-only.",
    ),
]
AllowFloat = Annotated[
    bool,
    typer.Option("--allow-float", help="Keep operators without an integer lowering in float, too."),
]
Calibration = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="Where ranges come from: features synthesized to match stored statistics (synthetic), made "
        "speech (speech), both, noise, saved features (.npz), a manifest or a folder. auto: synthetic "
        "where the network stores statistics, else speech.",
    ),
]
CalibrationLimit = Annotated[
    int | None, typer.Option(min=1, help="Calibrate on the first so many utterances only.")
]
All = Annotated[
    bool, typer.Option("--all", help="Every name there is, too, where the answer has hundreds of them.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Recordings that run together.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=512, help="Threads of the network; all cores by default.")
]
Jobs = Annotated[
    int,
    typer.Option(
        min=1, max=256, help="Batches that run side by side; unless --threads says, they share the cores."
    ),
]


def channel_of(text: str | None) -> int | str | None:
    """Return what --channel says; ConfigError for anything but a number from 0, or average."""
    from zeroq_asr.speech.manifest import MOST_CHANNELS

    if text is None or text == "average":
        return text
    if not (text.isascii() and text.isdigit() and int(text[:9]) < MOST_CHANNELS):
        problem = f"expected a number from 0, or average, got {shown(text)}"
        raise ConfigError("--channel", problem, "channels are counted from 0")
    return int(text[:9])


def require_source(calibration: CalibrationSpec) -> None:
    """Raise ConfigError where --calibration names a file or a folder that is not there."""
    if calibration.kind in ("features", "audio") and not os.path.exists(calibration.source):
        raise ConfigError(
            "--calibration",
            f"there is no file or folder {calibration.source}",
            f"or say one of {', '.join(MADE)}",
        )


def one_of(allowed: Iterable[str]) -> Callable[[str], str]:
    """Return the check that a value is one of ``allowed``, for an option's ``callback``."""
    names = (*allowed,)

    def check(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{shown(value)} is not one of {', '.join(names)}.")
        return value

    return check


def alternatives(allowed: Iterable[str]) -> str:
    """Return ``allowed`` as --help shows it."""
    return f"[{'|'.join(allowed)}]"


Head = Annotated[
    str,
    typer.Option(
        metavar=alternatives(HEADS),
        callback=one_of(HEADS),
        help="Which head of a checkpoint recognizes; of one that has both, auto takes the CTC head.",
    ),
]


def typed(ctx: typer.Context, *names: str) -> list[str]:
    """Return the spellings of those parameters, by their names in Python, that the command line gives."""
    spellings = {parameter.name: max(parameter.opts, key=len) for parameter in ctx.command.params}
    sources = {name: ctx.get_parameter_source(name) for name in names if name in spellings}
    return [spellings[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"]


def refuse_typed(ctx: typer.Context, names: Iterable[str], problem: str, remedy: str) -> None:
    """Raise ConfigError for the first of those parameters that the command line gives."""
    for spelling in typed(ctx, *names):
        raise ConfigError(spelling, problem, remedy)


#: fields that options of other names set
_OPTION_OF = {"weight_bits": "bits", "activation_bits": "bits", "limit": "calibration_limit"}


def with_settings(ctx: typer.Context, given: Iterable[str] | None, *specs: Any) -> tuple[Any, ...]:
    """Return ``specs``, frozen dataclasses, with the fields that ``NAME=VALUE`` names changed.

    Values are JSON where they read as such, else strings.  Raises ConfigError for a name that none has,
    a value that its specification refuses, or a field that an option of the command line sets, too.
    """
    known = [field.name for spec in specs for field in dataclasses.fields(spec)]
    values: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known:
            raise ConfigError(
                "--set", f"cannot read {shown(text)}", f"NAME=VALUE with one of {', '.join(known)}"
            )
        problem = f"sets {name}, and so does --set {shown(text)}"
        refuse_typed(ctx, [_OPTION_OF.get(name, name)], problem, "leave one of them out")
        try:
            values[name] = json.loads(value)
        except (ValueError, RecursionError):  # no JSON, or a number of more digits than Python reads
            values[name] = value
    return with_fields("--set", values, *specs)
