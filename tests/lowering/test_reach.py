"""Ranges in front of functions that are flat beyond them."""

from __future__ import annotations

import math

import pytest
from float_graphs import HIDDEN, MELS, Builder

from zeroq_asr.config import QuantSpec
from zeroq_asr.lowering.formats import within_reach
from zeroq_asr.lowering.lower import lower
from zeroq_asr.operators.activations.functions import FUNCTIONS


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("largest", [0.5, 3.0, 40.0])
def test_beyond_its_ends_a_function_is_what_it_tends_to(function: str, bits: int, largest: float) -> None:
    known, step = FUNCTIONS[function], largest / (2**bits - 1)
    real = known.of
    for end, sign, limit in zip(known.flat_beyond(step / 4), (-1, 1), known.limits, strict=True):
        if limit is None:
            assert end == sign * math.inf
            continue
        assert 2 <= sign * end <= 40
        for beyond in (0.0, 0.01, 0.3, 2.0, 50.0):
            assert abs(real(end + sign * beyond) - limit) <= step / 4
        # and not a 16th too far
        nearer = end - sign / 16
        assert abs(nearer) < 2 or abs(real(nearer) - limit) > step / 4


@pytest.mark.parametrize("function", ["silu", "gelu", "sigmoid"])
@pytest.mark.parametrize("peak", [3.0, 28.06, 298.55])
def test_what_a_function_flattens_needs_no_steps(function: str, peak: float) -> None:
    b = Builder()
    x = b.linear("audio_signal", MELS, HIDDEN)
    y = b.node(function, x)
    graph = b.graph(y)
    ranges = {"audio_signal": (-1.0, 1.0), x: (-9 * peak, peak), y: (-0.3, peak)}
    ranges |= {node.out: (-1.0, 1.0) for node in graph.nodes[2:]}
    found = within_reach(graph, ranges, 8)
    assert {name for name in ranges if found[name] != ranges[name]} == {x}
    low, high = found[x]
    assert -9 < low < 0 < high <= peak
    # the last entry of the table is that of the limit, wherever rounding put the ends
    program = lower(graph, ranges, QuantSpec(), channels=MELS, max_frames=100)
    (code,) = (i for i in program.code if i.op == "table")
    entries, info = program.constants[code.ins[1]], program.values[code.out]
    assert entries[0] == info.zero_point
    if function == "sigmoid" and peak > 10:
        assert entries[255] == 255
    whole = lower(graph, ranges, QuantSpec(flat_ends=False), channels=MELS, max_frames=100)
    assert whole.values[x].scale > 1.5 * program.values[x].scale


def test_what_others_read_or_has_16_bits_keeps_its_range() -> None:
    b = Builder()
    x = b.linear("audio_signal", MELS, HIDDEN)
    y = b.node("silu", x)
    ranges = {x: (-50.0, 5.0), y: (-0.3, 5.0)}
    alone = b.graph(y)
    assert within_reach(alone, ranges, 8)[x] != ranges[x]
    assert within_reach(alone, ranges, 8, wide={x}) == ranges
    b.node("add", x, y)
    assert within_reach(b.graph(y), ranges, 8) == ranges
