"""An ONNX graph as it grows: nodes, initializers, names, and what is known of shapes and types.

Each tensor carries its interval, computed by the proof's own backend, so that a spelling can use what is
known (a value that cannot be negative needs no offset before a division).
"""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend
from zeroq_asr.integer.backends.onnx_shapes import KEEPS_TYPE, OPAQUE, Dim, Dims, infer
from zeroq_asr.integer.types import BOOL, I8, I16, I32, I64, U8, IntType

#: values of the attributes of nodes
Setting = int | float | str | Sequence[int] | GraphProto

ONNX_TYPES: dict[IntType, int] = {
    BOOL: TensorProto.BOOL,
    U8: TensorProto.UINT8,
    I8: TensorProto.INT8,
    I16: TensorProto.INT16,
    I32: TensorProto.INT32,
    I64: TensorProto.INT64,
}
#: operators that give one type whatever they take
_GIVES = {
    "ConvInteger": TensorProto.INT32,
    "MatMulInteger": TensorProto.INT32,
    **dict.fromkeys(("QLinearConv", "QLinearAdd", "QLinearMul"), TensorProto.UINT8),
    "MatMulIntegerToFloat": TensorProto.FLOAT,
}


@dataclass(frozen=True)
class Sym:
    """A tensor of the graph: its name and the bounds of its integers.

    A program constant has no name until a primitive stores it in the encoding that it needs.
    """

    name: str
    interval: Interval
    constant: str = ""
    #: whether the tensor is float32, which holds the integers exactly
    carried: bool = False
    #: whether the tensor is [B, T, C], and not [B, C, T]
    frames_first: bool = False
    #: whether the tensor is int16, which holds what is int32 to the program
    short: bool = False

    @property
    def exact(self) -> np.ndarray:
        """The array of a constant."""
        if self.interval.exact is None:
            raise ExportError(self.name, "expected a constant operand")
        return self.interval.exact


@dataclass
class Subgraph:
    """What a graph inside of a node holds: its nodes, and those of its tensors whose shape ONNX loses."""

    nodes: list[NodeProto] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


class NodeBuilder:
    """Collects nodes and initializers under names of their own."""

    def __init__(self) -> None:
        self.initializers: dict[str, TensorProto] = {}
        self.proof = IntervalBackend()
        #: whether all that enters is of one frame, as of a step
        self.single_frames = False
        #: nodes of the graph at hand, and those of constants alone, which come before all others
        self._nodes: list[NodeProto] = []
        self._ahead: list[NodeProto] = []
        self._scope = self._label = ""
        self._count = 0
        #: the file's own outputs: a layer that happens to be called so keeps its generated name
        self._names: set[str] = {"logits", "logprobs", "encoded_lengths"}
        #: what several instructions need, by what it is
        self._shared: dict[tuple[object, ...], Sym] = {}
        #: what packings share → the tensor
        self._once: dict[str, str] = {}
        #: tensor → its shape, where it is known, and its type
        self.dims: dict[str, Dims] = {}
        self._types: dict[str, int] = {}
        #: initializer → its entries, of axes and shapes
        self._vectors: dict[str, tuple[int, ...]] = {}
        #: instruction → the channels that it takes, by the place of their initializer
        self._indices: dict[str, list[tuple[int, ...]]] = {}
        #: tensors whose shape ONNX must be told
        self._told: list[str] = []
        #: extent → what a file calls it, where that is another name
        self._extents: dict[Dim, str] = {}

    @property
    def nodes(self) -> list[NodeProto]:
        """All nodes, in an order in which they can run."""
        return [*self._ahead, *self._nodes]

    @property
    def constant_tensors(self) -> set[str]:
        """Tensors that nodes make of initializers alone, before all others."""
        return {name for node in self._ahead for name in node.output}

    # -- names -------------------------------------------------------------------------------

    def scope(self, name: str, label: str = "") -> None:
        """Name what follows after ``name``: constants in full, tensors by ``label``."""
        self._scope, self._label, self._count = name, label or name, 0

    def reserve(self, *names: str) -> None:
        """Keep names for what stands around the program:

        an instruction called so keeps its generated name.
        """
        self._names.update(names)

    def input(self, name: str, interval: Interval, dims: Dims) -> Sym:
        """Declare a graph input."""
        self._names.add(name)
        self.dims[name] = dims
        return Sym(name, interval)

    # -- shapes ------------------------------------------------------------------------------

    def tell_dims(self, name: str, dims: Dims, kind: IntType | None = None) -> None:
        """Say what shape ``name`` has, and of which type it is, if that is not known."""
        self.dims[name] = dims
        if kind is not None:
            self._types[name] = onnx_type(kind)

    def tell(self, name: str, like: str) -> str:
        """Say that ``name`` has the shape of ``like``; returns ``name``."""
        if like in self.dims:
            self.dims[name] = self.dims[like]
        return name

    def value_infos(self) -> list[ValueInfoProto]:
        """The shapes that ONNX does not find by itself."""
        return [
            helper.make_tensor_value_info(
                name, self._types[name], [self._extents.get(dim, dim) for dim in self.dims[name]]
            )
            for name in self._told
            if name in self.dims and name in self._types
        ]

    # -- nodes -------------------------------------------------------------------------------

    def add_node(self, op: str, inputs: Sequence[Sym | str], domain: str = "", **attrs: Setting) -> str:
        """Append a node and return its output's name."""
        output = self.fresh()
        names = self._operands(inputs)
        self._infer(op, names, output, attrs)
        name = output if self._label == self._scope else ""
        self._nodes.append(_node(op, names, [output], attrs, name=name, domain=domain))
        return output

    def converted(self, name: str, to: IntType) -> str:
        """Cast a tensor."""
        return self.add_node("Cast", [name], to=onnx_type(to))

    def add_node_of(
        self, op: str, inputs: Sequence[Sym | str], results: int, **attrs: Setting
    ) -> tuple[str, ...]:
        """Append a node of several outputs, of which nothing is inferred; returns their names."""
        outputs = tuple(self.fresh() for _ in range(results))
        self._nodes.append(_node(op, self._operands(inputs), outputs, attrs))
        return outputs

    def fresh(self) -> str:
        """A name for a tensor of the instruction at hand."""
        self._count += 1
        name = f"{self._label}/{self._count}"
        self._names.add(name)
        return name

    def _operands(self, inputs: Sequence[Sym | str]) -> list[str]:
        self._types.update((i.name, type_of(i)) for i in inputs if isinstance(i, Sym))
        return [i if isinstance(i, str) else i.name for i in inputs]

    def _infer(self, op: str, names: list[str], output: str, attrs: Mapping[str, Setting]) -> None:
        constants = [self._vectors.get(name) for name in names]
        dims = infer(op, [self.dims.get(name) for name in names], constants, attrs)
        if dims is not None:
            self.dims[output] = dims
        if op in OPAQUE:
            self._told.append(output)
        if op in _GIVES:
            self._types[output] = _GIVES[op]
        elif op == "Cast":
            self._types[output] = int(attrs["to"])  # type: ignore[arg-type]
        elif op in KEEPS_TYPE and names[0] in self._types:
            self._types[output] = self._types[names[0]]

    def shorten(self, extents: Container[str]) -> dict[str, str]:
        """Name tensors by a letter or two, but for what enters the graph; returns name → new name.

        A file of few weights is else largely names, and of these each stands in every node that reads it.
        Extents that shapes tell of get such names, too, but for ``extents``, those of the file's ports.
        """
        uses = Counter(_told_by(self.nodes))
        made = [name for name in _made_by(self.nodes) if name]
        fresh = (name for name in _short_names() if name not in self._names or name in self.initializers)
        # the shortest names where they stand most often
        often = sorted(dict.fromkeys((*self.initializers, *made)), key=lambda name: -uses[name])
        names = {name: next(fresh) for name in often}
        for tensor in self.initializers.values():
            tensor.name = names[tensor.name]
        rename(self.nodes, names)
        self.initializers = {names[name]: tensor for name, tensor in self.initializers.items()}
        self.dims = {names.get(name, name): dims for name, dims in self.dims.items()}
        self._types = {names.get(name, name): kind for name, kind in self._types.items()}
        self._told = [names.get(name, name) for name in self._told]
        told = (dim for name in self._told for dim in self.dims.get(name, ()) if isinstance(dim, str))
        free = (name for name in _short_names() if name not in extents)
        self._extents = {dim: next(free) for dim in dict.fromkeys(told) if dim not in extents}
        return names

    # -- graphs inside of nodes, and before them ---------------------------------------------

    @contextmanager
    def subgraph(self) -> Iterator[Subgraph]:
        """Collect the nodes that follow for a graph inside of a node, which nothing outside may name."""
        inside = Subgraph()
        outer, told = (self._nodes, self._shared), len(self._told)
        self._nodes, self._shared = inside.nodes, dict(self._shared)
        try:
            yield inside
        finally:
            self._nodes, self._shared = outer
            inside.told, self._told[told:] = self._told[told:], []

    def inner_infos(self, inside: Subgraph, *results: str) -> list[ValueInfoProto]:
        """The types of the tensors inside whose shape ONNX loses, but for the results."""
        return [
            helper.make_tensor_value_info(name, self._types[name], None)
            for name in inside.told
            if name in self._types and name not in results
        ]

    @contextmanager
    def before_all(self, name: str, label: str) -> Iterator[None]:
        """Append the nodes that follow, of constants alone, before all others and outside of what repeats."""
        kept, told = (self._nodes, self._scope, self._label, self._count), len(self._told)
        self._nodes = self._ahead
        self.scope(name, label)
        try:
            yield
        finally:
            self._nodes, self._scope, self._label, self._count = kept
            # ONNX knows the shapes of what is made of constants
            del self._told[told:]

    def once(self, what: str, make: Callable[[], str]) -> str:
        """The tensor that nodes of constants alone ``make``: one, before all others, for all who ask."""
        if what not in self._once:
            label = f"0/once/{len(self._once)}"
            # what is made on the way has labels of its own
            self._once[what] = ""
            with self.before_all(what, label):
                self._once[what] = make()
        return self._once[what]

    # -- initializers ------------------------------------------------------------------------

    def store(self, name: str, array: np.ndarray) -> str:
        """Add an initializer; equal requests under one name are one, and others are refused."""
        made = numpy_helper.from_array(np.asarray(array, order="C"), name)
        known = self.initializers.setdefault(name, made)
        if known is made:
            self.dims[name] = array.shape
            if array.dtype == np.int64 and array.ndim == 1 and array.size <= 8:
                self._vectors[name] = tuple(int(v) for v in array)
        elif known != made:
            raise ExportError(name, "would be two tensors of one name", "please report the network")
        return name

    def scalar(self, value: int, kind: IntType) -> str:
        """A shared integer scalar."""
        return self.store(f"const/{kind.name}/{value}", np.array(value, dtype=kind.name))

    def axes(self, *values: int) -> str:
        """A shared int64 vector (axes, starts, ...)."""
        return self.store(f"const/axes/{','.join(map(str, values))}", np.array(values, dtype=np.int64))


def _node(
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attrs: Mapping[str, Setting],
    name: str = "",
    domain: str = "",
) -> NodeProto:
    settings: dict[str, Any] = {**attrs}
    return helper.make_node(op, inputs, outputs, name=name, domain=domain, **settings)


def _made_by(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """What nodes make, and what graphs inside of them call what enters them and what they make."""
    for node in nodes:
        yield from node.output
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from (value.name for value in attribute.g.input)
                yield from _made_by(attribute.g.node)


def _told_by(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """What nodes, and graphs inside of them, call what they take and make."""
    for node in nodes:
        yield from (*node.input, *node.output)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _told_by(attribute.g.node)


def rename(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> None:
    """Give tensors other names wherever nodes, or graphs inside of them, make, take or tell of them."""
    for node in nodes:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                if name in names:
                    places[place] = names[name]
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                rename(attribute.g.node, names)
                for value in (*attribute.g.input, *attribute.g.output, *attribute.g.value_info):
                    value.name = names.get(value.name, value.name)


def _short_names() -> Iterator[str]:
    """Names in the order of their length."""
    letters = string.ascii_letters
    for length in itertools.count(1):
        for first in letters:
            for rest in itertools.product(letters + string.digits, repeat=length - 1):
                yield "".join((first, *rest))


def type_of(v: Sym) -> int:
    """ONNX's number of the type of a tensor."""
    if v.short:
        return int(TensorProto.INT16)
    return int(TensorProto.FLOAT) if v.carried else onnx_type(v.interval.type)


def onnx_type(kind: IntType) -> int:
    """ONNX's number of a type."""
    return ONNX_TYPES[kind]
