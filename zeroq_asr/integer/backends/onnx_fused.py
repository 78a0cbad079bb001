"""The ``fused`` dialect: one ONNX Runtime kernel an instruction wherever it gives the same integers.

Each kernel states the conditions under which its float32 inside is exact; the interval proof
discharges them here, and where one does not hold the instruction is spelled in primitives instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.base import interpreted
from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.backends.onnx_graph import CODES, TRANSPOSED, Sym, onnx_type
from zeroq_asr.integer.backends.onnx_nodes import Setting
from zeroq_asr.integer.backends.onnx_shapes import BROADCAST, Dim
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.backends.onnxruntime_bodies import decode as decode_body
from zeroq_asr.integer.pair_saturation import saturates
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.smooth import emit_codes, smooth_numerators
from zeroq_asr.integer.types import I8, I32, TYPES, U8, WEIGHT_ZERO_POINT, IntType
from zeroq_asr.registry import INTEGER_OPERATORS, Condition


class OnnxFusedBackend(OnnxStrictBackend):
    """Adds the vocabulary that exact kernels need to the strict one."""

    dialect = "fused"
    for_cache = True
    #: GatherElements copies words of 16 bits faster than bytes, by more than both Casts take
    looks_up_words = True

    def __init__(self, target: str = "x86-any") -> None:
        super().__init__(target)
        #: kernel → its conditions, merged over instructions
        self.conditions: dict[str, dict[str, Condition]] = {}
        self._kernel = ""
        #: scalars of which elementwise nodes of single frames read another form
        self._spread: set[str] = set()
        #: table of high bytes → the table of low ones that it was first looked up with
        self._coded: dict[str, str] = {}
        #: float tensors of float islands
        self.island_tensors: set[str] = set()

    def instruction(self, i: Instruction, operands: list[Sym]) -> tuple[Sym, ...]:
        """Emit the exact kernel if its conditions hold, else the definition."""
        record = INTEGER_OPERATORS[i.op]
        if record.computes_in_float:
            return self._island(i, [self.plain(o) for o in operands])
        kernel = record.kernels.get(self.dialect)
        if kernel is None or kernel.exact_if is None:
            return self._spelled(i, operands)
        self.enter(i)
        # the definition bounds the results (and proves them) whatever kernel computes them
        intervals = interpreted(self.proof, i, [o.interval for o in operands])
        conditions = kernel.exact_if(i, *(o.interval for o in operands))
        if not all(c.holds for c in conditions):
            return self._spelled(i, operands)
        before, self._kernel = len(self._nodes), kernel.name
        made = kernel.emit(self, i, operands)
        results = made if isinstance(made, tuple) else (made,)
        name = self._kernel or next(
            n.op_type for n in self._nodes[before:] if n.op_type not in ("Transpose", "Cast")
        )
        known = self.conditions.setdefault(name, {})
        for condition in conditions:
            known[condition.statement] = condition
        bounded = (replace(v, interval=interval) for v, interval in zip(results, intervals, strict=True))
        return self.finish(i, tuple(bounded), name)

    def add_node(self, op: str, inputs: Sequence[Sym | str], domain: str = "", **attrs: Setting) -> str:
        """Append a node and return its output's name; with scalars as ONNX Runtime is fast on single frames.

        It takes [B, C, 1] and a scalar entry by entry, some forty times slower than [B, C, 1] and [1, 1].
        """
        if self.single_frames and op in BROADCAST and self._nodes is not self._ahead:
            inputs = [self._spread_out(i if isinstance(i, str) else i.name, i) for i in inputs]
        return super().add_node(op, inputs, domain, **attrs)

    def _spread_out(self, name: str, operand: Sym | str) -> Sym | str:
        """A scalar of the file as [1, 1]; any other operand as it is."""
        if not name.startswith("const/") or self.dims.get(name) != ():
            return operand
        self._spread.add(name)
        return self.store(f"{name}[1,1]", numpy_helper.to_array(self.initializers[name]).reshape(1, 1))

    def store_vectors(self) -> None:
        """Store the vectors, and no scalar that only its other form is read of."""
        super().store_vectors()
        read = {name for node in self.nodes for name in node.input}
        for name in self._spread - read:
            del self.initializers[name]

    def called(self, kernel: str) -> None:
        """Name the nodes of the instruction at hand, which else are called after the first of them."""
        self._kernel = kernel

    def _spelled(self, i: Instruction, operands: list[Sym]) -> tuple[Sym, ...]:
        if not INTEGER_OPERATORS[i.op].axis_free:
            return super().instruction(i, [self.plain(o) for o in operands])
        operands = [self._uncarried(o) for o in operands]
        results = super().instruction(i, operands)
        return tuple(self.like(v, operands[0]) for v in results)

    def _island(self, i: Instruction, operands: list[Sym]) -> tuple[Sym, ...]:
        """Spell a float island, whose shapes ONNX may lose inside."""
        first = len(self._nodes)
        self.enter(i)
        results = self.finish(i, interpreted(self, i, operands), "float")
        own = {v.name for v in results}
        self._told += [v.name for v in results]
        for node in self._nodes[first:]:
            self.island_tensors.update({*node.input, *node.output} - own)
        return results

    def dequantize(self, v: Sym, *, scale: float, zero_point: int) -> Sym:
        """Cast, Sub, Mul: a DequantizeLinear might be fused with what follows into integer kernels."""
        interval = self.proof.dequantize(v.interval, scale=scale, zero_point=zero_point)
        real = self.carry(v)
        if zero_point:
            real = self.add_node("Sub", [real, self.float_scalar(zero_point)])
        factor = self.store(f"{self._scope}/scale/{scale!r}", np.array(scale, dtype=np.float32))
        return Sym(self.add_node("Mul", [real, factor]), interval, carried=True)

    def float_graph(self, body: str, operands: list[Sym], weights: list[Sym]) -> Sym:
        """The body's own nodes under names of this graph; IsNaN and Where behind them."""
        graph = decode_body(body).graph
        given = [v.name for v in operands]
        given += [self.encode(w, "f32 bits", w.exact.view(np.float32)) for w in weights]
        names = {"": "", **{value.name: name for value, name in zip(graph.input, given, strict=True)}}
        for tensor in graph.initializer:
            names[tensor.name] = self.store(
                f"{self._scope}/body/{tensor.name}", numpy_helper.to_array(tensor)
            )
        for node in graph.node:
            attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            ins = [names[name] for name in node.input]
            outs = [name and f"{self._label}/body/{len(names) + k}" for k, name in enumerate(node.output)]
            names.update(zip(node.output, outs, strict=True))
            self._nodes.append(helper.make_node(node.op_type, ins, outs, **attrs))
            self._infer(node.op_type, ins, outs[0], attrs)
        result, zero = names[graph.output[0].name], self.float_scalar(0.0)
        if result not in self.dims:
            self._declare(result, graph, given)
        interval = self.proof.float_graph(body, [v.interval for v in operands], [w.interval for w in weights])
        name = self.add_node("Where", [self.add_node("IsNaN", [result]), zero, result])
        return Sym(name, interval, carried=True)

    def _declare(self, result: str, graph: onnx.GraphProto, given: list[str]) -> None:
        """Tell the shape that a body says its result has, if its named extents are those of its inputs."""
        known: dict[str, Dim] = {}
        for value, name in zip(graph.input, given, strict=True):
            extents = value.type.tensor_type.shape.dim
            known.update(zip((d.dim_param for d in extents), self.dims.get(name, ()), strict=False))
        extents = graph.output[0].type.tensor_type.shape.dim
        dims = [d.dim_value or (known.get(d.dim_param) if d.dim_param else None) for d in extents]
        if all(dim is not None for dim in dims):
            self.tell_dims(result, tuple(dim for dim in dims if dim is not None))

    def plain(self, v: Sym) -> Sym:
        """A tensor [B, C, T] of the integers' own type."""
        return self._uncarried(self.channels_first(v))

    def _uncarried(self, v: Sym) -> Sym:
        """Cast, once, where float32 carries the integers."""
        if not v.carried:
            return v
        key = ("plain", v.name)
        if key not in self._shared:
            name = self.add_node("Cast", [v], to=onnx_type(v.interval.type))
            self._shared[key] = replace(v, name=name, carried=False)
        return self._shared[key]

    def channels_first(self, v: Sym) -> Sym:
        """[B, C, T]: Transpose, once, where frames come first."""
        return self._turned(v) if v.frames_first else v

    def frames_first(self, v: Sym) -> Sym:
        """[B, T, C], in which matrix products and sums over channels are fastest: Transpose, once."""
        return v if v.frames_first else self._turned(v)

    def _turned(self, v: Sym) -> Sym:
        key = ("turned", v.name)
        if key not in self._shared:
            name = self.add_node("Transpose", [v], perm=[0, 2, 1])
            self._shared[key] = replace(v, name=name, frames_first=not v.frames_first)
            # and what is turned back is what it was
            self._shared["turned", name] = v
        return self._shared[key]

    def alike(self, operands: list[Sym]) -> list[Sym]:
        """The operands in one order of axes: frames first, where one of them has it."""
        if any(v.frames_first for v in operands):
            return [self.frames_first(v) for v in operands]
        return operands

    def kernel_weight(
        self, x: Sym, w: Sym, groups: int, padding: int | None, summed: np.ndarray | None = None
    ) -> tuple[str, str]:
        """A kernel's weights and their zero point: signed where u8 times s8 is exact.

        That it always is for depthwise convolutions: their kernels, which are no matrix products, widen both
        factors to 16 bits on every x86 and are several times faster with signed weights.  ``padding``: the
        byte that stands beyond the ends, which the kernel multiplies like any other.  ``summed``: the weights
        as the kernel will have them, where nodes are to turn them first.
        """
        depthwise = w.exact.shape[1] == 1 and len(w.exact) == groups > 1
        ordered = w.exact if summed is None else summed
        if not depthwise and self._saturates(ordered, max(x.interval.max, padding or 0)):
            return self.weight(w), self.scalar(WEIGHT_ZERO_POINT, U8)
        return self.encode(w, "i8", w.exact.astype(np.int8)), self.scalar(0, I8)

    def matrix(self, x: Sym, w: Sym) -> tuple[str, str]:
        """Pointwise weights [O, I, 1] as [I, O], and their zero point: signed where u8 × s8 is exact."""
        rows = w.exact[:, :, 0].T
        if self._saturates(w.exact, x.interval.max):
            unsigned = (rows.astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8)
            return self.encode(w, "u8+128" + TRANSPOSED, unsigned), self.scalar(WEIGHT_ZERO_POINT, U8)
        return self.encode(w, "i8" + TRANSPOSED, rows.astype(np.int8)), self.scalar(0, I8)

    def _saturates(self, weight: np.ndarray, highest: int) -> bool:
        """Whether a u8 × s8 kernel may saturate on what the target allows on bytes up to ``highest``."""
        return self.target == "x86-any" and saturates(weight, highest)

    def like(self, v: Sym, other: Sym) -> Sym:
        """A result whose axes have the order of those of ``other``."""
        return replace(v, frames_first=other.frames_first)

    @overload
    def node(
        self, op: str, inputs: Sequence[Sym | str], kind: None, domain: str = "", **attrs: Setting
    ) -> str: ...

    @overload
    def node(
        self, op: str, inputs: Sequence[Sym | str], kind: IntType, domain: str = "", **attrs: Setting
    ) -> Sym: ...

    def node(
        self, op: str, inputs: Sequence[Sym | str], kind: IntType | None, domain: str = "", **attrs: Setting
    ) -> Sym | str:
        """Append a kernel; an integer result is a Sym bounded by its type, a float one a name."""
        name = self.add_node(op, inputs, domain, **attrs)
        return name if kind is None else Sym(name, Interval.of(kind.lo, kind.hi, kind))

    def tensor(self, name: str, kind: IntType, carried: bool = False) -> Sym:
        """A tensor of the graph as an operand of primitives, where what bounds it is up to conditions."""
        return Sym(name, Interval.of(0, 0, kind), carried=carried)

    def float_scalar(self, value: float) -> str:
        """A shared float32 scalar; refuses a value that float32 does not hold exactly."""
        if float(np.float32(value)) != value:
            raise ExportError(self._scope, f"{value!r} is not exact in float32")
        return self.store(f"const/float/{value!r}", np.array(value, dtype=np.float32))

    def multiplier(self, m: Sym, c: int) -> str:
        """m / 2^c as float32 [C], exact; the program's m is read back from it."""
        return self.encode(m, f"f32/2^{c}", (m.exact.astype(np.float64) / 2.0**c).astype(np.float32))

    def vector(self, v: Sym) -> str:
        """An int32 vector [C]."""
        return self.encode(v, "i32", v.exact.astype(np.int32))

    def scaled(self, v: Sym, c: int, axes: int = 1) -> str:
        """v / 2^c as float32 [C, 1] or [C, 1, 1], exact."""
        real = (v.exact.astype(np.float64) / 2.0**c).astype(np.float32)
        return self.encode(v, f"f32/2^{c}[C{',1' * axes}]", real.reshape(-1, *(1,) * axes))

    def conv(
        self,
        x: Sym,
        w: Sym,
        *,
        zero_point: int,
        strides: tuple[int, ...],
        pads: tuple[tuple[int, int], ...],
        dilations: tuple[int, ...],
        groups: int,
    ) -> Sym:
        """ConvInteger; of single frames a matrix product."""
        layout: dict[str, Any] = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
        pointwise = w.exact.shape[2:] == (1,) and (strides, pads, groups) == ((1,), ((0, 0),), 1)
        # ONNX Runtime takes every utterance of a batch by itself, and one column at a time is a slow product
        if not pointwise or self.dims.get(x.name, ())[2:] != (1,):
            return super().conv(x, w, zero_point=zero_point, **layout)
        interval = self.proof.conv(x.interval, w.interval, zero_point=zero_point, **layout)
        weight, weight_zero_point = self.matrix(x, w)
        rows: list[Sym | str] = [self.frames_first(x), weight, self.scalar(zero_point, U8), weight_zero_point]
        product = Sym(self.add_node("MatMulInteger", rows), interval, frames_first=True)
        return self.channels_first(product)

    def conv_integer(self, x: Sym | str, w: Sym, zero_point: int, **layout: int | Sequence[int]) -> str:
        """ConvInteger, which is several times slower with signed weights whatever the target."""
        operands: list[Sym | str] = [
            x,
            self.weight(w),
            self.scalar(zero_point, U8),
            self.scalar(WEIGHT_ZERO_POINT, U8),
        ]
        return self.add_node("ConvInteger", operands, "", **layout)

    def planes(self, v: Sym) -> tuple[Sym, Sym]:
        """Bytes h and l of a 16-bit value, v + 2^15 = 256·h + l; made once.

        No v − 127.5 is a tie of 256, so that the nearest multiple is the floor of v's; a Cast keeps the low
        byte.
        """
        key = ("planes", v.name)
        if key not in self._shared:
            middle = self.add_node("Add", [self.carry(v), self.float_scalar(-127.5)])
            high = self.add_node("QuantizeLinear", [middle, self.float_scalar(256.0), self.scalar(128, U8)])
            low = self.add_node("Cast", [self._uncarried(v)], to=TensorProto.UINT8)
            byte, first = Interval.of(U8.lo, U8.hi, U8), v.frames_first
            self._shared[(*key, "low")] = Sym(low, byte, frames_first=first)
            self._shared[key] = Sym(high, byte, frames_first=first)
        return self._shared[key], self._shared[(*key, "low")]

    def codes(self, index: str, high: Sym, low: Sym) -> str:
        """2^8·high[i] + low[i] as int32, index int32 of any shape: one lookup for two tables of bytes."""
        made = smooth_numerators(high.exact, low.exact) if self.compact else None
        stored, encodings = made or (high.exact.astype(np.int32) << 8 | low.exact, CODES)
        # tables of equal high bytes may have others below them
        alone = self._coded.setdefault(high.constant, low.constant) == low.constant
        name = f"{high.constant}/codes" if alone else f"{high.constant}/{low.constant}/codes"
        self.store(name, stored)
        self.encodings.setdefault(low.constant, (name, encodings[0]))
        self.encodings.setdefault(high.constant, (name, encodings[1]))
        if made:
            name = self.once(name, partial(emit_codes, self, name, encodings[0]))
        flat = self.add_node("Reshape", [index, self.axes(-1)])
        found = self.add_node("GatherElements", [name, flat], axis=0)
        self._types[found] = onnx_type(I32)
        return self.tell(self.add_node("Reshape", [found, self.add_node("Shape", [index])]), index)

    def shared(self, key: tuple[object, ...], make: Callable[[], str]) -> str:
        """The tensor that ``make`` emits, once."""
        if key not in self._shared:
            self._shared[key] = Sym(make(), Interval.of(0, 0, I32))
        return self._shared[key].name

    def double_scalar(self, value: float) -> str:
        """A shared float64 scalar."""
        return self.store(f"const/double/{value!r}", np.array(value, dtype=np.float64))

    def carry(self, v: Sym) -> str:
        """An integer in float32, exact below 2^24."""
        if max(abs(v.interval.min), v.interval.max) > 1 << 24:
            raise ExportError(self._scope, "a float32 carrier needs magnitudes of at most 2^24")
        if v.carried:
            return v.name
        key = ("carry", v.name)
        if key not in self._shared:
            self._shared[key] = replace(v, name=self.to_float(v), carried=True)
        return self._shared[key].name

    def to_float(self, v: Sym | str) -> str:
        """Cast to float32."""
        return self.add_node("Cast", [v], to=TensorProto.FLOAT)

    def to_double(self, v: Sym | str) -> str:
        """Cast to float64."""
        return self.add_node("Cast", [v], to=TensorProto.DOUBLE)

    def to_byte(self, v: Sym | str) -> str:
        """Cast to uint8, which keeps the lowest byte of an integer."""
        return self.add_node("Cast", [v], to=TensorProto.UINT8)

    def signed(self, v: Sym | str) -> str:
        """Bytes less 128, as int8."""
        turned = self.add_node("BitwiseXor", [v, self.scalar(WEIGHT_ZERO_POINT, U8)])
        return self.add_node("Cast", [turned], to=TensorProto.INT8)

    def to_int32(self, v: Sym | str) -> str:
        """Cast to int32, which cuts toward zero."""
        return self.add_node("Cast", [v], to=TensorProto.INT32)

    def quantized(self, v: str, i: Instruction) -> Sym:
        """Round ``v`` half to even, add ``zy``, clamp to ``lo`` and ``hi``: bytes, or carried integers."""
        return self.rounded(v, i, i.attrs["zy"])

    def rounded(self, v: str, i: Instruction, zero_point: int = 0) -> Sym:
        """Round ``v`` half to even, add ``zero_point``, and clamp to ``lo`` and ``hi``."""
        a = i.attrs
        if a["type"] == U8.name:
            y = self.node("QuantizeLinear", [v, self.float_scalar(1.0), self.scalar(zero_point, U8)], U8)
            return self.clip_u8(y, a["lo"], a["hi"])
        # a sum of integers is one
        rounded = self.add_node("Round", [v]) if a["c"] else v
        if zero_point:
            rounded = self.add_node("Add", [rounded, self.float_scalar(zero_point)])
        ends = self.float_scalar(a["lo"]), self.float_scalar(a["hi"])
        name = self.add_node("Clip", [rounded, *ends])
        return Sym(name, Interval.of(a["lo"], a["hi"], TYPES[a["type"]]), carried=True)


if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels

    _kernels: Kernels = OnnxFusedBackend()
