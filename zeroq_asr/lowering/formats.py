"""Which values are 16 bits wide, and which share a scale: decided before anything is lowered.

A *stream* is what residual additions add to: it feeds layer normalizations, whose input must be fine where
frames are quiet, and every addition would round it again.  So its values are 16 bits in int32, all at one
scale, and what is added to it comes at that scale too: the addition is that of two integers.

Any other value is so wide if the user names it (``QuantSpec.layer_bits``); convolutions, products and gates
read what is named exactly, where of streams they read bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from fnmatch import fnmatchcase

from zeroq_asr.config import LAYER_BITS
from zeroq_asr.config.plan_file import EVERYTHING
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.integer.types import U8, activation_range, signed_range
from zeroq_asr.registry import ALWAYS, NEVER, OPERATORS, framewise, operator_of, traits_of

Range = tuple[float, float]

#: bits of a wide value
WIDE_BITS = LAYER_BITS
#: Wide values can afford a range twice the one that was seen: clipping costs words, and a step of 2^-15 of
#: the range nothing.
WIDE_MARGIN = 2.0
#: what the sum of a frame's magnitudes is at most, in front of a layer norm: a float32 holds it
_SUM = 1 << 24


def byte_format(real: Range, bits: int, unit: float | None = None) -> ValueInfo:
    """Return the format of unsigned integers of ``bits`` ≤ 8 bits for values in ``real``.

    Zero is one of them exactly: padding and masks insert it.  ``unit``: the scale of 16 bits that they are
    rounded from, of which theirs shall be a multiple by few bits.
    """
    lo, hi = min(real[0], 0.0), max(real[1], 0.0)
    low, high = activation_range(bits)
    if hi == lo:
        return ValueInfo(U8.name, 1.0, 0, low, high)
    scale = (hi - lo) / high
    if unit is not None:
        # 8 bits of a multiplier, so that a float32 carries its product with 16 bits
        exponent = 7 - math.floor(math.log2(unit / scale))
        scale = unit * 2.0**exponent / math.floor(unit / scale * 2.0**exponent)
    return ValueInfo(U8.name, scale, round(-lo / scale), low, high)


def wide_values(graph: FloatGraph) -> list[set[str]]:
    """Return the groups of wide values that share a scale: streams, and what only normalizations read.

    What is inside of an island counts: a stream is one whatever of it runs in float.
    """
    graph = graph.with_nodes(graph.flat())
    producer, consumers = graph.producer(), graph.consumers()
    joined: dict[str, set[str]] = {}

    def join(names: list[str]) -> None:
        together = set().union(*(joined.get(name, {name}) for name in names))
        joined.update(dict.fromkeys(together, together))

    def wide(name: str, group: list[str]) -> None:
        """Collect ``name``, and what it is merely moved from, if all of it can be wide."""
        node = producer.get(name)
        chain = [name]
        while node is not None and moves_along(node):
            chain.append(node.ins[0])
            node = producer.get(node.ins[0])
        if node is not None and traits_of(node).makes_wide == ALWAYS and "clamp" not in node.attrs:
            group += chain

    for node in reversed(graph.nodes):
        traits = traits_of(node)
        if traits.normalizes:
            group: list[str] = []
            wide(node.ins[0], group)
            if group:
                join(group)
        elif traits.sums and "clamp" not in node.attrs and (node.out in joined or _feeds(node, consumers)):
            group = [node.out]
            for name in node.ins:
                wide(name, group)
            join(group)
    return list({id(group): group for group in joined.values()}.values())


def moves_along(node: FloatNode) -> bool:
    """Whether a node merely moves its operand, axes and all."""
    traits = traits_of(node)
    return traits.moves and not traits.changes_rank


def _feeds(node: FloatNode, consumers: Mapping[str, list[FloatNode]]) -> bool:
    """Whether a normalization reads the sum, straight or moved."""
    readers = consumers.get(node.out, [])
    return any(traits_of(r).normalizes or (moves_along(r) and _feeds(r, consumers)) for r in readers)


def made_by(graph: FloatGraph, pattern: str) -> list[FloatNode]:
    """Return the nodes that a pattern of ``--bits`` names by value or path, an island for what is inside.

    Raises ConfigError for one that names nothing, or nothing but what lies inside of islands.
    """
    producer = graph.producer()
    # an island goes by its result
    nodes = [producer.get(n.out, n) for n in graph.matching(pattern, "bits")]
    if not any(n.out in producer for n in nodes):
        raise ConfigError("bits", f"{pattern!r} lies inside of what is kept in float", "leave it out")
    return nodes


def moved_from(node: FloatNode, producer: Mapping[str, FloatNode]) -> FloatNode:
    """Return the node that makes what ``node`` merely moves; itself, if it moves nothing."""
    while traits_of(node).moves and node.ins[0] in producer:
        node = producer[node.ins[0]]
    return node


def named_values(graph: FloatGraph, layer_bits: Iterable[tuple[str, int]]) -> set[str]:
    """Return the values that shall have 16 bits by name, and what they are merely moved to.

    A pattern is a value's name or a layer's path, or matches some of them as a glob; of a layer it means all
    results that can have 16 bits.  Where a later pattern says other bits they have those.  Raises ConfigError
    for one that names nothing, or nothing that can.
    """
    producer = graph.producer()
    # some operators read bytes that share a scale
    read_as_bytes = {name for n in graph.nodes if operator_of(n).needs_bytes for name in n.ins}
    named: set[str] = set()
    matched: dict[str, list[FloatNode]] = {}
    #: named, and later given other bits
    renamed: set[str] = set()
    for pattern, bits in layer_bits:
        if bits != WIDE_BITS:
            fewer = [n for n in graph.nodes if fnmatchcase(n.out, pattern) or fnmatchcase(n.where, pattern)]
            renamed |= named.intersection(moved_from(n, producer).out for n in fewer)
            named -= renamed
            continue
        matched[pattern] = made_by(graph, pattern)
        for node in (moved_from(n, producer) for n in matched[pattern]):
            if traits_of(node).makes_wide != NEVER and node.out not in read_as_bytes:
                named.add(node.out)
    wide: set[str] = set()
    for node in graph.nodes:
        traits = traits_of(node)
        possible = node.ins[0] in wide if traits.moves or traits.wide_by_operand else True
        if possible and (node.out in named or traits.moves):
            wide.add(node.out)
    for pattern, nodes in matched.items():
        if not any(n.out in wide or moved_from(n, producer).out in renamed for n in nodes):
            makers = [o.name for o in OPERATORS.values() if o.traits.makes_wide != NEVER]
            behind = [o.name for o in OPERATORS.values() if o.traits.wide_by_operand]
            raise ConfigError(
                "bits",
                f"{pattern!r} names {', '.join(sorted({n.op for n in nodes}))}, which cannot have 16 bits",
                f"name one of {', '.join(makers)} that no attention reads; "
                f"{' and '.join(behind)} behind one of 16 bits",
            )
    return wide


def wide_by_themselves(graph: FloatGraph, wide: Container[str] = ()) -> set[str]:
    """Return the results that can be named for 16 bits one at a time, where those of ``wide`` have them."""
    able = named_values(graph, [(EVERYTHING, WIDE_BITS)])
    return {
        node.out
        for node in graph.nodes
        if node.out in able
        and not traits_of(node).moves
        and (not traits_of(node).wide_by_operand or node.ins[0] in wide)
    }


def within_reach(
    graph: FloatGraph,
    ranges: Mapping[str, Range],
    bits: int | Callable[[str], int],
    wide: Container[str] = (),
) -> dict[str, Range]:
    """Return ``ranges`` without what a function flattens: its operand, if not ``wide``, needs no steps there.

    Beyond the ends the result is within a quarter of its step, of ``bits`` bits, of what it tends to: the
    ends move by a part of a step when they are rounded, and the last entry of a table must be the limit's.
    """
    found, consumers = dict(ranges), graph.consumers()
    for node in graph.nodes:
        name, function = node.ins[0] if node.ins else "", operator_of(node).function
        if function is None or name in wide or name in graph.leaving or len(consumers[name]) > 1:
            continue
        if name in ranges and node.out in ranges:
            low, high = function.range or ranges[node.out]
            width = bits if isinstance(bits, int) else bits(node.out)
            step = (max(high, 0.0) - min(low, 0.0)) / activation_range(width)[1]
            least, most = function.flat_beyond(step / 4)
            lo, hi = (min(max(end, least), most) for end in ranges[name])
            found[name] = lo, hi
    return found


def wide_formats(
    graph: FloatGraph, ranges: Mapping[str, Range], named: Iterable[str] = ()
) -> dict[str, ValueInfo]:
    """Return the format of every wide value: one scale a group, and each value's own bounds.

    ``named`` are those of ``named_values``, each with a scale of its own where it is in no stream.
    """
    formats: dict[str, ValueInfo] = {}
    low, high = signed_range(WIDE_BITS)
    # these sum a frame's channels; the others sum a channel's frames, however many there are
    normed = {
        n.ins[0]: len(n.attrs["weight"]) for n in graph.nodes if traits_of(n).normalizes and framewise(n)
    }
    groups = wide_values(graph)
    streams = set().union(*groups)
    groups += [{name} for name in sorted(named) if name not in streams]
    for group in groups:
        known = {name: ranges[name] for name in group if name in ranges}
        peak = max((max(-lo, hi) for lo, hi in known.values()), default=0.0)
        most = min(high, *(_SUM // normed[name] - 1 for name in group & normed.keys()), high)
        scale = peak * WIDE_MARGIN / most if peak > 0 else 1.0
        for name, (lo, hi) in known.items():
            reach = max(-lo, hi) * WIDE_MARGIN / scale
            bound = min(max(round(reach), 1), most)
            formats[name] = ValueInfo("int32", scale, 0, max(-bound, low), bound)
    return formats
