"""Float islands: which nodes of a float graph stay in float, and which of them make one island.

Kept are the operators without an integer lowering, what the user names, and what is light and lies between
two of them, so that nothing is rounded for its sake.  Kept nodes join into *maximal fanout-free cones*: a
node belongs to its reader's island if all of its readers do.  So every island gives one value, and no path
leaves one and comes back; a kept value that others read, too, is the boundary between islands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zeroq_asr.deployment.float_onnx import SPELLINGS, spell
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.canonicalize import drop_unused
from zeroq_asr.graph.float_graph import ELEMENTWISE, FloatGraph, FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.backends.float_bodies import IR_VERSION, OPSET, encode

#: operators that move integers as they are: by themselves they are no reason for an island
_MOVES = ("mask_time", "take_channels", "transpose", "image", "flatten")
#: weights from so many entries on are constants of the program; fewer stay in the body
_LARGE = 16


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
            continue  # they come with their attentions
        if node.out not in roots:
            nodes.append(node)
        elif roots[node.out] == node.out:
            cone = inside[node.out]
            if all(n.op in _MOVES for n in cone):
                nodes += cone
            else:
                nodes.append(_island(_with_tables(cone, tables)))
    return drop_unused(FloatGraph(graph.inputs, graph.outputs, _with_tables(nodes, tables)))


def _kept(graph: FloatGraph, keep_float: Iterable[str]) -> set[str]:
    """Names of the values that are made in float."""
    tables = _tables(graph)
    kept = {node.out for node in graph.nodes if node.op == "aten"}

    def can_be(node: FloatNode) -> bool:
        spelled = node.op in SPELLINGS and node.op not in ("length_step", "positions")
        return spelled and node.out not in tables and node.out not in graph.outputs

    for pattern in keep_float:
        nodes = graph.matching(pattern, "--keep-float")
        able = [node for node in nodes if can_be(node)]
        if all(node.op in _MOVES for node in able):
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
        if between and can_be(node) and _is_light(node):
            kept.add(node.out)
    return kept


def _is_light(node: FloatNode) -> bool:
    """Whether a node costs no more in float than the rounding at both of its ends."""
    scaled = node.op == "conv1d" and node.attrs["weight"].shape[1:] == (1, 1)
    return scaled or node.op in (*_MOVES, *ELEMENTWISE, "add", "clamp", "mul")


def _lengths(graph: FloatGraph) -> set[str]:
    return {graph.inputs[1], *(node.out for node in graph.nodes if node.op == "length_step")}


def _tables(graph: FloatGraph) -> dict[str, FloatNode]:
    """What attentions make of distances: value → its node.  It is computed from no activation."""
    found: dict[str, FloatNode] = {}
    for node in graph.nodes:
        if node.op == "positions" or (node.ins and node.ins[0] in found and node.op != "attention"):
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
            one = above.pop() if len(above) == 1 and node.out not in graph.outputs else ""
            roots[node.out] = one or node.out
    return roots


def _with_tables(given: list[FloatNode], tables: Mapping[str, FloatNode]) -> list[FloatNode]:
    """Put the distances that attentions read before them: islands compute their own, in float."""
    nodes: list[FloatNode] = []
    made: set[str] = set()
    for node in given:
        chain, name = [], node.ins[5] if node.op == "attention" and len(node.ins) == 6 else ""
        while name in tables and name not in made:
            made.add(name)
            table = tables[name]
            # a table depends on no value but for its number of frames
            ins = node.ins[:1] if table.op == "positions" else table.ins
            chain.append(FloatNode(table.op, table.out, ins, table.attrs, node.where))
            name = table.ins[0]
        nodes += [*reversed(chain), node]
    return nodes


def _island(nodes: list[FloatNode]) -> FloatNode:
    made = {node.out for node in nodes}
    takes = dict.fromkeys(name for node in nodes for name in node.ins if name not in made)
    return FloatNode("float_island", nodes[-1].out, (*takes,), {"nodes": (*nodes,)}, nodes[-1].where)


def float_body(
    node: FloatNode,
    *,
    lengths: set[str],
    channels: Mapping[str, int],
    frames: Mapping[str, Any],
    images: set[str],
    longest: int,
) -> tuple[str, list[str], list[str], dict[str, np.ndarray]]:
    """Return the ONNX body of an island, its activations, its lengths, and its weights as int32 bits.

    ``lengths``: which values are; ``channels`` and ``frames`` are what ``channel_counts`` and
    ``frame_counts`` say of every value, ``images`` what ``images`` does; ``longest``: frames of the longest
    input, for tables of distances.
    """
    writer = Writer(images, dict(frames), longest)
    for inner in node.attrs["nodes"]:
        spell(writer, inner)
    writer.add("Identity", [writer.channels(node.out)], "result/")
    weights = {
        name: tensor
        for name, tensor in writer.initializers.items()
        if tensor.data_type == TensorProto.FLOAT and numpy_helper.to_array(tensor).size >= _LARGE
    }
    takes = [name for name in node.ins if name not in lengths]
    counts = [name for name in node.ins if name in lengths]
    alike: dict[Any, str] = {}

    def declared(value: str, name: str) -> onnx.ValueInfoProto:
        shape: list[int | str | None] = ["batch", channels[value], 1]
        if frames[value] is not None:
            shape[2] = alike.setdefault(frames[value], f"frames{len(alike)}")
        if value in images:
            shape.append(None)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        writer.nodes,
        "island",
        [
            *(declared(name, name) for name in takes),
            *(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch"]) for name in counts),
            *(helper.make_tensor_value_info(n, TensorProto.FLOAT, t.dims) for n, t in weights.items()),
        ],
        [declared(node.out, "result/")],
        [tensor for name, tensor in writer.initializers.items() if name not in weights],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    arrays = {name: numpy_helper.to_array(tensor).view(np.int32) for name, tensor in weights.items()}
    return encode(model), takes, counts, arrays
