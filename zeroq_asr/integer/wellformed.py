"""What a program must be before anything is proven of it: well-formed.

The interval proof and the exactness conditions of kernels speak of programs whose attributes and constants
mean what the definitions say.  A program read from a file may hold anything; ``check`` holds every
instruction against the invariants of its operator's record and names the one that breaks one.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.attributes import FAR, is_positive, is_whole
from zeroq_asr.integer.backends.shapes import ShapeBackend, Shaped
from zeroq_asr.integer.extents import at
from zeroq_asr.integer.packing import BYTES, FIRST_OPSET, PACKINGS, needs_opset
from zeroq_asr.integer.ports import (
    check_entering,
    check_leaving,
    entering_shapes,
    file_names,
    is_name,
    require,
    sizes_of,
)
from zeroq_asr.integer.program import Instruction, Port, Program, StatePort
from zeroq_asr.integer.types import I32, TYPES, U8
from zeroq_asr.lines import shown
from zeroq_asr.registry import EVERY, INTEGER_OPERATORS, Attrs, IntegerOperator

#: types of values that have a meaning
_MEANT = ("uint8", "int32")


@dataclass(frozen=True)
class Shapes:
    """What a well-formed program's values are, for every input that it takes."""

    #: value → its element type and extents
    values: Mapping[str, Shaped]
    #: free extent of the ports → the smallest number of which every value keeps a frame
    least: Mapping[str, int]


@dataclass(frozen=True)
class Checked:
    """An instruction with what is known of its operands, as the checks of an operator's record see it."""

    instruction: Instruction
    program: Program
    #: value → its element type and extents
    made: Mapping[str, Shaped]
    #: free extent → the largest number that it stands for
    sizes: Mapping[str, int]
    #: place of a constant operand → its array
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)

    @property
    def attrs(self) -> Attrs:
        """Attributes of the instruction."""
        return self.instruction.attrs

    @property
    def where(self) -> str:
        """Name of the instruction in error texts."""
        return f"{self.instruction.out} ({self.instruction.op})"

    @property
    def operands(self) -> list[int]:
        """Channels of the operands that are values, 0 of lengths."""
        return [self.made[name].channels for name in self.instruction.ins if name in self.made]

    def longest(self, place: int) -> int:
        """Most frames of an operand [B, C, T]."""
        operand = self.made[self.instruction.ins[place]]
        self.require(len(operand.dims) == 3, f"operand {place} is {operand}, not [B, C, T]")
        return at(operand.dims[2], self.sizes)

    def constant(self, name: str) -> np.ndarray:
        """The array of a constant by the name that the record gives it."""
        record = INTEGER_OPERATORS[self.instruction.op]
        place = next(place for place, constant in record.constants.items() if constant.name == name)
        return self.constants[place]

    def require(self, holds: bool, problem: str) -> None:
        """Raise ProofError, naming the instruction, unless an invariant holds."""
        require(holds, self.where, problem)

    def require_rows(self, rows: int, *names: str) -> None:
        """Require that the constants have ``rows`` entries each."""
        for name in names:
            self.require(self.constant(name).shape == (rows,), f"{name} has {rows} entries")


def check(program: Program) -> Shapes:
    """Return what the values of a well-formed program are.

    Raises ProofError, naming the instruction and the invariant, for any other.
    """
    require(is_whole(program.max_frames, 1, FAR), "program", "max_frames must be 1 or more")
    check_entering(program)
    backend = ShapeBackend(sizes_of(program))
    made = entering_shapes(program)
    _check_names(program, made)
    _check_packings(program)
    givers: dict[str, Instruction] = {}
    for i in program.code:
        where = f"{i.out} ({i.op})"
        require(i.op in INTEGER_OPERATORS, where, f"there is no operator {shown(i.op)}")
        record = INTEGER_OPERATORS[i.op]
        require(len(i.outs) == record.results, where, f"gives {record.results} results, not {len(i.outs)}")
        require(not made.keys() & {*i.outs} and len({*i.outs}) == len(i.outs), where, "a value is made twice")
        for name in i.ins:
            known = name in made or name in program.constants
            require(known, where, f"{shown(name)} is not made before it is read")
        _check_attributes(record, i, where)
        view = Checked(i, program, made, backend.sizes, _constants(record, i, program, where))
        require(any(name in made for name in i.ins), where, "reads constants alone")
        _check_meaning(i, program, where)
        if record.mask is not None:
            _check_mask(record.mask, view, givers)
        if record.check is not None:
            record.check(view)
        _check_zero_points(record, i, program, where)
        made.update(zip(i.outs, _shapes(backend, i, made, program), strict=True))
        givers.update(dict.fromkeys(i.outs, i))
    _check_entering_meaning(program)
    odd = sorted(program.values.keys() - made.keys())
    require(not odd, "program", f"says what {shown(odd)} mean, which are never made")
    check_leaving(program, made)
    return Shapes(made, backend.least)


def _check_names(program: Program, entering: Mapping[str, Shaped]) -> None:
    values = {*entering, *(name for i in program.code for name in i.outs)}
    odd = [name for name in values if not is_name(name)]
    odd += [name for name in program.constants if not is_name(name, constant=True)]
    require(not odd, "program", f"{shown(odd[:1])} is no name of a value or a constant")
    clash = sorted(program.constants.keys() & values)
    require(not clash, "program", f"{shown(clash)} name a value and a constant")
    taken = sorted(program.constants.keys() & file_names(program))
    require(not taken, "program", f"{shown(taken)} name a constant and a port")


def _shapes(
    backend: ShapeBackend, i: Instruction, made: Mapping[str, Shaped], program: Program
) -> tuple[Shaped, ...]:
    """The results of an instruction, by its definition."""
    given = [
        made[name] if name in made else backend.constant(name, program.constants[name]) for name in i.ins
    ]
    try:
        return backend.instruction(i, given)
    except ProofError as error:
        if error.where == backend.where:
            raise
        raise ProofError(backend.where, f"{error.where}: {error.problem}", error.remedy) from None


def _check_packings(program: Program) -> None:
    for name, packing in program.packings.items():
        require(name in program.constants, "program", f"packs {shown(name)}, which is no constant")
        require(packing in (BYTES, *PACKINGS), name, f"there is no packing {shown(packing)}")
    # the nodes of a float island mean what the opset says that its body was written in
    if any(INTEGER_OPERATORS[i.op].computes_in_float for i in program.code if i.op in INTEGER_OPERATORS):
        for name, packing in program.packings.items():
            holds = needs_opset(packing) <= FIRST_OPSET
            require(holds, name, f"the packing {packing} cannot stand in a file with a float island")


def _check_attributes(record: IntegerOperator, i: Instruction, where: str) -> None:
    parameters = inspect.signature(record.define).parameters.values()
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    require(named == set(i.attrs), where, f"has attributes {sorted(i.attrs)}, its definition {sorted(named)}")
    for name, value in i.attrs.items():
        attribute = record.attributes[name]
        require(
            attribute.holds(value), where, f"{name} must be {attribute.must_be}, found {shown(value, 60)}"
        )
    if "lo" in i.attrs and "hi" in i.attrs:
        lo, hi = i.attrs["lo"], i.attrs["hi"]
        kind = TYPES[i.attrs.get("type", U8.name)]
        require(lo <= hi and kind.holds(lo, hi), where, f"[{lo}, {hi}] is no range of {kind.name}")
    operands = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    free = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    enough = len(i.ins) >= len(operands) if free else len(i.ins) == len(operands)
    require(enough, where, f"has {len(i.ins)} operands, not {len(operands)}")


def _constants(
    record: IntegerOperator, i: Instruction, program: Program, where: str
) -> dict[int, np.ndarray]:
    """The constants of an instruction by place; those that its record does not name may be nowhere."""
    found: dict[int, np.ndarray] = {}
    for place, name in enumerate(i.ins):
        array, wanted = program.constants.get(name), record.constants.get(place)
        if wanted is None:
            require(array is None or record.computes_in_float, where, f"operand {place} is no constant")
        elif array is None or array.dtype != wanted.dtype or array.ndim != wanted.axes or array.size == 0:
            raise ProofError(where, f"{wanted.name} is {np.dtype(wanted.dtype)} of {wanted.axes} axes")
        else:
            found[place] = array
    return found


def _check_mask(places: tuple[int, int], view: Checked, givers: Mapping[str, Instruction]) -> None:
    mask = givers.get(view.instruction.ins[places[0]])
    same = mask is not None and INTEGER_OPERATORS[mask.op].makes_mask
    same = same and mask is not None and mask.ins[1] == view.instruction.ins[places[1]]
    view.require(same, "a mean must run over the frames that its mask keeps")


def _check_meaning(i: Instruction, program: Program, where: str) -> None:
    """What the integers are said to mean agrees with what the instruction gives."""
    info = program.values.get(i.out)
    if info is None:
        return
    meant = is_positive(info.scale) and info.type in _MEANT
    meant = meant and all(is_whole(v, I32.lo, I32.hi) for v in (info.zero_point, info.lo, info.hi))
    require(meant, where, "its scale, zero point and range are not those of an integer value")
    require(info.type == i.attrs.get("type", info.type), where, f"is said to be {info.type}")
    if "lo" in i.attrs:
        inside = info.lo <= i.attrs["lo"] and i.attrs["hi"] <= info.hi
        require(inside, where, f"is said to lie in [{info.lo}, {info.hi}]")
    zero_point = i.attrs.get("zy", i.attrs.get("zero_point", info.zero_point))
    require(info.zero_point == zero_point, where, f"is said to have zero point {info.zero_point}")
    if info.type == I32.name:
        require(info.zero_point == 0, where, f"is int32 with zero point {info.zero_point}, not 0")


def _check_entering_meaning(program: Program) -> None:
    """What the integers that enter are said to mean agrees with what may enter."""
    entering: list[tuple[str, Port | StatePort]] = [(port.value, port) for port in program.inputs]
    entering += [(state.enters, state) for state in program.states]
    for name, port in entering:
        info = program.values.get(name)
        if info is None:
            continue
        meant = is_positive(info.scale) and info.type in _MEANT
        meant = meant and all(is_whole(v, I32.lo, I32.hi) for v in (info.zero_point, info.lo, info.hi))
        require(meant, port.name, "its scale, zero point and range are not those of an integer value")
        require(info.type == port.type, port.name, f"is said to be {info.type}")
        inside = info.lo <= port.lo and port.hi <= info.hi
        require(inside, port.name, f"is said to lie in [{info.lo}, {info.hi}]")
        if info.type == I32.name:
            require(info.zero_point == 0, port.name, f"is int32 with zero point {info.zero_point}, not 0")


def _check_zero_points(record: IntegerOperator, i: Instruction, program: Program, where: str) -> None:
    """An instruction takes for zero what its operands are said to; what it moves means what it meant.

    Else padding and masked frames would hold another number than 0, and what an utterance gives would hang on
    the batch that it is in.
    """
    for name, place in record.zero_points.items():
        given = i.attrs[name]
        of = i.ins if place == EVERY else i.ins[place : place + 1]
        for zero_point, operand in zip(given if isinstance(given, tuple) else (given,), of, strict=False):
            said = program.values.get(operand)
            if said is None:
                # of what enters nothing else is said
                enters = operand in program.entering
                require(
                    enters, where, f"reads {shown(operand)} with a zero point, which is said to have none"
                )
            else:
                same = said.zero_point == zero_point
                found = f"{name} is {zero_point}, the zero point of {shown(operand)} {said.zero_point}"
                require(same, where, found)
    if record.moves is not None:
        moved, info = program.values.get(i.ins[record.moves]), program.values.get(i.out)
        same = (
            moved is None or info is None or (moved.scale, moved.zero_point) == (info.scale, info.zero_point)
        )
        require(same, where, "its scale and zero point are not those of what it moves")
