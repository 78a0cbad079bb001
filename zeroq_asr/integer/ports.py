"""What the ports of a program must be, and the names in it: what a file can hold, and a runtime takes.

What enters is [batch, channels, frames] of float32 features or of integers, or lengths [batch]; the extents
of the batch and of the frames are names, which stand for any number.  What leaves is what the program makes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.attributes import FAR, is_whole
from zeroq_asr.integer.backends.shapes import FLOAT, Shaped
from zeroq_asr.integer.extents import Dim, Extent
from zeroq_asr.integer.program import Port, Program, StatePort
from zeroq_asr.integer.types import I32, TYPES
from zeroq_asr.lines import shown

_LENGTHS = "int64"
#: types of integers that enter and leave, and stay from run to run
_INTEGERS = ("uint8", "int32")
#: of values and constants: what a file makes of its own accord begins with a digit, or has a slash before
#: something else than a number
_NAME = re.compile(r"[^\W\d][^\s/]{0,499}")
_CONSTANT = re.compile(rf"{_NAME.pattern}(/\d{{1,9}})?")
#: of ports and free extents
_PORT_NAME = re.compile(r"[^\W\d]\w{0,99}")
#: what a CTC file gives beside the ports of its program
_ADDED = "logprobs"

AnyPort = Port | StatePort


def require(holds: bool, where: str, problem: str) -> None:
    """Raise ProofError for ``where`` unless an invariant holds."""
    if not holds:
        raise ProofError(where, problem)


def is_name(name: object, constant: bool = False) -> bool:
    """Whether a value, or a constant, may be called so: no name that a file makes up is like it."""
    form = _CONSTANT if constant else _NAME
    return isinstance(name, str) and bool(form.fullmatch(name)) and name.isprintable()


def file_names(program: Program) -> set[str]:
    """Names that a file gives to what enters and leaves."""
    states = (f"next_{state.name}" for state in program.states)
    ports: list[AnyPort] = [*program.inputs, *program.outputs, *program.states]
    return {*(port.name for port in ports), *states, _ADDED}


def _entering(program: Program) -> list[AnyPort]:
    return [*program.inputs, *program.states]


def _value(port: AnyPort) -> str:
    return port.enters if isinstance(port, StatePort) else port.value


# -- what enters -----------------------------------------------------------------------------------


def check_entering(program: Program) -> None:
    """Raise ProofError unless inputs and states are what a file can take."""
    names: set[str] = set()
    values: set[str] = set()
    for port in _entering(program):
        _check_name(port.name, names)
        name = _value(port)
        require(name not in values, port.name, f"{shown(name)} enters twice")
        values.add(name)
        states = isinstance(port, StatePort)
        known = _INTEGERS if states else (FLOAT, _LENGTHS, *_INTEGERS)
        require(port.type in known, port.name, f"a port of type {shown(port.type)}, not {' or '.join(known)}")
        _check_bounds(port)
        _check_extents(port)
        if isinstance(port, StatePort):
            begins = is_whole(port.initial, port.lo, port.hi)
            require(begins, port.name, f"begins at {shown(port.initial)}, outside of its range")
    for port in program.outputs:
        _check_name(port.name, names)
    for state in program.states:
        _check_name(f"next_{state.name}", names)
    batch = {port.dims[0] for port in _entering(program)}
    require(len(batch) <= 1, "program", f"has batches of {shown(sorted(map(str, batch)))}, which are one")
    for port in _entering(program):
        require(not batch & {*port.dims[1:]}, port.name, "the name of its batch is that of another extent")


def _check_name(name: object, names: set[str]) -> None:
    holds = isinstance(name, str) and bool(_PORT_NAME.fullmatch(name))
    require(holds, "program", f"a port is called {shown(name)}, which is no name of letters and digits")
    require(name not in names, str(name), "two ports have this name")
    names.add(str(name))


def _check_bounds(port: AnyPort) -> None:
    bounds = is_whole(port.lo, I32.lo, I32.hi) and is_whole(port.hi, I32.lo, I32.hi) and port.lo <= port.hi
    require(bounds, port.name, f"[{shown(port.lo)}, {shown(port.hi)}] is no range")
    if isinstance(port, StatePort) or port.type in _INTEGERS:
        inside = port.type in _INTEGERS and TYPES[port.type].holds(port.lo, port.hi)
        require(inside, port.name, f"[{port.lo}, {port.hi}] is no range of {shown_type(port.type)}")


def shown_type(kind: object) -> str:
    """A type as errors name it."""
    return kind if isinstance(kind, str) and kind.isidentifier() else shown(kind)


def _check_extents(port: AnyPort) -> None:
    extents = isinstance(port.dims, tuple) and bool(port.dims) and all(map(_is_extent, port.dims))
    require(extents, port.name, f"extents {shown(list(port.dims))} are no names or numbers")
    require(isinstance(port.dims[0], str), port.name, "its first extent, the batch, is a name")
    if port.type == _LENGTHS:
        require(len(port.dims) == 1, port.name, f"lengths are [batch], not {shown(list(port.dims))}")
        return
    channels = len(port.dims) > 1 and isinstance(port.dims[1], int)
    require(channels, port.name, "its second extent is its number of channels")
    ranks = (3,) if port.type == FLOAT else (3, 4)
    wanted = "[batch, channels, frames]"
    require(len(port.dims) in ranks, port.name, f"is {wanted}, not {shown(list(port.dims))}")
    require(all(isinstance(d, int) for d in port.dims[3:]), port.name, "its last extent is a number")


def _is_extent(dim: object) -> bool:
    return is_whole(dim, 1, FAR) or (isinstance(dim, str) and bool(_PORT_NAME.fullmatch(dim)))


def sizes_of(program: Program) -> dict[str, int]:
    """Return free extent → the largest number it stands for: frames; of the batch, one utterance."""
    ports = _entering(program)
    free = {dim: program.max_frames for port in ports for dim in port.dims[1:] if isinstance(dim, str)}
    return {**free, **{str(port.dims[0]): 1 for port in ports}}


def entering_shapes(program: Program) -> dict[str, Shaped]:
    """Return what enters: lengths count the frames of the port before them, or of the first that has any."""
    free = [
        port.dims[2] for port in _entering(program) if len(port.dims) > 2 and isinstance(port.dims[2], str)
    ]
    frames = free[0] if free else ""
    made: dict[str, Shaped] = {}
    for port in _entering(program):
        if len(port.dims) > 2 and isinstance(port.dims[2], str):
            frames = port.dims[2]
        dims = tuple(Extent(dim) if isinstance(dim, str) else dim for dim in port.dims)
        counts = Extent(str(frames)) if port.type == _LENGTHS and frames else None
        made[_value(port)] = Shaped(port.type, dims, counts=counts)
    return made


# -- what leaves -----------------------------------------------------------------------------------


def check_leaving(program: Program, made: Mapping[str, Shaped]) -> None:
    """Raise ProofError unless outputs and states are what the program makes."""
    named: dict[str, Dim] = {
        str(dim): Extent(dim) for port in _entering(program) for dim in port.dims if isinstance(dim, str)
    }
    for port in program.outputs:
        require(port.value in made, "program", f"output {shown(port.value)} is never made")
        v = made[port.value]
        allowed = (_LENGTHS, *_INTEGERS)
        require(v.type in allowed, port.name, f"gives {v}, a file gives {', '.join(allowed)}")
        extents = isinstance(port.dims, tuple) and all(map(_is_extent, port.dims))
        require(extents, port.name, f"extents {shown(list(port.dims))} are no names or numbers")
        _check_bounds(port)
        alike = port.type == v.type and len(port.dims) == len(v.dims)
        for said, dim in zip(port.dims, v.dims, strict=False):
            alike = alike and dim == (said if isinstance(said, int) else named.setdefault(said, dim))
        require(
            alike, port.name, f"is said to be {shown_type(port.type)} {shown(list(port.dims))}, and is {v}"
        )
    shapes = [made[port.value] for port in program.outputs]
    for port, v in zip(program.outputs, shapes, strict=True):
        if v.type == _LENGTHS:
            counted = [dim for other in shapes for dim in other.dims[1:] if isinstance(dim, Extent)]
            right = v.counts is not None and any(v.counts == d and v.since <= d.least for d in counted)
            found = "something else" if v.counts is None else v.counts
            leaving = ", ".join(dict.fromkeys(map(str, counted))) or "no frames"
            require(right, port.name, f"counts {found}, of what leaves there are {leaving}")
    for state in program.states:
        require(state.leaves in made, state.name, f"its value {shown(state.leaves)} is never made")
        enters, leaves = made[state.enters], made[state.leaves]
        require(
            (enters.type, enters.dims) == (leaves.type, leaves.dims),
            state.name,
            f"enters with {enters.channels} channels, as {enters}, and leaves as {leaves}",
        )
