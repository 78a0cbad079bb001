"""Which values are 16 bits wide, and which share a scale: decided before anything is lowered.

A *stream* is what residual additions add to: it feeds layer normalizations, whose input must be fine where
frames are quiet, and every addition would round it again.  So its values are 16 bits in int32, all at one
scale, and what is added to it comes at that scale too: the addition is that of two integers.
"""

from __future__ import annotations

from collections.abc import Mapping

from zeroq_asr.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.ops.attention import aligned
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.integer.types import signed_range

Range = tuple[float, float]

#: bits of a wide value
WIDE_BITS = 16
#: Wide values can afford a range twice the one that was seen: clipping costs words, and a step of 2^-15 of
#: the range nothing.
WIDE_MARGIN = 2.0
#: what can give 16 bits; moves give what they are given
_MAKERS = ("conv1d", "add", "layer_norm", "instance_norm")
#: normalizations, whose input must be fine
NORMS = ("layer_norm", "instance_norm")
_MOVES = ("mask_time", "take_channels", "transpose")


def wide_values(graph: FloatGraph) -> list[set[str]]:
    """Return the groups of wide values that share a scale: streams, and what only normalizations read."""
    producer, consumers = graph.producer(), graph.consumers()
    joined: dict[str, set[str]] = {}

    def join(names: list[str]) -> None:
        together = set().union(*(joined.get(name, {name}) for name in names))
        joined.update(dict.fromkeys(together, together))

    def wide(name: str, group: list[str]) -> None:
        """Collect ``name``, and what it is merely moved from, if all of it can be wide."""
        node = producer.get(name)
        chain = [name]
        while node is not None and node.op in _MOVES:
            chain.append(node.ins[0])
            node = producer.get(node.ins[0])
        if node is not None and node.op in _MAKERS and "clamp" not in node.attrs:
            group += chain

    for node in reversed(graph.nodes):
        if node.op in NORMS:
            group: list[str] = []
            wide(node.ins[0], group)
            if group:
                join(group)
        elif (
            node.op == "add" and "clamp" not in node.attrs and (node.out in joined or _feeds(node, consumers))
        ):
            group = [node.out]
            for name in node.ins:
                wide(name, group)
            join(group)
    return list({id(group): group for group in joined.values()}.values())


def _feeds(node: FloatNode, consumers: Mapping[str, list[FloatNode]]) -> bool:
    """Whether a normalization reads the sum, straight or moved."""
    readers = consumers.get(node.out, [])
    return any(r.op in NORMS or (r.op in _MOVES and _feeds(r, consumers)) for r in readers)


def wide_formats(graph: FloatGraph, ranges: Mapping[str, Range]) -> dict[str, ValueInfo]:
    """Return the format of every wide value: one scale a group, and each value's own bounds."""
    formats: dict[str, ValueInfo] = {}
    low, high = signed_range(WIDE_BITS)
    for group in wide_values(graph):
        known = {name: ranges[name] for name in group if name in ranges}
        peak = max((max(-lo, hi) for lo, hi in known.values()), default=0.0)
        scale = peak * WIDE_MARGIN / high if peak > 0 else 1.0
        for name, (lo, hi) in known.items():
            reach = max(-lo, hi) * WIDE_MARGIN / scale
            bound = min(max(round(reach), 1), high)
            formats[name] = ValueInfo("int32", scale, 0, max(-bound, low), bound)
    return formats


def aligned_scales(
    graph: FloatGraph, scales: Mapping[str, float], channels: Mapping[str, int]
) -> dict[str, float]:
    """Widen the scale of each attention's distances so that both kinds of score have a common unit."""
    found = {}
    for node in graph.nodes:
        if node.op == "attention" and len(node.ins) == 6:
            query, key, _, _, position, distances = node.ins
            ratio = scales[position] * scales[distances] / (scales[query] * scales[key])
            up, mp = aligned(ratio, channels[query] // node.attrs["heads"])
            found[distances] = scales[query] * scales[key] * mp / (up * scales[position])
    return found
