"""Each operator against the real function it stands for, in steps of its output.

An operator's record states the bound; ``measures`` says what is measured.
"""

from __future__ import annotations

import numpy as np
import pytest

from zeroq_asr.registry import INTEGER_OPERATORS

from .measures import MEASURES, MOVES, normalized, quietest

#: what is measured → largest distance to the real function, in output steps
TOLERANCE = {name: bound for record in INTEGER_OPERATORS.values() for name, bound in record.tolerance.items()}


def test_everything_that_is_stated_is_measured() -> None:
    assert set(TOLERANCE) == set(MEASURES)
    stated = [name for record in INTEGER_OPERATORS.values() for name in record.tolerance]
    assert len(stated) == len(set(stated))


@pytest.mark.parametrize("op", INTEGER_OPERATORS)
def test_every_operator_states_its_tolerance(op: str) -> None:
    tolerance = INTEGER_OPERATORS[op].tolerance
    assert op in tolerance
    assert {name.split(",")[0] for name in tolerance} == {op}


@pytest.mark.parametrize("op", TOLERANCE)
def test_tolerance(op: str) -> None:
    found = MEASURES[op]()
    # float64 real arithmetic itself is only good to so much
    assert found <= TOLERANCE[op] + 1e-9


@pytest.mark.parametrize(
    "op", [op for op in TOLERANCE if op not in (*MOVES, "add_requant, 16 bits of one scale")]
)
def test_rounding_really_happens(op: str) -> None:
    # a measure that saw no rounding would be comparing a thing with itself
    assert MEASURES[op]() > 0.4


@pytest.mark.parametrize("op", ["instance_norm"])
@pytest.mark.parametrize("source_bits", [8, 16])
def test_what_is_too_quiet_to_be_normalized_shrinks(op: str, source_bits: int) -> None:
    # the largest multiplier there is never gives more than the real function does
    for channels in (4, 16, 64):
        found, wanted, target, deviation = normalized(op, 8, source_bits, channels, 1e-9, shift=0.0)
        steps, given = np.abs(wanted) / target.scale, np.abs(found - float(target.zero_point))
        assert (given <= steps + TOLERANCE[f"{op}, of bytes"]).all()
        quiet = np.broadcast_to(deviation < quietest(op, channels) / 2, wanted.shape)
        assert (given < steps - 1)[quiet].any() or not quiet.any()
        assert quiet.any() or source_bits == 16
