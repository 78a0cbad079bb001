"""Which values a search gives 16 bits: those whose bytes make most noise, for the time that 16 bits take.

They cost no bytes of a file.  A layer multiplies each byte of what it reads, so that its products double;
``products`` counts them.  What rounding a value to bytes costs is measured as of weights, alone and in the
float network (``zeroq_asr.measure.heard``); of the values that fit into the time alone, those of most noise
for their products are taken, one after the other, until the next does not fit beside them.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from zeroq_asr.config import LAYER_BITS
from zeroq_asr.errors import warn
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.lowering.formats import moved_from, named_values, wide_by_themselves, wide_values
from zeroq_asr.lowering.keep_float import with_islands
from zeroq_asr.lowering.plan import Plan, ResolvedPlan
from zeroq_asr.measure.heard import Heard, cost
from zeroq_asr.measure.sensitivity import formats, rounded
from zeroq_asr.pipeline import Prepared
from zeroq_asr.progress import Progress
from zeroq_asr.registry import NEVER, traits_of
from zeroq_asr.threads import available, in_order

#: products in whose time an entry of 16 bits is rounded, turned and parted into bytes by the nodes of the
#: dialect ``fused``: so the times of QuartzNet15x5 on ONNX Runtime come out to about a tenth, where all
#: depthwise results have 16 bits, where what residual additions read has, or values here and there
_ENTRY = 300


@dataclass(frozen=True)
class Widened:
    """Values of 16 bits, and what they take."""

    #: in the order in which they were taken
    names: tuple[str, ...] = ()
    #: by how much they multiply the products of the layers
    products: float = 1.0


def products(graph: FloatGraph, sizes: Mapping[str, int], wide: Container[str]) -> int:
    """Count the products that the layers of a graph take where the values of ``wide`` have 16 bits by name.

    ``sizes``: value → its number of entries.  A layer takes a product for each weight that an entry of its
    result is made of; two, one for each byte, where its operand has 16 bits.  A depthwise one counts twice
    where its operand or its result has: bytes have a kernel of their own.  Each entry of 16 bits counts
    as ``_ENTRY`` products besides.  Neither attention's products are counted nor those of LSTMs, which no
    plan changes, nor what is kept in float.
    """
    count = 0
    for node in graph.nodes:
        traits = traits_of(node)
        if node.out in wide and not traits.moves:
            count += _ENTRY * sizes[node.out]
        if traits.holds_weight:
            weight = node.attrs["weight"]
            reads = traits.reads_wide != NEVER and node.ins[0] in wide
            depthwise = weight.shape[1] == 1 < node.attrs["groups"]
            times = (2 if reads else 1) * (2 if depthwise and (reads or node.out in wide) else 1)
            count += times * sizes[node.out] * weight[0].numel()
    return count


def widened(
    prepared: Prepared, plan: Plan, heard: Sequence[Heard], most: float, progress: Progress
) -> Widened:
    """Choose the values to give 16 bits beside those that a plan names.

    ``heard``: features of every kind that noise is measured on.
    ``most``: by how much the chosen may multiply the products of the layers (``products``), at least 1.
    Warns where not one fits.
    """
    graph = with_islands(prepared.graph, prepared.spec.keep_float)
    given = plan.resolve(graph)
    sizes = _sizes(prepared.graph, heard[0].features[0])
    before = products(graph, sizes, given.wide)
    # the bytes that each has where it is not named
    known = formats(graph, prepared.calibrated().ranges, given)
    #: name → all that has 16 bits where it alone is named besides, and the products of that
    wide = {
        name: named_values(graph, (*plan.values, (name, LAYER_BITS)))
        for name in candidates(graph, given)
        if name in known
    }
    alone = {name: products(graph, sizes, found) for name, found in wide.items()}
    tried = [name for name, count in alone.items() if before and count / before <= most]
    if not tried:
        problem, remedy = "no value more can have 16 bits", "leave it out"
        if before and alone:
            problem += f": the cheapest multiplies the products by {min(alone.values()) / before:.3g}"
            remedy = "allow more"
        warn("--max-time", problem, remedy)
        return Widened()
    replays = [each.replays() for each in heard]
    noise: dict[str, float] = {}
    progress("values", 0, len(tried))
    changes = [{name: partial(rounded, info=known[name])} for name in tried]
    costs = in_order(partial(cost, replays), changes, available())
    for done, (name, made) in enumerate(zip(tried, costs, strict=True), start=1):
        noise[name] = made.noise
        progress("values", done, len(tried))
    chosen, together = Widened(), set(given.wide)
    for name in sorted(tried, key=lambda name: -noise[name] / (alone[name] - before)):
        together |= wide[name]
        factor = products(graph, sizes, together) / before
        if not noise[name] or factor > most:
            break
        chosen = Widened((*chosen.names, name), factor)
    return chosen


def candidates(graph: FloatGraph, plan: ResolvedPlan) -> list[str]:
    """Return the results that a plan could name for 16 bits, have none, and are read by what takes them."""
    producer, consumers = graph.producer(), graph.consumers()

    def is_taken(name: str) -> bool:
        readers: list[FloatNode] = consumers.get(name, [])
        return any(
            is_taken(r.out) if traits_of(r).moves else traits_of(r).reads_wide != NEVER for r in readers
        )

    fixed = set(plan.wide).union(*wide_values(graph))
    if graph.outputs[0] in producer:
        # logits have theirs
        fixed.add(moved_from(producer[graph.outputs[0]], producer).out)
    able = wide_by_themselves(graph, plan.wide) - fixed
    return [node.out for node in graph.nodes if node.out in able and is_taken(node.out)]


def _sizes(graph: FloatGraph, features: Tensor) -> dict[str, int]:
    """How many entries each value has of features [1, M, T]."""
    sizes: dict[str, int] = {}

    def note(name: str, value: Tensor) -> None:
        sizes[name] = value.numel()

    graph.run(features, torch.tensor([features.shape[2]]), observe=note)
    return sizes
