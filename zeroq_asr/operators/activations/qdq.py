"""The functions between dequantized and quantized values, for the dialect ``qdq``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zeroq_asr.integer.program import Instruction

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.onnx_graph import Sym
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend


def emit_function(b: OnnxQdqBackend, i: Instruction, x: str) -> str:
    """The function that ``i`` stands for, of a float."""
    function = i.attrs["function"]
    if function == "silu":
        return b.node("Mul", [x, b.node("Sigmoid", [x], None)], None)
    if function in ("gelu", "normal_cdf"):
        half = b.node("Mul", [x, b.float_scalar(0.5)], None) if function == "gelu" else b.float_scalar(0.5)
        erf = b.node("Erf", [b.node("Mul", [x, b.float_scalar(math.sqrt(0.5))], None)], None)
        return b.node("Mul", [half, b.node("Add", [erf, b.float_scalar(1.0)], None)], None)
    return b.node(function.capitalize(), [x], None)


def emit_qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    """The function of a dequantized operand, quantized to the range of the instruction."""
    y = emit_function(b, i, b.real(ins[0], i.ins[0]))
    return b.quantize_to(y, i.out, i.attrs["lo"], i.attrs["hi"])
