"""Attention in float between dequantized and quantized values, for the dialect ``qdq``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zeroq_asr.integer.program import Instruction
from zeroq_asr.operators.attention.scores import MASKED, unit_of

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.onnx_graph import Sym
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend


def emit_qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    """MatMul, Softmax and MatMul of dequantized operands, quantized to the range of the instruction.

    The scale of the scores is read off the table of numerators; that of the distances was chosen such that
    both kinds of score have it.
    """
    query, key, value, mask, lengths, high, low, *position = ins
    a = i.attrs
    unit = unit_of(high.exact, low.exact, a["shift"], a["cap"])
    scale = b.float_scalar(unit * a["up"] / (b.info(i.ins[0]).scale * b.info(i.ins[1]).scale))

    def heads(v: Sym, name: str, *, rows: bool) -> Sym:
        """[B, H·E, T] as float [B, H, T, E], or [B, H, E, T]."""
        split = b.node("Reshape", [b.real(v, name), b.axes(0, a["heads"], a["size"], -1)])
        return replace(
            v, name=b.node("Transpose", [split], perm=[0, 1, 3, 2]) if rows else split, carried=True
        )

    keys, values = heads(key, i.ins[1], rows=False), heads(value, i.ins[2], rows=True)
    valid = b.rearrange(mask, "b 1 t -> b 1 1 t")

    def block(queries: Sym, positions: Sym | None, distances: Sym | None) -> Sym:
        scores = b.node("MatMul", [queries, keys])
        if positions is not None and distances is not None:
            by_distance = b.node("MatMul", [positions, distances])
            shifted = b.relative_shift(replace(positions, name=by_distance))
            scores = b.node("Add", [scores, shifted])
        scaled = b.node("Mul", [scores, scale])
        kept = b.node("Where", [valid, scaled, b.float_scalar(MASKED)])
        weights = b.node("Softmax", [kept], axis=-1)
        return b.quantize_to(b.node("MatMul", [weights, values]), i.out, a["lo"], a["hi"])

    positions = distances = None
    if position:
        positions = heads(position[0], i.ins[7], rows=True)
        distances = heads(position[1], i.ins[8], rows=False)
    queries = heads(query, i.ins[0], rows=True)
    y = b.row_blocks(block, queries, positions, distances, heads=a["heads"], frames=lengths)
    turned = b.node("Transpose", [y], perm=[0, 1, 3, 2])
    return replace(y, name=b.node("Reshape", [turned, b.axes(0, a["heads"] * a["size"], -1)]))
