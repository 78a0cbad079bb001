"""Equalization of the channels that share one activation scale, where a scale a channel can move for free.

Shapes: C channels.

Where every reader of a value multiplies each of its channels by weights of their own, y = W·x, and what makes
the value can divide each channel, x may become x / s and W become W·diag(s) for any s > 0 [C]: the function
is the same, and channels share the one scale of the tensor between them more evenly.  With
s_c = (peak_c / median peak)^exponent, 1 makes all channels reach equally far.

Two sets of such places are known, each with an exponent of its own in ``QuantSpec``:

- ``depthwise_places`` (``equalization``): an unclamped depthwise convolution, which has one row of weights a
  channel, in front of an ungrouped one, which has one column (Nagel et al., arXiv 1906.04721, section 4.1,
  who equalize the ranges of weights; here it is those of activations).
- ``places`` (``smoothing``; Xiao et al., SmoothQuant, arXiv 2211.10438, section 4): what a layer
  normalization gives to linear layers (γ / s, β / s), the values of attention (a weighted mean over frames
  keeps a channel's factor) up to its output layer, and a gated product in front of a depthwise convolution,
  whose every channel has its own weight scale anyway.

The peaks come from the calibration features, and *made* features misjudge narrow channels: on
QuartzNet15x5 equalizing by them does harm (docs/experiments.md), so both are off unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zeroq_asr.calibration.calibrate import Utterance, given
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.graph.linear import is_depthwise, is_linear, with_weight
from zeroq_asr.registry import framewise, traits_of

#: no channel is scaled by more than this
LIMIT = 16.0


@dataclass(frozen=True)
class Place:
    """Where channels can be scaled: ``maker``'s rows are divided, the columns of ``readers`` multiplied."""

    #: value whose channels are compared
    value: str
    maker: str
    readers: tuple[str, ...]


def depthwise_places(graph: FloatGraph) -> Iterator[Place]:
    """Every unclamped depthwise convolution whose only reader, masks aside, is an ungrouped one."""
    consumers = graph.consumers()
    for node in graph.nodes:
        if is_depthwise(node) and not _clamped(node):
            readers = _behind_masks(node.out, consumers, graph)
            if len(readers) == 1 and is_linear(readers[0]):
                yield Place(node.out, node.out, (readers[0].out,))


def places(graph: FloatGraph) -> Iterator[Place]:
    """Every place behind a normalization, in the values of attention or behind a gate."""
    consumers, producer = graph.consumers(), graph.producer()
    for node in graph.nodes:
        traits = traits_of(node)
        readers = _behind_masks(node.out, consumers, graph)
        names = tuple(reader.out for reader in readers)
        if traits.shifts_channels and _all(readers, _unclamped_linear):
            yield Place(node.out, node.out, names)
        elif traits.keeps_channels is not None and not _clamped(node):
            maker = producer.get(node.ins[traits.keeps_channels])
            if maker is None or not _unclamped_linear(maker) or not _alone(maker.out, node, consumers, graph):
                continue
            # of a mean over frames what enters reaches furthest, of a product what leaves
            if framewise(node) and _all(readers, is_depthwise):
                yield Place(node.out, maker.out, names)
            elif not framewise(node) and _all(readers, _unclamped_linear):
                yield Place(maker.out, maker.out, names)


def equalize(
    graph: FloatGraph,
    features: Iterable[Utterance],
    exponent: float,
    found: Callable[[FloatGraph], Iterable[Place]] = depthwise_places,
) -> FloatGraph:
    """Return a graph of the same function whose channels reach more evenly far at the places ``found`` in it.

    ``features``: each [M, T], on which the channels' peaks are observed.
    """
    chosen = list(found(graph))
    peaks = {place.value: torch.zeros(()) for place in chosen}

    def note(name: str, value: Tensor) -> None:
        if name in peaks:
            peaks[name] = torch.maximum(peaks[name], value.abs().amax(dim=(0, 2)))

    for utterance in features:
        graph.run(*given(utterance), observe=note)
    nodes = graph.producer()
    for place in chosen:
        peak = peaks[place.value].double()
        middle = peak.median() if peak.ndim else peak
        if middle <= 0:
            continue
        s = (peak / middle).clamp(1 / LIMIT, LIMIT) ** exponent
        nodes[place.maker] = _divided(nodes[place.maker], s)
        for name in place.readers:
            nodes[name] = _multiplied(nodes[name], s)
    return graph.with_nodes([nodes[n.out] for n in graph.nodes])


def smooth(
    graph: FloatGraph,
    features: Iterable[Utterance],
    exponent: float,
    chosen: Callable[[Place], bool] = lambda place: True,
) -> FloatGraph:
    """Return a graph of the same function, equalized at those of its ``places`` that are ``chosen``."""
    return equalize(graph, features, exponent, lambda g: filter(chosen, places(g)))


def _behind_masks(name: str, consumers: Mapping[str, list[FloatNode]], graph: FloatGraph) -> list[FloatNode]:
    """What reads a value, a mask in front or not; nothing where it leaves the graph, masked or not."""
    found: list[FloatNode] = []
    behind = [name]
    while behind:
        value = behind.pop(0)
        if value in graph.leaving:
            return []
        for reader in consumers.get(value, []):
            if traits_of(reader).masks:
                behind.append(reader.out)
            else:
                found.append(reader)
    return found


def _all(readers: list[FloatNode], fits: Callable[[FloatNode], bool]) -> bool:
    return bool(readers) and all(fits(reader) for reader in readers)


def _clamped(node: FloatNode) -> bool:
    return node.attrs.get("clamp") is not None


def _unclamped_linear(node: FloatNode) -> bool:
    return is_linear(node) and not _clamped(node)


def _alone(name: str, reader: FloatNode, consumers: Mapping[str, list[FloatNode]], graph: FloatGraph) -> bool:
    return name not in graph.leaving and [r.out for r in consumers[name]] == [reader.out]


def _divided(node: FloatNode, s: Tensor) -> FloatNode:
    shape = (-1, *(1,) * (node.attrs["weight"].ndim - 1))
    weight, bias = node.attrs["weight"].double() / s.reshape(shape), node.attrs["bias"].double() / s
    # moments of a scaled result would be scaled too
    return with_weight(node, weight, bias, keeps_promise=False)


def _multiplied(node: FloatNode, s: Tensor) -> FloatNode:
    # a depthwise convolution has one row a channel, any other one column
    shape = (-1, 1, 1) if is_depthwise(node) else (1, -1, 1)
    weight = node.attrs["weight"].double() * s.reshape(shape)
    return with_weight(node, weight, node.attrs["bias"], keeps_promise=True)
