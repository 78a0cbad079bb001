"""What traced networks say that becomes an LSTM: ``aten.lstm`` of a sequence, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Real, TimeMajor, Tracer, Zeros
from zeroq_asr.errors import UnsupportedOperatorError

captures = Captures()

#: tensors of one direction of a layer, with and without biases
_BIASED, _PLAIN = 4, 2


@dataclass(frozen=True)
class Results:
    """The results of a recurrence: its hidden states over time, and the last ones, which nobody may read."""

    output: Real | TimeMajor


@dataclass(frozen=True)
class LastState:
    """The last state of a recurrence."""


@captures("lstm", (Real, TimeMajor), list, list)
def _lstm(
    t: Tracer,
    x: Real | TimeMajor,
    states: list[Any],
    weights: list[Any],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """Every layer, and of a layer each direction, is a node; the directions are joined."""
    in_order = x.frames_first if isinstance(x, Real) else True
    if batch_first != isinstance(x, Real) or not in_order or training:
        return NotImplemented
    directions = [*_directions(weights, _BIASED if has_biases else _PLAIN)]
    sides = 2 if bidirectional else 1
    if len(directions) != layers * sides:
        # which has a matrix more for each direction
        raise UnsupportedOperatorError(
            t.where, "an LSTM with a projection (proj_size) has no integer form", "leave the projection out"
        )
    if not all(map(_is_zero, states)):
        raise UnsupportedOperatorError(
            t.where,
            "an LSTM over a sequence that begins in another state than zero has no integer form",
            "begin in zero, or give it one step at a time",
        )
    name = x.name
    for layer in range(layers):
        made = [
            _direction(t, name, directions[layer * sides + side], backwards=side == 1)
            for side in range(sides)
        ]
        name = made[0] if sides == 1 else t.emit("join", tuple(made)).name
    return Results(Real(name, True) if isinstance(x, Real) else TimeMajor(name))


def _is_zero(state: object) -> bool:
    """Whether a state is zero; one of a batch of a fixed size is a constant."""
    return isinstance(state, Zeros) or (isinstance(state, Tensor) and not bool(state.any()))


def _directions(weights: list[Any], each: int) -> Iterator[list[Tensor]]:
    """The tensors of each direction; nothing where they are no such tensors."""
    parts = [weights[first : first + each] for first in range(0, len(weights), each)]
    for part in parts:
        if len(part) == each and all(isinstance(w, Tensor) for w in part):
            ranks = [w.dim() for w in part]
            if ranks == [2, 2, 1, 1][:each] and part[1].shape[0] == 4 * part[1].shape[1]:
                yield part


def _direction(t: Tracer, x: str, tensors: list[Tensor], *, backwards: bool) -> str:
    weight, recurrent, *biases = (w.float() for w in tensors)
    bias = sum(biases, torch.zeros(len(weight)))
    made = t.emit("lstm", (x,), weight=weight, recurrent=recurrent, bias=bias, backwards=backwards)
    node = t.node(made)
    assert node is not None
    node.others = (f"{made.name}:cell",)
    return made.name


@captures("getitem", Results)
def _getitem(t: Tracer, results: Results, index: int) -> Any:
    return results.output if index == 0 else LastState()
