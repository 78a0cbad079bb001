"""Rewrites that make a float graph tidy; each keeps the function on valid frames and says why.

The order matters: pads are absorbed while tracing, then norms fold into convolutions, chains of
additions become one, masks that nothing can see are dropped, and clamps join what they follow.
"""

from __future__ import annotations

from typing import Any

import torch

from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import ELEMENTWISE, FloatGraph, FloatNode

#: operators that treat every frame by itself, so a frame nobody reads stays unread behind them
FRAMEWISE = (
    "affine",
    "add",
    "clamp",
    "mul",
    "take_channels",
    "transpose",
    "image",
    "flatten",
    "layer_norm",
    "rotate",
    *ELEMENTWISE,
)


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


def _rename(graph: FloatGraph, renames: dict[str, str]) -> FloatGraph:
    def final(name: str) -> str:
        while name in renames:
            name = renames[name]
        return name

    for node in graph.nodes:
        node.ins = tuple(final(n) for n in node.ins)
    outputs = (final(graph.outputs[0]), final(graph.outputs[1]))
    return FloatGraph(graph.inputs, outputs, graph.nodes)


def _sole_consumer(graph: FloatGraph, name: str, consumers: dict[str, list[FloatNode]]) -> bool:
    return len(consumers.get(name, [])) == 1 and name not in graph.outputs


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
            node.op != "conv1d"
            or len(readers) < 2
            or node.out in graph.outputs
            or any(reader.op != "affine" for reader in readers)
        ):
            continue
        for count, reader in enumerate(readers[1:], start=2):
            twin = FloatNode(node.op, f"{node.out}:{count}:twin", node.ins, dict(node.attrs), node.where)
            reader.ins = tuple(twin.out if name == node.out else name for name in reader.ins)
            nodes.append(twin)
    return FloatGraph(graph.inputs, graph.outputs, nodes)


def fold_affine(graph: FloatGraph) -> FloatGraph:
    """BatchNorm in inference is y = γ'·x + β' per channel: W' = γ'·W, b' = γ'·b + β' (float64).

    So is the weight and bias of an instance norm, which is one behind it.
    """
    producer, consumers = graph.producer(), graph.consumers()
    renames: dict[str, str] = {}
    kept: list[FloatNode] = []
    for node in graph.nodes:
        source = producer.get(node.ins[0]) if node.op == "affine" else None
        while source is not None and source.out in renames:
            source = producer[renames[source.out]]
        if (
            source is None
            or source.op not in ("conv1d", "instance_norm")
            or not _sole_consumer(graph, node.ins[0], consumers)
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
    return _rename(FloatGraph(graph.inputs, graph.outputs, kept), renames)


def affine_to_conv(graph: FloatGraph) -> FloatGraph:
    """A scale and shift per channel with no convolution before it is a depthwise one with one tap."""
    channels: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "conv1d":
            channels[node.out] = node.attrs["weight"].shape[0]
        elif node.op == "affine":
            count = max(_channels(node), channels.get(node.ins[0], 1))
            if count == 1 and node.ins[0] not in channels:
                raise UnsupportedOperatorError(
                    node.where or node.out, "a scalar scale needs a convolution before it", "fold it by hand"
                )
            scale, shift = _vectors(node, count)
            node.op, channels[node.out] = "conv1d", count
            node.attrs = {
                "weight": scale.float()[:, None, None],
                "bias": shift.float(),
                "stride": 1,
                "padding": (0, 0),
                "dilation": 1,
                "groups": min(count, channels.get(node.ins[0], count)),
            }
        elif node.op == "take_channels":
            channels[node.out] = len(node.attrs["index"])
        elif node.op == "aten":
            channels[node.out] = node.attrs["channels"]
        elif known := [channels[name] for name in node.ins if name in channels]:
            # a gate of one channel broadcasts
            channels[node.out] = max(known)
    return graph


def _channels(node: FloatNode) -> int:
    return max(node.attrs["scale"].numel(), node.attrs["shift"].numel())


def _vectors(node: FloatNode, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    scale, shift = node.attrs["scale"], node.attrs["shift"]
    return scale.expand(channels).double(), shift.expand(channels).double()


def merge_additions(graph: FloatGraph) -> FloatGraph:
    """(a + b) + c with no other reader of a + b is one sum, rounded once."""
    producer, consumers = graph.producer(), graph.consumers()
    gone: set[str] = set()
    for node in graph.nodes:
        if node.op != "add":
            continue
        operands: list[str] = []
        for name in node.ins:
            inner = producer.get(name)
            if inner is not None and inner.op == "add" and _sole_consumer(graph, name, consumers):
                operands += inner.ins
                gone.add(name)
            else:
                operands.append(name)
        node.ins = tuple(operands)
    return FloatGraph(graph.inputs, graph.outputs, [n for n in graph.nodes if n.out not in gone])


def drop_dead_masks(graph: FloatGraph) -> FloatGraph:
    """Drop a mask whose cleared frames no one sees.

    A frame at or beyond the length is unseen if every reader clears it by itself (a mask or a
    masked mean with the same lengths), or treats frames one by one and its result's frame is
    unseen too.  Frames beyond the encoded length of the logits are unseen by definition.
    """
    consumers = graph.consumers()
    unseen: dict[str, set[str]] = {graph.outputs[0]: {graph.outputs[1]}}
    for node in reversed(graph.nodes):
        hidden: set[str] | None = unseen.get(node.out) if node.out == graph.outputs[0] else None
        for reader in consumers.get(node.out, []):
            if reader.op == "mask_time":
                by_reader = {reader.ins[1]} | unseen.get(reader.out, set())
            elif reader.op == "mean_time":
                # a mean spreads over all frames, so its own unseen frames hide nothing
                by_reader = {reader.ins[1]}
            elif reader.op == "instance_norm":
                # its moments are those of the valid frames; every other frame makes its own result
                by_reader = {reader.ins[1]} & unseen.get(reader.out, set())
            elif reader.op == "attention":
                by_reader = _hidden_by_attention(reader, node.out, unseen.get(reader.out, set()))
            elif reader.op in FRAMEWISE or _is_pointwise(reader):
                by_reader = unseen.get(reader.out, set())
            else:
                by_reader = set()
            hidden = by_reader if hidden is None else hidden & by_reader
        unseen[node.out] = hidden or set()
    renames = {
        n.out: n.ins[0] for n in graph.nodes if n.op == "mask_time" and n.ins[1] in unseen.get(n.out, set())
    }
    kept = [n for n in graph.nodes if n.out not in renames]
    return _rename(FloatGraph(graph.inputs, graph.outputs, kept), renames)


def _hidden_by_attention(reader: FloatNode, name: str, unseen: set[str]) -> set[str]:
    """Keys and values are masked by the lengths; a query's frame is seen where its result's is."""
    query, key, value, lengths, *positions = reader.ins
    as_query = unseen if name in (query, *positions) else None
    as_key = {lengths} | unseen if name in (key, value) else None
    both = [hidden for hidden in (as_query, as_key) if hidden is not None]
    return set.intersection(*both) if both else set()


def _is_pointwise(node: FloatNode) -> bool:
    a: dict[str, Any] = node.attrs
    return node.op == "conv1d" and a["weight"].shape[2] == 1 and a["stride"] == 1 and a["padding"] == (0, 0)


def fold_shifts(graph: FloatGraph) -> FloatGraph:
    """W·(x̂·γ + β) + b is W·(x̂·γ) + (b + W·β): a layer norm's β is for its readers, if all are linear, to add.

    What is centred on zero needs fewer steps, and integers one addition less.
    """
    consumers = graph.consumers()
    for node in graph.nodes:
        readers = consumers.get(node.out, [])
        if node.op != "layer_norm" or node.out in graph.outputs or not readers:
            continue
        if all(_is_pointwise(r) and r.attrs["groups"] == 1 for r in readers):
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
        if node.op == "mask_time" and first.setdefault(node.ins, node.out) != node.out:
            renames[node.out] = first[node.ins]
    kept = [n for n in graph.nodes if n.out not in renames]
    return _rename(FloatGraph(graph.inputs, graph.outputs, kept), renames)


def clamp_before_masks(graph: FloatGraph) -> FloatGraph:
    """A clamp that keeps zero is the same behind a mask and before it, where it joins what it follows."""
    producer, consumers = graph.producer(), graph.consumers()
    for node in graph.nodes:
        mask = producer.get(node.ins[0]) if node.op == "clamp" else None
        if mask is None or mask.op != "mask_time" or not _sole_consumer(graph, mask.out, consumers):
            continue
        low, high = node.attrs["clamp"]
        if (low is None or low <= 0) and (high is None or high >= 0):
            # the two trade places: the earlier node clamps, the later one masks
            source, lengths = mask.ins
            mask.op, mask.ins, mask.attrs = "clamp", (source,), node.attrs
            node.op, node.ins, node.attrs = "mask_time", (mask.out, lengths), {}
    return graph


#: operators that can clamp their own result
CLAMPING = ("conv1d", "conv2d", "add", "mul", "mean_time", *ELEMENTWISE)


def fuse_clamps(graph: FloatGraph) -> FloatGraph:
    """A ReLU or Hardtanh behind an operator becomes the saturation bounds of its requantization."""
    producer, consumers = graph.producer(), graph.consumers()
    renames: dict[str, str] = {}
    kept: list[FloatNode] = []
    for node in graph.nodes:
        source = producer.get(node.ins[0]) if node.op == "clamp" else None
        if (
            source is not None
            and source.op in CLAMPING
            and "clamp" not in source.attrs
            and _sole_consumer(graph, source.out, consumers)
        ):
            source.attrs["clamp"] = node.attrs["clamp"]
            renames[node.out] = source.out
        else:
            kept.append(node)
    return _rename(FloatGraph(graph.inputs, graph.outputs, kept), renames)


def drop_unused(graph: FloatGraph) -> FloatGraph:
    """Drop nodes whose value reaches no output."""
    needed, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if node.out in needed:
            kept.append(node)
            needed.update(node.ins)
    return FloatGraph(graph.inputs, graph.outputs, kept[::-1])
