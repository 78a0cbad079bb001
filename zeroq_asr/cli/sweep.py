"""``zeroq-asr sweep``: every combination of a file, into a folder of results that can be gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli import outputs
from zeroq_asr.cli.exits import CELLS
from zeroq_asr.cli.options import AsJson, Developer, Quiet, alternatives, one_of
from zeroq_asr.cli.outputs import Force, check_output
from zeroq_asr.cli.tables import markdown_table, rate
from zeroq_asr.cli.terminal import session
from zeroq_asr.config.choices import LOCAL, RUNNERS
from zeroq_asr.files import atomic_write_bytes
from zeroq_asr.lines import size

if TYPE_CHECKING:
    from zeroq_asr.measure.sweep import Sweep, SweepRow

COLUMNS: tuple[str, ...] = (
    "model",
    "bits",
    "calibration",
    "seed",
    "recordings",
    "WER %",
    "agreement %",
    "size",
    "s",
    "program",
)
#: of rows that failed, behind those
ERROR = "error"


def sweep(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What to combine: a YAML file (docs/sweeps.md)."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--output",
            "--out",
            "-o",
            metavar="PATH",
            help="Folder of the results, a file each; what it has is not computed again.",
        ),
    ],
    jobs: Annotated[
        int, typer.Option(min=1, max=256, help="Processes side by side; they share the cores.")
    ] = 1,
    on: Annotated[
        str,
        typer.Option(
            metavar=alternatives(RUNNERS),
            callback=one_of(RUNNERS),
            help="Who computes: processes of this machine, or Ray, which takes zeroq-asr[ray].",
        ),
    ] = LOCAL,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the table, as Markdown.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Quantize and evaluate every combination of models, formats, seeds, sources and recordings in FILE.

    Example: zeroq-asr sweep sweep.yaml --output results --jobs 4
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        spec = zq.read_sweep(file)
        if markdown is not None:
            check_output(terminal, markdown, outputs.sweeps, file, force=force)
        with terminal.progress() as progress:
            result = zq.sweep(spec, out, jobs=jobs, on=on, progress=progress)
        columns = (*COLUMNS, ERROR) if result.failed else COLUMNS
        rows = [_cells(row)[: len(columns)] for row in result.rows]
        if markdown is not None:
            atomic_write_bytes(markdown, "\n".join([*markdown_table(columns, rows), ""]).encode())
        terminal.result(result.to_dict(), rows)
        if terminal.talks:
            terminal.title(str(out), _summary(result))
            terminal.table(columns, rows, left=(0, 1, 2, 4, 9, 10))
            if markdown is not None:
                terminal.facts([("table", str(markdown))])
        if result.failed:
            if not terminal.as_json:
                terminal.note(
                    f"{result.failed} of {len(rows)} cells failed; the same command tries them again"
                )
            raise typer.Exit(CELLS)


def _summary(result: Sweep) -> str:
    return f"{len(result.rows)} cells: {result.computed} computed, {result.kept} there already"


def _cells(row: SweepRow) -> list[str]:
    """Return what each column shows of a row, the error last."""
    told = row.to_dict()
    seconds = [value for value in told["seconds"].values() if value is not None]
    program, seed = told["program_sha256"], told["seed"]
    return [
        Path(told["model"]).name,
        Path(told["bits"]).name,
        "–" if told["calibration"] is None else Path(told["calibration"]).name,
        "–" if seed is None else str(seed),
        _recordings(told["manifest"]),
        rate(told["words"]),
        rate(told["agreement"]),
        "–" if told["bytes"] is None else size(told["bytes"]),
        f"{sum(seconds):.1f}" if seconds else "–",
        "–" if program is None else program[:8],
        row.error or "",
    ]


def _recordings(manifest: str) -> str:
    """Return a list's name with its folder: most are called manifest.jsonl."""
    return "/".join(Path(manifest).parts[-2:])
