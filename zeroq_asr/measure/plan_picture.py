"""The row of plans as a picture: what each loses against what it weighs."""

from __future__ import annotations

from pathlib import Path

from zeroq_asr.config.plan_row import PlanRow
from zeroq_asr.measure.pictures import check, write

#: losses below it, in nats a frame, are drawn there: the axis is logarithmic
_LEAST = 1e-4


def draw_row(row: PlanRow, path: Path, title: str) -> None:
    """Draw the predicted losses of all plans, the measured ones, and the chosen plan, whole or not at all."""
    check(path)
    from matplotlib.figure import Figure

    points = row.points
    sizes = [point.bytes / 1e6 for point in points]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    predicted = [max(point.predicted, _LEAST) for point in points]
    axes.plot(sizes, predicted, color="#4c78a8", label="sum of layers alone")
    built = [
        (x, max(p.measured, _LEAST)) for x, p in zip(sizes, points, strict=True) if p.measured is not None
    ]
    if built:
        axes.scatter(
            *zip(*built, strict=True), color="#e45756", zorder=3, label="whole program, beyond 8 bits"
        )
    chosen = points[row.chosen]
    loss = chosen.predicted if chosen.measured is None else chosen.measured
    place = sizes[row.chosen], max(loss, _LEAST)
    axes.scatter(*place, s=120, facecolors="none", edgecolors="black", zorder=4, label="chosen")
    axes.set_yscale("log")
    axes.set_xlabel("MB of the file")
    axes.set_ylabel("loss, nats a frame")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write(figure, path)
