"""How many channels and frames normalizations are proven for, and what they are refused for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend, length_interval
from zeroq_asr.integer.types import BOOL, I32, U8
from zeroq_asr.operators.instance_norm.instance_norm import instance_norm
from zeroq_asr.operators.layer_norm.layer_norm import layer_norm

WORDS = Interval.of(-(2**15), 2**15 - 1, I32)
BYTES = Interval.of(0, 255, U8)
FORM = {"zy": 0, "lo": 0, "hi": 255, "type": "uint8"}


def norm(channels: int, source: Interval = WORDS, m: int = 512, **changes: Any) -> Any:
    """Bounds of a layer norm over ``channels``."""
    f = IntervalBackend()
    vectors = [f.constant(name, np.full(channels, value, np.int32)) for name, value in (("m", m), ("b", 0))]
    attrs = {"channels": channels, "epsilon": 0, "c": 8, **FORM, **changes}
    return layer_norm(f, source, *vectors, **attrs)


def instance(frames: int, m: int = 8192, **changes: Any) -> Any:
    """Bounds of an instance norm over ``frames``."""
    f = IntervalBackend(frames)
    vectors = [f.constant(name, np.full(2, value, np.int32)) for name, value in (("m", m), ("b", 0))]
    attrs = {"zx": 0, "channels": 2, "epsilon": 0, "c": 8, **FORM, **changes}
    mask = Interval.of(0, 1, BOOL)
    return instance_norm(f, WORDS, mask, length_interval(frames), *vectors, **attrs)


FITS: dict[str, Callable[[], Interval]] = {
    "norm": lambda: norm(1024),
    "norm of bytes": lambda: norm(4096, BYTES),
    "norm of the largest epsilon": lambda: norm(64, epsilon=2**39 - 1),
    "instance norm": lambda: instance(100_000),
    "instance norm of the largest epsilon": lambda: instance(1000, epsilon=2**39 - 1),
}
OVERFLOWS: dict[str, tuple[Callable[[], Interval], str]] = {
    "norm of too many channels": (lambda: norm(70_000), "sum over 70000 channels may reach"),
    "norm with too large multipliers": (lambda: norm(64, m=1 << 17), "mul may reach"),
    "norm with too large an epsilon": (lambda: norm(64, epsilon=2**46), "isqrt needs"),
    "norm that shifts too far": (lambda: norm(64, c=30, zy=0, type="int32"), "add may reach|shift may reach"),
    "instance norm of endless utterances": (lambda: instance(2**31), "lengths as int32 may reach"),
    "instance norm with too large multipliers": (lambda: instance(9, m=1 << 16), "mul may reach"),
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
