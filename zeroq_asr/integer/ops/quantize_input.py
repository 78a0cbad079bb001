"""The way in: float features to unsigned integers.  The only instruction that sees a float."""

from __future__ import annotations

from typing import Any

from zeroq_asr.integer.ops import integer_op, qdq


@integer_op
def quantize_input(f: Any, x: Any, *, scale: float, zero_point: int, lo: int, hi: int) -> Any:
    """Quantize features [B, M, T] float32 → uint8: clamp(half_even(x / scale) + zero_point, lo, hi)."""
    return f.quantize(x, scale=scale, zero_point=zero_point, lo=lo, hi=hi)


@qdq(quantize_input)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    return b.quantize_to(ins[0], i.out)
