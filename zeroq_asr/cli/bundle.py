"""``zeroq-asr bundle``: a quantized file as the folder that a speech runtime takes."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli.options import AsJson, Developer, Quiet
from zeroq_asr.cli.terminal import session
from zeroq_asr.config.choices import RUNTIMES


def bundle(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What quantize wrote: a CTC network, or a transducer's folder."),
    ],
    runtime: Annotated[
        str, typer.Option("--for", metavar="RUNTIME", help=f"Who takes the folder: {' or '.join(RUNTIMES)}.")
    ],
    out: Annotated[Path, typer.Option("--output", "--out", "-o", metavar="PATH", help="The folder.")],
    own_features: Annotated[
        bool,
        typer.Option(
            "--own-features",
            help="For onnx-asr: your program gives it features of FILE's frontend (preprocessor_factory).",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Write the folder in which sherpa-onnx or onnx-asr takes FILE, whose integers stay the same.

    A CTC network's file stays the same byte for byte. A transducer's files get the ports of the runtime.

    Example: zeroq-asr bundle conformer.int8.onnx --for sherpa-onnx --output conformer
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        made = zq.runtime_folder(file, runtime, own_features=own_features)
        # what will differ is told before anything is written
        for difference in made.differences:
            terminal.note(f"{runtime} differs: {difference}")
        made.write(out)
        found = {
            "folder": str(out),
            "runtime": runtime,
            "files": sorted(made.files),
            "differences": list(made.differences),
            "program_sha256": made.program_sha256,
            "model_sha256": made.model_sha256,
            "onnxruntime": made.onnxruntime,
        }
        terminal.result(found, str(out))
        if not terminal.talks:
            return
        transducer = os.path.isdir(file)
        kept = "which has those of the other files" if transducer else "the file itself"
        terminal.title(str(out))
        terminal.facts(
            [
                ("for", f"{runtime}, with ONNX Runtime {made.onnxruntime} or later"),
                ("files", ", ".join(sorted(made.files))),
                ("program", made.program_sha256),
                (made.index, f"{made.model_sha256}, {kept}"),
            ]
        )
        if transducer:
            terminal.next(f"verify {shlex.quote(str(out))}")
