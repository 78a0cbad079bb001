"""What integer convolutions share: how each ends, what must hold of its constants, when floats equal it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zeroq_asr.integer.attributes import COUNT, FLAG, REQUANTIZATION, pair
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.dyadic import accumulator_bounds, requantize
from zeroq_asr.integer.frames import growth_of, stepped
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.registry import Attribute, Condition, Constant

_TWO = pair(1, "two numbers of 1 or more")
#: attributes of a convolution over time, but for the zero point of its operand
ONE_AXIS: Mapping[str, Attribute] = {
    **REQUANTIZATION,
    "saturate": FLAG,
    "stride": COUNT,
    "padding": pair(0, "two counts"),
    "dilation": COUNT,
    "groups": COUNT,
}
#: and of one over time and frequency
TWO_AXES: Mapping[str, Attribute] = {
    **REQUANTIZATION,
    "saturate": FLAG,
    "strides": _TWO,
    "pads": pair(0, "two counts"),
    "dilations": _TWO,
    "groups": COUNT,
}


def constants(axes: int) -> dict[int, Constant]:
    """Return the constant operands of a convolution over ``axes`` axes: weights, biases and multipliers."""
    return {
        1: Constant("w", np.int8, 2 + axes),
        2: Constant("bias", np.int32, 1),
        3: Constant("m", np.int32, 1),
    }


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


def channels(view: Checked) -> int:
    """Return the channels of the result, and require the operand to have those that the weights take."""
    w = view.constant("w")
    takes = w.shape[1] * view.attrs["groups"]
    view.require(view.operands == [takes], f"takes {takes} channels, its operand has {view.operands}")
    return len(w)


def frames_of_one_axis(view: Checked) -> int:
    """Return the most frames of a convolution over time, 1 or more."""
    a = view.attrs
    growth = growth_of(sum(a["padding"]), a["dilation"], view.constant("w").shape[2])
    return max(stepped(view.operand_frames[0], growth, a["stride"]), 1)


def frames_of_two_axes(view: Checked) -> int:
    """Return the most frames of a convolution over time and frequency, 1 or more."""
    a = view.attrs
    growth = growth_of(2 * a["pads"][0], a["dilations"][0], view.constant("w").shape[2])
    return max(stepped(view.operand_frames[0], growth, a["strides"][0]), 1)


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
