"""The proof of a program: run it on intervals and report how close it comes to its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from zeroq_asr.integer.backends.interval import Interval, IntervalBackend, length_interval
from zeroq_asr.integer.program import Instruction, Program
from zeroq_asr.integer.types import I32
from zeroq_asr.integer.wellformed import check
from zeroq_asr.operators import OPS


@dataclass(frozen=True)
class Proof:
    """What the interval proof established."""

    max_frames: int
    instructions: int
    #: largest magnitude any int32 intermediate can reach, and where
    peak: int
    peak_at: str

    @property
    def headroom_bits(self) -> float:
        """How many bits lie between the peak and the end of int32."""
        return round(math.log2(I32.hi / max(self.peak, 1)), 2)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
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

    def instruction(self, i: Instruction, operands: list[Any]) -> Any:
        """Bound one instruction."""
        self.where, self.peak = f"{i.out} ({i.op})", 0
        result = OPS[i.op].define(self, *operands, **i.attrs)
        self.peaks[self.where] = self.peak
        return result


def prove(program: Program) -> Proof:
    """Prove that no intermediate leaves its type for any input of at most ``max_frames`` frames.

    Covers any batch of lengths from 1 to the frames there are, since no instruction mixes utterances.
    Raises ProofError, naming the instruction, the primitive and the bounds, when the proof fails, and
    for a program that is not well-formed.
    """
    check(program)
    prover = _Prover(program.max_frames)
    features = Interval.of(0, 0, I32)  # never read as an integer: quantize bounds its own result
    program.run(prover, features, length_interval(program.max_frames))
    where = max(prover.peaks, key=lambda name: prover.peaks[name], default="")
    return Proof(program.max_frames, len(program.code), prover.peaks.get(where, 0), where)
