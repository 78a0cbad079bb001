"""``zeroq-asr bench``: time, memory and size of every way to run a recogniser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli import outputs
from zeroq_asr.cli.options import (
    AllowFloat,
    AsJson,
    Config,
    Developer,
    Head,
    KeepFloat,
    Language,
    Loader,
    Quiet,
    alternatives,
)
from zeroq_asr.cli.outputs import Force, check_output
from zeroq_asr.cli.terminal import Terminal, session
from zeroq_asr.config import DEVICES
from zeroq_asr.config.choices import AUTO
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import size

COLUMNS: tuple[str, ...] = ("", "device", "ms", "speed-up", "spread", "RTF", "size", "load ms", "memory")


def bench(
    ctx: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="ONNX files, bundles, or one checkpoint, of which every form is measured. By default the "
            "model that comes with the package.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="Also measure the float and other tools' forms of this checkpoint."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar=alternatives(DEVICES), help="Where; both with a comma between.")
    ] = "cpu",
    threads: Annotated[str, typer.Option(metavar="N[,N…]", help="Threads of the network.")] = "1",
    seconds: Annotated[str, typer.Option(metavar="S[,S…]", help="Lengths of the audio.")] = "10",
    rounds: Annotated[
        int, typer.Option(min=1, max=100_000, help="Timed runs of each; the median counts.")
    ] = 15,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the times: .png, .svg or .pdf.")
    ] = None,
    keep_float: KeepFloat = None,
    allow_float: AllowFloat = False,
    config: Config = None,
    loader: Loader = None,
    language: Language = None,
    head: Head = AUTO,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Measure time, memory and size of every form, their runs interleaved.

    Example: zeroq-asr bench quartznet.int8.onnx --against quartznet.nemo --threads 1,2
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        from zeroq_asr.measure import pictures
        from zeroq_asr.measure.bench.plot import plot as draw

        counts = [int(value) for value in _numbers("--threads", threads)]
        lengths = _numbers("--seconds", seconds)
        onnx_files, checkpoint = _sort(files or [])
        if plot is not None:
            pictures.check(plot)
            check_output(terminal, plot, outputs.plots, *(files or ()), against, config, force=force)
        with terminal.progress() as progress:
            model: zq.AsrModel | zq.TransducerModel | None = None
            if not files and against is None:
                model = zq.embedded_model()
            elif checkpoint is not None:
                model = zq.load_model(checkpoint, config=config, loader=loader, language=language, head=head)
            other = None
            if against is not None:
                other = zq.load_model(against, config=config, loader=loader, language=language, head=head)
            result = zq.bench(
                onnx_files,
                model=model,
                against=other,
                spec=zq.QuantSpec(keep_float=tuple(keep_float or ()), allow_float=allow_float),
                seconds=lengths,
                threads=counts,
                devices=[part.strip() for part in device.split(",")],
                rounds=rounds,
                progress=progress,
            )
        terminal.result(result.to_dict(), [_cells(row) for row in result.rows])
        if terminal.talks:
            show(terminal, result)
        if plot is not None:
            draw(result, plot)
            if terminal.talks:
                terminal.text()
                terminal.facts([("plot", str(plot))])


def _sort(files: list[Path]) -> tuple[list[Path], Path | None]:
    """Return the ONNX files and bundles among ``files``, and the checkpoint, of which there may be one."""
    from zeroq_asr.deployment.recognizer import is_bundle, is_onnx

    onnx_files = [path for path in files if is_bundle(path) or is_onnx(path)]
    checkpoints = [path for path in files if path not in onnx_files]
    if len(checkpoints) > 1:
        raise ConfigError(
            "bench", f"{checkpoints[0]} and {checkpoints[1]} are both checkpoints", "measure one at a time"
        )
    return onnx_files, checkpoints[0] if checkpoints else None


def _numbers(option: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(option, f"cannot read {text!r}", "write numbers with commas between") from None
    if option == "--threads" and not all(value.is_integer() for value in values):
        raise ConfigError(option, f"must be whole numbers, got {text!r}")
    return values


def show(terminal: Terminal, result: zq.Benchmark) -> None:
    """Print a benchmark's tables."""
    machine = result.machine
    sets = ", ".join(machine.instruction_sets())
    terminal.title(machine.processor, f"{sets}; ONNX Runtime {result.versions['onnxruntime']}")
    for title in dict.fromkeys(row.title for row in result.rows):
        rows = [row for row in result.rows if row.title == title]
        terminal.text()
        terminal.text(f"{title}, median of {result.rounds}:")
        terminal.table(COLUMNS, [_cells(row) for row in rows])
    terminal.text()
    over = f"speed-up: the time of “{result.baseline}” over this one's; " if result.baseline else ""
    terminal.text(
        f"{over}spread: between quartiles; RTF: seconds of work a second of audio; load and memory: in a "
        "fresh process.",
        "dim",
    )


def _milliseconds(seconds: float) -> str:
    """Of a step, which takes a fraction of one, in more digits."""
    return f"{1e3 * seconds:.1f}" if seconds >= 1e-3 else f"{1e3 * seconds:.3f}"


def _cells(row: zq.Timing) -> list[str]:
    if row.absent or row.median is None:
        return [row.label, row.device, row.absent, *[""] * (len(COLUMNS) - 3)]
    return [
        row.label,
        row.device,
        _milliseconds(row.median),
        "–" if row.speedup is None else f"{row.speedup:.2f}",
        "–" if row.spread is None else f"{100 * row.spread:.0f} %",
        "–" if row.real_time_factor is None else f"{row.real_time_factor:.4f}",
        "–" if row.size is None else size(row.size),
        "–" if row.load_seconds is None else f"{1e3 * row.load_seconds:.0f}",
        "–" if row.peak_bytes is None else size(row.peak_bytes),
    ]
