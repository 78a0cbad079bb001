"""What integer convolutions share: how each ends, what must hold of its constants, when floats equal it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zeroq_asr.integer.attributes import FLAG, LAYOUT, REQUANTIZATION, STEP, pair
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.dyadic import accumulator_bounds, requantize
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.registry import NEAR, OWN, Attribute, Condition, Constant

_TWO = pair(1, LAYOUT, f"two numbers of 1 or more, at most {LAYOUT}")
_PADS = pair(0, LAYOUT, f"two counts, at most {LAYOUT}")
#: attributes of a convolution over time, but for the zero point of its operand
ONE_AXIS: Mapping[str, Attribute] = {
    **REQUANTIZATION,
    "saturate": FLAG,
    "stride": STEP,
    "padding": _PADS,
    "dilation": STEP,
    "groups": STEP,
}
#: and of one over time and frequency
TWO_AXES: Mapping[str, Attribute] = {
    **REQUANTIZATION,
    "saturate": FLAG,
    "strides": _TWO,
    "pads": _PADS,
    "dilations": _TWO,
    "groups": STEP,
}


def constants(axes: int) -> dict[int, Constant]:
    """Return the constant operands of a convolution over ``axes`` axes: weights, biases and multipliers."""
    return {
        1: Constant("w", np.int8, 2 + axes),
        2: Constant("bias", np.int32, 1),
        3: Constant("m", np.int32, 1),
    }


def frames_read(i: Instruction) -> str:
    """Return NEAR of a convolution that is padded at the end of time, and OWN of others.

    Its last valid frame reads as far as the padding goes: without any, not beyond the last valid frame of its
    operand, whatever the taps and the stride.
    """
    attrs = i.attrs
    behind = attrs["padding"][1] if "padding" in attrs else attrs["pads"][0]
    return NEAR if behind else OWN


def requantized(
    f: Backend[V],
    acc: V,
    bias: V,
    m: V,
    axes: int,
    *,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
    saturate: bool,
) -> V:
    """Return clamp(half_even((acc + bias) · m / 2^c) + zy, lo, hi) of an accumulator over ``axes`` axes."""
    acc = f.add(acc, f.per_channel(bias, axes))
    if saturate:
        lower, upper = accumulator_bounds(f.array(m), c, zy, lo, hi)
        acc = f.clamp(acc, lower, upper) if axes == 1 else f.clamp(acc, lower[:, None], upper[:, None])
    return requantize(f, f.mul(acc, f.per_channel(m, axes)), c=c, zero_point=zy, lo=lo, hi=hi, type=type)


# -- invariants ------------------------------------------------------------------------------------


def check(view: Checked) -> None:
    """Require weights, biases and multipliers that the derivation speaks of."""
    w, m = view.constant("w"), view.constant("m")
    view.require(int(w.min()) >= -127, "weights are symmetric: |w| ≤ 127")
    view.require(len(w) % view.attrs["groups"] == 0, "its groups divide its channels")
    view.require(int(m.min()) >= 1, "every multiplier must be 1 or more")
    view.require_rows(len(w), "bias", "m")
    takes = w.shape[1] * view.attrs["groups"]
    view.require(view.operands == [takes], f"takes {takes} channels, its operand has {view.operands}")


# -- exactness -------------------------------------------------------------------------------------


def requantizes_exactly(i: Instruction, m: Interval) -> list[Condition]:
    """Return when a float32 product of an accumulator and m / 2^c rounds to what the integers do."""
    a = i.attrs
    reach = max(abs(a["lo"] - a["zy"]), abs(a["hi"] - a["zy"]))
    return [
        Condition(
            "acc·m/2^c has at most 24 significant bits below saturation: (y − z_y)·2^c ≤ 2^24",
            reach << a["c"] <= 1 << 24,
            f"{reach} << {a['c']}",
        ),
        Condition(
            "multipliers are exact in float32: 1 ≤ m < 2^24",
            m.min >= 1 and m.max < 1 << 24,
            f"{m.min} ≤ m ≤ {m.max}",
        ),
    ]
