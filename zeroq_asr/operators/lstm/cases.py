"""Parity cases of the LSTM: extremes of weights, of states and of what saturates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zeroq_asr.operators.cases import Arrays, Case, edge_bytes, edge_words
from zeroq_asr.operators.lstm.lowered import sigmoid_table, tanh_table
from zeroq_asr.registry import Attrs

#: what the fused dialect calls it
KERNEL = "LSTM by matrix products"


def constants(inputs: int, units: int, places: int, scale: float, seed: int, largest: int, m: int) -> Arrays:
    """Random weights up to ``largest``, multipliers up to ``m``, and the tables of such a cell."""
    generator = np.random.default_rng(seed)
    rows = 4 * units
    return {
        "wx": generator.integers(-largest, largest + 1, (rows, inputs, 1)).astype(np.int8),
        "wh": generator.integers(-largest, largest + 1, (rows, units, 1)).astype(np.int8),
        "bias": generator.integers(-(1 << 12), 1 << 12, rows).astype(np.int32),
        "m": generator.integers(1, m + 1, rows).astype(np.int32),
        "sigmoid": sigmoid_table(),
        "tanh": tanh_table(places, scale)[0],
    }


def _attrs(places: int, scale: float, given: Attrs) -> Attrs:
    attrs: Attrs = {"zx": 128, "c": 8, "places": places, "cell": 32767, "cut": tanh_table(places, scale)[1]}
    return {**attrs, "zy": 128, "lo": 0, "hi": 255, "type": "uint8", **given}


#: name → inputs, units, places of the cell, steps of h a unit, largest weight and multiplier, attributes
_SHAPES: dict[str, tuple[int, int, int, int, int, int, Attrs]] = {
    "plain": (5, 8, 11, 127, 127, 40, {}),
    "one-unit": (1, 1, 8, 127, 127, 40, {"zx": 3}),
    "wide-cell": (6, 4, 0, 127, 127, 90, {}),
    "narrow-cell": (4, 6, 13, 127, 127, 20, {"zx": 255}),
    "no-shift": (3, 4, 9, 127, 40, 1, {"c": 0}),
    "small-bound": (4, 5, 12, 127, 127, 40, {"cell": 9000}),
    "4-bits": (4, 5, 10, 7, 7, 40, {"zy": 7, "hi": 15}),
    "zero-point": (4, 4, 10, 127, 127, 40, {"zy": 120, "lo": 2, "hi": 250}),
    "saturating-gates": (9, 4, 9, 127, 127, 6000, {}),
    "more-than-24-bits": (4, 4, 9, 127, 127, 40, {"c": 9}),
}


def step_cases() -> Iterator[Case]:
    """One step from states of every kind."""
    for seed, (name, (inputs, units, places, steps, largest, m, given)) in enumerate(_SHAPES.items()):
        scale = 1.0 / (steps + 0.5)
        attrs, known = _attrs(places, scale, given), constants(inputs, units, places, scale, seed, largest, m)
        bound, lo, hi = attrs["cell"], attrs["lo"], attrs["hi"]
        sets = [
            {
                "x": edge_bytes((batch, inputs, 1), batch, attrs["zx"]),
                "h": np.maximum(edge_bytes((batch, units, 1), batch + 9, attrs["zy"], hi), lo).astype(
                    np.uint8
                ),
                "c": edge_words((batch, units, 1), batch, -bound, bound),
            }
            for batch in (1, 3, 16)
        ]
        order = ("x", "h", "c", "wx", "wh", "bias", "m", "sigmoid", "tanh")
        spelled = "primitives" if name == "more-than-24-bits" else KERNEL
        bounds = {"c": (-bound, bound), "h": (lo, hi)}
        yield Case("lstm_step", name, attrs, order, sets, known, spelled, bounds)


def sequence_cases() -> Iterator[Case]:
    """Sequences of one frame and of many, in both directions."""
    for seed, (name, (inputs, units, places, steps, largest, m, given)) in enumerate(_SHAPES.items()):
        scale = 1.0 / (steps + 0.5)
        attrs, known = _attrs(places, scale, given), constants(inputs, units, places, scale, seed, largest, m)
        sets = [
            {"x": edge_bytes((batch, inputs, frames), frames, attrs["zx"])}
            for batch, frames in ((1, 1), (3, 17), (2, 40))
        ]
        order = ("x", "wx", "wh", "bias", "m", "sigmoid", "tanh")
        spelled = "primitives" if name == "more-than-24-bits" else KERNEL
        attrs["backwards"] = seed % 2 == 1
        yield Case("lstm", name, attrs, order, sets, known, spelled)
