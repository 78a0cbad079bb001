"""The ports that speech runtimes give a transducer's files, as ONNX nodes around its integer programs.

sherpa-onnx and onnx-asr run what NeMo exports: but for labels and lengths every port is float32, the states
of an LSTM's layers are one tensor of h and one of c, and both are zeros at first.  So the programs stay what
they are, and at the ports alone

- an integer n crosses as the float32 that is n, which loses nothing up to 2^24;
- a state crosses less what it is at first: of h, a byte less its zero point;
- scores leave at their scale, n · scale in float32.  Up to |n| = 2^22 neighbours stay apart by half a step at
  least, so that the best score is the same one, and ties stay ties.

======================  ===============================  ==========================
port of a program       port of a file                   float32 of
======================  ===============================  ==========================
``labels``              ``targets`` int32 [B, 1]
``encoded`` (enters)    ``encoder_outputs`` [B, J, 1]    n
``predicted`` (enters)  ``decoder_outputs`` [B, J, 1]    n
``hidden_0`` …          ``input_states_1`` [L, B, H]     n − what it is at first
``cell_0`` …            ``input_states_2`` [L, B, H]     the same
``encoded``             ``outputs`` [B, J, S]            n
``predicted``           ``outputs`` [B, J, 1]            n
``logits``              ``outputs`` [B, 1, 1, V + K]     n · scale
states that leave       ``output_states_1``, ``_2``      as they enter
======================  ===============================  ==========================

Beside labels stands ``target_length`` int32 [B], which nobody reads and which leaves as ``prednet_lengths``.
The names of all nodes begin with ``port/``.

Shapes: B batch, S encoded frames, J joint width, L layers, H units, V tokens and the blank, K durations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from zeroq_asr.decoding.ports import CELL, ENCODED, HIDDEN, LABELS, LOGITS, PREDICTED
from zeroq_asr.deployment.prefixed_nodes import PrefixedNodes
from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.program import Port, Program, StatePort

#: what the names of nodes and constants begin with
PREFIX = "port/"
_TARGETS, _TARGET_LENGTH, _TARGET_LENGTH_OUT = "targets", "target_length", "prednet_lengths"
#: port of a program → of a file
_GIVEN = {ENCODED: "encoder_outputs", PREDICTED: "decoder_outputs"}
_RESULT = "outputs"
_STATES_IN, _STATES_OUT = ("input_states_1", "input_states_2"), ("output_states_1", "output_states_2")
#: largest magnitude of integers that a float32 holds, and of those that stay apart at any scale
_WHOLE, _APART = 1 << 24, 1 << 22
_TYPES = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32}


@dataclass(frozen=True)
class Around:
    """What stands around a program in a file, and the ports that the file then has."""

    inputs: list[ValueInfoProto]
    before: list[NodeProto]
    after: list[NodeProto]
    outputs: list[ValueInfoProto]
    constants: list[TensorProto]

    @property
    def names(self) -> set[str]:
        """Names of the file's ports."""
        return {one.name for one in (*self.inputs, *self.outputs)}


def lstm_states(program: Program) -> tuple[tuple[StatePort, ...], tuple[StatePort, ...]]:
    """Return the states h and c of a predictor's layers, in their order.

    Raises ExportError unless its states are those of one or more layers of equally many units.
    """
    states = {state.name: state for state in program.states}
    layers = len(states) // 2
    hidden, cell = ([kind.format(layer) for layer in range(layers)] for kind in (HIDDEN, CELL))
    shapes = {state.dims for state in program.states}
    if not layers or {*hidden, *cell} != states.keys() or len(shapes) != 1:
        found = ", ".join(states) or "none"
        raise ExportError("predictor", f"its states are not h and c of an LSTM's layers: {found}")
    return tuple(states[name] for name in hidden), tuple(states[name] for name in cell)


def around(program: Program, leaving: Sequence[Interval]) -> Around:
    """Return the nodes in front of a transducer's program and behind it, and the ports of its file.

    ``leaving``: what is proven of its outputs, then of its states.  Raises ExportError for a program that is
    no part of a transducer with an LSTM.
    """
    b = PrefixedNodes(PREFIX)
    inputs: list[ValueInfoProto] = []
    for port in program.inputs:
        inputs += _entering(b, port)
    groups = []
    if program.states:
        groups = [*zip(_STATES_IN, _STATES_OUT, lstm_states(program), strict=True)]
    for name, _, states in groups:
        inputs.append(_states_entering(b, name, states))
    in_front = len(b.nodes)
    names = [*(port.name for port in program.outputs), *(state.name for state in program.states)]
    bounds = dict(zip(names, leaving, strict=True))
    outputs = [_leaving(b, program, port, bounds[port.name]) for port in program.outputs]
    if any(port.name == LABELS for port in program.inputs):
        b.add("Identity", [_TARGET_LENGTH], _TARGET_LENGTH_OUT)
        outputs.append(_declared(_TARGET_LENGTH_OUT, TensorProto.INT32, "batch"))
    for _, name, states in groups:
        for state in states:
            _require_within(state.name, bounds[state.name], _WHOLE)
        outputs.append(_states_leaving(b, name, states))
    return Around(inputs, b.nodes[:in_front], b.nodes[in_front:], outputs, b.constants)


def _entering(b: PrefixedNodes, port: Port) -> list[ValueInfoProto]:
    """What a file takes where its program takes the integers of ``port``."""
    if port.is_features:
        return [_declared(port.name, TensorProto.FLOAT, *port.dims)]
    if port.is_lengths:
        return [_declared(port.name, TensorProto.INT64, *port.dims)]
    if port.name == LABELS:
        if port.dims[1] != 1:
            raise ExportError(port.name, f"are {port.dims[1]} at a time, a runtime gives one")
        b.add("Unsqueeze", [_TARGETS, b.ints(2)], LABELS)
        return [
            _declared(_TARGETS, TensorProto.INT32, "batch", 1),
            _declared(_TARGET_LENGTH, TensorProto.INT32, "batch"),
        ]
    if port.name not in _GIVEN:
        raise ExportError(port.name, "is no port of a transducer")
    b.add("Cast", [_GIVEN[port.name]], port.name, to=TensorProto.INT32)
    return [_declared(_GIVEN[port.name], TensorProto.FLOAT, *port.dims)]


def _states_entering(b: PrefixedNodes, name: str, states: Sequence[StatePort]) -> ValueInfoProto:
    """States [B, H, 1] of the integers' own type, of one tensor [L, B, H]."""
    whole = b.add("Cast", [name], to=TensorProto.INT32)
    whole = _moved(b, "Add", whole, states)
    for layer, state in enumerate(states):
        one = b.add("Gather", [whole, b.int(layer)], axis=0)
        one = b.add("Unsqueeze", [one, b.ints(2)])
        b.add("Cast", [one], state.name, to=_TYPES[state.type])
    return _declared(name, TensorProto.FLOAT, len(states), "batch", states[0].dims[1])


def _states_leaving(b: PrefixedNodes, name: str, states: Sequence[StatePort]) -> ValueInfoProto:
    """One tensor [L, B, H] of states [B, H, 1]."""
    beside = b.add("Concat", [f"next_{state.name}" for state in states], axis=2)
    whole = b.add("Transpose", [b.add("Cast", [beside], to=TensorProto.INT32)], perm=[2, 0, 1])
    b.add("Cast", [_moved(b, "Sub", whole, states)], name, to=TensorProto.FLOAT)
    return _declared(name, TensorProto.FLOAT, len(states), "batch", states[0].dims[1])


def _moved(b: PrefixedNodes, op: str, whole: str, states: Sequence[StatePort]) -> str:
    """States int32 [L, B, H] and what they are at first, added or subtracted."""
    first = np.array([state.initial for state in states], dtype=np.int32)[:, None, None]
    return b.add(op, [whole, b.store(first)]) if first.any() else whole


def _leaving(b: PrefixedNodes, program: Program, port: Port, bounds: Interval) -> ValueInfoProto:
    """What a file gives where its program gives the integers of ``port``."""
    if port.is_lengths:
        return _declared(port.name, TensorProto.INT64, *port.dims)
    if port.name != LOGITS:
        _require_within(port.name, bounds, _WHOLE)
        b.add("Cast", [port.name], _RESULT, to=TensorProto.FLOAT)
        return _declared(_RESULT, TensorProto.FLOAT, *port.dims)
    _require_within(port.name, bounds, _APART)
    numbers = b.add("Cast", [port.name], to=TensorProto.FLOAT)
    real = b.add("Mul", [numbers, b.floats(program.values[port.value].scale)])
    b.add("Unsqueeze", [b.add("Transpose", [real], perm=[0, 2, 1]), b.ints(1)], _RESULT)
    return _declared(_RESULT, TensorProto.FLOAT, "batch", 1, 1, port.dims[1])


def _require_within(name: str, bounds: Interval, limit: int) -> None:
    """Raise ExportError unless what leaves crosses to float32 as the module says."""
    if not -limit <= bounds.min <= bounds.max <= limit:
        raise ExportError(name, f"lies in [{bounds.min}, {bounds.max}], beyond what float32 tells apart")


def _declared(name: str, kind: int, *dims: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [*dims])
