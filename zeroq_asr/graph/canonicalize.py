"""Rewrites that make a float graph tidy; each keeps the function on valid frames and says why.

The order matters: pads are absorbed while tracing, then norms fold into convolutions, chains of
additions become one, masks that nothing can see are dropped, and clamps join what they follow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.graph.linear import is_linear, is_pointwise
from zeroq_asr.graph.shapes import infer
from zeroq_asr.registry import framewise, operator_of, traits_of


def canonicalize(graph: FloatGraph) -> FloatGraph:
    """Apply every rewrite in order."""
    for rewrite in (
        split_shared_convs,
        fold_affine,
        affine_to_conv,
        merge_additions,
        drop_dead_masks,
        share_masks,
        fold_shifts,
        clamp_before_masks,
        fuse_clamps,
        drop_unused,
    ):
        graph = rewrite(graph)
    return graph


def split_shared_convs(graph: FloatGraph) -> FloatGraph:
    """A convolution that several scales and shifts read, and nothing else, is made once for each.

    Each then folds in: attention adds two vectors to one query.
    """
    consumers = graph.consumers()
    nodes: list[FloatNode] = []
    for node in graph.nodes:
        readers = consumers.get(node.out, [])
        nodes.append(node)
        if (
            not traits_of(node).holds_weight
            or len(readers) < 2
            or node.out in graph.leaving
            or not all(traits_of(reader).affine for reader in readers)
        ):
            continue
        for count, reader in enumerate(readers[1:], start=2):
            twin = FloatNode(node.op, f"{node.out}:{count}:twin", node.ins, dict(node.attrs), node.where)
            reader.ins = tuple(twin.out if name == node.out else name for name in reader.ins)
            nodes.append(twin)
    return graph.with_nodes(nodes)


def fold_affine(graph: FloatGraph) -> FloatGraph:
    """BatchNorm in inference is y = γ'·x + β' per channel: W' = γ'·W, b' = γ'·b + β' (float64).

    So is the weight and bias of an instance norm, which is one behind it.
    """
    producer, consumers = graph.producer(), graph.consumers()
    renames: dict[str, str] = {}
    kept: list[FloatNode] = []
    for node in graph.nodes:
        source = producer.get(node.ins[0]) if traits_of(node).affine else None
        while source is not None and source.out in renames:
            source = producer[renames[source.out]]
        if (
            source is None
            or not _scales(source)
            or not _is_sole_reader(graph, node.ins[0], consumers)
            # a vector over one channel makes more channels
            or _channels(node) not in (1, source.attrs["weight"].shape[0])
        ):
            kept.append(node)
            continue
        scale, shift = _vectors(node, source.attrs["weight"].shape[0])
        weight, bias = source.attrs["weight"].double(), source.attrs["bias"].double()
        source.attrs["weight"] = (weight * scale.reshape(-1, *[1] * (weight.dim() - 1))).float()
        source.attrs["bias"] = (bias * scale + shift).float()
        source.promise = node.promise
        renames[node.out] = source.out
    return _renamed(graph, kept, renames)


def _scales(node: FloatNode) -> bool:
    """Whether a factor and a summand of each channel of the result can become its own weight and bias."""
    traits = traits_of(node)
    return traits.holds_weight or traits.scales_channels


def affine_to_conv(graph: FloatGraph) -> FloatGraph:
    """A scale and shift per channel with no convolution before it is a depthwise one with one tap."""
    shapes = infer(graph)
    for node in graph.nodes:
        if not traits_of(node).affine:
            continue
        known = shapes[node.ins[0]].channels
        count = max(_channels(node), known or 1)
        if count == 1 and known is None:
            raise UnsupportedOperatorError(
                node.where or node.out, "a scalar scale needs a convolution before it", "fold it by hand"
            )
        scale, shift = _vectors(node, count)
        node.op = "conv1d"
        node.attrs = {
            "weight": scale.float()[:, None, None],
            "bias": shift.float(),
            "stride": 1,
            "padding": (0, 0),
            "dilation": 1,
            "groups": min(count, count if known is None else known),
        }
    return graph


def _channels(node: FloatNode) -> int:
    return max(node.attrs["scale"].numel(), node.attrs["shift"].numel())


def _vectors(node: FloatNode, channels: int) -> tuple[Tensor, Tensor]:
    scale, shift = node.attrs["scale"], node.attrs["shift"]
    return scale.expand(channels).double(), shift.expand(channels).double()


def merge_additions(graph: FloatGraph) -> FloatGraph:
    """(a + b) + c with no other reader of a + b is one sum, rounded once."""
    producer, consumers = graph.producer(), graph.consumers()
    gone: set[str] = set()
    for node in graph.nodes:
        if not traits_of(node).sums:
            continue
        operands: list[str] = []
        for name in node.ins:
            inner = producer.get(name)
            if inner is not None and traits_of(inner).sums and _is_sole_reader(graph, name, consumers):
                operands += inner.ins
                gone.add(name)
            else:
                operands.append(name)
        node.ins = tuple(operands)
    return graph.with_nodes([n for n in graph.nodes if n.out not in gone])


def drop_dead_masks(graph: FloatGraph) -> FloatGraph:
    """Drop a mask whose cleared frames no one sees.

    A frame at or beyond the length is unseen if every reader clears it by itself (a mask or a
    masked mean with the same lengths), or treats frames one by one and its result's frame is
    unseen too.  Frames beyond the encoded length of the logits are unseen by definition.
    """
    consumers, leaving = graph.consumers(), _unseen_at_the_end(graph)
    unseen: dict[str, set[str]] = dict(leaving)
    for node in reversed(graph.nodes):
        for name in node.outs:
            readers = [_unseen_by(reader, name, unseen) for reader in consumers.get(name, [])]
            readers += [leaving[name]] if name in leaving else []
            unseen[name] = set.intersection(*readers) if readers else set()
    renames = {
        n.out: n.ins[0] for n in graph.nodes if traits_of(n).masks and n.ins[1] in unseen.get(n.out, set())
    }
    return _renamed(graph, [n for n in graph.nodes if n.out not in renames], renames)


def _unseen_at_the_end(graph: FloatGraph) -> dict[str, set[str]]:
    """Value that leaves → names of the lengths at and beyond which nobody reads its frames."""
    shapes = infer(graph)
    lengths = [name for name in graph.outputs if shapes[name].lengths]
    leaving: dict[str, set[str]] = {name: set() for name in graph.leaving}
    # of several results with lengths of their own nobody says which belong to which
    if len(graph.outputs) == 2 and lengths == [graph.outputs[1]]:
        leaving[graph.outputs[0]] = set(lengths)
    return leaving


def _unseen_by(reader: FloatNode, name: str, unseen: Mapping[str, set[str]]) -> set[str]:
    """Names of the lengths at and beyond which ``reader`` lets nobody see frames of its operand."""
    result = set.intersection(*(unseen.get(out, set()) for out in reader.outs))
    rule = operator_of(reader).unseen
    if rule is not None:
        return rule(reader, name, result)
    return result if framewise(reader) else set()


def fold_shifts(graph: FloatGraph) -> FloatGraph:
    """W·(x̂·γ + β) + b is W·(x̂·γ) + (b + W·β): a layer norm's β is for its readers, if all are linear, to add.

    What is centred on zero needs fewer steps, and integers one addition less.
    """
    consumers = graph.consumers()
    for node in graph.nodes:
        readers = consumers.get(node.out, [])
        if not traits_of(node).shifts_channels or node.out in graph.leaving or not readers:
            continue
        if all(is_pointwise(r) and is_linear(r) for r in readers):
            beta = node.attrs["bias"].double()
            node.attrs["bias"] = torch.zeros_like(node.attrs["bias"])
            for r in readers:
                shift = r.attrs["weight"].double().sum(dim=2) @ beta
                r.attrs["bias"] = (r.attrs["bias"].double() + shift).float()
    return graph


def share_masks(graph: FloatGraph) -> FloatGraph:
    """The same value masked by the same lengths is masked once."""
    first: dict[tuple[str, ...], str] = {}
    renames = {}
    for node in graph.nodes:
        if traits_of(node).masks and first.setdefault(node.ins, node.out) != node.out:
            renames[node.out] = first[node.ins]
    return _renamed(graph, [n for n in graph.nodes if n.out not in renames], renames)


def clamp_before_masks(graph: FloatGraph) -> FloatGraph:
    """A clamp that keeps zero is the same behind a mask and before it, where it joins what it follows."""
    producer, consumers = graph.producer(), graph.consumers()
    for node in graph.nodes:
        mask = producer.get(node.ins[0]) if traits_of(node).clamps else None
        if mask is None or not traits_of(mask).masks or not _is_sole_reader(graph, mask.out, consumers):
            continue
        low, high = node.attrs["clamp"]
        if (low is None or low <= 0) and (high is None or high >= 0):
            # the two trade places: the earlier node clamps, the later one masks
            source, lengths = mask.ins
            mask.op, node.op = node.op, mask.op
            mask.attrs, node.attrs = node.attrs, {}
            mask.ins, node.ins = (source,), (mask.out, lengths)
    return graph


def fuse_clamps(graph: FloatGraph) -> FloatGraph:
    """A ReLU or Hardtanh behind an operator becomes the saturation bounds of its requantization."""
    producer, consumers = graph.producer(), graph.consumers()
    renames: dict[str, str] = {}
    kept: list[FloatNode] = []
    for node in graph.nodes:
        source = producer.get(node.ins[0]) if traits_of(node).clamps else None
        if (
            source is not None
            and traits_of(source).takes_clamp
            and "clamp" not in source.attrs
            and _is_sole_reader(graph, source.out, consumers)
        ):
            source.attrs["clamp"] = node.attrs["clamp"]
            renames[node.out] = source.out
        else:
            kept.append(node)
    return _renamed(graph, kept, renames)


def drop_unused(graph: FloatGraph) -> FloatGraph:
    """Drop nodes whose value reaches no output."""
    needed, kept = set(graph.leaving), []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outs):
            kept.append(node)
            needed.update(node.ins)
    return graph.with_nodes(kept[::-1])


def _renamed(graph: FloatGraph, nodes: list[FloatNode], renames: Mapping[str, str]) -> FloatGraph:
    """Return the graph of ``nodes`` in which values that are gone go by what stands for them."""

    def final(name: str) -> str:
        while name in renames:
            name = renames[name]
        return name

    for node in nodes:
        node.ins = tuple(final(n) for n in node.ins)
    states = tuple(dataclasses.replace(state, leaves=final(state.leaves)) for state in graph.states)
    outputs = tuple(final(name) for name in graph.outputs)
    return dataclasses.replace(graph, nodes=nodes, outputs=outputs, states=states)


def _is_sole_reader(graph: FloatGraph, name: str, consumers: Mapping[str, list[FloatNode]]) -> bool:
    """Whether a value has one reader, which leaves the graph by no other way."""
    return len(consumers.get(name, [])) == 1 and name not in graph.leaving
