"""An elementwise function of an 8-bit activation: a 256-entry table, exact to half a unit.

Of 16 bits, silu(x) = x·σ(x) and gelu(x) = x·Φ(x): x itself times a table of its bytes, whose range ends where
the factor rounds to 0 or 1.

With ``QuantSpec.nonlinearity`` "polynomial" a ``polynomial_requant`` stands for each table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.program import Instruction, ValueInfo
from zeroq_asr.integer.types import U8
from zeroq_asr.integer.wellformed import Checked
from zeroq_asr.lowering.context import Lowering
from zeroq_asr.operators.activations.cases import table_cases
from zeroq_asr.operators.activations.functions import FACTORS, FUNCTIONS
from zeroq_asr.operators.activations.polynomial_fit import fitted
from zeroq_asr.operators.activations.qdq import emit_function
from zeroq_asr.operators.multiply.wide import lower_product
from zeroq_asr.registry import Attribute, Constant, IntegerOperator, Kernel

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.onnx_graph import Sym
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend


def table(f: Backend[V], x: V, entries: V, *, function: str) -> V:
    """y = entries[x]; x uint8 of any shape, entries uint8 [256].  ``function`` says what it stands for."""
    return f.lookup(x, entries)


def _qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    entries = ins[1].exact
    y = emit_function(b, i, b.real(ins[0], i.ins[0]))
    return b.quantize_to(y, i.out, int(entries.min()), int(entries.max()))


def _check(view: Checked) -> None:
    view.require(view.constant("entries").shape == (256,), "a table has 256 entries")


def lower_function(ctx: Lowering, node: FloatNode) -> None:
    """Lower a function of bytes to a table or a polynomial, and x times a factor of 16 bits to a product."""
    if ctx.info(node.ins[0]).type != U8.name:
        _lower_wide(ctx, node)
        return
    target = ctx.activation(node, FUNCTIONS[node.op].range)
    if target.type != U8.name:
        raise UnsupportedOperatorError(
            node.where or node.out,
            f"{node.op} makes bytes and cannot make the logits",
            "end the network in a convolution or a linear layer",
        )
    _emit(ctx, node, node.ins[0], node.op, target, ctx.clamp(target, node.attrs.get("clamp")))


def _lower_wide(ctx: Lowering, node: FloatNode) -> None:
    """x times its factor; the factor's bytes reach from 0 to 1 exactly."""
    function, reach = FACTORS[node.op]
    bytes_ = ctx.narrow(node.ins[0], (-reach, reach))
    factor = replace(node, out=f"{node.out}:factor")
    target = replace(ctx.info(bytes_), scale=1 / 255, zero_point=0, lo=0, hi=255)
    ctx.alias(factor, target)
    _emit(ctx, factor, bytes_, function, target, (0, 255))
    lower_product(ctx, node, node.ins[0], factor.out)


def _emit(
    ctx: Lowering, node: FloatNode, name: str, function: str, target: ValueInfo, clamp: tuple[int, int]
) -> None:
    """Emit ``node``, of format ``target``, as ``function`` of the bytes ``name``."""
    real, source = FUNCTIONS[function].of, ctx.info(name)
    if ctx.spec.nonlinearity == "polynomial":
        ctx.emit("polynomial_requant", node, (name,), **fitted(source, target, function, real, clamp))
        return
    reals = [real(source.scale * (q - source.zero_point)) / target.scale for q in range(256)]
    entries = np.clip(np.rint(reals) + target.zero_point, *clamp).astype(np.uint8)
    ctx.emit("table", node, (name, ctx.constant(f"{node.out}:table", entries)), function=function)


TABLE = IntegerOperator(
    "table",
    table,
    {
        "function": Attribute(
            f"one of {', '.join(FUNCTIONS)}", lambda v: isinstance(v, str) and v in FUNCTIONS
        )
    },
    constants={1: Constant("entries", np.uint8, 1)},
    check=_check,
    kernels={"qdq": Kernel(_qdq)},
    axis_free=True,
    tolerance={"table": 0.5},
    cases=table_cases,
)
