"""The ``qdq`` spelling: float operators between QuantizeLinear and DequantizeLinear.

For runtimes that fuse such pairs (TensorRT, OpenVINO, QNN).  Scales are the program's own, but each runtime
rounds in its own way: this spelling is *not* exact, and cannot be verified.  Values are bytes between such
pairs, those of 16 bits int16, which is why its files are of opset 21.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from onnx import TensorProto

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.base import interpreted
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.backends.onnx_graph import Sym
from zeroq_asr.integer.backends.onnx_nodes import Setting
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.extents import Extent
from zeroq_asr.integer.program import Instruction, Program, ValueInfo
from zeroq_asr.integer.types import I16, I64, TYPES, U8
from zeroq_asr.integer.wellformed import check
from zeroq_asr.registry import INTEGER_OPERATORS

#: the first opset whose QuantizeLinear gives int16
_OPSET = 21


class OnnxQdqBackend(OnnxStrictBackend):
    """Spells each instruction by its ``qdq`` kernel; values between instructions stay integers."""

    dialect = "qdq"
    #: OpenVINO computes int64 in int32
    makes_tables = False
    #: ONNX Runtime aborts as it fuses such pairs in front of an If
    in_blocks = False

    def __init__(self, program: Program, target: str = "x86-any") -> None:
        super().__init__(target)
        self.program = program
        #: value of the program → its type and extents
        self._made = check(program).values
        #: tensor and weights → products of both so far
        self._multiplied: dict[tuple[str, bytes], int] = {}
        #: tensor → the value that it holds
        self._holds: dict[str, str] = {port.name: port.value for port in program.inputs}

    @property
    def opset(self) -> int:
        """The opset that int16 and the packings of the constants need."""
        return max(super().opset, _OPSET)

    def instruction(self, i: Instruction, operands: list[Sym]) -> tuple[Sym, ...]:
        """Emit the float spelling; the definition still bounds the results."""
        kernel = INTEGER_OPERATORS[i.op].kernels.get(self.dialect)
        if kernel is None:
            raise ExportError(i.out, f"operator {i.op} has no qdq spelling", "export fused or strict")
        self.enter(i)
        intervals = interpreted(self.proof, i, [o.interval for o in operands])
        made = kernel.emit(self, i, operands)
        results = made if isinstance(made, tuple) else (made,)
        bounded = (replace(v, interval=interval) for v, interval in zip(results, intervals, strict=True))
        finished = self.finish(i, tuple(bounded), self.dialect)
        self._holds.update(zip((v.name for v in finished), i.outs, strict=True))
        return finished

    def define(self, i: Instruction, operands: list[Sym]) -> tuple[Sym, ...]:
        """Spell an instruction that holds nothing which a provider would fuse by its definition."""
        return interpreted(self, i, [self.plain(v) for v in operands])

    def plain(self, v: Sym) -> Sym:
        """A tensor of the integers' own type: Cast, once, of what stands in int16."""
        if not v.short:
            return v
        key = ("plain", v.name)
        if key not in self._shared:
            self._shared[key] = replace(v, name=self.add_node("Cast", [v], to=TensorProto.INT32), short=False)
        return self._shared[key]

    def frames(self, v: Sym) -> str:
        """T, counted from the frames of the port that it follows from.

        OpenVINO takes the Shape of a quantized convolution for a second reader of the convolution, and then
        adds the bias of its first channel to all.
        """
        value = self._holds.get(v.name, "")
        extent = self._made[value].dims[2] if value in self._made else None
        if not isinstance(extent, Extent):
            return super().frames(v)
        port, axis = next(
            (port.name, axis)
            for port in self.program.inputs
            for axis, dim in enumerate(port.dims)
            if dim == extent.of
        )
        counted = self._once_made(("port", port, axis), lambda: self._extent_of(port, axis))
        for op, number, neutral in (("Add", extent.plus, 0), ("Div", extent.by, 1), ("Mul", extent.times, 1)):
            if number != neutral:
                before, operands = counted, [counted, self.axes(number)]
                made = partial(self.add_node, op, operands)
                counted = self._once_made((op, before, number), made)
        return counted

    def _extent_of(self, port: str, axis: int) -> str:
        return self.add_node("Shape", [port], start=axis, end=axis + 1)

    def _once_made(self, key: tuple[object, ...], make: Callable[[], str]) -> str:
        """A tensor of whole numbers that several instructions read."""
        key = ("whole", *key)
        if key not in self._shared:
            self._shared[key] = Sym(make(), Interval.of(0, self.program.max_frames, I64))
        return self._shared[key].name

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
        if v.short:
            scale = self.float_scalar(info.scale)
            return self.add_node("DequantizeLinear", [v, scale, self.scalar(0, I16)])
        real = self.add_node("Cast", [v], to=TensorProto.FLOAT)
        return self.add_node("Mul", [real, self.float_scalar(info.scale)])

    def products(self, x: Sym, w: Sym) -> int:
        """How many products of this tensor and these weights there were before."""
        known = self._multiplied.setdefault((x.name, w.exact.tobytes()), 0)
        self._multiplied[x.name, w.exact.tobytes()] += 1
        return known

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
        if (low, high) != (I16.lo, I16.hi):
            ends = (self.float_scalar(end * info.scale) for end in (low, high))
            real = self.add_node("Clip", [real, *ends])
        integer = self.add_node("QuantizeLinear", [real, scale, self.scalar(0, I16)])
        return Sym(integer, Interval.of(low, high, TYPES[info.type]), short=True)

    def float_per_batch(self, lengths: Sym) -> str:
        """Lengths as float32 [B, 1, 1]."""
        return self.add_node("Cast", [self.per_batch(lengths)], to=TensorProto.FLOAT)
