"""How ONNX Runtime computes convolutions: kernels that give the definitions' integers, and those of Q/DQ."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import U8
from zeroq_asr.operators.convolution.carried import emit_carried, is_carried
from zeroq_asr.operators.convolution.requantization import requantizes_exactly
from zeroq_asr.operators.convolution.weights import as_bytes
from zeroq_asr.registry import Attrs, Condition

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend


def exact_if(i: Instruction, x: Interval, w: Interval, bias: Interval, m: Interval) -> list[Condition]:
    """Return when floats inside QLinearConv, or behind ConvInteger, equal the definition."""
    return [Condition("the input is unsigned bytes", x.type is U8, x.type.name), *requantizes_exactly(i, m)]


def layout_1d(i: Instruction) -> dict[str, list[int]]:
    """Return ONNX's strides, pads and dilations of a convolution over time."""
    a = i.attrs
    return {"strides": [a["stride"]], "pads": list(a["padding"]), "dilations": [a["dilation"]]}


def layout_2d(i: Instruction) -> dict[str, list[int]]:
    """Return ONNX's strides, pads and dilations of a convolution over time and frequency."""
    a = i.attrs
    return {
        "strides": list(a["strides"]),
        "pads": [*a["pads"], *a["pads"]],
        "dilations": list(a["dilations"]),
    }


def kernel_layout(i: Instruction, w: Sym, layout: dict[str, list[int]]) -> Attrs:
    """Return strides, pads and dilations with the groups and the extents of the weights."""
    return {**layout, "group": i.attrs["groups"], "kernel_shape": list(w.exact.shape[2:])}


def emit_kernel(b: Kernels, i: Instruction, ins: list[Sym], layout: dict[str, list[int]]) -> Sym:
    """QLinearConv of instruction ``i``; for 16 bits Conv or ConvInteger, and a float32 carries what it gives.

    ``layout``: strides, pads and dilations.
    """
    x, w, bias, m = ins
    a = i.attrs
    axes = w.exact.ndim - 2
    whole = kernel_layout(i, w, layout)
    if a["type"] != U8.name:
        if is_carried(w, bias, a["groups"]):
            b.called("Conv")
            acc = emit_carried(b, x, w, a["zx"], whole)
            acc = b.add_node("Add", [acc, b.to_float(b.per_channel(bias, axes))])
        else:
            made = b.conv_integer(b.channels_first(x), w, a["zx"], **whole)
            acc = b.to_float(b.add_node("Add", [made, b.per_channel(bias, axes)]))
        return b.quantized(b.add_node("Mul", [acc, b.scaled(m, a["c"], axes)]), i)
    padding = a["zx"] if any(layout["pads"]) else None
    weight, weight_zero_point = b.kernel_weight(x, w, a["groups"], padding)
    domain = ""
    if axes == 1:
        # as ONNX Runtime computes it in any case
        x, domain = b.frames_first(x), "com.microsoft"
        whole["channels_last"] = 1
    y = linear_convolution(b, i, x, (weight, weight_zero_point), bias, m, domain, whole)
    return replace(b.clip_u8(y, a["lo"], a["hi"]), frames_first=axes == 1)


def linear_convolution(
    b: Kernels,
    i: Instruction,
    x: Sym | str,
    weight: tuple[str, str],
    bias: Sym,
    m: Sym,
    domain: str,
    layout: Attrs,
) -> Sym:
    """QLinearConv with ``weight``, a tensor and its zero point, for bytes that are not yet clipped."""
    a = i.attrs
    operands: list[Sym | str] = [
        x,
        b.float_scalar(1.0),
        b.scalar(a["zx"], U8),
        weight[0],
        b.multiplier(m, a["c"]),
        weight[1],
        b.float_scalar(1.0),
        b.scalar(a["zy"], U8),
        b.vector(bias),
    ]
    return b.node("QLinearConv", operands, U8, domain, **layout)


def emit_product(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    """MatMulIntegerToFloat of a pointwise convolution to 16 bits, which a float32 carries."""
    x, w, bias, m = ins
    a = i.attrs
    b.called("MatMulIntegerToFloat")
    weight, weight_zero_point = b.matrix(x, w)
    real = b.node(
        "MatMulIntegerToFloat",
        [
            b.frames_first(x),
            weight,
            b.float_scalar(1.0),
            b.multiplier(m, a["c"]),
            b.scalar(a["zx"], U8),
            weight_zero_point,
            # both are constants, and ONNX Runtime multiplies them once
            b.node("Mul", [b.to_float(b.vector(bias)), b.multiplier(m, a["c"])], None),
        ],
        None,
        "com.microsoft",
    )
    return replace(b.quantized(real, i), frames_first=True)


def is_product(i: Instruction, w: Sym, bias: Sym, m: Sym) -> bool:
    """Whether a pointwise convolution may be one matrix product, scaled before its bias is added.

    In range |acc·m/2^c| ≤ |y − z_y| + |bias·m/2^c|, which then has no more bits than a float32.
    """
    a = i.attrs
    pointwise = w.exact.shape[2] == 1 and a["stride"] == 1 and a["groups"] == 1 and not any(a["padding"])
    reach = max(abs(a["lo"] - a["zy"]), abs(a["hi"] - a["zy"]))
    return bool(pointwise and (reach + np.abs(_real_bias(bias, m, a["c"])).max()) * 2.0 ** a["c"] <= 1 << 24)


def _real_bias(bias: Sym, m: Sym, c: int) -> np.ndarray:
    """bias·m / 2^c, float64 [C]."""
    product: np.ndarray = bias.exact.astype(np.float64) * m.exact.astype(np.float64)
    return product / 2.0**c


def emit_qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym], layout: dict[str, list[int]]) -> Sym:
    """Conv between dequantized operands; ``layout``: strides, pads and dilations.

    OpenVINO makes one of two convolutions that differ in their bias alone, and then adds the bias of its
    first channel to all.  Such products of attention's queries are told apart by a dilation, which a kernel
    of one tap does not see.
    """
    x, w, bias, m = ins
    if all(extent == 1 for extent in w.exact.shape[2:]):
        layout = {**layout, "dilations": [1 + b.products(x, w)] * (w.exact.ndim - 2)}
    source, target = b.info(i.ins[0]), b.info(i.out)
    unit = as_bytes(source).scale
    weight_scale = m.exact / 2.0 ** i.attrs["c"] * target.scale / unit
    operands = [
        b.real(x, i.ins[0]),
        b.dequantized_weight(w, weight_scale),
        b.dequantized_bias(bias, weight_scale * unit),
    ]
    y = b.node("Conv", operands, None, **kernel_layout(i, w, layout))
    return b.quantize_to(y, i.out, i.attrs["lo"], i.attrs["hi"])


def qdq_1d(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    """Conv over time between dequantized operands."""
    return emit_qdq(b, i, ins, layout_1d(i))


def qdq_2d(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    """Conv over time and frequency between dequantized operands."""
    return emit_qdq(b, i, ins, layout_2d(i))
