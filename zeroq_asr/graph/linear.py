"""Layers that contract their operand with a weight, as generic code sees them.

A node whose record has the trait ``holds_weight`` keeps ``weight`` [O, I/groups, *taps], ``bias`` [O] and
``groups`` in its attributes, and ``stride``, ``padding`` and ``dilation`` where it has taps.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.registry import traits_of


def is_linear(node: FloatNode) -> bool:
    """Whether every channel of the result is a sum over all channels of the operand, over frames alone."""
    return _over_frames(node) and node.attrs["groups"] == 1


def is_depthwise(node: FloatNode) -> bool:
    """Whether every channel of the result is made of its own channel of the operand, over frames alone."""
    return _over_frames(node) and 1 < node.attrs["groups"] == node.attrs["weight"].shape[0]


def is_pointwise(node: FloatNode) -> bool:
    """Whether every frame of the result is made of the same frame of the operand."""
    a = node.attrs
    return (
        _over_frames(node)
        and a["weight"].shape[2] == 1
        and a["stride"] == 1
        and tuple(a["padding"]) == (0, 0)
    )


def _over_frames(node: FloatNode) -> bool:
    return traits_of(node).holds_weight and node.attrs["weight"].dim() == 3


def with_weight(node: FloatNode, weight: Tensor, bias: Tensor, *, keeps_promise: bool) -> FloatNode:
    """Return the node with other parameters; ``keeps_promise``: its result has the moments that it had."""
    attrs = {**node.attrs, "weight": weight.float(), "bias": bias.float()}
    return dataclasses.replace(node, attrs=attrs, promise=node.promise if keeps_promise else None)
