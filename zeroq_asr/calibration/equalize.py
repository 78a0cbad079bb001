"""Cross-layer equalization through depthwise → pointwise pairs: exact, and free at run time.

Shapes: C channels.

A depthwise convolution without a clamp has one row of weights a channel, and a pointwise one behind it
one column: for any s > 0 [C],

    P(D(x)) = (P·diag(s)) ((diag(1/s)·D)(x))

so channels may share the one scale of the tensor between them more evenly (Nagel et al., arXiv 1906.04721,
section 4.1, who equalize the ranges of weights; here it is those of activations).  With
s_c = (peak_c / median peak)^exponent, 1 makes all channels reach equally far.

The peaks come from the calibration features, and *made* features misjudge narrow channels: on
QuartzNet15x5 equalizing by them does harm (docs/design.md), so it is off unless asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatGraph, FloatNode

#: no channel is scaled by more than this
LIMIT = 16.0


def equalize(graph: FloatGraph, features: Iterable[Tensor], exponent: float) -> FloatGraph:
    """Return a graph of the same function whose depthwise channels reach more evenly far.

    ``features``: each [M, T], on which the channels' peaks are observed.
    """
    pairs = list(depthwise_pointwise(graph))
    peaks = {depthwise.out: torch.zeros(()) for depthwise, _ in pairs}

    def observe(name: str, value: Tensor) -> None:
        if name in peaks:
            peaks[name] = torch.maximum(peaks[name], value.abs().amax(dim=(0, 2)))

    for utterance in features:
        graph.run(utterance[None], torch.tensor([utterance.shape[1]]), observe)
    changed: dict[str, FloatNode] = {}
    for depthwise, pointwise in pairs:
        peak = peaks[depthwise.out].double()
        middle = peak.median() if peak.ndim else peak
        if middle <= 0:
            continue
        s = (peak / middle).clamp(1 / LIMIT, LIMIT) ** exponent
        changed[depthwise.out] = _with(
            depthwise,
            depthwise.attrs["weight"].double() / s[:, None, None],
            depthwise.attrs["bias"].double() / s,
        )
        changed[pointwise.out] = _with(
            pointwise, pointwise.attrs["weight"].double() * s[None, :, None], pointwise.attrs["bias"]
        )
    return FloatGraph(graph.inputs, graph.outputs, [changed.get(n.out, n) for n in graph.nodes])


def depthwise_pointwise(graph: FloatGraph) -> Iterator[tuple[FloatNode, FloatNode]]:
    """Every unclamped depthwise convolution whose only reader, masks aside, is an ungrouped one."""
    consumers = graph.consumers()
    for node in graph.nodes:
        if node.op != "conv1d" or node.attrs.get("clamp") or node.out in graph.outputs:
            continue
        if not 1 < node.attrs["groups"] == node.attrs["weight"].shape[0]:
            continue
        readers = consumers.get(node.out, [])
        while len(readers) == 1 and readers[0].op == "mask_time":
            readers = consumers.get(readers[0].out, [])
        if len(readers) == 1 and readers[0].op == "conv1d" and readers[0].attrs["groups"] == 1:
            yield node, readers[0]


def _with(node: FloatNode, weight: Tensor, bias: Tensor) -> FloatNode:
    attrs = {**node.attrs, "weight": weight.float(), "bias": bias.float()}
    # moments of a scaled result would be scaled too; a pointwise result stays what it was
    promise = node.promise if node.attrs["groups"] == 1 else None
    return dataclasses.replace(node, attrs=attrs, promise=promise)
