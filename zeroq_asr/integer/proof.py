"""The proof of a program: run it on intervals and report how close it comes to its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend, length_interval
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.program import Instruction, Port, Program, StatePort, ValueInfo
from zeroq_asr.integer.types import I32, TYPES
from zeroq_asr.integer.wellformed import check


@dataclass(frozen=True)
class Proof:
    """What the interval proof established."""

    max_frames: int
    instructions: int
    #: largest magnitude any int32 intermediate can reach, and where
    peak: int
    peak_at: str
    #: fewest frames of an input of which every value keeps one; shorter inputs are no inputs
    least_frames: int = 1
    #: output port → the lowest and the highest integer that can leave there
    leaving: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def headroom_bits(self) -> float:
        """How many bits lie between the peak and the end of int32."""
        return round(math.log2(I32.hi / max(self.peak, 1)), 2)

    def to_dict(self) -> dict[str, int | str | float]:
        """Return the fields as JSON values."""
        return {
            "least_frames": self.least_frames,
            "max_frames": self.max_frames,
            "instructions": self.instructions,
            "peak": self.peak,
            "peak_at": self.peak_at,
            "headroom_bits": self.headroom_bits,
        }


class _Prover(IntervalBackend):
    """Names the instruction in errors and remembers each one's peak."""

    def __init__(self, max_frames: int) -> None:
        super().__init__(max_frames)
        self.peaks: dict[str, int] = {}

    def instruction(self, i: Instruction, operands: list[Interval]) -> tuple[Interval, ...]:
        """Bound one instruction."""
        self.where, self.peak = f"{i.out} ({i.op})", 0
        result = super().instruction(i, operands)
        self.peaks[self.where] = self.peak
        return result


def prove(program: Program) -> Proof:
    """Prove that no intermediate leaves its type for any input of at most ``max_frames`` frames.

    An input has enough frames for every value, even one that nobody reads, to keep one: ``least_frames``.
    Covers any batch of lengths from 1 to the frames there are, since no instruction mixes utterances, and
    runs without end: whatever a state holds within its bounds, what leaves it lies within them again.
    Raises ProofError, naming the instruction, the primitive and the bounds, when the proof fails, and for a
    program that is not well-formed.
    """
    shapes = check(program)
    prover = _Prover(program.max_frames)
    leaving = program.run(prover, *entering_bounds(program))
    for state, v in zip(program.states, leaving[len(program.outputs) :], strict=True):
        require_kept(state, v)
    where = max(prover.peaks, key=lambda name: prover.peaks[name], default="")
    least = max(shapes.least.values(), default=1)
    bounds = {port.name: (int(v.min), int(v.max)) for port, v in zip(program.outputs, leaving, strict=False)}
    return Proof(program.max_frames, len(program.code), prover.peaks.get(where, 0), where, least, bounds)


def require_kept(state: StatePort, leaves: Interval) -> None:
    """Require that what leaves a state may enter it again; ProofError, with both ranges, if it may not."""
    kind = TYPES[state.type]
    if leaves.type is not kind or not state.lo <= leaves.min <= leaves.max <= state.hi:
        raise ProofError(
            f"state {state.name}",
            f"what leaves is {leaves.type.name} in [{leaves.min}, {leaves.max}], "
            f"what may enter {kind.name} in [{state.lo}, {state.hi}]",
            "clamp what leaves to what may enter",
        )


def prove_bundle(bundle: Bundle) -> dict[str, Proof]:
    """Prove every program of a bundle, and that they fit each other: part → its proof.

    Raises ProofError for the first that fails.
    """
    proofs = {part: prove(program) for part, program in bundle.programs.items()}
    check_boundaries(bundle, proofs)
    return proofs


def check_boundaries(bundle: Bundle, proofs: Mapping[str, Proof] | None = None) -> None:
    """Raise ProofError unless every input that another part gives has the grid of what leaves there.

    ``proofs``: part → that of its program, which bounds what leaves; without them its port's word is taken.
    """
    for part, program in bundle.programs.items():
        for port in program.inputs:
            if port.is_features or port.is_lengths:
                continue
            givers = [
                (name, leaving)
                for name, other in bundle.programs.items()
                for leaving in other.outputs
                if name != part and leaving.name == port.name
            ]
            where = f"{part}.{port.name}"
            if len(givers) > 1:
                parts = " and ".join(name for name, _ in givers)
                raise ProofError(where, f"is given by {parts}", "let one part give it")
            for name, leaving in givers:
                given = bundle.programs[name].values.get(leaving.value)
                _check_grids(where, program.values.get(port.value), name, given)
                if (port.type, port.dims[1]) != (leaving.type, leaving.dims[1]):
                    told = [f"{one.type} of {one.dims[1]} channels" for one in (port, leaving)]
                    problem = f"takes {told[0]}, {name} gives {told[1]}"
                    raise ProofError(where, problem, "a boundary has one grid")
                low, high = leaving.lo, leaving.hi
                if proofs is not None:
                    low, high = proofs[name].leaving[leaving.name]
                if not port.lo <= low <= high <= port.hi:
                    problem = f"takes [{port.lo}, {port.hi}], {name} gives [{low}, {high}]"
                    raise ProofError(where, problem, "what may leave must be what may enter")


def _check_grids(where: str, taken: ValueInfo | None, giver: str, given: ValueInfo | None) -> None:
    """Require what is taken to mean what is given."""
    grids = [None if one is None else (one.type, one.scale, one.zero_point) for one in (taken, given)]
    if None in grids or grids[0] != grids[1]:
        told = [
            "no meaning" if grid is None else "{} of scale {!r} and zero point {}".format(*grid)
            for grid in grids
        ]
        raise ProofError(where, f"takes {told[0]}, {giver} gives {told[1]}", "a boundary has one grid")


def entering_bounds(program: Program) -> list[Interval]:
    """Return what the proof may assume of inputs and states, in their order."""
    inputs = [port_bounds(port, program.max_frames) for port in program.inputs]
    return [*inputs, *(Interval.of(s.lo, s.hi, TYPES[s.type]) for s in program.states)]


def port_bounds(port: Port, max_frames: int) -> Interval:
    """Return what the proof may assume of an input."""
    if port.is_features:
        return Interval.of(0, 0, I32)  # never read as an integer: quantize bounds its own result
    if port.is_lengths:
        return length_interval(max_frames)
    return Interval.of(port.lo, port.hi, TYPES[port.type])
