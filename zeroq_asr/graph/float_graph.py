"""The float graph: a network as a list of canonical operators, before any integer is chosen.

Shapes: activations [B, C, T], those of 2-D convolutions [B, C, T, F]; lengths int64 [B].  A node's ``clamp``
attribute, if present, is a fused ReLU or Hardtanh (lowest, highest real value; either may be None).

What an operator computes is the ``meaning`` of its record (``zeroq_asr.registry``).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.errors import CaptureError, ConfigError
from zeroq_asr.registry import operator_of

#: lowest and highest real value of a fused ReLU or Hardtanh
Clamp = tuple[float | None, float | None] | None


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
    """One operation: ``out = op(*ins, **attrs)``, or several results at once, ``out`` and ``others``."""

    op: str
    #: name of the result, of the first one of several
    out: str
    ins: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    #: path of the layer in the module tree
    where: str = ""
    #: what a normalization folded into this node says of its result; None where none does
    promise: Promise | None = None
    #: names of further results
    others: tuple[str, ...] = ()

    @property
    def outs(self) -> tuple[str, ...]:
        """Names of all results."""
        return (self.out, *self.others)

    def compute(self, operands: list[Tensor], attrs: Mapping[str, Any] | None = None) -> tuple[Tensor, ...]:
        """Compute the results in torch, with ``attrs`` in place of some of its own."""
        meaning = operator_of(self).meaning
        if meaning is None:
            raise CaptureError(self.where or self.out, f"operator {self.op} has no float meaning")
        made = meaning(*operands, **{**self.attrs, **(attrs or {})})
        return tuple(made) if self.others else (made,)


@dataclass(frozen=True)
class FloatState:
    """A value that a graph hands to its own next run: what ``leaves`` it enters again as ``enters``."""

    #: name of the port in files
    name: str
    enters: str
    leaves: str
    #: extents, a name for those that are free
    dims: tuple[int | str, ...]
    #: every entry before the first run
    initial: float = 0.0


@dataclass
class FloatGraph:
    """Nodes in execution order between named ports.

    A CTC network takes features [B, M, T] and lengths [B], and gives logits [B, S, V] and encoded lengths
    [B].
    """

    #: values that are given, each the name of its port
    inputs: tuple[str, ...]
    #: values that are results
    outputs: tuple[str, ...]
    nodes: list[FloatNode]
    #: names of the ports of the results
    output_ports: tuple[str, ...] = ("logits", "encoded_lengths")
    states: tuple[FloatState, ...] = ()
    #: real inputs of one frame, such as a step takes
    single: tuple[str, ...] = ()

    def with_nodes(self, nodes: list[FloatNode], outputs: tuple[str, ...] | None = None) -> FloatGraph:
        """Return the graph of the same ports and states with other nodes."""
        return replace(self, nodes=nodes, outputs=self.outputs if outputs is None else outputs)

    def to(self, device: torch.device) -> FloatGraph:
        """Return the graph with the tensors that its nodes hold on a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, FloatNode):
                return replace(value, attrs={name: moved(one) for name, one in value.attrs.items()})
            # nodes of a float island
            return tuple(moved(one) for one in value) if isinstance(value, tuple) else value

        return self.with_nodes([moved(node) for node in self.nodes])

    @property
    def entering(self) -> tuple[str, ...]:
        """Values that are given: inputs, then states."""
        return (*self.inputs, *(state.enters for state in self.states))

    @property
    def leaving(self) -> tuple[str, ...]:
        """Values that are results: outputs, then states."""
        return (*self.outputs, *(state.leaves for state in self.states))

    def initial_states(self, batch: int) -> list[np.ndarray]:
        """Return the states before the first run, float32 [batch, …] each."""
        return [np.full((batch, *map(int, s.dims[1:])), s.initial, dtype=np.float32) for s in self.states]

    def producer(self) -> dict[str, FloatNode]:
        """Map each value to the node that makes it."""
        return {name: n for n in self.nodes for name in n.outs}

    def consumers(self) -> dict[str, list[FloatNode]]:
        """Map each value to the nodes that read it; graph outputs count as no node."""
        readers: dict[str, list[FloatNode]] = {}
        for node in self.nodes:
            for name in node.ins:
                readers.setdefault(name, []).append(node)
        return readers

    def flat(self) -> list[FloatNode]:
        """The nodes with those that a node holds (of a float island) in its place."""
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

    def forward(
        self,
        *given: Tensor,
        observe: Callable[[str, Tensor], None] | None = None,
        attrs: Mapping[str, Mapping[str, Any]] | None = None,
        change: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> tuple[Tensor, ...]:
        """Compute the results from the inputs, then the states, in the gradient mode of the caller.

        ``observe(name, value)`` sees every value; ``attrs``: name of a node's result → attributes in place
        of some of its own, such as a weight that is being trained; ``change``: value → what is made of it
        before it is read.
        """
        attrs, change = attrs or {}, change or {}
        env: dict[str, Tensor] = {}

        def bind(name: str, value: Tensor) -> None:
            env[name] = change[name](value) if name in change else value
            if observe is not None:
                observe(name, env[name])

        for name, value in zip(self.entering, given, strict=True):
            bind(name, value)
        last = {name: i for i, node in enumerate(self.nodes) for name in node.ins}
        for i, node in enumerate(self.nodes):
            results = node.compute([env[name] for name in node.ins], attrs.get(node.out))
            for name, value in zip(node.outs, results, strict=True):
                bind(name, value)
            for name in set(node.ins):
                if last[name] == i and name not in self.leaving:
                    del env[name]
        return tuple(env[name] for name in self.leaving)

    @torch.inference_mode()
    def run(self, *given: Tensor, observe: Callable[[str, Tensor], None] | None = None) -> tuple[Tensor, ...]:
        """Compute the results from the inputs, then the states, without gradients; see ``forward``."""
        return self.forward(*given, observe=observe)


def clamped(x: Tensor, clamp: Clamp) -> Tensor:
    """Apply a fused ReLU or Hardtanh."""
    return x if clamp is None else x.clamp(*clamp)


def valid_frames(x: Tensor, lengths: Tensor) -> Tensor:
    """Return where the frames of x [B, C, T] or [B, C, T, F] lie below the lengths: bool, of as many axes."""
    mask = (torch.arange(x.shape[2], device=x.device)[None, :] < lengths[:, None])[:, None, :]
    return mask if x.dim() == 3 else mask[..., None]
