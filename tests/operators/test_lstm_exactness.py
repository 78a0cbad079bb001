"""When the fused LSTM's floats equal its integers."""

from __future__ import annotations

import numpy as np
import pytest

from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.operators.lstm.kernel import _exact_if


@pytest.mark.parametrize(
    ("entries", "c", "exact"), [(1 << 16, 8, True), (1 << 23, 0, True), (12 << 20, 0, False)]
)
def test_the_half_that_rounds_has_a_bit(entries: int, c: int, exact: bool) -> None:
    # floats between 2^23 and 2^24 are whole, so that a half added to one is rounded away
    x, m = Interval.of(0, 255, U8), Interval.of(1, 9, I32)
    table = Interval(np.zeros(entries, np.int64), np.zeros(entries, np.int64), I32)
    conditions = _exact_if(Instruction("lstm_step", (), "y", attrs={"c": c}), x, m, table)
    assert all(condition.holds for condition in conditions) == exact
