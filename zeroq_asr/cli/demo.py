"""``zeroq-asr demo``: the whole job on a small model and clips that come with the package."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli import bench as benching
from zeroq_asr.cli import compare as comparing
from zeroq_asr.cli import outputs
from zeroq_asr.cli.options import AsJson, Developer, Quiet
from zeroq_asr.cli.outputs import Force, check_output
from zeroq_asr.cli.terminal import Terminal, session
from zeroq_asr.lines import size


def demo(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go.")] = Path(
        "zeroq-demo"
    ),
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Synthesize, quantize, verify, compare and measure, on the model that comes with the package.

    Example: zeroq-asr demo
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        from zeroq_asr.embedded import other_files

        output = folder / "model.int8.onnx"
        if folder.is_dir():
            check_output(terminal, output, outputs.onnx, force=force)
        if force:
            for path in other_files(folder):
                terminal.note(f"replaces {path}")
        files = zq.copy_embedded(folder, replace=force)
        if terminal.talks:
            terminal.title(str(folder), "a recogniser of 1.5 million parameters, and clips it never heard")
        with terminal.progress() as progress:
            prepared = zq.prepare(files.model, progress=progress)
            made = zq.quantize(prepared, output, progress=progress)
            certificate = zq.verify(output)
        if terminal.talks:
            _quantized(terminal, made, certificate)
        with terminal.progress() as progress:
            comparison = zq.compare(
                prepared, zq.read_manifest(files.test), str(files.calibration), progress=progress
            )
        if terminal.talks:
            terminal.text()
            comparing.show(terminal, comparison)
        with terminal.progress() as progress:
            benchmark = zq.bench(model=prepared, progress=progress)
        if terminal.talks:
            terminal.text()
            benching.show(terminal, benchmark)
            terminal.text()
            terminal.text("Now by hand:")
            where = shlex.quote(str(folder))
            for command in (
                "quantize model.pt --bits 8",
                "verify model.int8.onnx",
                "transcribe model.int8.onnx clips",
                "evaluate model.int8.onnx --manifest test.jsonl",
                "quantize transducer.pt --bits 8",
                "evaluate transducer.int8 --manifest test.jsonl --beam 4",
            ):
                terminal.line(
                    f"  cd {where} && zeroq-asr {command}" if folder != Path() else f"  zeroq-asr {command}"
                )
        terminal.result(
            {
                "folder": str(folder),
                "quantized": made.to_dict(),
                "certificate": certificate.to_dict(names=False),
                "comparison": comparison.to_dict(),
                "benchmark": benchmark.to_dict(),
            },
            str(output),
        )


def _quantized(terminal: Terminal, made: zq.Quantized, certificate: zq.Certificate) -> None:
    terminal.text()
    terminal.title(str(made.path), "quantized without any audio")
    terminal.facts(
        [
            ("size", f"{size(made.size)}, of {size(made.float_bytes)} in float"),
            ("verified", f"the integer program is proven to {made.deployment.max_seconds:g} s"),
            ("program", certificate.program_sha256),
        ]
    )
