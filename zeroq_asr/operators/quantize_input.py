"""The way in, from float features to integers:

the only operator of integer-only programs that sees a float.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from zeroq_asr.integer.attributes import BYTE, INT32, SCALE, TYPE
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import TYPES
from zeroq_asr.operators.cases import Case
from zeroq_asr.registry import (
    OWN,
    IntegerOperator,
    Kernel,
    Operator,
    Traits,
    register,
)

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.onnx_graph import Sym
    from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend


def quantize_input(f: Backend[V], x: V, *, scale: float, zero_point: int, lo: int, hi: int, type: str) -> V:
    """Quantize features [B, M, T] float32: clamp(half_even(x / scale) + zero_point, lo, hi).

    Bytes, or, of a waveform [B, 1, N], int32 of 16 bits.
    """
    return f.quantize(x, TYPES[type], scale=scale, zero_point=zero_point, lo=lo, hi=hi)


def _qdq(b: OnnxQdqBackend, i: Instruction, ins: list[Sym]) -> Sym:
    return b.quantize_to(ins[0], i.out)


def _cases() -> Iterator[Case]:
    halves = np.arange(-600, 600, dtype=np.float32) / 2
    for name, scale, zero, hi in (
        ("halves", 1.0, 128, 255),
        ("power-of-two", 0.125, 10, 255),
        ("real-scale", float(np.float32(0.0173)), 117, 255),
        ("large-scale", float(np.float32(3.3e4)), 255, 255),
        ("tiny-scale", float(np.float32(1e-20)), 0, 255),
        ("4-bits", 0.5, 7, 15),
        ("2-bits", 0.5, 0, 3),
    ):
        ties = halves * np.float32(scale)
        random = np.random.default_rng(0).standard_normal((2, 3, 50)).astype(np.float32) * np.float32(
            scale * 90
        )
        around = np.concatenate([np.nextafter(ties, np.float32(-3e38)), np.nextafter(ties, np.float32(3e38))])
        huge = np.array([0.0, -0.0, 1e30, -1e30, 3e38, -3e38, 1e-40, -1e-40, 2.0**31, -(2.0**31)], np.float32)
        inputs = [{"x": v.reshape(1, 2, -1)} for v in (ties, around, huge)] + [{"x": random}]
        attrs = {"scale": scale, "zero_point": zero, "lo": 0, "hi": hi, "type": "uint8"}
        yield Case("quantize_input", name, attrs, ("x",), inputs)
        wide = {"scale": scale, "zero_point": 0, "lo": -30000, "hi": 32767, "type": "int32"}
        yield Case("quantize_input", f"{name}-16-bits", wide, ("x",), inputs)


QUANTIZE_INPUT = register(
    Operator(
        "quantize_input",
        traits=Traits(enters=True),
        integers=(
            IntegerOperator(
                "quantize_input",
                quantize_input,
                {"scale": SCALE, "zero_point": BYTE, "lo": INT32, "hi": INT32, "type": TYPE},
                frames=OWN,
                kernels={"qdq": Kernel(_qdq)},
                tolerance={"quantize_input": 0.5},
                cases=_cases,
            ),
        ),
    )
)
