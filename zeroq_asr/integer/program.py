"""A program: a short list of integer instructions over named values, between named ports.

What a value's integers *mean* (scale, zero point) is metadata in ``Program.values`` which no backend can
see, so a program is integer-only by construction: its one contact with floating point are instructions whose
operator says that it computes in float, ``quantize_input`` at the way in and what the user keeps in float.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from zeroq_asr.integer import typed
from zeroq_asr.integer.attributes import is_positive, is_whole
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.types import I32
from zeroq_asr.registry import Attrs


@dataclass(frozen=True)
class ValueInfo:
    """What the integers of a value mean: real ≈ scale · (integer − zero_point)."""

    type: str
    scale: float
    zero_point: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Port:
    """A value that enters or leaves a program, under the name that files give it."""

    name: str
    #: the value of the program
    value: str
    #: "float32" (features), "int64" (lengths), "int32" or "uint8"
    type: str
    #: extents, a name for those that are free: ("batch", 80, "frames")
    dims: tuple[int | str, ...]
    #: bounds of integers that are given; lengths are bounded by the program's frames
    lo: int = 0
    hi: int = 0

    @property
    def is_features(self) -> bool:
        """Whether it is the real input of the network, [batch, channels, frames]."""
        return self.type == "float32"

    @property
    def is_lengths(self) -> bool:
        """Whether it counts the valid frames of every utterance."""
        return self.type == "int64" and len(self.dims) == 1


@dataclass(frozen=True)
class StatePort:
    """A value that a program hands to its own next run: what ``leaves`` it enters again as ``enters``.

    The proof is by induction: with anything in [lo, hi] entering, what leaves lies in [lo, hi].
    """

    name: str
    enters: str
    leaves: str
    #: "uint8" or "int32"
    type: str
    dims: tuple[int | str, ...]
    lo: int
    hi: int
    #: every entry before the first run
    initial: int = 0


@dataclass(frozen=True)
class Instruction:
    """``out = op(*ins, **attrs)``, or several results at once, ``out`` and ``others``.

    ``ins`` name values or constants, ``where`` is the layer it came from.
    """

    op: str
    out: str
    ins: tuple[str, ...]
    attrs: Attrs = field(default_factory=dict)
    where: str = ""
    others: tuple[str, ...] = ()

    @property
    def outs(self) -> tuple[str, ...]:
        """Names of all results."""
        return (self.out, *self.others)

    def to_json(self) -> list[Any]:
        """Return [op, outs, ins, attrs, where] in JSON types."""
        return [self.op, list(self.outs), list(self.ins), self.attrs, self.where]

    @staticmethod
    def from_json(data: list[Any]) -> Instruction:
        """Rebuild an instruction; lists become tuples again.  ConfigError for what is none."""
        op, outs, ins, attrs, where = typed.entries("an instruction", data, 5)
        made = typed.texts("the results of an instruction", outs)
        if not made:
            raise typed.fail("the results of an instruction", "one or more", outs)
        name = f"an attribute of {made[0]}"
        given = {k: typed.attribute(name, v) for k, v in typed.fields(f"what sets {made[0]}", attrs).items()}
        return Instruction(
            typed.text("an operator", op),
            made[0],
            typed.texts("the operands of an instruction", ins),
            given,
            typed.text("the layer of an instruction", where),
            made[1:],
        )


@dataclass
class Program:
    """Instructions with their constants, in the order they run."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    code: list[Instruction]
    constants: dict[str, np.ndarray]
    values: dict[str, ValueInfo]
    #: longest input, in frames, for which the program is proven
    max_frames: int = 0
    states: tuple[StatePort, ...] = ()
    #: constant → name of the packing that files store it by; none: as bytes
    packings: dict[str, str] = field(default_factory=dict)

    @property
    def entering(self) -> tuple[str, ...]:
        """Values that are given: inputs, then states."""
        return (*(port.value for port in self.inputs), *(state.enters for state in self.states))

    @property
    def leaving(self) -> tuple[str, ...]:
        """Values that are results: outputs, then states."""
        return (*(port.value for port in self.outputs), *(state.leaves for state in self.states))

    @property
    def features(self) -> Port | None:
        """The port of the real input, if there is one."""
        return next((port for port in self.inputs if port.is_features), None)

    @property
    def lengths(self) -> Port | None:
        """The port of the lengths that are given, if there is one."""
        return next((port for port in self.inputs if port.is_lengths), None)

    @property
    def channels(self) -> int:
        """Channels (mels) of the real input; 0 without one."""
        return 0 if self.features is None else int(self.features.dims[1])

    def output(self, name: str) -> Port:
        """The output port of a name; KeyError without."""
        return {port.name: port for port in self.outputs}[name]

    def run(
        self,
        backend: Backend[V],
        *given: V,
        observe: Callable[[Instruction, V], None] | None = None,
    ) -> tuple[V, ...]:
        """Interpret the program over ``backend``: outputs, then states, from inputs, then states.

        ``observe`` sees every instruction with its first result.
        """
        env: dict[str, V] = dict(zip(self.entering, given, strict=True))
        env.update({name: backend.constant(name, array) for name, array in self.constants.items()})
        last_use = {name: i for i, ins in enumerate(self.code) for name in ins.ins}
        for i, instruction in enumerate(self.code):
            results = backend.instruction(instruction, [env[name] for name in instruction.ins])
            env.update(zip(instruction.outs, results, strict=True))
            if observe is not None:
                observe(instruction, results[0])
            for name in instruction.ins:
                if last_use[name] == i and name not in self.leaving:
                    env.pop(name, None)
        return tuple(env[name] for name in self.leaving)

    def initial_states(self, **extents: int) -> tuple[np.ndarray, ...]:
        """Return the states before the first run, numpy arrays, for the named free extents (``batch=1``)."""
        return tuple(
            np.full([d if isinstance(d, int) else extents[d] for d in s.dims], s.initial, dtype=s.type)
            for s in self.states
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything but the constants, in JSON types."""
        return {
            "inputs": [_port_json(port) for port in self.inputs],
            "outputs": [_port_json(port) for port in self.outputs],
            "states": [_port_json(state) for state in self.states],
            "max_frames": self.max_frames,
            "code": [i.to_json() for i in self.code],
            "values": {k: list(asdict(v).values()) for k, v in self.values.items()},
            "packings": self.packings,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any], constants: dict[str, np.ndarray]) -> Program:
        """Rebuild a program from its JSON and its constants; ConfigError, naming the part, for any other."""
        data = typed.fields("the program", data, _PARTS)
        packings = typed.fields("packings", data["packings"])
        return Program(
            inputs=tuple(Port(**_port(Port, port)) for port in typed.entries("inputs", data["inputs"])),
            outputs=tuple(Port(**_port(Port, port)) for port in typed.entries("outputs", data["outputs"])),
            states=tuple(
                StatePort(**_port(StatePort, state)) for state in typed.entries("states", data["states"])
            ),
            code=[Instruction.from_json(i) for i in typed.entries("code", data["code"])],
            constants=constants,
            values={k: _meaning(k, v) for k, v in typed.fields("values", data["values"]).items()},
            max_frames=typed.number("max_frames", data["max_frames"]),
            packings={k: typed.text(f"the packing of {k}", v) for k, v in packings.items()},
        )

    def digest(self) -> str:
        """SHA-256 of the program: instructions, meanings and every constant, independent of dialect."""
        h = hashlib.sha256(canonical_json(self.to_json()))
        for name in sorted(self.constants):
            array = np.ascontiguousarray(self.constants[name].astype("<i8"))
            h.update(f"{name}{array.shape}".encode())
            h.update(array.tobytes())
        return h.hexdigest()


def _port_json(port: Port | StatePort) -> dict[str, Any]:
    return {**asdict(port), "dims": list(port.dims)}


_PARTS = ("inputs", "outputs", "states", "max_frames", "code", "values", "packings")


def _port(kind: type[Port] | type[StatePort], data: Any) -> dict[str, Any]:
    """The fields of a port, each of its type."""
    found = dict(typed.fields("a port", data, [one.name for one in fields(kind)]))
    for name, value in found.items():
        if name == "dims":
            found[name] = tuple(
                dim if isinstance(dim, str) else typed.number("an extent of a port", dim)
                for dim in typed.entries("the extents of a port", value)
            )
        elif name in ("lo", "hi", "initial"):
            typed.number(f"{name} of a port", value)
        else:
            typed.text(f"{name} of a port", value)
    return found


def _meaning(name: str, data: Any) -> ValueInfo:
    kind, scale, *integers = typed.entries(f"the meaning of {name}", data, len(fields(ValueInfo)))
    if not is_positive(scale) or not all(is_whole(one, I32.lo, I32.hi) for one in integers):
        raise typed.fail(f"the meaning of {name}", "a type, a scale and three int32", data)
    return ValueInfo(typed.text(f"the type of {name}", kind), scale, *integers)


def ctc_ports(
    channels: int, tokens: int, *, features: str, lengths: str, logits: str, encoded: str
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the inputs and outputs of a CTC network, whose values are named by the keywords."""
    inputs = (
        Port("audio_signal", features, "float32", ("batch", channels, "frames")),
        Port("length", lengths, "int64", ("batch",)),
    )
    outputs = (
        Port("logits", logits, "int32", ("batch", "encoded", tokens)),
        Port("encoded_lengths", encoded, "int64", ("batch",)),
    )
    return inputs, outputs


def is_ctc(program: Program) -> bool:
    """Whether a program has the ports of a CTC network: those of ``ctc_ports``, and no state."""
    if program.states or len(program.inputs) != 2 or len(program.outputs) != 2:
        return False
    tokens = program.outputs[0].dims[-1]
    features, lengths, logits, encoded = (port.value for port in (*program.inputs, *program.outputs))
    return isinstance(tokens, int) and (program.inputs, program.outputs) == ctc_ports(
        program.channels, tokens, features=features, lengths=lengths, logits=logits, encoded=encoded
    )


def canonical_json(data: Any) -> bytes:
    """Encode ``data`` so that equal data gives equal bytes."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
