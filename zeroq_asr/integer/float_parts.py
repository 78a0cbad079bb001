"""What a program computes in float: its islands, for certificates and reports."""

from __future__ import annotations

from dataclasses import dataclass

from zeroq_asr.integer.program import Program
from zeroq_asr.registry import INTEGER_OPERATORS


@dataclass(frozen=True)
class Boundary:
    """A value where integers become floats or the other way round: real = scale · (integer − zero_point)."""

    name: str
    #: "uint8", or "int32" of 16 bits
    type: str
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Island:
    """A part of the network that runs in float."""

    #: name of the value that it gives
    name: str
    #: paths of its layers in the module tree
    layers: tuple[str, ...]
    #: ONNX operator → how often it occurs
    operators: dict[str, int]
    inputs: tuple[Boundary, ...]
    result: Boundary
    #: the clamp of its result, smallest and largest integer
    bounds: tuple[int, int]


def islands(program: Program) -> tuple[Island, ...]:
    """Return the float islands of a well-formed program, in its order; none if it is integer-only."""
    # here, since integers alone need no ONNX
    from zeroq_asr.integer.backends.onnxruntime_bodies import operators

    found = []
    for i in program.code:
        if i.op not in INTEGER_OPERATORS or not INTEGER_OPERATORS[i.op].computes_in_float:
            continue
        a = i.attrs
        inputs = tuple(
            Boundary(name, program.values[name].type if name in program.values else "", scale, zero_point)
            for name, scale, zero_point in zip(i.ins, a["scales"], a["zx"], strict=False)
        )
        result = Boundary(i.out, a["type"], a["scale"], a["zero_point"])
        found.append(Island(i.out, a["layers"], operators(a["body"]), inputs, result, (a["lo"], a["hi"])))
    return tuple(found)
