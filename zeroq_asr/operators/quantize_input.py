"""The way in: float features to unsigned integers.  The only instruction that sees a float."""

from __future__ import annotations

from typing import Any

from zeroq_asr.integer.types import TYPES
from zeroq_asr.operators import integer_op, qdq


@integer_op
def quantize_input(f: Any, x: Any, *, scale: float, zero_point: int, lo: int, hi: int, type: str) -> Any:
    """Quantize features [B, M, T] float32: clamp(half_even(x / scale) + zero_point, lo, hi).

    Bytes, or, of a waveform [B, 1, N], int32 of 16 bits.
    """
    return f.quantize(x, TYPES[type], scale=scale, zero_point=zero_point, lo=lo, hi=hi)


@qdq(quantize_input)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    return b.quantize_to(ins[0], i.out)
