"""The integer types a program may hold, as closed ranges."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IntType:
    """A machine integer: every value lies in [lo, hi]."""

    name: str
    lo: int
    hi: int

    def holds(self, lo: int, hi: int) -> bool:
        """Say whether the closed range [lo, hi] lies inside this type."""
        return self.lo <= lo and hi <= self.hi


BOOL = IntType("bool", 0, 1)
U8 = IntType("uint8", 0, 255)
I8 = IntType("int8", -128, 127)
I16 = IntType("int16", -(2**15), 2**15 - 1)
I32 = IntType("int32", -(2**31), 2**31 - 1)
I64 = IntType("int64", -(2**63), 2**63 - 1)

#: where weights are stored as unsigned bytes they lie around this zero point
WEIGHT_ZERO_POINT = 128

TYPES = {t.name: t for t in (BOOL, U8, I8, I32, I64)}


def activation_range(bits: int) -> tuple[int, int]:
    """Range of an unsigned activation of ``bits`` bits: (0, 2^bits − 1)."""
    return 0, 2**bits - 1


def signed_range(bits: int) -> tuple[int, int]:
    """Range of a signed stream of ``bits`` bits: (−2^(bits−1), 2^(bits−1) − 1)."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def weight_limit(bits: int) -> int:
    """Largest magnitude of a symmetric weight of ``bits`` bits: 2^(bits−1) − 1."""
    return 2 ** (bits - 1) - 1
