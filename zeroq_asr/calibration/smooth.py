"""Equalization of the channels that share one activation scale, where a scale a channel can move for free.

Shapes: C channels.

Where every reader of a value multiplies each of its channels by weights of their own, y = W·x, and what makes
the value can divide each channel, x may become x / s and W become W·diag(s) for any s > 0 [C] (Xiao et al.,
SmoothQuant, arXiv 2211.10438, section 4).  With s_c = (peak_c / median peak)^exponent channels reach more
evenly far, and the tensor's one step is finer for the quiet ones; the peaks are those of synthetic features.

Three places of a Conformer can: what a layer normalization gives to linear layers (γ / s, β / s), the values
of attention (a weighted mean over frames keeps a channel's factor) up to its output layer, and a gated
product in front of a depthwise convolution, whose every channel has its own weight scale anyway.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatGraph, FloatNode

#: no channel is scaled by more than this
LIMIT = 16.0


@dataclass(frozen=True)
class Place:
    """Where channels can be scaled: ``maker``'s rows are divided, the columns of ``readers`` multiplied."""

    #: value whose channels are compared
    value: str
    maker: str
    readers: tuple[str, ...]


def places(graph: FloatGraph) -> Iterator[Place]:
    """Every place of a graph, in its order."""
    consumers, producer = graph.consumers(), graph.producer()
    for node in graph.nodes:
        readers = _behind_masks(node.out, consumers, graph) or []
        if node.op == "layer_norm" and _all(readers, _linear):
            yield Place(node.out, node.out, tuple(r.out for r in readers))
        elif node.op == "attention" and _all(readers, _linear):
            maker = producer.get(node.ins[2])
            if maker is not None and _linear(maker) and _alone(maker.out, node, consumers, graph):
                yield Place(maker.out, maker.out, tuple(r.out for r in readers))
        elif node.op == "mul" and "clamp" not in node.attrs and _all(readers, _depthwise):
            maker = producer.get(node.ins[0])
            if maker is not None and _linear(maker) and _alone(maker.out, node, consumers, graph):
                yield Place(node.out, maker.out, tuple(r.out for r in readers))


def smooth(
    graph: FloatGraph,
    features: Iterable[Tensor],
    exponent: float,
    chosen: Callable[[Place], bool] = lambda place: True,
) -> FloatGraph:
    """Return a graph of the same function whose channels reach more evenly far at the ``chosen`` places.

    ``features``: each [M, T], on which the channels' peaks are observed.
    """
    found = [place for place in places(graph) if chosen(place)]
    peaks: dict[str, Tensor] = {place.value: torch.zeros(()) for place in found}

    def observe(name: str, value: Tensor) -> None:
        if name in peaks:
            peaks[name] = torch.maximum(peaks[name], value.abs().amax(dim=(0, 2)))

    for utterance in features:
        graph.run(utterance[None], torch.tensor([utterance.shape[1]]), observe)
    nodes = dict(graph.producer())
    for place in found:
        peak = peaks[place.value].double()
        middle = peak.median() if peak.ndim else peak
        if middle <= 0:
            continue
        s = (peak / middle).clamp(1 / LIMIT, LIMIT) ** exponent
        nodes[place.maker] = _divided(nodes[place.maker], s)
        for name in place.readers:
            nodes[name] = _multiplied(nodes[name], s)
    return FloatGraph(graph.inputs, graph.outputs, [nodes[n.out] for n in graph.nodes])


def _behind_masks(
    name: str, consumers: Mapping[str, list[FloatNode]], graph: FloatGraph
) -> list[FloatNode] | None:
    """What reads a value, a mask in front or not; None where it leaves the graph."""
    found: list[FloatNode] = []
    for reader in consumers.get(name, []):
        behind = _behind_masks(reader.out, consumers, graph) if reader.op == "mask_time" else [reader]
        if behind is None:
            return None
        found += behind
    return None if name in graph.outputs else found


def _all(readers: list[FloatNode], fits: Callable[[FloatNode], bool]) -> bool:
    return bool(readers) and all(fits(reader) for reader in readers)


def _linear(node: FloatNode) -> bool:
    return node.op == "conv1d" and node.attrs["groups"] == 1 and "clamp" not in node.attrs


def _depthwise(node: FloatNode) -> bool:
    return node.op == "conv1d" and 1 < node.attrs["groups"] == node.attrs["weight"].shape[0]


def _alone(name: str, reader: FloatNode, consumers: Mapping[str, list[FloatNode]], graph: FloatGraph) -> bool:
    return name not in graph.outputs and [r.out for r in consumers[name]] == [reader.out]


def _divided(node: FloatNode, s: Tensor) -> FloatNode:
    shape = (-1, *(1,) * (node.attrs["weight"].ndim - 1))
    weight, bias = node.attrs["weight"].double() / s.reshape(shape), node.attrs["bias"].double() / s
    return dataclasses.replace(
        node, attrs={**node.attrs, "weight": weight.float(), "bias": bias.float()}, promise=None
    )


def _multiplied(node: FloatNode, s: Tensor) -> FloatNode:
    # a depthwise convolution has one row a channel, any other one column
    shape = (-1, 1, 1) if _depthwise(node) else (1, -1, 1)
    weight = node.attrs["weight"].double() * s.reshape(shape)
    return dataclasses.replace(node, attrs={**node.attrs, "weight": weight.float()})
