"""The pictures of a report's page: inline SVG, made of text alone, with a title for every mark.

Colours are classes, which the page's style sheet gives for light and dark.  Coordinates are units of the
picture's own box, which the page scales.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from zeroq_asr.config.plan_row import PlanRow
from zeroq_asr.lines import printable, shorten, size
from zeroq_asr.measure.qualities import ValueQuality
from zeroq_asr.synthesis.features import LayerAccount

T = TypeVar("T")

#: units of a picture's width, and of what stands left and right of its plot
WIDTH, _LEFT, _RIGHT = 1000.0, 64.0, 16.0
#: most marks of a picture: of more values, each mark is the worst of several neighbours
MARKS = 500
#: characters of a name that are shown
_NAME = 120
#: dB of signal over noise below which a value is bad, and below which it is middling
BAD, MIDDLING = 10.0, 20.0
#: shares of a range up to which its strip is drawn
_BEYOND = 1.25
#: nats, below which logarithmic axes end
_LEAST = 1e-4
#: what XML cannot hold, and ``printable`` leaves as it is
_NO_XML = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}


@dataclass(frozen=True)
class Bar:
    """A bar: what it says at its left and its right, how long it is, and its interval if it has one."""

    label: str
    value: float
    told: str
    kind: str = "float"
    interval: tuple[float, float] | None = None


def escaped(text: object, limit: int = _NAME) -> str:
    """Return a stranger's text so that it is text in HTML, in SVG and in an attribute, and never more.

    It is cut to ``limit`` characters; control characters and marks that reorder a line are spelled out.
    """
    return html.escape(printable(shorten(str(text), limit)).translate(_NO_XML))


def bars(rows: Sequence[Bar], label: str) -> str:
    """Draw horizontal bars from 0, the longest over the whole width."""
    start, end, step = 150.0, WIDTH - 180, 34
    most = max([row.value for row in rows] + [row.interval[1] for row in rows if row.interval] + [1e-9])
    drawn = []
    for place, row in enumerate(rows):
        y = place * step + 6
        x = start + max(row.value, 0.0) / most * (end - start)
        mark = _rect(row.kind, start, y, max(x - start, 1.0), 22)
        right = x
        if row.interval is not None:
            low, high = (start + max(e, 0.0) / most * (end - start) for e in row.interval)
            mark += _line("whisker", low, y + 11, high, y + 11) + "".join(
                _line("whisker", e, y + 6, e, y + 16) for e in (low, high)
            )
            right = max(right, high)
        drawn.append(_titled(f"{row.label}: {row.told}", mark))
        drawn.append(_text(start - 10, y + 16, row.label, "end"))
        drawn.append(_text(right + 10, y + 16, row.told))
    return _svg(len(rows) * step + 4, label, drawn)


def depth(values: Sequence[ValueQuality]) -> str:
    """Draw every value's SQNR in the order of the network, above the strip of its range.

    Of more than ``MARKS`` values each mark is the worst, by its SQNR, of its neighbours.
    """
    shown = worst_of_neighbours(values, lambda value: value.sqnr)
    finite = [value.sqnr for value in shown if math.isfinite(value.sqnr)]
    low = 10.0 * math.floor(min([0.0, *finite]) / 10)
    high = 10.0 * math.ceil(max([30.0, *finite]) / 10) + 5
    top, bottom, base, unit = 14.0, 254.0, 404.0, 84.0

    def level(sqnr: float) -> float:
        return bottom - (min(sqnr, high) - low) / (high - low) * (bottom - top)

    drawn = []
    for tick in range(int(low), int(high), 10):
        drawn += _tick(level(tick), f"{tick} dB")
    for share in (0.0, 0.5, 1.0):
        drawn += _tick(base - share * unit, f"{100 * share:.0f} %")
    wide = (WIDTH - _LEFT - _RIGHT) / max(len(shown), 1)
    radius, bar = min(5.0, max(1.2, wide * 0.36)), min(24.0, wide * 0.8)
    previous: tuple[float, float] | None = None
    for place, value in enumerate(shown):
        x = _LEFT + (place + 0.5) * wide
        here = (x, level(value.sqnr))
        if previous is not None:
            drawn.append(_line("path", *previous, *here))
        previous = here
    for place, value in enumerate(shown):
        x = _LEFT + (place + 0.5) * wide
        noise = f"{value.sqnr:.1f} dB" if math.isfinite(value.sqnr) else "without noise"
        kind = "bad" if value.sqnr < BAD else "middling" if value.sqnr < MIDDLING else "good"
        mark = f'<circle class="{kind}" cx="{_n(x)}" cy="{_n(level(value.sqnr))}" r="{_n(radius)}"/>'
        drawn.append(_titled(f"{value.name}: {noise}", mark))
        reached = min(value.reach, 1.0) * unit
        strip = _rect("range", x - bar / 2, base - unit, bar, unit)
        strip += _rect("reached", x - bar / 2, base - reached, bar, reached)
        over = (min(value.reach, _BEYOND) - 1) * unit
        if value.clipped > 0 and over > 0:
            strip += _rect("clipped", x - bar / 2, base - unit - over - 2, bar, over + 2)
        told = f"calibrated from {value.low:.3g} to {value.high:.3g}, {100 * value.reach:.0f} % of it reached"
        drawn.append(_titled(f"{value.name}: {told}, {100 * value.clipped:.2g} % clipped", strip))
    drawn.append(_text(_LEFT, base + 22, "input"))
    drawn.append(_text(WIDTH - _RIGHT, base + 22, "logits", "end"))
    return _svg(base + 30, "SQNR of every value by depth, and the share of its range that is reached", drawn)


def statistics(layers: Sequence[LayerAccount]) -> str:
    """Draw the KL to the stored statistics of every normalization, before matching and after it."""
    shown = worst_of_neighbours(layers, lambda layer: -layer.kl_after)
    scale = _Logarithmic([k for layer in shown for k in (layer.kl_before, layer.kl_after)], 14.0, 204.0)
    drawn = scale.ticks()
    wide = (WIDTH - _LEFT - _RIGHT) / max(len(shown), 1)
    radius = min(5.0, max(1.2, wide * 0.3))
    for place, layer in enumerate(shown):
        x = _LEFT + (place + 0.5) * wide
        before, after = scale(layer.kl_before), scale(layer.kl_after)
        mark = _line("path", x, before, x, after)
        for kind, y in (("before", before), ("good", after)):
            mark += f'<circle class="{kind}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"/>'
        told = f"KL {layer.kl_before:.3g} before, {layer.kl_after:.3g} after, in nats"
        drawn.append(_titled(f"{layer.name}: {told}, {layer.channels} channels", mark))
    drawn.append(_text(_LEFT, 226, "first normalization"))
    drawn.append(_text(WIDTH - _RIGHT, 226, "last", "end"))
    return _svg(234, "KL to the stored statistics before and after matching, a normalization each", drawn)


def plans(row: PlanRow) -> str:
    """Draw bytes against loss of a row of plans: predicted, measured, and the chosen one."""
    points = row.points
    sizes = [point.bytes for point in points]
    least, most = min(sizes), max(sizes)
    losses = [p.predicted for p in points] + [p.measured for p in points if p.measured is not None]
    scale = _Logarithmic(losses, 14.0, 244.0)

    def across(count: int) -> float:
        return _LEFT + 20 + (count - least) / max(most - least, 1) * (WIDTH - _LEFT - _RIGHT - 40)

    drawn = scale.ticks()
    # of a long row every so many points: the line is the same to the eye
    step = max(1, -(-len(points) // MARKS))
    kept = [k for k, p in enumerate(points) if k % step == 0 or k == row.chosen or p.measured is not None]
    # what was built has its own bytes, the others about as many as they will have
    about = [k for k in kept if points[k].measured is None]
    line = " ".join(f"{_n(across(sizes[k]))},{_n(scale(points[k].predicted))}" for k in about)
    drawn.append(f'<polyline class="path" points="{line}"/>')
    for k in kept:
        point = points[k]
        eight, four, two = point.layers
        told = f"about {size(point.bytes)}: {eight} layers of 8 bits, {four} of 4, {two} of 2"
        x = _n(across(point.bytes))
        mark = f'<circle class="float" cx="{x}" cy="{_n(scale(point.predicted))}" r="2.5"/>'
        drawn.append(_titled(f"{told}; {point.predicted:.3g} nats a frame predicted", mark))
        if point.measured is not None:
            mark = f'<circle class="bad" cx="{x}" cy="{_n(scale(point.measured))}" r="4.5"/>'
            drawn.append(_titled(f"{told}; {point.measured:.3g} nats a frame measured", mark))
    chosen = points[row.chosen]
    loss = chosen.predicted if chosen.measured is None else chosen.measured
    ring = f'<circle class="ring" cx="{_n(across(chosen.bytes))}" cy="{_n(scale(loss))}" r="9"/>'
    drawn.append(_titled(f"chosen: about {size(chosen.bytes)}, {loss:.3g} nats a frame", ring))
    drawn.append(_text(across(least), 270, size(least), "middle"))
    drawn.append(_text(across(most), 270, size(most), "end") if most > least else "")
    return _svg(278, "loss of every plan of the row against the bytes of its file", drawn)


def worst_of_neighbours(items: Sequence[T], key: Callable[[T], float]) -> list[T]:
    """Return at most ``MARKS`` of the items, in their order: the least, by its key, of each run."""
    run = max(1, -(-len(items) // MARKS))
    return [min(items[k : k + run], key=key) for k in range(0, len(items), run)]


class _Logarithmic:
    """A logarithmic axis of nats, from whole decade to whole decade; what is less lies at its end."""

    def __init__(self, values: Sequence[float], top: float, bottom: float) -> None:
        real = [max(value, _LEAST) for value in values if math.isfinite(value)] or [_LEAST]
        self.low = math.floor(math.log10(min(real)))
        self.high = max(math.ceil(math.log10(max(real))), self.low + 1)
        self.top, self.bottom = top, bottom

    def __call__(self, value: float) -> float:
        decade = self.high if value == math.inf else math.log10(max(value, _LEAST))
        share = (min(decade, self.high) - self.low) / (self.high - self.low)
        return self.bottom - share * (self.bottom - self.top)

    def ticks(self) -> list[str]:
        decades = range(self.low, self.high + 1, max(1, (self.high - self.low) // 6))
        return [part for k in decades for part in _tick(self(10.0**k), f"{10.0**k:g}")]


# -- marks -----------------------------------------------------------------------------------------


def _svg(height: float, label: str, marks: Sequence[str]) -> str:
    box = f'viewBox="0 0 {_n(WIDTH)} {_n(height)}"'
    return f'<svg {box} role="img" aria-label="{escaped(label)}">{"".join(marks)}</svg>'


def _titled(title: str, marks: str) -> str:
    return f"<g><title>{escaped(title, 2 * _NAME)}</title>{marks}</g>"


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"/>'


def _line(kind: str, x: float, y: float, to: float, down: float) -> str:
    return f'<line class="{kind}" x1="{_n(x)}" y1="{_n(y)}" x2="{_n(to)}" y2="{_n(down)}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escaped(text)}</text>'


def _tick(y: float, text: str) -> list[str]:
    return [_line("grid", _LEFT, y, WIDTH - _RIGHT, y), _text(_LEFT - 8, y + 4, text, "end")]


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
