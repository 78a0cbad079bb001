"""The tidy float graph: a network as a list of canonical operators, before any integer is chosen.

Shapes: activations [B, C, T], those of 2-D convolutions [B, C, T, F]; lengths int64 [B].  A node's ``clamp``
attribute, if present, is a fused ReLU or Hardtanh (lowest, highest real value; either may be None).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zeroq_asr.errors import ConfigError


@dataclass(frozen=True)
class Promise:
    """Moments of a batch normalization's result, before any clamp, over what training saw."""

    #: path of the normalization
    layer: str
    #: β and |γ| but for epsilon, float64 [C] each
    mean: Tensor
    deviation: Tensor


@dataclass
class FloatNode:
    """``out = op(*ins, **attrs)``; ``where`` is the layer's path in the module tree."""

    op: str
    out: str
    ins: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    where: str = ""
    #: what a normalization folded into this node says of its result; None where none does
    promise: Promise | None = None


@dataclass
class FloatGraph:
    """Nodes in execution order.  ``inputs``: features [B, M, T] and lengths; ``outputs``: logits
    [B, S, V] and encoded lengths.
    """

    inputs: tuple[str, str]
    outputs: tuple[str, str]
    nodes: list[FloatNode]

    def producer(self) -> dict[str, FloatNode]:
        """Map each value to the node that makes it."""
        return {n.out: n for n in self.nodes}

    def consumers(self) -> dict[str, list[FloatNode]]:
        """Map each value to the nodes that read it; graph outputs count as no node."""
        readers: dict[str, list[FloatNode]] = {}
        for node in self.nodes:
            for name in node.ins:
                readers.setdefault(name, []).append(node)
        return readers

    def flat(self) -> list[FloatNode]:
        """The nodes with those of every ``float_island`` in its place."""
        return [inner for node in self.nodes for inner in node.attrs.get("nodes", (node,))]

    def matching(self, pattern: str, option: str) -> list[FloatNode]:
        """Nodes whose value or layer path ``pattern`` names, or matches as a glob; those in islands, too.

        Raises ConfigError for the ``option`` that gave a pattern of nothing, with what is near it.
        """
        nodes = self.flat()
        found = [n for n in nodes if fnmatchcase(n.out, pattern) or fnmatchcase(n.where, pattern)]
        if not found:
            known = {name: None for n in nodes for name in (n.where, n.out) if name}
            near = difflib.get_close_matches(pattern, known, 4, 0.4)
            remedy = f"near it: {', '.join(near)}" if near else "inspect --sensitivity lists them"
            raise ConfigError(option, f"the network has no layer or value {pattern!r}", remedy)
        return found

    @torch.inference_mode()
    def run(
        self, features: Tensor, lengths: Tensor, observe: Callable[[str, Tensor], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute logits and encoded lengths; ``observe(name, value)`` sees every value."""
        env: dict[str, Tensor] = {self.inputs[0]: features, self.inputs[1]: lengths}
        if observe is not None:
            observe(self.inputs[0], features)
        last = {name: i for i, node in enumerate(self.nodes) for name in node.ins}
        for i, node in enumerate(self.nodes):
            value = FLOAT_OPS[node.op](*(env[name] for name in node.ins), **node.attrs)
            env[node.out] = value
            if observe is not None:
                observe(node.out, value)
            for name in set(node.ins):
                if last[name] == i and name not in self.outputs:
                    del env[name]
        return env[self.outputs[0]], env[self.outputs[1]]


def frame_counts(graph: FloatGraph) -> dict[str, Any]:
    """What happened to the frames on the way to each value: equal histories, equal counts.

    None stands for the single frame of a mean, which broadcasts, and for lengths.
    """
    counts: dict[str, Any] = {graph.inputs[0]: ()}
    for node in graph.flat():
        known = [counts[name] for name in node.ins if counts.get(name) is not None]
        history = known[0] if known and node.op != "mean_time" else None
        if node.op == "positions":
            history = ("distances", history)
        if node.op in ("conv1d", "conv2d") and history is not None:
            a = node.attrs
            stride, dilation = (v if isinstance(v, int) else v[0] for v in (a["stride"], a["dilation"]))
            padded = sum(a["padding"]) if node.op == "conv1d" else 2 * a["padding"][0]
            step = (stride, padded - dilation * (a["weight"].shape[2] - 1))
            history = history if step == (1, 0) else (*history, step)
        counts[node.out] = history
    return counts


def channel_counts(graph: FloatGraph, channels: int) -> dict[str, int]:
    """Channels of every activation; the input has ``channels``."""
    counts = {graph.inputs[0]: channels}
    for node in graph.flat():
        a = node.attrs
        if node.op in ("conv1d", "conv2d"):
            counts[node.out] = a["weight"].shape[0]
        elif node.op == "image":
            counts[node.out] = 1
        elif node.op in ("flatten", "aten"):
            counts[node.out] = a["channels"]
        elif node.op == "positions":
            counts[node.out] = a["compute"](1).shape[0]
        elif node.op == "take_channels":
            counts[node.out] = len(a["index"])
        elif known := [counts[name] for name in node.ins if name in counts]:
            # a gate of one channel broadcasts
            counts[node.out] = max(known)
    return counts


def images(graph: FloatGraph) -> set[str]:
    """Values [B, C, T, F]: what is made of an image, until it is flattened."""
    found: set[str] = set()
    for node in graph.flat():
        if node.op == "image" or (node.op not in ("flatten", "length_step") and node.ins[0] in found):
            found.add(node.out)
    return found


Clamp = tuple[float | None, float | None] | None


def _clamped(x: Tensor, clamp: Clamp) -> Tensor:
    return x if clamp is None else x.clamp(*clamp)


def _conv1d(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    groups: int,
    clamp: Clamp = None,
) -> Tensor:
    # a depthwise convolution runs several times faster in torch as a 2-D one of height 1
    y = F.conv2d(
        F.pad(x, padding).unsqueeze(2), weight.unsqueeze(2), bias, (1, stride), 0, (1, dilation), groups
    )
    return _clamped(y.squeeze(2), clamp)


def _affine(x: Tensor, *, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale[:, None] + shift[:, None]


def _add(*xs: Tensor, clamp: Clamp = None) -> Tensor:
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return _clamped(total, clamp)


def _mul(a: Tensor, b: Tensor, *, clamp: Clamp = None) -> Tensor:
    return _clamped(a * b, clamp)


def _mask(x: Tensor, lengths: Tensor) -> Tensor:
    mask = (torch.arange(x.shape[2], device=x.device)[None, :] < lengths[:, None])[:, None, :]
    return mask if x.dim() == 3 else mask[..., None]


def _mask_time(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.where(_mask(x, lengths), x, 0.0)


def _mean_time(x: Tensor, lengths: Tensor, *, clamp: Clamp = None) -> Tensor:
    total = _mask_time(x, lengths).sum(dim=2, keepdim=True)
    return _clamped(total / lengths[:, None, None], clamp)


def _length_step(lengths: Tensor, *, before: int, divisor: int, after: int) -> Tensor:
    raised = (lengths + before).clamp(min=0)
    return torch.div(raised, divisor, rounding_mode="floor") + after


def _conv2d(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    clamp: Clamp = None,
) -> Tensor:
    return _clamped(F.conv2d(x, weight, bias, stride, padding, dilation, groups), clamp)


def _layer_norm(x: Tensor, *, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return F.layer_norm(x.transpose(1, 2), weight.shape, weight, bias, epsilon).transpose(1, 2)


def _instance_norm(x: Tensor, lengths: Tensor, *, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """(x − mean) / sqrt(variance + epsilon) · weight + bias; a channel's moments over the valid frames."""
    valid, count = _mask(x, lengths), lengths.clamp(min=1)[:, None, None]
    centred = x - torch.where(valid, x, 0.0).sum(dim=2, keepdim=True) / count
    variance = torch.where(valid, centred, 0.0).square().sum(dim=2, keepdim=True) / count
    return centred * torch.rsqrt(variance + epsilon) * weight[:, None] + bias[:, None]


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    *position: Tensor,
    heads: int,
    scale: float,
    positions: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Softmax over the valid frames of scale · (content + position), times the values; all [B, H·E, T].

    ``position``: nothing, or queries [B, H·E, T] and what the distances T − 1 down to 1 − T are to them,
    [1, H·E, 2T − 1] or as ``positions(T)`` [H, E, 2T − 1].
    """
    batch, channels, frames = query.shape

    def split(x: Tensor) -> Tensor:
        return x.reshape(batch, heads, channels // heads, frames)

    scores = torch.einsum("bhet,bhes->bhts", split(query), split(key))
    if position:
        distances = position[1] if positions is None else positions(frames)
        distances = distances.reshape(heads, channels // heads, -1)
        by_distance = torch.einsum("bhet,her->bhtr", split(position[0]), distances)
        index = torch.arange(frames, device=query.device)
        scores = scores + by_distance[:, :, index[:, None], frames - 1 - index[:, None] + index[None, :]]
    valid = torch.arange(frames, device=query.device)[None, :] < lengths[:, None]
    scores = (scores * scale).masked_fill(~valid[:, None, None, :], -torch.inf)
    out = torch.einsum("bhts,bhes->bhet", torch.softmax(scores, dim=-1), split(value))
    return out.reshape(batch, channels, frames)


def _rotate(
    x: Tensor, *, coefficients: Callable[[int], tuple[Tensor, Tensor]], pair: tuple[int, ...]
) -> Tensor:
    """a·x + b·x[:, pair], where coefficients(T) is (a, b), [C, T] each: cosines and signed sines."""
    a, b = (table.to(x) for table in coefficients(x.shape[2]))
    return x * a + x[:, list(pair)] * b


def _island(*operands: Tensor, nodes: tuple[FloatNode, ...]) -> Tensor:
    takes = dict.fromkeys(name for node in nodes for name in node.ins)
    made = {node.out for node in nodes}
    env = dict(zip((name for name in takes if name not in made), operands, strict=True))
    for node in nodes:
        env[node.out] = FLOAT_OPS[node.op](*(env[name] for name in node.ins), **node.attrs)
    return env[nodes[-1].out]


def _elementwise(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x, *, clamp=None: _clamped(function(x), clamp)


#: every canonical operator, as torch computes it
FLOAT_OPS: dict[str, Callable[..., Tensor]] = {
    "conv1d": _conv1d,
    "affine": _affine,
    "add": _add,
    "clamp": _add,
    "mul": _mul,
    "mask_time": _mask_time,
    "mean_time": _mean_time,
    "length_step": _length_step,
    "positions": lambda like, *, compute: compute(like.shape[2])[None],
    "image": lambda x: x.transpose(1, 2).unsqueeze(1),
    "conv2d": _conv2d,
    "flatten": lambda x, *, channels: x.permute(0, 1, 3, 2).reshape(x.shape[0], channels, x.shape[2]),
    "layer_norm": _layer_norm,
    "instance_norm": _instance_norm,
    "attention": _attention,
    "rotate": _rotate,
    # an operator of ATen that is none of these: its call takes and gives [B, C, T]
    "aten": lambda *xs, call, channels: call(*xs),
    "float_island": _island,
    "take_channels": lambda x, *, index: x[:, list(index)],
    "transpose": lambda x, *, perm: x.permute(perm),
    "sigmoid": _elementwise(torch.sigmoid),
    "tanh": _elementwise(torch.tanh),
    "silu": _elementwise(F.silu),
    "gelu": _elementwise(F.gelu),
    "selu": _elementwise(F.selu),
    "elu": _elementwise(F.elu),
}

#: elementwise functions of one frame and channel
ELEMENTWISE = ("sigmoid", "tanh", "silu", "gelu", "selu", "elu")
