"""The ``qdq`` spelling: float operators between QuantizeLinear and DequantizeLinear.

For execution providers that fuse such pairs (TensorRT, OpenVINO, QNN).  Scales are the program's
own, but each provider rounds in its own way: this spelling is *not* exact, and cannot be verified.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.base import interpreted
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.backends.onnx_graph import Sym
from zeroq_asr.integer.backends.onnx_nodes import Setting
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.program import Instruction, Program, ValueInfo
from zeroq_asr.integer.types import TYPES, U8
from zeroq_asr.registry import INTEGER_OPERATORS


class OnnxQdqBackend(OnnxStrictBackend):
    """Spells each instruction by its ``qdq`` kernel; values between instructions stay integers."""

    dialect = "qdq"

    def __init__(self, program: Program, target: str = "x86-any") -> None:
        super().__init__(target)
        self.program = program

    def instruction(self, i: Instruction, operands: list[Sym]) -> tuple[Sym, ...]:
        """Emit the float spelling; the definition still bounds the results."""
        kernel = INTEGER_OPERATORS[i.op].kernels.get(self.dialect)
        if kernel is None:
            raise ExportError(i.out, f"operator {i.op} has no qdq spelling", "export fused or strict")
        self.enter(i)
        intervals = interpreted(self.proof, i, [o.interval for o in operands])
        made = kernel.emit(self, i, operands)
        results = made if isinstance(made, tuple) else (made,)
        bounded = (Sym(v.name, interval) for v, interval in zip(results, intervals, strict=True))
        return self.finish(i, tuple(bounded), self.dialect)

    def define(self, i: Instruction, operands: list[Sym]) -> tuple[Sym, ...]:
        """Spell an instruction that holds nothing which a provider would fuse by its definition."""
        return interpreted(self, i, operands)

    def info(self, name: str) -> ValueInfo:
        """What the integers of ``name`` mean."""
        return self.program.values[name]

    def node(
        self, op: str, inputs: Sequence[Sym | str], kind: None = None, domain: str = "", **attrs: Setting
    ) -> str:
        """Append a float node."""
        return self.add_node(op, inputs, domain, **attrs)

    def float_scalar(self, value: float) -> str:
        """A shared float32 scalar."""
        value = float(np.float32(value))
        return self.store(f"const/float/{value!r}", np.array(value, dtype=np.float32))

    def real(self, v: Sym, name: str) -> str:
        """DequantizeLinear by the value's own scale."""
        info = self.info(name)
        if TYPES[info.type] is U8:
            zero = self.scalar(info.zero_point, U8)
            return self.add_node("DequantizeLinear", [v, self.float_scalar(info.scale), zero])
        real = self.add_node("Cast", [v], to=TensorProto.FLOAT)
        return self.add_node("Mul", [real, self.float_scalar(info.scale)])

    def dequantized_weight(self, w: Sym, scale: np.ndarray) -> str:
        """Int8 weights and their scale per output channel."""
        stored = self.encode(w, "i8", w.exact.astype(np.int8))
        scales = self.store(f"{w.constant}/scale", scale.astype(np.float32))
        return self.add_node("DequantizeLinear", [stored, scales], axis=0)

    def dequantized_bias(self, bias: Sym, scale: np.ndarray) -> str:
        """Int32 biases and their scale per output channel."""
        stored = self.encode(bias, "i32", bias.exact.astype(np.int32))
        scales = self.store(f"{bias.constant}/scale", scale.astype(np.float32))
        return self.add_node("DequantizeLinear", [stored, scales], axis=0)

    def real_vector(self, name: str, array: np.ndarray) -> str:
        """A float32 vector."""
        return self.store(name, array.astype(np.float32))

    def quantize_to(self, real: Sym | str, name: str, lo: int | None = None, hi: int | None = None) -> Sym:
        """QuantizeLinear by the value's own scale, saturating at ``lo`` and ``hi`` or its range."""
        info = self.info(name)
        low, high = info.lo if lo is None else lo, info.hi if hi is None else hi
        scale = self.float_scalar(info.scale)
        if TYPES[info.type] is U8:
            byte = self.add_node("QuantizeLinear", [real, scale, self.scalar(info.zero_point, U8)])
            return self.clip_u8(Sym(byte, Interval.of(0, 255, U8)), low, high)
        rounded = self.add_node("Round", [self.add_node("Div", [real, scale])])
        clipped = self.add_node("Clip", [rounded, self.float_scalar(low), self.float_scalar(high)])
        integer = self.add_node("Cast", [clipped], to=TensorProto.INT32)
        return Sym(integer, Interval.of(low, high, TYPES[info.type]))

    def float_per_batch(self, lengths: Sym) -> str:
        """Lengths as float32 [B, 1, 1]."""
        return self.add_node("Cast", [self.per_batch(lengths)], to=TensorProto.FLOAT)
