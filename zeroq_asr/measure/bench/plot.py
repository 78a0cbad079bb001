"""A benchmark as a picture: a bar a contender, grouped by what runs, and by threads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zeroq_asr.measure.pictures import check, write

if TYPE_CHECKING:
    from zeroq_asr.measure.bench import Benchmark


def plot(result: Benchmark, path: Path) -> None:
    """Draw the median milliseconds of every contender that ran, whole or not at all."""
    check(path)
    from matplotlib.figure import Figure

    groups: dict[str, list[tuple[str, float, float]]] = {}
    for row in result.rows:
        if row.median is not None:
            spread = (row.spread or 0.0) * row.median
            groups.setdefault(row.title, []).append(
                (f"{row.label} ({row.device})", 1e3 * row.median, 1e3 * spread)
            )
    longest = max((len(bars) for bars in groups.values()), default=1)
    figure = Figure(figsize=(8, 0.9 + (0.3 * longest + 0.7) * max(1, len(groups))), layout="constrained")
    axes = figure.subplots(max(1, len(groups)), 1, squeeze=False)[:, 0]
    for axis, (title, bars) in zip(axes, groups.items(), strict=False):
        labels, medians, spreads = zip(*bars, strict=True)
        axis.barh(labels, medians, xerr=[s / 2 for s in spreads], color="#4c78a8", ecolor="#888888")
        axis.bar_label(axis.containers[-1], fmt="%.1f", padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("ms")
        axis.set_title(title, fontsize=10)
    figure.suptitle(result.machine.processor, fontsize=9)
    write(figure, path)
