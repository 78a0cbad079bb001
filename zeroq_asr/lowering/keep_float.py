"""Float islands: which nodes of a float graph stay in float, and which of them make one island.

Kept are the operators without an integer lowering, what the user names, and what is light and lies between
two of them, so that nothing is rounded for its sake.  Kept nodes join into *maximal fanout-free cones*: a
node belongs to its reader's island if all of its readers do.  So every island gives one value, and no path
leaves one and comes back; a kept value that others read, too, is the boundary between islands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.canonicalize import drop_unused
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.graph.shapes import infer
from zeroq_asr.registry import light, operator_of, sole, traits_of


def with_islands(graph: FloatGraph, keep_float: Iterable[str] = ()) -> FloatGraph:
    """Return a graph of the same function whose islands are one ``float_island`` node each.

    ``keep_float``: values' names, layers' paths, or globs of them; operators without an integer lowering
    are kept in any case.  Raises ConfigError for a pattern that names nothing, or nothing that can be kept.
    """
    kept = _kept(graph, keep_float)
    if not kept:
        return graph
    tables = _tables(graph)
    roots = _roots(graph, kept, tables)
    inside: dict[str, list[FloatNode]] = {}
    for node in graph.nodes:
        if node.out in roots:
            inside.setdefault(roots[node.out], []).append(node)
    nodes: list[FloatNode] = []
    for node in graph.nodes:
        if node.out in tables:
            continue  # they come with what reads them
        if node.out not in roots:
            nodes.append(node)
        elif roots[node.out] == node.out:
            cone = inside[node.out]
            # what only moves integers is no reason for an island
            if all(traits_of(n).moves for n in cone):
                nodes += cone
            else:
                nodes.append(_island(_with_tables(cone, tables)))
    return drop_unused(graph.with_nodes(_with_tables(nodes, tables)))


def _kept(graph: FloatGraph, keep_float: Iterable[str]) -> set[str]:
    """Names of the values that are made in float."""
    tables = _tables(graph)
    kept = {node.out for node in graph.nodes if traits_of(node).float_only}

    def can_be(node: FloatNode) -> bool:
        spelled = operator_of(node).spelling is not None and not traits_of(node).makes_lengths
        return spelled and node.out not in tables and node.out not in graph.leaving and not node.others

    for pattern in keep_float:
        nodes = graph.matching(pattern, "--keep-float")
        if several := sorted({node.op for node in nodes if node.others}):
            raise ConfigError(
                "--keep-float",
                f"{pattern!r} names {', '.join(several)}, which cannot be kept in float",
                "name other layers",
            )
        able = [node for node in nodes if can_be(node)]
        if all(traits_of(node).moves for node in able):
            ops = ", ".join(sorted({n.op for n in nodes}))
            raise ConfigError(
                "--keep-float",
                f"{pattern!r} names {ops}, which rounds nothing by itself",
                "name a layer that computes; what an attention makes of distances stays with it",
            )
        kept |= {node.out for node in able}
    consumers, lengths = graph.consumers(), _lengths(graph)
    for node in graph.nodes:
        values = [name for name in node.ins if name not in lengths]
        readers = consumers.get(node.out, [])
        between = kept.issuperset(values) and readers and kept.issuperset(r.out for r in readers)
        if between and can_be(node) and light(node):
            kept.add(node.out)
    return kept


def _lengths(graph: FloatGraph) -> set[str]:
    return {name for name, shape in infer(graph).items() if shape.lengths}


def _tables(graph: FloatGraph) -> dict[str, FloatNode]:
    """Values that are computed from no activation, such as what attentions make of distances, by name."""
    found: dict[str, FloatNode] = {}
    for node in graph.nodes:
        if traits_of(node).of_frames or (node.ins and found.keys() >= set(node.ins)):
            found[node.out] = node
    return found


def _roots(graph: FloatGraph, kept: set[str], tables: Mapping[str, FloatNode]) -> dict[str, str]:
    """Kept value → the value that its island gives."""
    consumers = graph.consumers()
    roots: dict[str, str] = {}
    for node in reversed(graph.nodes):
        if node.out in kept:
            # a table wants no more than a number of frames
            readers = [reader for reader in consumers.get(node.out, []) if reader.out not in tables]
            above = {roots.get(reader.out, "") for reader in readers}
            one = above.pop() if len(above) == 1 and node.out not in graph.leaving else ""
            roots[node.out] = one or node.out
    return roots


def _with_tables(given: list[FloatNode], tables: Mapping[str, FloatNode]) -> list[FloatNode]:
    """Put the tables that nodes read before them: islands compute their own, in float."""
    nodes: list[FloatNode] = []
    made: set[str] = set()

    def put(name: str, reader: FloatNode) -> None:
        if name not in tables or name in made:
            return
        made.add(name)
        table = tables[name]
        # a table depends on no value but for its number of frames
        of_frames = traits_of(table).of_frames
        for operand in () if of_frames else table.ins:
            put(operand, reader)
        ins = reader.ins[:1] if of_frames else table.ins
        nodes.append(FloatNode(table.op, table.out, ins, table.attrs, reader.where))

    for node in given:
        for name in node.ins:
            put(name, node)
        nodes.append(node)
    return nodes


def _island(nodes: list[FloatNode]) -> FloatNode:
    made = {node.out for node in nodes}
    takes = dict.fromkeys(name for node in nodes for name in node.ins if name not in made)
    op = sole("holds_nodes").name
    return FloatNode(op, nodes[-1].out, (*takes,), {"nodes": (*nodes,)}, nodes[-1].where)
