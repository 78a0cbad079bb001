"""The ``strict`` dialect: every primitive as integer ONNX nodes, no float tensor past the quantizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from onnx import TensorProto

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.base import Bound, interpreted
from zeroq_asr.integer.backends.interval import Interval, shift_offset
from zeroq_asr.integer.backends.onnx_graph import Sym, onnx_type
from zeroq_asr.integer.backends.onnx_loops import OnnxLoops
from zeroq_asr.integer.backends.onnx_moves import OnnxMoves
from zeroq_asr.integer.program import Instruction, Port, Program, StatePort
from zeroq_asr.integer.proof import entering_bounds, require_kept
from zeroq_asr.integer.types import I16, I32, I64, U8, WEIGHT_ZERO_POINT, IntType
from zeroq_asr.integer.wellformed import check
from zeroq_asr.registry import INTEGER_OPERATORS

#: in the names of the nodes that refuse an input
REFUSAL = "length is from 1 to frames and to what is proven"


class OnnxStrictBackend(OnnxMoves, OnnxLoops):
    """Builds nodes; ``run`` a Program over it, then read ``nodes``, ``initializers``, ``encodings``."""

    dialect = "strict"
    #: whether tables of bytes are read as words of 16 bits: two more nodes
    looks_up_words = False

    def instruction(self, i: Instruction, operands: list[Sym]) -> tuple[Sym, ...]:
        """Spell one instruction in primitives."""
        self.enter(i)
        roles = {one.name: operands[place] for place, one in INTEGER_OPERATORS[i.op].constants.items()}
        if {"high", "low"} <= roles.keys():
            self.numerators(roles["high"], roles["low"])
        return self.finish(i, interpreted(self, i, operands), "primitives")

    def constant(self, name: str, array: np.ndarray) -> Sym:
        """Known exactly; stored when a primitive first uses it."""
        return Sym("", self.proof.constant(name, array), constant=name)

    def array(self, v: Sym) -> np.ndarray:
        """The array of a constant."""
        return v.exact

    def per_channel(self, v: Sym, axes: int = 1) -> Sym:
        """[C] → initializer int32 [C, 1] or [C, 1, 1]."""
        shaped = v.exact.astype(np.int32).reshape(-1, *(1,) * axes)
        name = self.encode(v, "i32[C" + ",1" * axes + "]", shaped)
        return Sym(name, self.proof.per_channel(v.interval, axes))

    def per_batch(self, lengths: Sym) -> Sym:
        """[B] int64 → [B, 1, 1] int32."""
        key = ("per_batch", lengths.name)
        if key not in self._shared:
            narrow = self.add_node("Cast", [lengths], to=TensorProto.INT32)
            name = self.add_node("Unsqueeze", [narrow, self.axes(1, 2)])
            self._shared[key] = Sym(name, self.proof.per_batch(lengths.interval))
        return self._shared[key]

    def cast(self, v: Sym, to: IntType) -> Sym:
        """Cast, left out where the type is the same."""
        interval = self.proof.cast(v.interval, to)
        if v.interval.type is to:
            return v
        return Sym(self.add_node("Cast", [v], to=onnx_type(to)), interval)

    def add(self, a: Sym, b: Sym | int) -> Sym:
        """Add; adding the int 0 is left out."""
        interval = self.proof.add(a.interval, _interval(b))
        return a if b == 0 else Sym(self.add_node("Add", [a, self._operand(b, a)]), interval)

    def sub(self, a: Sym, b: Sym | int) -> Sym:
        """Sub; subtracting the int 0 is left out."""
        interval = self.proof.sub(a.interval, _interval(b))
        return a if b == 0 else Sym(self.add_node("Sub", [a, self._operand(b, a)]), interval)

    def mul(self, a: Sym, b: Sym | int) -> Sym:
        """Mul; multiplying by the int 1 is left out."""
        interval = self.proof.mul(a.interval, _interval(b))
        return a if b == 1 else Sym(self.add_node("Mul", [a, self._operand(b, a)]), interval)

    def square(self, v: Sym) -> Sym:
        """Mul."""
        return Sym(self.add_node("Mul", [v, v]), self.proof.square(v.interval))

    def clamp(self, v: Sym, lo: Bound, hi: Bound) -> Sym:
        """Max and Min; left out where the bounds already hold."""
        interval = self.proof.clamp(v.interval, lo, hi)
        if np.all(interval.lo == v.interval.lo) and np.all(interval.hi == v.interval.hi):
            return v
        if isinstance(lo, np.ndarray) or isinstance(hi, np.ndarray):
            bounds = [
                self.store(f"{self._scope}/{end}", np.asarray(b, dtype=np.int32)[..., None])
                for end, b in (("saturate_lo", lo), ("saturate_hi", hi))
            ]
            name = self.add_node("Min", [self.add_node("Max", [v, bounds[0]]), bounds[1]])
            return Sym(name, interval)
        kind = v.interval.type
        name = self._comparable(v.name, kind)
        compared = kind if kind is I64 else I32
        # faster than Clip; an end that cannot act is left out
        if lo > v.interval.min:
            name = self._larger(name, self.scalar(lo, compared), compared)
        if hi < v.interval.max:
            name = self._smaller(name, self.scalar(hi, compared), compared)
        return Sym(self._compared(name, kind), interval)

    def _comparable(self, name: str, kind: IntType) -> str:
        """As int32: of narrower types, ONNX Runtime has neither Min nor Max before 1.24."""
        return name if kind in (I32, I64) else self.add_node("Cast", [name], to=TensorProto.INT32)

    def _compared(self, name: str, kind: IntType) -> str:
        """Back from ``_comparable``."""
        return name if kind in (I32, I64) else self.add_node("Cast", [name], to=onnx_type(kind))

    def _larger(self, a: str, b: str, kind: IntType) -> str:
        """Max of I32 or I64.  ONNX Runtime's Max, Min and Clip take lower halves of int64 on some CPUs."""
        if kind is not I64:
            return self.add_node("Max", [a, b])
        return self.add_node("Where", [self.add_node("Less", [a, b]), b, a])

    def _smaller(self, a: str, b: str, kind: IntType) -> str:
        """Min of I32 or I64."""
        if kind is not I64:
            return self.add_node("Min", [a, b])
        return self.add_node("Where", [self.add_node("Greater", [a, b]), b, a])

    def shift_right(self, v: Sym, c: int) -> Sym:
        """Div by 2^c, which truncates: so an offset makes the dividend non-negative first."""
        interval = self.proof.shift_right(v.interval, c)
        offset = shift_offset(v.interval, c)
        key = ("shift", v.name, c)
        if key not in self._shared:
            raised = v.name if offset == 0 else self.add_node("Add", [v, self.scalar(offset, I32)])
            name = self.add_node("Div", [raised, self.scalar(1 << c, I32)])
            if offset:
                name = self.add_node("Sub", [name, self.scalar(offset >> c, I32)])
            self._shared[key] = Sym(name, interval)
        return self._shared[key]

    def bit_and(self, v: Sym, mask: int) -> Sym:
        """BitwiseAnd."""
        interval = self.proof.bit_and(v.interval, mask)
        return Sym(self.add_node("BitwiseAnd", [v, self.scalar(mask, I32)]), interval)

    def low_bits_equal(self, v: Sym, c: int, bit: int) -> Sym:
        """Equal on int16: Cast keeps the 16 lowest bits, to which the c bits are moved up first.

        BitwiseAnd, which would say it in one node, is several times slower in ONNX Runtime.
        """
        interval = self.proof.low_bits_equal(v.interval, c, bit)
        raised = v.name if c == 16 else self.add_node("Mul", [v, self.scalar(1 << (16 - c), I32)])
        low = self.add_node("Cast", [raised], to=TensorProto.INT16)
        return Sym(self.add_node("Equal", [low, self.scalar(-bit << (16 - c), I16)]), interval)

    def set_parity(self, y: Sym, where: Sym, bit: int) -> Sym:
        """Add or subtract 1 where the mask is true and the parity is wrong.

        The parity is bit 7 of y·128 cut to a byte, for the same reason.
        """
        interval = self.proof.set_parity(y.interval, where.interval, bit)
        wide = self.add_node("Mul", [self.add_node("Cast", [y], to=TensorProto.INT16), self.scalar(128, I16)])
        low = self.add_node("Cast", [wide], to=TensorProto.UINT8)
        other = self.add_node("Equal", [low, self.scalar(0 if bit else 128, U8)])
        wrong = self.add_node("And", [where, other])
        step = self.add_node("Cast", [wrong], to=TensorProto.UINT8)
        return Sym(self.add_node("Add" if bit else "Sub", [y, step]), interval)

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
        """ConvInteger."""
        interval = self.proof.conv(
            x.interval,
            w.interval,
            zero_point=zero_point,
            strides=strides,
            pads=pads,
            dilations=dilations,
            groups=groups,
        )
        name = self.add_node(
            "ConvInteger",
            [x, self.weight(w), self.scalar(zero_point, U8), self.scalar(WEIGHT_ZERO_POINT, U8)],
            strides=list(strides),
            pads=[before for before, _ in pads] + [behind for _, behind in pads],
            dilations=list(dilations),
            group=groups,
            kernel_shape=list(w.exact.shape[2:]),
        )
        return Sym(name, interval)

    def matmul(self, a: Sym, b: Sym, *, za: int, zb: int, terms: Sym | int) -> Sym:
        """MatMulInteger."""
        interval = self.proof.matmul(a.interval, b.interval, za=za, zb=zb, terms=_interval(terms))
        return Sym(self.add_node("MatMulInteger", [a, b, self.scalar(za, U8), self.scalar(zb, U8)]), interval)

    def below_peak(self, v: Sym) -> Sym:
        """ReduceMax and Sub."""
        peak = self.add_node("ReduceMax", [v, self.axes(-1)], keepdims=1)
        return Sym(self.add_node("Sub", [peak, v]), self.proof.below_peak(v.interval))

    def reduce(
        self, v: Sym, kind: Literal["sum", "peak"], axis: Literal["channels", "frames"], terms: Sym | int
    ) -> Sym:
        """ReduceSum; or Abs and ReduceMax."""
        interval = self.proof.reduce(v.interval, kind, axis, _interval(terms))
        axes = self.axes(1 if axis == "channels" else 2)
        if kind == "sum":
            return Sym(self.add_node("ReduceSum", [v, axes], keepdims=1), interval)
        return Sym(self.add_node("ReduceMax", [self.add_node("Abs", [v]), axes], keepdims=1), interval)

    def quotient(self, a: Sym | int, b: Sym | int) -> Sym:
        """Div, which cuts toward zero; dividing by the int 1 is left out."""
        interval = self.proof.quotient(_interval(a), _interval(b))
        if isinstance(a, Sym):
            return a if b == 1 else Sym(self.add_node("Div", [a, self._operand(b, a)]), interval)
        if not isinstance(b, Sym):
            raise ExportError(self._scope, f"{a} / {b} is a quotient of two constants")
        return Sym(self.add_node("Div", [self.scalar(a, b.interval.type), b]), interval)

    def isqrt(self, v: Sym) -> Sym:
        """Newton's iteration from at most 16 times the root, which never falls below it; one correction."""
        interval = self.proof.isqrt(v.interval)
        kind = v.interval.type
        low, high = (math.isqrt(end).bit_length() for end in (v.interval.min, v.interval.max))
        x: str | Sym = self.scalar(1 << min(low + 4, high), kind)
        # no Min and Max: see clamp
        for exponent in range(low + 4, high, 4):
            larger = self.add_node("Less", [v, self.scalar(1 << 2 * exponent, kind)])
            x = self.add_node("Where", [larger, x, self.scalar(1 << min(exponent + 4, high), kind)])
        for _ in range(8):
            total = self.add_node("Add", [x, self.add_node("Div", [v, x])])
            x = self.add_node("Div", [total, self.scalar(2, kind)])
        over = self.add_node("Greater", [self.add_node("Mul", [x, x]), v])
        return Sym(self.add_node("Sub", [x, self.add_node("Cast", [over], to=onnx_type(kind))]), interval)

    def low_byte(self, v: Sym) -> Sym:
        """Cast keeps the lowest 8 bits."""
        return Sym(self.add_node("Cast", [v], to=TensorProto.UINT8), self.proof.low_byte(v.interval))

    def time_mask(self, x: Sym, lengths: Sym) -> Sym:
        """Range(T) < lengths, unsqueezed to [B, 1, T]."""
        frames = self.add_node("Squeeze", [self.frames(x), self.axes(0)])
        index = self.add_node("Range", [self.scalar(0, I64), frames, self.scalar(1, I64)])
        column = self.add_node("Unsqueeze", [lengths, self.axes(1)])
        mask = self.add_node("Unsqueeze", [self.add_node("Less", [index, column]), self.axes(1)])
        if dims := self.dims.get(x.name):
            self.dims[mask] = (dims[0], 1, dims[2])
            self._told.append(mask)
        return Sym(mask, self.proof.time_mask(x.interval, lengths.interval))

    def select(self, mask: Sym, v: Sym, otherwise: int) -> Sym:
        """Where; Min, which is several times faster, where what is chosen is the least there can be."""
        interval = self.proof.select(mask.interval, v.interval, otherwise)
        kind = v.interval.type
        if otherwise <= v.interval.min and kind in (U8, I32):
            key = ("least", kind.name, otherwise, mask.name)
            if key not in self._shared:
                ends = self.scalar(kind.hi, I32), self.scalar(otherwise, I32)
                bound = self.add_node("Where", [mask, *ends])
                self._shared[key] = Sym(bound, Interval.of(otherwise, kind.hi, I32))
            least = self._smaller(self._comparable(v.name, kind), self._shared[key].name, I32)
            return Sym(self._compared(least, kind), interval)
        name = self.add_node("Where", [mask, v, self.scalar(otherwise, v.interval.type)])
        return Sym(name, interval)

    def lookup(self, v: Sym, table: Sym) -> Sym:
        """GatherElements on a flattened axis, which ONNX Runtime runs several times faster than Gather."""
        interval = self.proof.lookup(v.interval, table.interval)
        short = table.interval.type is U8
        entries = self.encode(table, "u8" if short else "i32", table.exact.astype("u1" if short else "i4"))
        in_words = short and self.looks_up_words
        if in_words:
            of_bytes = entries
            entries = self.once(
                f"{of_bytes}/words", lambda: self.add_node("Cast", [of_bytes], to=TensorProto.UINT16)
            )
        wide = v if v.interval.type is I32 else self.add_node("Cast", [v], to=TensorProto.INT32)
        index = self.add_node("Reshape", [wide, self.axes(-1)])
        flat = self.add_node("GatherElements", [entries, index], axis=0)
        if in_words:
            flat = self.add_node("Cast", [flat], to=TensorProto.UINT8)
        back = self.tell(self.add_node("Reshape", [flat, self.add_node("Shape", [v])]), v.name)
        return Sym(back, interval)

    def quantize(self, v: Sym, to: IntType, *, scale: float, zero_point: int, lo: int, hi: int) -> Sym:
        """QuantizeLinear, and Clip where the range is narrower than a byte; for 16 bits step by step."""
        interval = self.proof.quantize(v.interval, to, scale=scale, zero_point=zero_point, lo=lo, hi=hi)
        stored = self.store(f"{self._scope}/scale", np.array(scale, dtype=np.float32))
        if to is U8:
            name = self.add_node("QuantizeLinear", [v, stored, self.scalar(zero_point, U8)])
            return self.clip_u8(Sym(name, Interval.of(0, 255, U8)), lo, hi, interval)
        ends = [self.store(f"{self._scope}/{end}", np.array(end, dtype=np.float32)) for end in (lo, hi)]
        rounded = self.add_node("Round", [self.add_node("Div", [v, stored])])
        clipped = self.add_node("Clip", [rounded, *ends])
        return Sym(self.add_node("Cast", [clipped], to=onnx_type(to)), interval)

    def dequantize(self, v: Sym, *, scale: float, zero_point: int) -> Sym:
        """Refuse: this dialect holds no float."""
        raise ExportError(self._scope, f"{self.dialect} cannot hold a float island", "export fused")

    def float_graph(self, body: str, operands: list[Sym], weights: list[Sym]) -> Sym:
        """Refuse."""
        raise ExportError(self._scope, f"{self.dialect} cannot hold a float island", "export fused")

    def clip_u8(self, v: Sym, lo: int, hi: int, interval: Interval | None = None) -> Sym:
        """Clip a byte that its kernel saturates at 0 and 255 to a narrower range."""
        if (lo, hi) == (U8.lo, U8.hi):
            return Sym(v.name, interval or v.interval)
        name = self.add_node("Clip", [v, self.scalar(lo, U8), self.scalar(hi, U8)])
        return Sym(name, interval or Interval.of(lo, hi, U8))

    def _operand(self, b: Sym | int, like: Sym) -> Sym | str:
        return self.scalar(b, like.interval.type) if isinstance(b, int) else b


def _interval(b: Sym | int) -> Interval | int:
    return b.interval if isinstance(b, Sym) else b


def build(backend: OnnxStrictBackend, program: Program) -> tuple[Sym, ...]:
    """Run ``program`` over an ONNX backend; returns the tensors of its outputs and of what its states become.

    Inputs and states are graph inputs under the names of their ports.  Raises ProofError for a program that
    is not well-formed or not proven.
    """
    check(program)
    backend.proof.max_frames = program.max_frames
    backend.packings = program.packings
    # what leaves has names of its own in a file
    backend.reserve(*(port.name for port in program.outputs), *(f"next_{s.name}" for s in program.states))
    ports: list[Port | StatePort] = [*program.inputs, *program.states]
    backend.single_frames = all(port.dims[2:] == (1,) for port in ports)
    given = [
        backend.input(port.name, interval, port.dims)
        for port, interval in zip(ports, entering_bounds(program), strict=True)
    ]
    features, lengths = program.features, program.lengths
    if features is not None and lengths is not None and isinstance(features.dims[-1], str):
        bounded = any(INTEGER_OPERATORS[i.op].bounded for i in program.code)
        place, read = program.inputs.index(lengths), given[program.inputs.index(features)]
        given[place] = _guarded(backend, read, given[place], program.max_frames, bounded)
    results = program.run(backend, *given)
    backend.store_vectors()
    for state, result in zip(program.states, results[len(program.outputs) :], strict=True):
        require_kept(state, result.interval)
    return tuple(backend.plain(result) for result in results)


def _guarded(backend: OnnxStrictBackend, features: Sym, lengths: Sym, max_frames: int, bounded: bool) -> Sym:
    """Lengths, behind nodes that make the run fail where the program is not defined.

    ``bounded``: padded frames count, for there is a table for as many.

    ONNX has no assertion; an index out of the bounds of Gather's data is an error that names the node.
    """
    backend.scope(REFUSAL)
    frames = backend.add_node("Squeeze", [backend.frames(features), backend.axes(0)])
    outside = [
        backend.add_node("Less", [lengths, backend.scalar(1, I64)]),
        backend.add_node("Greater", [lengths, frames]),
        # padded frames are no matter where what looks along all of time is masked
        backend.add_node("Greater", [frames if bounded else lengths, backend.scalar(max_frames, I64)]),
    ]
    either = backend.add_node("Or", [backend.add_node("Or", outside[:2]), outside[2]])
    wrong = backend.add_node(
        "ReduceMax", [backend.add_node("Cast", [either], to=TensorProto.INT64)], keepdims=0
    )
    zero = backend.add_node("Gather", [backend.axes(0), wrong])
    same = backend.tell(backend.add_node("Add", [lengths, zero]), lengths.name)
    return Sym(same, lengths.interval)


if TYPE_CHECKING:
    from zeroq_asr.integer.backends.base import Backend

    _backend: Backend[Sym] = OnnxStrictBackend()
