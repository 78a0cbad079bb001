"""Mixed precision to a budget: which layer's weights have 2, 4 or 8 bits, found without data.

Each layer's weights are rounded alone, in the float network, on made speech that ranges do not come from;
the divergence that this costs at the logits is set against the bytes that it saves.  Widths are then lowered
one after the other, the cheapest byte first: a row of plans, each smaller than the one before.  What a plan
costs as a whole no sum can say, for errors add up and cancel; so plans of the row are built, and the integer
program's own divergence on that speech decides, by bisection, how far to go.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.config.plan_file import EVERYTHING
from zeroq_asr.config.plan_row import PlanPoint, PlanRow
from zeroq_asr.deployment.export import export
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.grid import Grid, symmetric
from zeroq_asr.integer.packing import A_BYTE
from zeroq_asr.integer.program import Program
from zeroq_asr.lines import size, summary
from zeroq_asr.lowering.plan import Plan, warn_of_recurrent
from zeroq_asr.measure.qualities import FrameMeter
from zeroq_asr.measure.replays import Replay
from zeroq_asr.measure.sensitivity import on_grid
from zeroq_asr.pipeline import Prepared, build
from zeroq_asr.progress import Progress, silent
from zeroq_asr.registry import traits_of
from zeroq_asr.synthesis.made_speech import little_speech
from zeroq_asr.threads import one_thread

#: widths that are tried, each narrower than the one before
_WIDTHS = (8, 4, 2)
#: builds that a bisection takes at most
_BUILDS = 7


@dataclass(frozen=True)
class FoundPlan:
    """A plan that keeps to a budget."""

    plan: Plan
    chosen: PlanPoint
    #: the whole row, from 8 bits on down
    points: tuple[PlanPoint, ...]

    def __repr__(self) -> str:
        """Show the size and the loss of what was found, on one line."""
        told = f"{self.chosen.predicted:.3g} nats predicted"
        return summary(self, size(self.chosen.bytes), told, f"of {len(self.points)} plans")

    @property
    def row(self) -> PlanRow:
        """The row with the place of the plan, for ``quantize`` to keep in the file."""
        return PlanRow(self.points, self.points.index(self.chosen))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan and the row as JSON values."""
        return {
            "plan": self.plan.to_yaml(),
            "chosen": asdict(self.chosen),
            "points": [asdict(point) for point in self.points],
        }


@one_thread()
def find_plan(
    prepared: Prepared,
    *,
    max_size: int | None = None,
    max_loss: float | None = None,
    dialect: str = "fused",
    progress: Progress = silent,
) -> FoundPlan:
    """Choose 8, 4 or 2 bits for the weights of every layer of a prepared network.

    ``max_size``: bytes of the file in ``dialect`` at most, before any training; among plans that fit, the
    one that is predicted to lose least.
    ``max_loss``: nats a frame by which the divergence from the float network may exceed that of 8 bits; the
    smallest such plan of the row.  With both, the size binds and the loss is checked.  Values have the bits
    that the network was prepared for.

    Raises ConfigError where neither is given, and where no plan keeps to what was.
    """
    if max_size is None and max_loss is None:
        raise ConfigError("find_plan", "needs a budget", "give max_size or max_loss")
    search = _Search(prepared, dialect, progress)
    row = search.row()
    if max_size is not None:
        place = search.first_within(max_size)
        if max_loss is not None and (loss := search.measured(place)) > max_loss:
            problem = f"a plan of {max_size} bytes loses {loss:.3g} nats a frame, more than {max_loss:g}"
            raise ConfigError("--max-loss", problem, "allow more of one of them")
        return search.found(place)
    assert max_loss is not None
    low, high = 0, len(row)  # the first holds, the last is beyond
    if max_loss >= 0 and len(row) > 1 and search.measured(len(row) - 1) <= max_loss:
        return search.found(len(row) - 1)
    for _ in range(_BUILDS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        low, high = (middle, high) if search.measured(middle) <= max_loss else (low, middle)
    return search.found(low)


class _Search:
    """A row of plans of one network, and what was measured of them."""

    def __init__(self, prepared: Prepared, dialect: str, progress: Progress) -> None:
        warn_of_recurrent(prepared.graph, "left at 8 bits by the search", "a plan of your own may say fewer")
        self.prepared, self.dialect, self.progress = prepared, dialect, progress
        spec = prepared.spec
        self.base = Plan.of(replace(spec, weight_bits=8, sensitive_bits=8, layer_grids=()))
        speech = little_speech(prepared.model, prepared.synthesis)
        self.features = [x[None] for x in speech.utterances()]
        made = {i.out for i in build(prepared, self.base).code}
        self.layers = [
            node for node in prepared.graph.nodes if traits_of(node).holds_weight and node.out in made
        ]
        #: how many of the moves of the row were made → layer → bits
        self.moves: list[tuple[str, int]] = []
        self.points: list[PlanPoint] = []
        self._reference = [prepared.graph.run(x, torch.tensor([x.shape[2]]))[0][0] for x in self.features]
        self._least = self._divergence(build(prepared, self.base))

    # -- the row -------------------------------------------------------------------------------------

    def row(self) -> list[PlanPoint]:
        """Lower the width whose byte costs least, until none is left; return the points."""
        costs = self._costs()
        counts = {node.out: node.attrs["weight"].numel() for node in self.layers}
        total = self._size(build(self.prepared, self.base), self.base)
        bits = dict.fromkeys(counts, _WIDTHS[0])
        predicted = sum(costs[name, _WIDTHS[0]] for name in bits)
        self.points = [self._point(bits, total, predicted)]
        queue: list[tuple[float, str, int]] = []

        def saved(name: str, width: int) -> int:
            return _bytes(counts[name], bits[name]) - _bytes(counts[name], width)

        def offer(name: str) -> None:
            # to the width that saves most for its cost, be it two steps down
            here = bits[name]
            narrower = [w for w in _WIDTHS if w < here]
            options = [
                (max(costs[name, w] - costs[name, here], 0.0) / max(1, saved(name, w)), name, w)
                for w in narrower
            ]
            if options:
                heapq.heappush(queue, min(options))

        for name in bits:
            offer(name)
        while queue:
            _, name, width = heapq.heappop(queue)
            total -= saved(name, width)
            predicted += costs[name, width] - costs[name, bits[name]]
            bits[name] = width
            self.moves.append((name, width))
            self.points.append(self._point(bits, total, predicted))
            offer(name)
        return self.points

    def _point(self, bits: Mapping[str, int], total: int, predicted: float) -> PlanPoint:
        widths = [*bits.values()]
        eight, four, two = (widths.count(width) for width in _WIDTHS)
        return PlanPoint((eight, four, two), total, predicted)

    def _costs(self) -> dict[tuple[str, int], float]:
        """Layer and bits → divergence that rounding its weights alone costs."""
        replays = [Replay(self.prepared.graph, x, torch.tensor([x.shape[2]])) for x in self.features[:2]]
        found: dict[tuple[str, int], float] = {}
        self.progress("plan", 0, len(self.layers))
        for done, node in enumerate(self.layers, start=1):
            for bits in _WIDTHS:
                found[node.out, bits] = self._cost(replays, node, symmetric(bits))
            self.progress("plan", done, len(self.layers))
        return found

    def _cost(self, replays: Sequence[Replay], node: FloatNode, grid: Grid) -> float:
        weights: dict[str, Tensor] = {node.out: on_grid(node.attrs["weight"], grid)}
        meter = FrameMeter()
        for replay in replays:
            meter.add(replay.logits(), replay.logits({}, weights))
        return max(0.0, meter.divergence)

    def first_within(self, size: int) -> int:
        """Return the place of the first plan whose file has at most ``size`` bytes; ConfigError without."""
        place, over = 0, 0
        while True:
            # what the prediction was off by holds nearby, too
            rest = range(place, len(self.points))
            found = next((k for k in rest if self.points[k].bytes + over <= size), None)
            if found is None:
                least = self.points[-1].bytes
                problem = (
                    f"no plan is as small as {size} bytes: with 2 bits in all layers it has about {least}"
                )
                raise ConfigError("--max-size", problem, "allow more")
            predicted = self.points[found].bytes
            self.measured(found)
            if self.points[found].bytes <= size:
                return found
            place, over = found + 1, self.points[found].bytes - predicted

    # -- plans ---------------------------------------------------------------------------------------

    def plan(self, place: int) -> Plan:
        """Return the plan of a point of the row."""
        bits = dict(self.moves[:place])
        grids = [(name, symmetric(width).name) for name, width in bits.items()]
        return replace(self.base, weights=((EVERYTHING, "int8"), *grids))

    def measured(self, place: int) -> float:
        """Return what a point's program loses beyond 8 bits, which is then known of it."""
        point = self.points[place]
        if point.measured is None:
            self.progress("plan", 0, 1, "build")
            plan = self.plan(place)
            program = build(self.prepared, plan)
            size = self._size(program, plan)
            loss = self._divergence(program) - self._least
            self.points[place] = point = replace(point, bytes=size, measured=loss)
            self.progress("plan", 1, 1, "build")
        assert point.measured is not None
        return point.measured

    def _size(self, program: Program, plan: Plan) -> int:
        """Bytes of the file of a program."""
        target = self.prepared.spec.target
        return len(export(program, self.prepared.deployment(plan), self.dialect, target).to_bytes())

    def found(self, place: int) -> FoundPlan:
        """Return a point with its plan."""
        return FoundPlan(self.plan(place), self.points[place], tuple(self.points))

    @torch.inference_mode()
    def _divergence(self, program: Program) -> float:
        """Mean over frames of KL(float || integers), in nats."""
        meter = FrameMeter(program.values[program.output("logits").value].scale)
        for x, wanted in zip(self.features, self._reference, strict=True):
            meter.add(wanted, program.run(TorchBackend(), x, torch.tensor([x.shape[2]]))[0][0])
        return meter.divergence


def _bytes(count: int, bits: int) -> int:
    """Bytes that so many weights take in a file."""
    return -(-count // A_BYTE[symmetric(bits).packing])
