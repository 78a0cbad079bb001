"""2-D convolution over time and frequency, and its requantization: see ``conv_requant``."""

from __future__ import annotations

from typing import Any

from zeroq_asr.integer.dyadic import accumulator_bounds, requantize
from zeroq_asr.operators import fused, integer_op, lowers, qdq
from zeroq_asr.operators.conv_requant import emit_convolution, emit_kernel, emit_qdq, exact_if


@integer_op
def conv2d_requant(
    f: Any,
    x: Any,
    w: Any,
    bias: Any,
    m: Any,
    *,
    zx: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
    saturate: bool,
    strides: tuple[int, int],
    pads: tuple[int, int],
    dilations: tuple[int, int],
    groups: int,
) -> Any:
    """y = clamp(half_even(acc · m / 2^c) + zy, lo, hi) with acc = conv(x − zx, w) + bias.

    x uint8 [B, I, T, F]; w [O, I/groups, K, L], |w| ≤ 127; bias int32 [O]; m int32 [O] ≥ 1.  Strides, pads of
    either side and dilations are of time and of frequency.
    """
    layout = {"stride": strides, "padding": pads, "dilation": dilations, "groups": groups}
    acc = f.add(f.conv2d(x, w, zero_point=zx, **layout), f.per_channel(bias, 2))
    if saturate:
        bounds = accumulator_bounds(f.array(m), c, zy, lo, hi)
        acc = f.clamp(acc, *(end[:, None] for end in bounds))
    return requantize(f, f.mul(acc, f.per_channel(m, 2)), c=c, zero_point=zy, lo=lo, hi=hi, type=type)


def layout_2d(i: Any) -> dict[str, list[int]]:
    """Return ONNX's strides, pads and dilations of a convolution over time and frequency."""
    a = i.attrs
    return {
        "strides": list(a["strides"]),
        "pads": [*a["pads"], *a["pads"]],
        "dilations": list(a["dilations"]),
    }


@fused(conv2d_requant, exact_if=exact_if)
def _qlinear_conv(b: Any, i: Any, ins: list[Any]) -> Any:
    return emit_kernel(b, i, ins, **layout_2d(i))


@qdq(conv2d_requant)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    return emit_qdq(b, i, ins, **layout_2d(i))


@lowers("conv2d")
def _lower(ctx: Any, node: Any) -> None:
    a = node.attrs
    layout = {name: tuple(a[name]) for name in ("stride", "padding", "dilation")}
    emit_convolution(
        ctx,
        "conv2d_requant",
        node,
        strides=layout["stride"],
        pads=layout["padding"],
        dilations=layout["dilation"],
        groups=a["groups"],
    )
