"""Elementwise nonlinearities: sigmoid, tanh, Swish, GELU, SELU and ELU, a record each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zeroq_asr.capture.dispatch import Captures
from zeroq_asr.capture.tracer import Real, Tracer
from zeroq_asr.graph.float_graph import Clamp, FloatNode, clamped
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.integer.attributes import BYTE, INT32, REQUANTIZATION, SHIFT, all_whole, is_whole, whole
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.operators.activations.cases import polynomial_cases
from zeroq_asr.operators.activations.functions import FACTORS, FUNCTIONS
from zeroq_asr.operators.activations.polynomial import (
    SYMMETRIES,
    emit_carried,
    exact_if,
    polynomial_requant,
)
from zeroq_asr.operators.activations.qdq import emit_qdq
from zeroq_asr.operators.activations.table import TABLE, lower_function
from zeroq_asr.registry import (
    NAMED,
    NEVER,
    Attribute,
    Capture,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
)

Spelling = Callable[[Writer, FloatNode], None]


def _meaning(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def meaning(x: Tensor, *, clamp: Clamp = None) -> Tensor:
        return clamped(function(x), clamp)

    return meaning


def _captures(op: str) -> tuple[Capture, ...]:
    captures = Captures()

    @captures(op, Real)
    def _captured(t: Tracer, x: Real, *options: object) -> Any:
        # gelu's approximation, elu's constants: only the defaults have a table
        plain = all(o is None or o is False or o == "none" or (o == 1 and o is not True) for o in options)
        return t.emit(op, (x.name,), x.frames_first) if plain else NotImplemented

    return tuple(captures)


def _of(op: str) -> Spelling:
    def spell(w: Writer, node: FloatNode) -> None:
        operands, together = w.forms(node)
        w.done(node, w.add(op, operands), together)

    return spell


def _silu(w: Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    w.done(node, w.add("Mul", [x, w.add("Sigmoid", [x])]), together)


def _gelu(w: Writer, node: FloatNode) -> None:
    (x,), together = w.forms(node)
    erf = w.add("Erf", [w.add("Mul", [x, w.store(np.sqrt(0.5))])])
    half = w.add("Mul", [x, w.store(0.5)])
    w.done(node, w.add("Mul", [half, w.add("Add", [erf, w.store(1.0)])]), together)


#: name → what it computes in torch, and how it is written as float ONNX
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Spelling]] = {
    "sigmoid": (torch.sigmoid, _of("Sigmoid")),
    "tanh": (torch.tanh, _of("Tanh")),
    "silu": (F.silu, _silu),
    "gelu": (F.gelu, _gelu),
    "selu": (F.selu, _of("Selu")),
    "elu": (F.elu, _of("Elu")),
}

# -- records ---------------------------------------------------------------------------------------

_SYMMETRIES = sorted({*SYMMETRIES.values()})

POLYNOMIAL_REQUANT = IntegerOperator(
    "polynomial_requant",
    polynomial_requant,
    {
        **REQUANTIZATION,
        "zx": BYTE,
        "reach": whole(U8.lo, U8.hi, "a byte"),
        "symmetry": Attribute(f"one of {', '.join(_SYMMETRIES)}", lambda v: v in _SYMMETRIES),
        "coefficients": Attribute(
            "1 to 16 int32s",
            lambda v: isinstance(v, tuple) and len(v) <= 16 and all_whole(v, I32.lo, I32.hi),
        ),
        "shift": SHIFT,
        "slope": Attribute("0 ≤ slope < 2^31", lambda v: is_whole(v, 0, I32.hi)),
        "bias": INT32,
        "function": Attribute(
            f"one of {', '.join(FUNCTIONS)}", lambda v: isinstance(v, str) and v in FUNCTIONS
        ),
    },
    zero_points={"zx": 0},
    kernels={"fused": Kernel(emit_carried, exact_if, "polynomial in exact floats"), "qdq": Kernel(emit_qdq)},
    axis_free=True,
    tolerance={
        # the lowest degree that does, of 5 at most
        "polynomial_requant": 1.0,
        # the dip of silu and of gelu, seen alone, is a whole output of 255 steps
        "polynomial_requant, of negative inputs": 4.5,
    },
    cases=polynomial_cases,
)

for _name, (_function, _spelling) in ACTIVATIONS.items():
    _wide = NAMED if _name in FACTORS else NEVER
    register(
        Operator(
            _name,
            _meaning(_function),
            captures=_captures(_name),
            traits=Traits(
                framewise=True,
                takes_clamp=True,
                reads_wide=_wide,
                makes_wide=_wide,
                wide_by_operand=_name in FACTORS,
                light=True,
            ),
            spelling=_spelling,
            lower=lower_function,
            integers=(TABLE, POLYNOMIAL_REQUANT),
            function=FUNCTIONS[_name],
        )
    )
