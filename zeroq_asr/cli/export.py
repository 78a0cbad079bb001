"""``zeroq-asr export``: a quantized file written again, to take audio or features, or to load faster."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli import outputs
from zeroq_asr.cli.options import AsJson, Developer, Quiet
from zeroq_asr.cli.outputs import Force, check_folder, check_output
from zeroq_asr.cli.terminal import session
from zeroq_asr.lines import size

#: said before such a file is written
_ALONE = (
    "an optimized file is for this release of ONNX Runtime and this kind of processor alone; it cannot be "
    "verified: keep the file that it is made of"
)


def export(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What quantize wrote: a file, or a transducer's folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="What to write; of a folder a folder.")
    ],
    with_frontend: Annotated[
        bool | None,
        typer.Option(
            "--with-frontend/--without-frontend",
            help="Take audio, with the frontend, in float, in front of the integers; or take features.  "
            "If not said: take audio, and with --optimized what FILE takes.",
            show_default=False,
        ),
    ] = None,
    optimized: Annotated[
        bool,
        typer.Option(
            "--optimized",
            help="Write what ONNX Runtime makes of it here, in its own format (.ort), to load faster: for "
            "this release of it and this kind of processor alone, and not to be verified.",
        ),
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Write FILE again, its program unchanged: to take audio or features, or to load faster here.

    FILE is verified first.

    Example: zeroq-asr export quartznet.int8.onnx --with-frontend --output quartznet.audio.onnx
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        from zeroq_asr.deployment.optimized import ENDING, here, require_ending

        if os.path.isdir(file):
            if os.path.realpath(file) == os.path.realpath(output):
                raise zq.ConfigError(output, "is the input itself", "choose another output path")
            check_folder(terminal, output, ENDING if optimized else ".onnx")
        else:
            require_ending(output, optimized=optimized)
            check_output(terminal, output, outputs.ort if optimized else outputs.onnx, file, force=force)
        if with_frontend is None and not optimized:
            with_frontend = True
        with terminal.progress() as progress:
            progress("export", 0, 1)
            made = zq.reexport(file, with_frontend=with_frontend, optimized=optimized)
            if optimized:
                terminal.note(_ALONE)
            made.write(output)
            progress("export", 1, 1)
        with_frontend = made.deployment.with_frontend
        takes = "audio" if with_frontend else "features"
        found = {
            "file": str(output),
            "bytes": made.size,
            "with_frontend": with_frontend,
            "optimized_for": here() if optimized else None,
            "program_sha256": dict(made.programs),
        }
        terminal.result(found, str(output))
        if not terminal.talks:
            return
        terminal.title(str(output))
        inputs = {
            "audio": "audio float32 [batch, samples], audio_length int64 [batch]",
            "features": "audio_signal float32 [batch, mels, frames], length int64 [batch]",
        }
        rate = made.deployment.frontend.sample_rate
        told = f"{inputs[takes]}" + (f", of {rate} samples a second" if with_frontend else "")
        terminal.facts([("size", size(made.size)), ("takes", told)])
        command = "bench" if optimized else "verify"
        terminal.next(f"{command} {shlex.quote(str(output))}")
