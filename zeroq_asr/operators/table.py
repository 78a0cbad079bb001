"""An elementwise function of an 8-bit activation: a 256-entry table, exact to half a unit.

Of 16 bits, silu(x) = x·σ(x) and gelu(x) = x·Φ(x): x itself times a table of its bytes, whose range ends where
the factor rounds to 0 or 1.

With ``QuantSpec.nonlinearity`` "polynomial" a ``polynomial_requant`` stands for each table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.integer.types import U8
from zeroq_asr.operators import integer_op, lowers, qdq
from zeroq_asr.operators.mul_wide_requant import lower_product
from zeroq_asr.operators.polynomial_requant import fitted, polynomial_requant

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _normal_cdf(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


#: The functions, on Python floats (float64).
FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sigmoid": _sigmoid,
    "tanh": math.tanh,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * _normal_cdf(x),
    "normal_cdf": _normal_cdf,
    "selu": lambda x: _SELU_SCALE * (x if x > 0 else _SELU_ALPHA * math.expm1(x)),
    "elu": lambda x: x if x > 0 else math.expm1(x),
}

#: function → what x is multiplied by, and from where on that rounds to 0 or 1 in 255 steps
FACTORS = {"silu": ("sigmoid", 6.3), "gelu": ("normal_cdf", 2.9)}

#: function → what it tends to far below and far above 0; None: it goes on
LIMITS: dict[str, tuple[float | None, float | None]] = {
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "silu": (0.0, None),
    "gelu": (0.0, None),
    "selu": (-_SELU_SCALE * _SELU_ALPHA, None),
    "elu": (-1.0, None),
}

#: Functions whose range is known, with no need to calibrate.
RANGES = {"sigmoid": (0.0, 255 / 256), "tanh": (-1.0, 1.0)}


def flat_beyond(function: str, tolerance: float) -> tuple[float, float]:
    """The ends, to a 16th, beyond which ``function`` is within ``tolerance`` of what it tends to, if to any.

    Each function approaches its limits from its last turn on, and none turns beyond 2.
    """

    def reach(sign: int, limit: float | None) -> float:
        if limit is None:
            return math.inf
        steps = range(2 * 16, 40 * 16)
        near = (n for n in steps if abs(FUNCTIONS[function](sign * n / 16) - limit) <= tolerance)
        return next(near, steps.stop) / 16

    low, high = LIMITS[function]
    return -reach(-1, low), reach(1, high)


@integer_op
def table(f: Any, x: Any, entries: Any, *, function: str) -> Any:
    """y = entries[x]; x uint8 of any shape, entries uint8 [256].  ``function`` says what it stands for."""
    return f.lookup(x, entries)


def _real(b: Any, i: Any, x: str) -> Any:
    """The function that ``i`` stands for, of a float."""
    function = i.attrs["function"]
    if function == "silu":
        return b.node("Mul", [x, b.node("Sigmoid", [x], None)], None)
    if function in ("gelu", "normal_cdf"):
        half = b.node("Mul", [x, b.float_scalar(0.5)], None) if function == "gelu" else b.float_scalar(0.5)
        erf = b.node("Erf", [b.node("Mul", [x, b.float_scalar(math.sqrt(0.5))], None)], None)
        return b.node("Mul", [half, b.node("Add", [erf, b.float_scalar(1.0)], None)], None)
    return b.node(function.capitalize(), [x], None)


@qdq(table)
def _qdq(b: Any, i: Any, ins: list[Any]) -> Any:
    entries = ins[1].exact
    y = _real(b, i, b.real(ins[0], i.ins[0]))
    return b.quantize_to(y, i.out, int(entries.min()), int(entries.max()))


@qdq(polynomial_requant)
def _qdq_polynomial(b: Any, i: Any, ins: list[Any]) -> Any:
    y = _real(b, i, b.real(ins[0], i.ins[0]))
    return b.quantize_to(y, i.out, i.attrs["lo"], i.attrs["hi"])


@lowers("sigmoid", "tanh", "silu", "gelu", "selu", "elu")
def _lower(ctx: Any, node: Any) -> None:
    if ctx.info(node.ins[0]).type != U8.name:
        _lower_wide(ctx, node)
        return
    target = ctx.activation(node, RANGES.get(node.op))
    if target.type != U8.name:
        raise UnsupportedOperatorError(
            node.where or node.out,
            f"{node.op} makes bytes and cannot make the logits",
            "end the network in a convolution or a linear layer",
        )
    _emit(ctx, node, node.ins[0], node.op, target, ctx.clamp(target, node.attrs.get("clamp")))


def _lower_wide(ctx: Any, node: Any) -> None:
    """x times its factor; the factor's bytes reach from 0 to 1 exactly."""
    function, reach = FACTORS[node.op]
    bytes_ = ctx.narrow(node.ins[0], (-reach, reach))
    factor = replace(node, out=f"{node.out}:factor")
    target = replace(ctx.info(bytes_), scale=1 / 255, zero_point=0, lo=0, hi=255)
    ctx.alias(factor, target)
    _emit(ctx, factor, bytes_, function, target, (0, 255))
    lower_product(ctx, node, node.ins[0], factor.out)


def _emit(ctx: Any, node: Any, name: str, function: str, target: Any, clamp: tuple[int, int]) -> None:
    """Emit ``node``, of format ``target``, as ``function`` of the bytes ``name``."""
    real, source = FUNCTIONS[function], ctx.info(name)
    if ctx.spec.nonlinearity == "polynomial":
        ctx.emit("polynomial_requant", node, (name,), **fitted(source, target, function, real, clamp))
        return
    reals = [real(source.scale * (q - source.zero_point)) / target.scale for q in range(256)]
    entries = np.clip(np.rint(reals) + target.zero_point, *clamp).astype(np.uint8)
    ctx.emit("table", node, (name, ctx.constant(f"{node.out}:table", entries)), function=function)
