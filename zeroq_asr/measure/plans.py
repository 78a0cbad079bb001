"""Mixed precision to a budget: which layer's weights have 8, 4 or 2 bits, and which values 16, without data.

A row of plans goes from 8 bits in all layers down to the plan that ``--bits w4a8`` stands for, and beyond it
only where a size asks for that.  Widths are lowered one after the other, the cheapest byte first: what a
layer costs is the noise at the logits when it alone is rounded, in the float network, as the file would have
it.  What a plan costs as a whole no sum can say, for errors add up and cancel; so programs of the row are
run, and their own divergence decides, by bisection, how far to go.  Where there is time for it, values are
given 16 bits first (``zeroq_asr.measure.widening``), which all plans of the row then have.

Features of one kind do not tell what speech will lose.  So all is measured on two kinds, made speech that
ranges do not come from and what ranges come from: noise is that of both, a loss that of the worse.  Few
frames stand on an edge, and on made features one such frame can outweigh the rest.  So layers are ranked by
noise, which all frames tell, and losses are Jensen-Shannon divergences, to which a frame adds ln 2 at most.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.config import LAYER_BITS
from zeroq_asr.config.checks import real
from zeroq_asr.config.plan_row import PlanPoint, PlanRow
from zeroq_asr.deployment.export import export
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.grid import symmetric
from zeroq_asr.integer.packing import A_BYTE
from zeroq_asr.integer.program import Program
from zeroq_asr.lines import size, summary
from zeroq_asr.lowering.plan import Plan, sensitive_layers, warn_of_recurrent
from zeroq_asr.measure.heard import Cost, Heard, cost
from zeroq_asr.measure.replays import Replay
from zeroq_asr.measure.widening import Widened, widened
from zeroq_asr.measure.widths import Widths
from zeroq_asr.pipeline import Prepared
from zeroq_asr.progress import Progress, silent
from zeroq_asr.synthesis.made_speech import little_speech
from zeroq_asr.threads import available, in_order, one_thread

#: widths that are tried, each narrower than the one before
_WIDTHS = (8, 4, 2)
#: none is narrower unless a size asks for it
_FLOOR = 4
#: programs that a bisection runs at most
_TRIALS = 7
#: files that are written at most until one says its own size
_SIZES = 4
#: utterances of each kind of features that a program is run on
_HEARD = 4
#: most frames of an utterance
_FRAMES = 512


@dataclass(frozen=True)
class FoundPlan:
    """A plan that keeps to a budget."""

    plan: Plan
    chosen: PlanPoint
    #: the whole row, from 8 bits on down
    points: tuple[PlanPoint, ...]
    #: values that the search gave 16 bits, and by how much they multiply the products of the layers
    wide_values: int = 0
    products: float = 1.0

    def __repr__(self) -> str:
        """Show the size and the loss of what was found, on one line."""
        told = f"{self.chosen.predicted:.3g} nats predicted"
        values = "1 value" if self.wide_values == 1 else f"{self.wide_values} values"
        wide = f"{values} of 16 bits" if self.wide_values else ""
        return summary(self, size(self.chosen.bytes), told, f"of {len(self.points)} plans", wide)

    @property
    def row(self) -> PlanRow:
        """The row with the place of the plan, for ``quantize`` to keep in the file."""
        return PlanRow(self.points, self.points.index(self.chosen), self.wide_values, self.products)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan and the row as JSON values."""
        return {
            "plan": self.plan.to_yaml(),
            "chosen": asdict(self.chosen),
            "points": [asdict(point) for point in self.points],
            "wide_values": self.wide_values,
            "products": self.products,
        }


@one_thread()
def find_plan(
    prepared: Prepared,
    *,
    max_size: int | None = None,
    max_loss: float | None = None,
    max_time: float = 1.0,
    dialect: str = "fused",
    progress: Progress = silent,
) -> FoundPlan:
    """Choose 8, 4 or 2 bits for the weights of every layer of a prepared network, and which values have 16.

    ``max_size``: bytes of the file in ``dialect`` at most, before any training; among plans that fit, the
    one that is predicted to lose least.
    ``max_loss``: nats a frame by which the Jensen-Shannon divergence from the float network, which is 0.69
    at most, may exceed that of 8 bits on made features; the smallest such plan of the row, none smaller than
    that of W4A8, whose sensitive layers have 8 bits.  With both, the size binds and the loss is checked.
    ``max_time``: by how much values that are given 16 bits may multiply the products of the layers, at least
    1: a prediction of the time by counting (``zeroq_asr.measure.widening``), beside one of the others.  By
    default values have the bits that the network was prepared for, and no others are given 16.

    Raises ConfigError where neither size nor loss is given, for a time below 1, and where no plan keeps to
    what was.
    """
    if max_size is None and max_loss is None:
        told = "" if max_time == 1.0 else ": max_time alone is none"
        raise ConfigError("find_plan", f"needs a budget{told}", "give max_size or max_loss")
    real("find_plan", "max_time", max_time, at_least=1.0)
    search = _Search(prepared, dialect, progress, max_time)
    if max_size is not None:
        place = search.first_within(max_size)
        if max_loss is not None and (loss := search.measured(place)) > max_loss:
            problem = f"a plan of {max_size} bytes loses {loss:.3g} nats a frame, more than {max_loss:g}"
            raise ConfigError("--max-loss", problem, "allow more of one of them")
        return search.found(place)
    assert max_loss is not None
    low, high = 0, len(search.points)  # the first holds, the last is beyond
    if max_loss >= 0 and high > 1 and search.measured(high - 1) <= max_loss:
        return search.found(high - 1)
    for _ in range(_TRIALS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        low, high = (middle, high) if search.measured(middle) <= max_loss else (low, middle)
    return search.found(low)


class _Search:
    """A row of plans of one network, and what was measured of them."""

    def __init__(self, prepared: Prepared, dialect: str, progress: Progress, max_time: float = 1.0) -> None:
        warn_of_recurrent(prepared.graph, "left at 8 bits by the search", "a plan of your own may say fewer")
        self._prepared, self._dialect, self._progress = prepared, dialect, progress
        plain = Plan.of(replace(prepared.spec, weight_bits=8, layer_grids=()))
        self._widths = Widths(prepared, plain)
        speech = little_speech(prepared.model, prepared.synthesis)
        kinds = ([*speech.utterances()], [*islice(prepared.utterances(), _HEARD)])
        self._heard = [Heard(prepared.graph, [x[None, :, :_FRAMES] for x in kind]) for kind in kinds]
        eight = self._widths.program(_WIDTHS[0])
        for heard in self._heard:
            heard.least = heard.divergence(eight)
        self._widened = Widened()
        if max_time > 1.0:
            self._widened = widened(prepared, plain, self._heard, max_time, progress)
        if self._widened.names:
            named = ((name, LAYER_BITS) for name in self._widened.names)
            self._widths = Widths(prepared, replace(plain, values=(*plain.values, *named)))
            eight = self._widths.program(_WIDTHS[0])
        #: by the name of its first layer: those that move together
        self._groups = {group[0].out: group for group in self._widths.groups}
        self._counts = {name: _distinct(group) for name, group in self._groups.items()}
        self._costs: dict[tuple[str, int], Cost] = {}
        #: how many of the moves of the row were made → layer → bits
        self._moves: list[tuple[str, int]] = []
        self._bits = dict.fromkeys(self._counts, _WIDTHS[0])
        self.points = [self._point(0, 0.0)]
        self.points = [self._point(self._size(eight, 0), 0.0)]
        # as far down as ``--bits w4a8`` goes
        kept = replace(prepared.spec, weight_bits=_FLOOR).sensitive > _FLOOR
        finer = {*sensitive_layers(prepared.graph)} if kept else set()
        coarse = {
            name for name, group in self._groups.items() if not any(node.out in finer for node in group)
        }
        self._extend(lambda name, width: name in coarse and width >= _FLOOR)

    # -- the row -------------------------------------------------------------------------------------

    def _extend(self, allows: Callable[[str, int], bool]) -> None:
        """Lower the allowed width whose byte costs least, until none is left."""
        self._learn_costs(allows)
        total, predicted = self.points[-1].bytes, self.points[-1].predicted
        queue: list[tuple[float, str, int]] = []

        def saved(name: str, width: int) -> int:
            return _bytes(self._counts[name], self._bits[name]) - _bytes(self._counts[name], width)

        def added(name: str, width: int) -> Cost:
            before, after = self._costs[name, self._bits[name]], self._costs[name, width]
            return Cost(max(after.noise - before.noise, 0.0), max(after.loss - before.loss, 0.0))

        def offer(name: str) -> None:
            # to the width that saves most for its cost, be it two steps down
            narrower = [w for w in _WIDTHS if w < self._bits[name] and allows(name, w)]
            options = [(added(name, w).noise / max(1, saved(name, w)), name, w) for w in narrower]
            if options:
                heapq.heappush(queue, min(options))

        for name in self._bits:
            offer(name)
        while queue:
            _, name, width = heapq.heappop(queue)
            total -= saved(name, width)
            predicted += added(name, width).loss
            self._bits[name] = width
            self._moves.append((name, width))
            self.points.append(self._point(total, predicted))
            offer(name)

    def _point(self, total: int, predicted: float) -> PlanPoint:
        widths = [self._bits[name] for name, group in self._groups.items() for _ in group]
        eight, four, two = (widths.count(width) for width in _WIDTHS)
        return PlanPoint((eight, four, two), total, predicted)

    def _learn_costs(self, allows: Callable[[str, int], bool]) -> None:
        """Measure what rounding each layer alone costs, at the allowed widths, beyond 8 bits."""
        tried = [(name, width) for name in self._groups for width in _WIDTHS[1:] if allows(name, width)]
        tried = [one for one in tried if one not in self._costs]
        self._costs |= {(name, _WIDTHS[0]): Cost(0.0, 0.0) for name in self._groups}
        replays = [heard.replays() for heard in self._heard]
        self._progress("plan", 0, len(tried))
        for width in {width for _, width in tried}:
            self._widths.program(width)  # lowered once, before threads ask for it
        found = in_order(partial(self._cost, replays), tried, available())
        for done, (one, made) in enumerate(zip(tried, found, strict=True), start=1):
            self._costs[one] = made
            self._progress("plan", done, len(tried))

    def _cost(self, replays: Sequence[Sequence[Replay]], tried: tuple[str, int]) -> Cost:
        name, width = tried
        real = {node.out: self._widths.real(node, width) for node in self._groups[name]}
        weights, biases = ({out: pair[place] for out, pair in real.items()} for place in (0, 1))
        return cost(replays, {}, weights, biases)

    def first_within(self, size: int) -> int:
        """Return the place of the first plan whose file has at most ``size`` bytes; ConfigError without."""
        if self.points[0].bytes <= size:
            self.measured(0)
            return 0
        floor = len(self.points) - 1
        place, over = 1, self._over(floor)
        if self.points[floor].bytes > size:
            self._extend(lambda name, width: True)
            place, over = floor + 1, 0
        while True:
            # what the prediction was off by holds nearby, too
            found = next((k for k in range(place, len(self.points)) if self._expected(k, over) <= size), None)
            if found is None:
                least = self.points[-1].bytes
                problem = (
                    f"no plan is as small as {size} bytes: with 2 bits in all layers it has about {least}"
                )
                raise ConfigError("--max-size", problem, "allow more")
            over = self._over(found)
            if self.points[found].bytes <= size:
                return found
            place = found + 1

    def _expected(self, place: int, over: int) -> int:
        point = self.points[place]
        return point.bytes + (over if point.measured is None else 0)

    def _over(self, place: int) -> int:
        """Bytes by which a point's file exceeds what was predicted of it; 0 where it was written before."""
        predicted = self.points[place].bytes
        self.measured(place)
        return self.points[place].bytes - predicted

    # -- plans ---------------------------------------------------------------------------------------

    def plan(self, place: int) -> Plan:
        """Return the plan of a point of the row."""
        return self._widths.plan(self._widths_of(place))

    def _widths_of(self, place: int) -> dict[str, int]:
        bits = dict(self._moves[:place])
        return {node.out: width for name, width in bits.items() for node in self._groups[name]}

    def measured(self, place: int) -> float:
        """Return what a point's program loses beyond 8 bits, which is then known of it."""
        point = self.points[place]
        if point.measured is None:
            self._progress("plan", 0, 1, "build")
            program = self._widths.mixed(self._widths_of(place))
            loss = max(heard.divergence(program) - heard.least for heard in self._heard)
            self.points[place] = point = replace(point, measured=loss)
            # the file has the row, which tells its size: until it says what it is
            for _ in range(_SIZES):
                if (total := self._size(program, place)) == point.bytes:
                    break
                self.points[place] = point = replace(point, bytes=total)
            self._progress("plan", 1, 1, "build")
        assert point.measured is not None
        return point.measured

    def _size(self, program: Program, place: int) -> int:
        """Bytes of the file of a point's program, with the row as it stands."""
        row = PlanRow(tuple(self.points), place, len(self._widened.names), self._widened.products)
        deployment = self._prepared.deployment(self.plan(place), row)
        return len(export(program, deployment, self._dialect, self._prepared.spec.target).to_bytes())

    def found(self, place: int) -> FoundPlan:
        """Return a point with its plan."""
        wide = self._widened
        return FoundPlan(
            self.plan(place), self.points[place], tuple(self.points), len(wide.names), wide.products
        )


def _distinct(group: Sequence[FloatNode]) -> int:
    """How many weights a file has of a group: those that are alike once."""
    kept: list[Tensor] = []
    for node in group:
        weight = node.attrs["weight"]
        if not any(weight.shape == other.shape and torch.equal(weight, other) for other in kept):
            kept.append(weight)
    return sum(weight.numel() for weight in kept)


def _bytes(count: int, bits: int) -> int:
    """Bytes that so many weights take in a file."""
    return -(-count // A_BYTE[symmetric(bits).packing])
