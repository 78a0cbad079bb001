"""The row of plans that a search went along, as commands show and draw it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli.terminal import Terminal
from zeroq_asr.lines import size

Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Also draw the plans of the search, loss against size: .png, .svg or .pdf."
    ),
]
#: rows of a plan's curve that are shown
_CURVE = 8


def show_row(terminal: Terminal, row: zq.PlanRow) -> None:
    """Print the row of plans that was searched, from 8 bits down, and which was chosen."""
    terminal.title("plan", "weights of 8, 4 and 2 bits, the cheapest byte first")
    last = len(row.points) - 1
    shown = {round(k * last / (_CURVE - 1)) for k in range(_CURVE)} | {row.chosen}
    shown |= {k for k, point in enumerate(row.points) if point.measured is not None}
    rows = []
    for k in sorted(shown):
        point = row.points[k]
        eight, four, two = point.layers
        measured = "" if point.measured is None else f"{point.measured:+.4f}"
        chosen = "chosen" if k == row.chosen else ""
        rows.append(
            [size(point.bytes), str(eight), str(four), str(two), f"{point.predicted:.4f}", measured, chosen]
        )
    terminal.table(["about", "8 bits", "4 bits", "2 bits", "predicted loss", "measured", ""], rows)
    if row.wide_values:
        terminal.text(f"{row.of_values}.")
    terminal.text("loss: nats a frame, the sum of layers alone, and of the whole beyond 8 bits.", "dim")
    terminal.text()
