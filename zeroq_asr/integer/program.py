"""A Program: a short list of integer instructions over named values.

What a value's integers *mean* (scale, zero point) is metadata in ``Program.values`` which no
backend can see, so a program is integer-only by construction: its one contact with floating
point is the ``quantize_input`` instruction, and what the user keeps in float, ``float_island``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zeroq_asr.operators import OPS, Attrs


@dataclass(frozen=True)
class ValueInfo:
    """What the integers of a value mean: real ≈ scale · (integer − zero_point)."""

    type: str
    scale: float
    zero_point: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Instruction:
    """``out = op(*ins, **attrs)``; ``ins`` name values or constants, ``where`` the layer it came from."""

    op: str
    out: str
    ins: tuple[str, ...]
    attrs: Attrs = field(default_factory=dict)
    where: str = ""

    def to_json(self) -> list[Any]:
        """Return [op, out, ins, attrs, where] in JSON types."""
        return [self.op, self.out, list(self.ins), self.attrs, self.where]

    @staticmethod
    def from_json(data: list[Any]) -> Instruction:
        """Rebuild an instruction; lists become tuples again."""
        op, out, ins, attrs, where = data
        return Instruction(op, out, tuple(ins), {k: _untuple(v) for k, v in attrs.items()}, where)


def _untuple(value: Any) -> Any:
    return tuple(_untuple(v) for v in value) if isinstance(value, list) else value


@dataclass
class Program:
    """Instructions with their constants, in the order they run.

    ``inputs``: names of the float features [B, M, T] and of the lengths int64 [B].
    ``outputs``: names of the logits [B, S, V] and of the encoded lengths int64 [B].
    """

    inputs: tuple[str, str]
    outputs: tuple[str, str]
    code: list[Instruction]
    constants: dict[str, np.ndarray]
    values: dict[str, ValueInfo]
    #: channels of the float input (mels)
    channels: int = 0
    #: longest input, in frames, for which the program is proven
    max_frames: int = 0

    def run(
        self,
        backend: Any,
        features: Any,
        lengths: Any,
        observe: Callable[[Instruction, Any], None] | None = None,
    ) -> tuple[Any, Any]:
        """Interpret the program over ``backend``; ``observe`` sees every instruction's result."""
        env: dict[str, Any] = {self.inputs[0]: features, self.inputs[1]: lengths}
        env.update({name: backend.constant(name, array) for name, array in self.constants.items()})
        last_use = {name: i for i, ins in enumerate(self.code) for name in ins.ins}
        interpret = getattr(backend, "instruction", None)
        for i, instruction in enumerate(self.code):
            operands = [env[name] for name in instruction.ins]
            if interpret is None:
                result = OPS[instruction.op].define(backend, *operands, **instruction.attrs)
            else:
                result = interpret(instruction, operands)
            env[instruction.out] = result
            if observe is not None:
                observe(instruction, result)
            for name in instruction.ins:
                if last_use[name] == i and name not in self.outputs:
                    env.pop(name, None)
        return env[self.outputs[0]], env[self.outputs[1]]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the constants, in JSON types."""
        return {
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "channels": self.channels,
            "max_frames": self.max_frames,
            "code": [i.to_json() for i in self.code],
            "values": {k: list(asdict(v).values()) for k, v in self.values.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any], constants: dict[str, np.ndarray]) -> Program:
        """Rebuild a program from its JSON and its constants."""
        return Program(
            inputs=(data["inputs"][0], data["inputs"][1]),
            outputs=(data["outputs"][0], data["outputs"][1]),
            code=[Instruction.from_json(i) for i in data["code"]],
            constants=constants,
            values={k: ValueInfo(*v) for k, v in data["values"].items()},
            channels=data["channels"],
            max_frames=data["max_frames"],
        )

    def digest(self) -> str:
        """SHA-256 of the program: instructions, meanings and every constant, independent of dialect."""
        h = hashlib.sha256(canonical_json(self.to_json()))
        for name in sorted(self.constants):
            array = np.ascontiguousarray(self.constants[name].astype("<i8"))
            h.update(f"{name}{array.shape}".encode())
            h.update(array.tobytes())
        return h.hexdigest()


def canonical_json(data: Any) -> bytes:
    """Encode ``data`` so that equal data gives equal bytes."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
