"""The registry of operators: one record holds everything that the package knows of an operator.

An ``Operator`` is an operator of the float graph: what it computes, how it is recognised in a traced
network, how it is written as float ONNX, what it does to shapes, what generic code may assume of it (its
traits), and how it is lowered to integers.  The ``IntegerOperator`` records that it is lowered to come with
it: definition, invariants, kernels by dialect, tolerance and parity cases.

Generic code asks a record; it knows no operator by name.  ``register`` adds a record, from inside the package
(``zeroq_asr.operators`` registers those that ship) or from outside: nothing else has to be told.  Those that
ship are imported by name at the first question, like a plug-in, so that importing the package is quick.
"""

from __future__ import annotations

import builtins
import importlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from zeroq_asr.errors import ConfigError, UnsupportedOperatorError

if TYPE_CHECKING:
    from zeroq_asr.capture.tracer import Tracer
    from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
    from zeroq_asr.graph.onnx_writer import Writer
    from zeroq_asr.graph.shapes import Shape
    from zeroq_asr.integer.program import Instruction
    from zeroq_asr.integer.wellformed import Checked
    from zeroq_asr.lowering.context import Lowering
    from zeroq_asr.operators.cases import Case

#: attributes of an instruction: ints, strings, tuples of them, and floats, of operators that compute in float
Attrs = dict[str, Any]


# -- integers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """A statement under which a kernel equals a definition, with what the proof found."""

    statement: str
    holds: bool
    found: str = ""


@dataclass(frozen=True)
class Kernel:
    """The spelling of an integer operator in one dialect by other nodes than those of its definition.

    ``emit(builder, instruction, operands)`` appends ONNX nodes and returns the result.
    ``exact_if(instruction, *intervals)`` gives the conditions under which it equals the definition, which
    the interval proof discharges; where one does not hold the definition is spelled instead.  None: nothing
    is claimed (the dialect ``qdq``).
    """

    emit: Callable[..., Any]
    exact_if: Callable[..., list[Condition]] | None = None
    #: what certificates call it; "": the ONNX operator of its first node
    name: str = ""


def moves(i: Instruction, *operands: object) -> list[Condition]:
    """Return the condition of a kernel that only moves integers."""
    return [Condition("it moves integers and computes none", True)]


def spelled(b: Any, i: Instruction, ins: list[Any]) -> Any:
    """Emit an instruction as its definition: the ``qdq`` kernel of what no provider would fuse."""
    return b.define(i, ins)


@dataclass(frozen=True)
class Attribute:
    """The invariant of an attribute of instructions: what it must be, in words, and the test."""

    must_be: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Constant:
    """The invariant of an operand that is a constant of the program: its type and number of axes."""

    name: str
    dtype: type[np.generic]
    axes: int


#: frames of its operands that a valid frame of an operator's result is made of: valid ones alone; those
#: behind the end, too, for which it takes zero; those that its mask keeps; any
OWN, NEAR, VALID, ANY = "own", "near", "valid", "any"

#: in ``IntegerOperator.zero_points``: the attribute has one entry for each operand
EVERY = -1


@dataclass(frozen=True)
class IntegerOperator:
    """An operator of integer programs."""

    name: str
    #: ``define(backend, *operands, **attributes)`` over the primitives of ``integer.backends.base`` alone:
    #: every backend, the proof among them, interprets this one definition
    define: Callable[..., Any]
    #: attribute → its invariant; one for every keyword of ``define``
    attributes: Mapping[str, Attribute]
    #: place of an operand → what constant it must be; all other operands are values
    constants: Mapping[int, Constant] = field(default_factory=dict)
    #: further invariants, of attributes, constants and operands together: calls ``require`` of what it is
    #: given
    check: Callable[[Checked], None] | None = None
    #: dialect → its kernel: "fused" (exact) and "qdq" (not exact)
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    #: attribute → place of the operand whose zero point it is; EVERY: the attribute lists those of all
    zero_points: Mapping[str, int] = field(default_factory=dict)
    #: place of the operand whose integers its result holds, so that they mean the same
    moves: int | None = None
    #: which frames it reads (OWN, NEAR of its first operand, VALID, ANY), or what tells of an instruction
    frames: str | Callable[[Instruction], str] = ANY
    #: whether frames behind the end of an utterance become the zero point
    clears_behind: bool = False
    #: whether it looks at every entry by itself, whatever the order of its axes
    axis_free: bool = False
    #: whether it computes in float, so that a program with it is not integer-only
    computes_in_float: bool = False
    #: whether its result is the mask of the frames below the lengths, its second operand
    makes_mask: bool = False
    #: whether its result hangs on the number of frames of its first operand alone, not on what they hold
    of_frames: bool = False
    #: places of the mask and of the lengths of an operator that takes a mean over valid frames
    mask: tuple[int, int] | None = None
    #: whether its result is of as many frames as a table of the program has columns for, padding included
    bounded: bool = False
    #: how many values it gives
    results: int = 1
    #: largest distance to the real function in steps of the output; further entries are of special operands
    tolerance: Mapping[str, float] = field(default_factory=dict)
    #: parity cases, which every interpreter must give the same integers for
    cases: Callable[[], Iterator[Case]] | None = None


# -- floats ----------------------------------------------------------------------------------------

#: kinds of traced values that an operand may be of (``zeroq_asr.capture.tracer``), as isinstance takes them
Kinds = type | tuple[type, ...]
#: ``handler(tracer, *arguments)`` gives the kind of the result, or NotImplemented
Handler = Callable[..., Any]


@dataclass(frozen=True)
class Capture:
    """What an ATen operator means where its leading operands are of certain kinds."""

    #: canonical name of the ATen operator (``zeroq_asr.capture.aten``)
    name: str
    kinds: tuple[Kinds, ...]
    handler: Handler


@dataclass(frozen=True)
class Function:
    """An elementwise function of one real number, and what is known of it."""

    of: Callable[[float], float]
    #: what it tends to far below and far above 0; None: it goes on
    limits: tuple[float | None, float | None] = (None, None)
    #: its range, where that needs no calibration
    range: tuple[float, float] | None = None

    def flat_beyond(self, tolerance: float) -> tuple[float, float]:
        """The ends, to a 16th, beyond which it is within ``tolerance`` of what it tends to, if to anything.

        Each function approaches its limits from its last turn on, and none turns beyond 2.
        """

        def reach(sign: int, limit: float | None) -> float:
            if limit is None:
                return math.inf
            near = (
                n for n in builtins.range(2 * 16, 40 * 16) if abs(self.of(sign * n / 16) - limit) <= tolerance
            )
            return next(near, 40 * 16) / 16

        low, high = self.limits
        return -reach(-1, low), reach(1, high)


#: what an operator does with values of 16 bits: refuses them, takes them where the user asked for 16 bits by
#: name, or takes them always
NEVER, NAMED, ALWAYS = "never", "named", "always"


@dataclass(frozen=True)
class Traits:
    """What generic code may assume of an operator, whatever it computes."""

    #: every frame of the result is made of the same frame of the operands; or a test of the node
    framewise: bool | Callable[[FloatNode], bool] = False
    #: moves integers as they are and computes none, so that its result has the format of its operand
    moves: bool = False
    #: its result has another number of axes than its operand
    changes_rank: bool = False
    #: a ReLU or Hardtanh behind it can be its own ``clamp``
    takes_clamp: bool = False
    #: reads values of 16 bits: NEVER (it is given bytes of them), NAMED or ALWAYS
    reads_wide: str = NEVER
    #: its result can have 16 bits: NEVER, NAMED, or ALWAYS (as a part of a residual stream, too)
    makes_wide: str = NEVER
    #: its result can have 16 bits only if its operand has
    wide_by_operand: bool = False
    #: normalizes its first operand, which must therefore be fine where it is quiet
    normalizes: bool = False
    #: sums of its operands are what residual streams are made of
    sums: bool = False
    #: contracts its first operand with ``attrs["weight"]``, plus ``attrs["bias"]``: see ``graph.linear``
    holds_weight: bool = False
    #: has weights on the grid that a plan gives it, though not one matrix that other passes may change
    on_grid: bool = False
    #: ``attrs["weight"]`` and ``attrs["bias"]`` are a scale and a shift of each channel of its result
    scales_channels: bool = False
    #: makes lengths of lengths
    makes_lengths: bool = False
    #: depends on nothing but the number of frames of its operand
    of_frames: bool = False
    #: there is no integer form of it at all: it is kept in float wherever that is allowed
    float_only: bool = False
    #: no more work in float than rounding at both of its ends; or a test of the node
    light: bool | Callable[[FloatNode], bool] = False
    #: clears the frames at and beyond the lengths, its second operand
    masks: bool = False
    #: takes a mean over valid frames
    averages: bool = False
    #: it scales and shifts channels by ``attrs["scale"]`` and ``attrs["shift"]``, and folds into what is
    #: before it
    affine: bool = False
    #: a clamp and nothing else
    clamps: bool = False
    #: holds other nodes in ``attrs["nodes"]``
    holds_nodes: bool = False
    #: adds ``attrs["bias"]`` to each channel of its result last, having scaled it by ``attrs["weight"]``
    shifts_channels: bool = False
    #: place of the operand a factor on whose channel is the same factor on that channel of the result
    keeps_channels: int | None = None
    #: turns a real input of the network into integers: lowering makes a node of it for each
    enters: bool = False


@dataclass(frozen=True)
class Operator:
    """An operator of the float graph, and all that becomes of it."""

    name: str
    #: ``meaning(*operands, **attributes)`` in torch, differentiable: a tensor, or as many as it has results
    meaning: Callable[..., Any] | None = None
    #: handlers that recognise it in a traced network
    captures: tuple[Capture, ...] = ()
    #: ``capture_call(tracer, node)`` captures a call that no handler knows, where the user allows float
    capture_call: Callable[[Tracer, Any], Any] | None = None
    #: what it does to shapes: ``shape(node, operands)``; by default the result is like the widest operand
    shape: Callable[[FloatNode, list[Shape]], Shape] | None = None
    traits: Traits = field(default_factory=Traits)
    #: ``spelling(writer, node)`` writes it as float ONNX
    spelling: Callable[[Writer, FloatNode], None] | None = None
    #: ``lower(context, node)`` turns it into instructions; None: it has no integer form
    lower: Callable[[Lowering, FloatNode], None] | None = None
    #: the integer operators that it is lowered to
    integers: tuple[IntegerOperator, ...] = ()
    #: ``unseen(node, operand, result)``: names of the lengths at and beyond which nobody sees frames of
    #: ``operand``, given those of the result; by default those of the result if it is framewise, else none
    unseen: Callable[[FloatNode, str, set[str]], set[str]] | None = None
    #: what an elementwise function is known by
    function: Function | None = None
    #: ``rewrite(graph)`` is applied to captured graphs before they are calibrated
    rewrite: Callable[[FloatGraph], FloatGraph] | None = None
    #: decides formats that several values need together: ``plan_formats(context, nodes)`` of all its nodes
    plan_formats: Callable[[Lowering, list[FloatNode]], None] | None = None
    #: whether its operands must be bytes, of formats that ``plan_formats`` may choose, whatever the user
    #: names
    needs_bytes: bool = False


# -- the tables ------------------------------------------------------------------------------------

#: what is imported at the first question, and registers the operators that ship
_SHIPPED = {"zeroq_asr.operators"}
#: several threads may ask first, and what is imported asks, too
_LOCK, _IMPORTING = threading.RLock(), set[str]()

Record = TypeVar("Record", Operator, IntegerOperator)


class Table(MutableMapping[str, Record]):
    """Records by name, those that ship among them from the first question on."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def _known(self) -> dict[str, Record]:
        if _SHIPPED:
            with _LOCK:
                for name in _SHIPPED - _IMPORTING:
                    _IMPORTING.add(name)
                    try:
                        importlib.import_module(name)
                        _SHIPPED.discard(name)
                    finally:
                        _IMPORTING.discard(name)
        return self._records

    def __getitem__(self, name: str) -> Record:
        return self._known()[name]

    def __setitem__(self, name: str, record: Record) -> None:
        self._known()[name] = record

    def __delitem__(self, name: str) -> None:
        del self._known()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())


#: operators of the float graph by name
OPERATORS: Table[Operator] = Table()
#: operators of integer programs by name
INTEGER_OPERATORS: Table[IntegerOperator] = Table()


def register(operator: Operator) -> Operator:
    """Add an operator, and the integer operators that come with it; returns it.

    Raises ConfigError where a name is taken by another record.
    """
    taken = [i.name for i in operator.integers if INTEGER_OPERATORS.get(i.name, i) is not i]
    taken += [operator.name] if operator.name in OPERATORS else []
    if taken:
        raise ConfigError("register", f"there is an operator {taken[0]!r} already", "give it another name")
    OPERATORS[operator.name] = operator
    INTEGER_OPERATORS.update((i.name, i) for i in operator.integers)
    return operator


def unregister(operator: Operator) -> None:
    """Take an operator out again, and the integer operators that came with it alone."""
    del OPERATORS[operator.name]
    kept = {i.name for other in OPERATORS.values() for i in other.integers}
    for integer in operator.integers:
        if integer.name not in kept:
            del INTEGER_OPERATORS[integer.name]


def operator_of(node: FloatNode) -> Operator:
    """Return the record of a node's operator; UnsupportedOperatorError if there is none."""
    try:
        return OPERATORS[node.op]
    except KeyError:
        known = ", ".join(sorted(OPERATORS))
        raise UnsupportedOperatorError(
            node.where or node.out, f"there is no operator {node.op!r}", f"registered: {known}"
        ) from None


def traits_of(node: FloatNode) -> Traits:
    """Return what generic code may assume of a node's operator."""
    return operator_of(node).traits


def sole(trait: str) -> Operator:
    """Return the first registered operator with a trait, for a pass that makes a node of it.

    Raises UnsupportedOperatorError if none has it.
    """
    for operator in OPERATORS.values():
        if getattr(operator.traits, trait):
            return operator
    raise UnsupportedOperatorError(
        trait, "no operator has this trait", "register one, or import zeroq_asr.operators"
    )


def framewise(node: FloatNode) -> bool:
    """Whether every frame of a node's result is made of the same frame of its operands."""
    trait = traits_of(node).framewise
    return trait(node) if callable(trait) else trait


def light(node: FloatNode) -> bool:
    """Whether a node costs no more in float than the rounding at both of its ends."""
    trait = traits_of(node).light
    return trait(node) if callable(trait) else trait
