"""The integer operators, one a file: definition, exact kernels, Q/DQ spelling and lowering together.

Importing this package imports every module in it, and each registers itself:

- ``@integer_op`` the definition over the primitives of ``backends.base``; every backend inherits it.
- ``@fused(op, exact_if=...)`` one ONNX Runtime kernel that gives the same integers under stated
  conditions, which the interval proof discharges; elsewhere the definition is spelled out.
- ``@qdq(op)`` the same instruction between QuantizeLinear and DequantizeLinear, for execution
  providers that fuse such pairs; not exact.
- ``@lowers("name")`` turns a float graph node of that name into instructions.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: attributes of an instruction: ints, strings, tuples of them, and floats, of
#: quantize_input and float_island alone
Attrs = dict[str, Any]


@dataclass(frozen=True)
class Condition:
    """A statement under which a kernel equals a definition, with what the proof found."""

    statement: str
    holds: bool
    found: str = ""


@dataclass
class Op:
    """An operator: its one definition and the optional special spellings."""

    name: str
    define: Callable[..., Any]
    fused: Callable[..., Any] | None = None
    exact_if: Callable[..., list[Condition]] | None = None
    #: what the fused spelling is called; "": its first kernel
    kernel: str = ""
    qdq: Callable[..., Any] | None = None


def moves(i: Any, *operands: Any) -> list[Condition]:
    """The condition of what only moves integers."""
    return [Condition("it moves integers and computes none", True)]


OPS: dict[str, Op] = {}
LOWERINGS: dict[str, Callable[..., Any]] = {}


def integer_op(define: Callable[..., Any]) -> Callable[..., Any]:
    """Register ``define(f, *operands, **attrs)`` as the operator of its own name."""
    OPS[define.__name__] = Op(define.__name__, define)
    return define


def fused(
    op: Callable[..., Any], *, exact_if: Callable[..., list[Condition]], kernel: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an exact ONNX kernel: ``emit(builder, instruction, operands)``.

    ``exact_if(instruction, operands)`` returns the conditions; all must hold.  ``kernel`` names several nodes
    at once.
    """

    def register(emit: Callable[..., Any]) -> Callable[..., Any]:
        OPS[op.__name__].fused = emit
        OPS[op.__name__].exact_if = exact_if
        OPS[op.__name__].kernel = kernel
        return emit

    return register


def qdq(op: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the float spelling: ``emit(builder, instruction, operands)``, operands dequantized."""

    def register(emit: Callable[..., Any]) -> Callable[..., Any]:
        OPS[op.__name__].qdq = emit
        return emit

    return register


def lowers(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the lowering of float graph operators: ``lower(context, node)``."""

    def register(lower: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            LOWERINGS[name] = lower
        return lower

    return register


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
