"""The ``strict`` dialect: every primitive as integer ONNX nodes, no float tensor past the quantizer.

Each node's value carries its interval, computed by the proof's own backend, so that the spelling
can use what is known (a value that cannot be negative needs no offset before a division).
Constants of the program become initializers, each once; ``encodings`` records how, so that the
program can be read back from the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend, length_interval, shift_offset
from zeroq_asr.integer.ops import OPS
from zeroq_asr.integer.program import Instruction, Program
from zeroq_asr.integer.types import BOOL, I16, I32, I64, U8, IntType
from zeroq_asr.integer.wellformed import check

#: in the names of the nodes that refuse an input
REFUSAL = "length is from 1 to frames and to what is proven"
#: weights are stored as unsigned bytes around this zero point
WEIGHT_ZERO_POINT = 128


@dataclass(frozen=True)
class Sym:
    """A tensor of the graph: its name and the bounds of its integers.

    A program constant has no name until a primitive stores it in the encoding that it needs.
    """

    name: str
    interval: Interval
    constant: str = ""

    @property
    def exact(self) -> np.ndarray:
        """The array of a constant."""
        if self.interval.exact is None:
            raise ExportError(self.name, "expected a constant operand")
        return self.interval.exact


class OnnxStrictBackend:
    """Builds nodes; ``run`` a Program over it, then read ``nodes``, ``initializers``, ``encodings``."""

    dialect = "strict"

    def __init__(self, target: str = "x86-any") -> None:
        self.target = target
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        #: constant → (initializer, encoding)
        self.encodings: dict[str, tuple[str, str]] = {}
        self.proof = IntervalBackend()
        #: how often each instruction was spelled how: "QLinearConv" or "primitives"
        self.spellings: dict[str, dict[str, int]] = {}
        self._scope = ""
        self._count = 0
        #: the file's own outputs: a layer that happens to be called so keeps its generated name
        self._names: set[str] = {"logits", "logprobs", "encoded_lengths"}
        self._shared: dict[tuple[Any, ...], Sym] = {}

    # -- the program -------------------------------------------------------------------------

    def instruction(self, i: Instruction, operands: list[Any]) -> Sym:
        """Spell one instruction in primitives."""
        self.enter(i)
        return self.finish(i, OPS[i.op].define(self, *operands, **i.attrs), "primitives")

    def enter(self, i: Instruction) -> None:
        """Name the nodes that follow after instruction ``i``."""
        self.scope(i.out)
        self.proof.where = f"{i.out} ({i.op})"

    def scope(self, name: str) -> None:
        """Name the nodes that follow after ``name``."""
        self._scope, self._count = name, 0

    def finish(self, i: Instruction, result: Sym, spelling: str) -> Sym:
        """Count the spelling and give the last node's output the instruction's own name."""
        counts = self.spellings.setdefault(i.op, {})
        counts[spelling] = counts.get(spelling, 0) + 1
        if self.nodes and self.nodes[-1].output[0] == result.name and i.out not in self._names:
            self.nodes[-1].output[0] = i.out
            self._names.add(i.out)
            return replace(result, name=i.out)
        return result

    def input(self, name: str, interval: Interval) -> Sym:
        """Declare a graph input."""
        self._names.add(name)
        return Sym(name, interval)

    # -- nodes and initializers --------------------------------------------------------------

    def add_node(self, op: str, inputs: list[Sym | str], domain: str = "", **attrs: Any) -> str:
        """Append a node and return its output's name."""
        self._count += 1
        output = f"{self._scope}/{op}_{self._count}"
        self._names.add(output)
        names = [i if isinstance(i, str) else i.name for i in inputs]
        self.nodes.append(helper.make_node(op, names, [output], name=output, domain=domain, **attrs))
        return output

    def store(self, name: str, array: np.ndarray) -> str:
        """Add an initializer; equal requests under one name are one."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def scalar(self, value: int, kind: IntType) -> str:
        """A shared integer scalar."""
        return self.store(f"const/{kind.name}/{value}", np.array(value, dtype=kind.name))

    def axes(self, *values: int) -> str:
        """A shared int64 vector (axes, starts, ...)."""
        return self.store(f"const/axes/{','.join(map(str, values))}", np.array(values, dtype=np.int64))

    def encode(self, v: Sym, encoding: str, array: np.ndarray) -> str:
        """Store a program constant as ``array`` and remember how it was encoded."""
        known = self.encodings.setdefault(v.constant, (v.constant, encoding))
        if known[1] != encoding:
            raise ExportError(v.constant, f"needed as {encoding} and as {known[1]}")
        return self.store(v.constant, array)

    def weight(self, w: Sym) -> str:
        """Weights as unsigned bytes around 128: ConvInteger is several times slower with signed ones."""
        return self.encode(w, "u8+128", (w.exact.astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8))

    # -- primitives --------------------------------------------------------------------------

    def constant(self, name: str, array: np.ndarray) -> Sym:
        """Known exactly; stored when a primitive first uses it."""
        return Sym("", self.proof.constant(name, array), constant=name)

    def array(self, v: Sym) -> np.ndarray:
        """The array of a constant."""
        return v.exact

    def per_channel(self, v: Sym) -> Sym:
        """[C] → initializer int32 [C, 1]."""
        name = self.encode(v, "i32[C,1]", v.exact.astype(np.int32)[:, None])
        return Sym(name, self.proof.per_channel(v.interval))

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
        return Sym(self.add_node("Cast", [v], to=_onnx_type(to)), interval)

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

    def clamp(self, v: Sym, lo: int | np.ndarray, hi: int | np.ndarray) -> Sym:
        """Clip by ints, Max and Min by vectors; left out where the bounds already hold."""
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
        low, high = self.scalar(max(lo, kind.lo), kind), self.scalar(min(hi, kind.hi), kind)
        if kind is I32:  # faster than Clip
            return Sym(self.add_node("Min", [self.add_node("Max", [v, low]), high]), interval)
        return Sym(self.add_node("Clip", [v, low, high]), interval)

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

    def divide(self, a: Sym, b: Sym | int) -> Sym:
        """Div: truncation is the floor for a ≥ 0."""
        interval = self.proof.divide(a.interval, _interval(b))
        return a if b == 1 else Sym(self.add_node("Div", [a, self._operand(b, a)]), interval)

    def conv(
        self,
        x: Sym,
        w: Sym,
        *,
        zero_point: int,
        stride: int,
        padding: tuple[int, int],
        dilation: int,
        groups: int,
    ) -> Sym:
        """ConvInteger."""
        interval = self.proof.conv(
            x.interval,
            w.interval,
            zero_point=zero_point,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )
        name = self.add_node(
            "ConvInteger",
            [x, self.weight(w), self.scalar(zero_point, U8), self.scalar(WEIGHT_ZERO_POINT, U8)],
            strides=[stride],
            pads=list(padding),
            dilations=[dilation],
            group=groups,
            kernel_shape=[w.exact.shape[2]],
        )
        return Sym(name, interval)

    def time_mask(self, x: Sym, lengths: Sym) -> Sym:
        """Range(T) < lengths, unsqueezed to [B, 1, T]."""
        frames = self.add_node("Squeeze", [self.add_node("Shape", [x], start=2, end=3), self.axes(0)])
        index = self.add_node("Range", [self.scalar(0, I64), frames, self.scalar(1, I64)])
        column = self.add_node("Unsqueeze", [lengths, self.axes(1)])
        mask = self.add_node("Unsqueeze", [self.add_node("Less", [index, column]), self.axes(1)])
        return Sym(mask, self.proof.time_mask(x.interval, lengths.interval))

    def select(self, mask: Sym, v: Sym, otherwise: int) -> Sym:
        """Where; bytes that are to become 0 by Min with 255 or 0, which is several times faster."""
        interval = self.proof.select(mask.interval, v.interval, otherwise)
        if otherwise == 0 and v.interval.type is U8:
            key = ("byte", mask.name)
            if key not in self._shared:
                name = self.add_node("Where", [mask, self.scalar(255, U8), self.scalar(0, U8)])
                self._shared[key] = Sym(name, Interval.of(0, 255, U8))
            return Sym(self.add_node("Min", [v, self._shared[key]]), interval)
        name = self.add_node("Where", [mask, v, self.scalar(otherwise, v.interval.type)])
        return Sym(name, interval)

    def sum_time(self, v: Sym, lengths: Sym) -> Sym:
        """ReduceSum."""
        interval = self.proof.sum_time(v.interval, lengths.interval)
        return Sym(self.add_node("ReduceSum", [v, self.axes(2)], keepdims=1), interval)

    def lookup(self, v: Sym, table: Sym) -> Sym:
        """GatherElements on a flattened axis, which ONNX Runtime runs several times faster than Gather."""
        interval = self.proof.lookup(v.interval, table.interval)
        entries = self.encode(table, "u8", table.exact.astype(np.uint8))
        index = self.add_node("Reshape", [self.add_node("Cast", [v], to=TensorProto.INT32), self.axes(-1)])
        flat = self.add_node("GatherElements", [entries, index], axis=0)
        return Sym(self.add_node("Reshape", [flat, self.add_node("Shape", [v])]), interval)

    def take_channels(self, v: Sym, index: tuple[int, ...]) -> Sym:
        """Gather on the channel axis."""
        interval = self.proof.take_channels(v.interval, index)
        stored = self.store(f"{self._scope}/index", np.array(index, dtype=np.int64))
        return Sym(self.add_node("Gather", [v, stored], axis=1), interval)

    def transpose(self, v: Sym, perm: tuple[int, ...]) -> Sym:
        """Transpose."""
        interval = self.proof.transpose(v.interval, perm)
        return Sym(self.add_node("Transpose", [v], perm=list(perm)), interval)

    def quantize(self, v: Sym, *, scale: float, zero_point: int, lo: int, hi: int) -> Sym:
        """QuantizeLinear, then Clip where the range is narrower than a byte."""
        interval = self.proof.quantize(None, scale=scale, zero_point=zero_point, lo=lo, hi=hi)
        stored = self.store(f"{self._scope}/scale", np.array(scale, dtype=np.float32))
        name = self.add_node("QuantizeLinear", [v, stored, self.scalar(zero_point, U8)])
        return self.clip_u8(Sym(name, Interval.of(0, 255, U8)), lo, hi, interval)

    def clip_u8(self, v: Sym, lo: int, hi: int, interval: Interval | None = None) -> Sym:
        """Clip a byte that its kernel saturates at 0 and 255 to a narrower range."""
        if (lo, hi) == (U8.lo, U8.hi):
            return Sym(v.name, interval or v.interval)
        name = self.add_node("Clip", [v, self.scalar(lo, U8), self.scalar(hi, U8)])
        return Sym(name, interval or Interval.of(lo, hi, U8))

    def _operand(self, b: Sym | int, like: Sym) -> Sym | str:
        return self.scalar(b, like.interval.type) if isinstance(b, int) else b


def decode(array: np.ndarray, encoding: str) -> np.ndarray:
    """Read a program constant back from its initializer; ExportError for an unknown encoding."""
    if encoding == "u8+128":
        return (array.astype(np.int16) - WEIGHT_ZERO_POINT).astype(np.int8)
    if encoding == "i32[C,1]":
        return array[:, 0].astype(np.int32)
    if encoding in ("i8", "u8", "i32"):
        return array
    if match := re.fullmatch(r"f32/2\^(\d+)", encoding):
        scaled = array.astype(np.float64) * 2.0 ** int(match[1])
        if np.all(scaled == np.rint(scaled)) and np.all(np.abs(scaled) < 2**31):
            return scaled.astype(np.int32)
        raise ExportError(encoding, "a stored multiplier is no multiple of its dyadic unit")
    raise ExportError(encoding, "unknown encoding of a constant", "use the version that wrote the file")


def _interval(b: Sym | int) -> Interval | int:
    return b.interval if isinstance(b, Sym) else b


def _onnx_type(kind: IntType) -> int:
    return {
        BOOL: TensorProto.BOOL,
        U8: TensorProto.UINT8,
        I32: TensorProto.INT32,
        I64: TensorProto.INT64,
    }[kind]


def build(backend: Any, program: Program) -> tuple[Sym, Sym]:
    """Run ``program`` over an ONNX backend; returns the logits' and the lengths' tensors."""
    check(program)
    backend.proof.max_frames = program.max_frames
    features = backend.input(program.inputs[0], Interval.of(0, 0, I32))
    lengths = backend.input(program.inputs[1], length_interval(program.max_frames))
    logits, encoded = program.run(backend, features, _guarded(backend, features, lengths, program.max_frames))
    return logits, encoded


def _guarded(backend: Any, features: Sym, lengths: Sym, max_frames: int) -> Sym:
    """Lengths, behind nodes that make the run fail where the program is not defined.

    ONNX has no assertion; an index out of the bounds of Gather's data is an error that names the node.
    """
    backend.scope(REFUSAL)
    frames = backend.add_node(
        "Squeeze", [backend.add_node("Shape", [features], start=2, end=3), backend.axes(0)]
    )
    outside = [
        backend.add_node("Less", [lengths, backend.scalar(1, I64)]),
        backend.add_node("Greater", [lengths, frames]),
        # padded frames are no matter: nothing but a mean looks along all of time, and it is masked
        backend.add_node("Greater", [lengths, backend.scalar(max_frames, I64)]),
    ]
    either = backend.add_node("Or", [backend.add_node("Or", outside[:2]), outside[2]])
    wrong = backend.add_node(
        "ReduceMax", [backend.add_node("Cast", [either], to=TensorProto.INT64)], keepdims=0
    )
    zero = backend.add_node("Gather", [backend.axes(0), wrong])
    return Sym(backend.add_node("Add", [lengths, zero]), lengths.interval)
