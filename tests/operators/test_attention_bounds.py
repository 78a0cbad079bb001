"""How many frames and channels attention is proven for, and what it is refused for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend, length_interval
from zeroq_asr.integer.types import BOOL, U8
from zeroq_asr.operators.attention.attention import attention

BYTES = Interval.of(0, 255, U8)
FORM = {"zy": 0, "lo": 0, "hi": 255, "type": "uint8"}


def attended(frames: int = 1000, position: bool = True, **changes: Any) -> Any:
    """Bounds of an attention of one head to ``frames``."""
    f = IntervalBackend()
    attrs: dict[str, Any] = {"heads": 1, "size": 64, "up": 16, "mp": 9, "cap": 1023, "shift": 0, "m": 600}
    attrs |= {"c": 16, **dict.fromkeys(("zq", "zk", "zv", "zp", "zr"), 128), **FORM}
    table = f.constant("t", np.arange(255, -1, -1).repeat(4).astype(np.uint8))
    mask = Interval.of(0, 1, BOOL)
    operands = (BYTES, BYTES, BYTES, mask, length_interval(frames), table, table)
    distances = (BYTES, BYTES) if position else ()
    return attention(f, *operands, *distances, **{**attrs, **changes})


FITS: dict[str, Callable[[], Interval]] = {
    "attention": attended,
    "attention to many frames": lambda: attended(33_025),
}
OVERFLOWS: dict[str, tuple[Callable[[], Interval], str]] = {
    "attention with too large scores": (lambda: attended(up=1 << 12), "mul may reach"),
    "attention with too large scores of both kinds": (lambda: attended(up=1040, mp=1040), "add may reach"),
    "attention with scores too far apart": (lambda: attended(up=1 << 10), "below_peak may reach"),
    "attention over too many channels": (lambda: attended(size=40_000, up=1), "raw accumulator may reach"),
    "attention to too many frames": (lambda: attended(33_026), "raw accumulator may reach"),
    "attention beyond its table": (lambda: attended(cap=1024), "lookup in 1024 entries"),
    "attention with too large a multiplier": (lambda: attended(m=1 << 17), "mul may reach"),
}


@pytest.mark.parametrize("name", FITS)
def test_what_fits_is_proven(name: str) -> None:
    bounds = FITS[name]()
    assert (bounds.min, bounds.max) == (0, 255)


@pytest.mark.parametrize("name", OVERFLOWS)
def test_what_may_overflow_is_refused(name: str) -> None:
    make, message = OVERFLOWS[name]
    with pytest.raises(ProofError, match=message):
        make()
