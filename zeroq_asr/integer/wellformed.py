"""What a program must be before anything is proven of it: well-formed.

The interval proof and the exactness conditions of kernels speak of programs whose attributes and constants
mean what the definitions say.  A program read from a file may hold anything; ``check`` holds every
instruction against the invariants of its operator's record and names the one that breaks one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.attributes import FAR, is_whole
from zeroq_asr.integer.grid import BYTES, PACKINGS
from zeroq_asr.integer.program import Instruction, Port, Program, StatePort
from zeroq_asr.integer.types import I32, TYPES, U8
from zeroq_asr.registry import INTEGER_OPERATORS, Attrs, IntegerOperator


@dataclass(frozen=True)
class Checked:
    """An instruction with what is known of its operands, as the checks of an operator's record see it."""

    instruction: Instruction
    program: Program
    #: value → channels, 0 of lengths
    made: Mapping[str, int]
    #: value → most frames
    frames: Mapping[str, int]
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
        """Channels of the operands that are values."""
        return [self.made[name] for name in self.instruction.ins if name in self.made]

    @property
    def operand_frames(self) -> list[int]:
        """Most frames of the operands that are values."""
        return [self.frames[name] for name in self.instruction.ins if name in self.frames]

    def constant(self, name: str) -> np.ndarray:
        """The array of a constant by the name that the record gives it."""
        record = INTEGER_OPERATORS[self.instruction.op]
        place = next(place for place, constant in record.constants.items() if constant.name == name)
        return self.constants[place]

    def producer(self, place: int) -> Instruction | None:
        """The instruction that makes an operand; None for inputs and constants."""
        wanted = self.instruction.ins[place]
        return next((i for i in self.program.code if wanted in i.outs), None)

    def require(self, holds: bool, problem: str) -> None:
        """Raise ProofError, naming the instruction, unless an invariant holds."""
        require(holds, self.where, problem)

    def require_rows(self, rows: int, *names: str) -> None:
        """Require that the constants have ``rows`` entries each."""
        for name in names:
            self.require(self.constant(name).shape == (rows,), f"{name} has {rows} entries")


def check(program: Program) -> dict[str, int]:
    """Return the channels of every value of a well-formed program (0 for lengths).

    Raises ProofError, naming the instruction and the invariant, for any other.
    """
    require(is_whole(program.max_frames, 1, FAR), "program", "max_frames must be 1 or more")
    made: dict[str, int] = {}
    frames: dict[str, int] = {}
    ports: list[Port | StatePort] = [*program.inputs, *program.states]
    for port in ports:
        name = port.enters if isinstance(port, StatePort) else port.value
        require(name not in made, port.name, f"{name!r} enters twice")
        made[name], frames[name] = _channels_of(port), _frames_of(port, program.max_frames)
    clash = sorted(program.constants.keys() & {*made, *(name for i in program.code for name in i.outs)})
    require(not clash, "program", f"{clash} name a value and a constant")
    _check_packings(program)
    for i in program.code:
        where = f"{i.out} ({i.op})"
        require(i.op in INTEGER_OPERATORS, where, f"there is no operator {i.op!r}")
        record = INTEGER_OPERATORS[i.op]
        require(len(i.outs) == record.results, where, f"gives {record.results} results, not {len(i.outs)}")
        require(not made.keys() & {*i.outs} and len({*i.outs}) == len(i.outs), where, "a value is made twice")
        for name in i.ins:
            known = name in made or name in program.constants
            require(known, where, f"{name!r} is not made before it is read")
        _check_attributes(record, i, where)
        view = Checked(i, program, made, frames, _constants(record, i, program, where))
        require(bool(view.operand_frames), where, "reads constants alone")
        _check_meaning(i, program, where)
        if record.mask is not None:
            _check_mask(record.mask, view)
        if record.check is not None:
            record.check(view)
        channels = view.operands[0] if record.channels is None else record.channels(view)
        count = view.operand_frames[0] if record.frames is None else record.frames(view)
        made.update(dict.fromkeys(i.outs, channels))
        frames.update(dict.fromkeys(i.outs, count))
    for output in program.outputs:
        require(output.value in made, "program", f"output {output.value!r} is never made")
    for state in program.states:
        require(state.leaves in made, state.name, f"its value {state.leaves!r} is never made")
        same = made[state.leaves] == made[state.enters]
        require(
            same, state.name, f"enters with {made[state.enters]} channels, leaves with {made[state.leaves]}"
        )
    return made


def _channels_of(port: Port | StatePort) -> int:
    kind = port.type in ("float32", "int64", *TYPES)
    require(kind, port.name, f"a port of type {port.type!r}")
    extents = all((isinstance(d, str) and d.isidentifier()) or is_whole(d, 1, FAR) for d in port.dims)
    require(extents and bool(port.dims), port.name, f"extents {list(port.dims)} are no names or numbers")
    bounds = is_whole(port.lo, I32.lo, I32.hi) and is_whole(port.hi, I32.lo, I32.hi) and port.lo <= port.hi
    require(bounds, port.name, f"[{port.lo}, {port.hi}] is no range")
    if isinstance(port, StatePort):
        inside = port.type in TYPES and TYPES[port.type].holds(port.lo, port.hi)
        require(inside, port.name, f"[{port.lo}, {port.hi}] is no range of {port.type}")
        require(
            port.lo <= port.initial <= port.hi, port.name, f"begins at {port.initial}, outside of its range"
        )
    channels = port.dims[1] if len(port.dims) > 1 else 0
    require(isinstance(channels, int), port.name, "its second extent is its number of channels")
    return int(channels)


def _frames_of(port: Port | StatePort, longest: int) -> int:
    """Frames of a port: a number, or where they are free those of the longest input."""
    last = port.dims[2] if len(port.dims) > 2 else longest
    return last if isinstance(last, int) else longest


def _check_packings(program: Program) -> None:
    for name, packing in program.packings.items():
        require(name in program.constants, "program", f"packs {name!r}, which is no constant")
        require(packing in (BYTES, *PACKINGS), name, f"there is no packing {packing!r}")


def _check_attributes(record: IntegerOperator, i: Instruction, where: str) -> None:
    parameters = inspect.signature(record.define).parameters.values()
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    require(named == set(i.attrs), where, f"has attributes {sorted(i.attrs)}, its definition {sorted(named)}")
    for name, value in i.attrs.items():
        attribute = record.attributes[name]
        require(attribute.holds(value), where, f"{name} must be {attribute.must_be}, found {_short(value)}")
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


def _check_mask(places: tuple[int, int], view: Checked) -> None:
    mask = view.producer(places[0])
    same = mask is not None and INTEGER_OPERATORS[mask.op].makes_mask
    same = same and mask is not None and mask.ins[1] == view.instruction.ins[places[1]]
    view.require(same, "a mean must run over the frames that its mask keeps")


def _check_meaning(i: Instruction, program: Program, where: str) -> None:
    """What the integers are said to mean agrees with what the instruction gives."""
    info = program.values.get(i.out)
    if info is None:
        return
    meant = _real(info.scale) and info.scale > 0 and info.type in TYPES
    meant = meant and all(is_whole(v, I32.lo, I32.hi) for v in (info.zero_point, info.lo, info.hi))
    require(meant, where, "its scale, zero point and range are not those of an integer value")
    require(info.type == i.attrs.get("type", info.type), where, f"is said to be {info.type}")
    if "lo" in i.attrs:
        inside = info.lo <= i.attrs["lo"] and i.attrs["hi"] <= info.hi
        require(inside, where, f"is said to lie in [{info.lo}, {info.hi}]")
    zero_point = i.attrs.get("zy", i.attrs.get("zero_point", info.zero_point))
    require(info.zero_point == zero_point, where, f"is said to have zero point {info.zero_point}")


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    # an attribute may be a number of a million digits, which Python refuses to print
    if isinstance(value, int) and abs(value) >= 1 << 70:
        return "a far larger number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def require(holds: bool, where: str, problem: str) -> None:
    """Raise ProofError for ``where`` unless an invariant holds."""
    if not holds:
        raise ProofError(where, problem)
