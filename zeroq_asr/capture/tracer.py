"""The walk over an exported graph: its state, and the float graph as it grows.

The kinds of traced values are those of ``capture.kinds``, which can be imported from here, too.
"""

from __future__ import annotations

import operator
import re
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.kinds import (
    BatchIndex,
    Centred,
    FramewiseLinear,
    Heads,
    Image,
    Lengths,
    LogProbs,
    Mask,
    OfFrames,
    Real,
    Scores,
    Size,
    Spread,
    TimeIndex,
    TimeMajor,
    TimeSum,
    Unrounded,
    Weights,
    Zeros,
)
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode, Promise

__all__ = [
    "BatchIndex",
    "Centred",
    "FramewiseLinear",
    "Heads",
    "Image",
    "Lengths",
    "LogProbs",
    "Mask",
    "OfFrames",
    "Real",
    "Scores",
    "Size",
    "Spread",
    "TimeIndex",
    "TimeMajor",
    "TimeSum",
    "Tracer",
    "Unrounded",
    "Weights",
    "Zeros",
]

_ATEN = torch.ops.aten
_LINEAR = _ATEN.linear.default
_PRODUCTS = (_LINEAR, _ATEN.matmul.default, _ATEN.mm.default)
_MOVES = (
    _ATEN.view.default,
    _ATEN.reshape.default,
    _ATEN.transpose.int,
    _ATEN.permute.default,
    _ATEN.unsqueeze.default,
    _ATEN.expand.default,
)


class Tracer:
    """The state of the walk: traced values, and the float graph as it grows."""

    def __init__(self, exported: Any) -> None:
        self.env: dict[Any, Any] = {}
        self.nodes: list[FloatNode] = []
        self.where = ""
        #: class of the layer
        self.kind = ""
        #: extents of what the node under way makes: "batch", None where they depend on the frames
        self.shape: tuple[int | str | None, ...] = ()
        #: whether that has the shape of its first operand
        self.unchanged = False
        #: as expressions; a network that never joins its inputs leaves two
        self._batch: list[Any] = []
        self._exported = exported
        self._names: set[str] = {"audio_signal", "length"}
        self._inputs = ["audio_signal", "length"]
        self._steps: dict[Lengths, str] = {}
        self._made: dict[str, FloatNode] = {}

    def placeholder(self, node: Any) -> None:
        """Bind a parameter or buffer to its tensor, a user input to its kind."""
        signature = self._exported.graph_signature
        for table in (signature.inputs_to_parameters, signature.inputs_to_buffers):
            if node.name in table:
                target = table[node.name]
                stores = (self._exported.state_dict, self._exported.constants)
                self.env[node] = next(s[target] for s in stores if target in s).detach()
                return
        if node.name in signature.inputs_to_lifted_tensor_constants:
            target = signature.inputs_to_lifted_tensor_constants[node.name]
            self.env[node] = self._exported.constants[target]
            return
        name = self._inputs.pop(0)
        self._batch.append(_expression(node.meta["val"].shape[0]))
        self.env[node] = Real(name) if name == "audio_signal" else Lengths(name)

    def enter(self, node: Any) -> None:
        """Note the layer that ``node`` belongs to."""
        stack = node.meta.get("nn_module_stack") or {}
        self.where, kind = list(stack.values())[-1] if stack else ("", "")
        # torch gives the class, or its dotted name
        self.kind = getattr(kind, "__name__", str(kind)).rpartition(".")[2]
        self.shape = self.extents(node)
        operand = node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else None
        shapes = [_expressions(n) for n in (node, operand)]
        self.unchanged = shapes[0] is not None and shapes[0] == shapes[1]

    def extents(self, node: Any) -> tuple[int | str | None, ...]:
        """Extents of what a traced node makes: "batch", None where they depend on the frames."""
        value = node.meta.get("val")
        return tuple(map(self._extent, value.shape)) if isinstance(value, Tensor) else ()

    def _extent(self, size: Any) -> int | str | None:
        if isinstance(size, int):
            return size
        # comparing symbols themselves would constrain them
        return "batch" if _expression(size) in self._batch else None

    def arguments(self, node: Any) -> tuple[Any, ...]:
        """Positional and keyword arguments of an exported node, as kinds, in schema order."""
        schema = getattr(node.target, "_schema", None)
        values = [self._value(a) for a in node.args]
        if schema is not None:
            for argument in schema.arguments[len(values) :]:
                default = argument.default_value if argument.has_default_value() else None
                values.append(self._value(node.kwargs.get(argument.name, default)))
        return tuple(values)

    def is_constant(self, node: Any) -> bool:
        """Whether a node computes from weights and numbers alone."""
        operands = [self.env.get(n, NotImplemented) for n in node.all_input_nodes]
        return isinstance(node.target, torch._ops.OpOverload) and all(
            isinstance(value, (Tensor, int, float)) for value in operands
        )

    def is_of_frames(self, node: Any) -> bool:
        """Whether a node computes from constants and what depends on the number of frames alone."""
        operands = [self.env.get(n, NotImplemented) for n in node.all_input_nodes]
        return (
            (isinstance(node.target, torch._ops.OpOverload) or node.target is operator.getitem)
            and any(isinstance(value, OfFrames) for value in operands)
            and all(isinstance(value, (OfFrames, Tensor, int, float)) for value in operands)
        )

    def of_frames(self, node: Any) -> OfFrames:
        """What such a node computes, for any number of frames."""
        operands = {n: self.env[n] for n in node.all_input_nodes}

        def compute(frames: int) -> Tensor:
            known = {n: v.compute(frames) if isinstance(v, OfFrames) else v for n, v in operands.items()}
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            result: Tensor = node.target(*args, **kwargs)
            return result

        inner = [v for v in operands.values() if isinstance(v, OfFrames)]
        rows, weight = (*(operands.get(a) for a in node.args[:2]), None, None)[:2]
        if node.target in _PRODUCTS and isinstance(rows, OfFrames) and isinstance(weight, Tensor):
            return OfFrames(compute, (rows, weight if node.target is _LINEAR else weight.t()))
        moved = node.target in _MOVES and len(inner) == 1
        return OfFrames(compute, inner[0].factors if moved else None)

    def evaluate(self, node: Any) -> Any:
        """The value of a constant node."""
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), self.env.__getitem__)
        return node.target(*args, **kwargs)

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return self.env[argument]
        if isinstance(argument, (list, tuple)):
            return [self._value(a) for a in argument]
        return argument

    def emit(
        self, op: str, ins: tuple[str, ...], frames_first: bool = False, *, name: str = "", **attrs: Any
    ) -> Real:
        """Append a float node named after its layer; ``name``: or, where there is none, so."""
        out = self._unique(self.where or name or op)
        node = FloatNode(op, out, ins, attrs, self.where)
        self.nodes.append(node)
        self._made[out] = node
        return Real(out, frames_first)

    def promise(self, value: Real, mean: Tensor, deviation: Tensor) -> None:
        """Note the mean and deviation a channel [C] that normalization statistics promise of ``value``."""
        self._made[value.name].promise = Promise(self.where, mean.detach(), deviation.detach())

    def node(self, value: Real) -> FloatNode | None:
        """The node that made ``value``; None for the input."""
        return self._made.get(value.name)

    def length_name(self, lengths: Lengths) -> str:
        """Name of a lengths value, emitting its step once."""
        if lengths == Lengths(lengths.base):
            return lengths.base
        if lengths not in self._steps:
            out = self._unique("length")
            attrs = {"before": lengths.before, "divisor": lengths.divisor, "after": lengths.after}
            self.nodes.append(FloatNode("length_step", out, (lengths.base,), attrs, self.where))
            self._steps[lengths] = out
        return self._steps[lengths]

    def finish(self, logits: Real, lengths: Lengths) -> FloatGraph:
        """Close the graph; the logits leave as [B, S, V]."""
        self.where = "logits"
        encoded = self.length_name(lengths)
        final = self.emit("transpose", (logits.name,), perm=(0, 2, 1))
        return FloatGraph(("audio_signal", "length"), (final.name, encoded), self.nodes)

    def _unique(self, base: str) -> str:
        # ":" and "/" are kept for the names of constants and of nodes within an instruction
        base = re.sub(r"[^\w.]", "_", base)
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}:{count}"
        self._names.add(name)
        return name


def _expression(size: Any) -> Any:
    """A symbolic extent as an expression, None for a number."""
    return getattr(getattr(size, "node", None), "expr", None)


def _expressions(node: Any) -> list[Any] | None:
    """Extents of what a traced node makes, as they can be compared."""
    value = None if node is None else node.meta.get("val")
    return (
        [size if isinstance(size, int) else _expression(size) for size in value.shape]
        if isinstance(value, Tensor)
        else None
    )
