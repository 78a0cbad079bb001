"""What a program must be before anything is proven of it: well-formed.

The interval proof and the exactness conditions of kernels speak of programs whose attributes and
constants mean what the definitions say.  A program read from a file may hold anything; ``check`` states
each invariant once and names the instruction that breaks it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.program import Instruction, Program
from zeroq_asr.integer.types import I32, TYPES, U8
from zeroq_asr.operators import OPS
from zeroq_asr.operators.attention import hides
from zeroq_asr.operators.polynomial_requant import SYMMETRIES
from zeroq_asr.operators.table import FUNCTIONS

#: lengths, shifts of lengths, strides: nothing in a network is larger
_FAR = 1 << 40


def _positive(value: Any) -> bool:
    # as the float32 that it becomes
    return isinstance(value, float) and 2.0**-149 <= value < 2.0**128


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _each(value: Any, low: int, high: int) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    return bool(values) and all(_whole(v, low, high) for v in values)


def _pair(value: Any, low: int) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _each(value, low, _FAR)


_BYTES = ("zx", "za", "zb", "zy", "zero_point", "zq", "zk", "zv", "zp", "zr")
_SYMMETRIES = sorted({*SYMMETRIES.values()})
#: attribute → (its invariant, the test)
ATTRIBUTES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **{name: ("a byte", lambda v: _each(v, U8.lo, U8.hi)) for name in _BYTES},
    **{name: ("1 ≤ m < 2^31", lambda v: _each(v, 1, I32.hi)) for name in ("m", "up", "mp")},
    "c": ("0 ≤ c ≤ 30", lambda v: _whole(v, 0, 30)),
    "fraction": ("0 ≤ fraction ≤ 16", lambda v: _whole(v, 0, 16)),
    "lo": ("an int32", lambda v: _whole(v, I32.lo, I32.hi)),
    "hi": ("an int32", lambda v: _whole(v, I32.lo, I32.hi)),
    "type": ("uint8 or int32", lambda v: v in ("uint8", "int32")),
    "saturate": ("true or false", lambda v: isinstance(v, bool)),
    "stride": ("1 or more", lambda v: _whole(v, 1, _FAR)),
    "dilation": ("1 or more", lambda v: _whole(v, 1, _FAR)),
    "groups": ("1 or more", lambda v: _whole(v, 1, _FAR)),
    "heads": ("1 or more", lambda v: _whole(v, 1, _FAR)),
    "size": ("1 or more", lambda v: _whole(v, 1, _FAR)),
    "channels": ("1 or more", lambda v: _whole(v, 1, _FAR)),
    "epsilon": ("0 ≤ ε < 2^39", lambda v: _whole(v, 0, (1 << 39) - 1)),
    "cap": ("0 ≤ cap < 2^30", lambda v: _whole(v, 0, (1 << 30) - 1)),
    "coefficients": (
        "1 to 16 int32s",
        lambda v: isinstance(v, tuple) and len(v) <= 16 and _each(v, I32.lo, I32.hi),
    ),
    "reach": ("a byte", lambda v: _whole(v, U8.lo, U8.hi)),
    "slope": ("0 ≤ slope < 2^31", lambda v: _whole(v, 0, I32.hi)),
    "bias": ("an int32", lambda v: _whole(v, I32.lo, I32.hi)),
    "shift": ("0 ≤ shift ≤ 30", lambda v: _whole(v, 0, 30)),
    "divisor": ("1 or more", lambda v: _whole(v, 1, _FAR)),
    **{name: ("two counts", lambda v: _pair(v, 0)) for name in ("padding", "pads")},
    **{name: ("two numbers of 1 or more", lambda v: _pair(v, 1)) for name in ("strides", "dilations")},
    "before": ("a whole number", lambda v: _whole(v, -_FAR, _FAR)),
    "after": ("a whole number", lambda v: _whole(v, -_FAR, _FAR)),
    "scale": ("positive and finite", lambda v: _positive(v)),
    "scales": ("positive and finite", lambda v: isinstance(v, tuple) and bool(v) and all(map(_positive, v))),
    "lengths": ("a count", lambda v: _whole(v, 0, _FAR)),
    "body": ("text", lambda v: isinstance(v, str)),
    "layers": ("paths", lambda v: isinstance(v, tuple) and all(isinstance(path, str) for path in v)),
    "index": ("channel numbers", lambda v: isinstance(v, tuple) and _each(v, 0, _FAR)),
    "rows": ("row numbers", lambda v: isinstance(v, tuple) and _each(v, 0, _FAR)),
    "pair": ("channel numbers", lambda v: isinstance(v, tuple) and _each(v, 0, _FAR)),
    "perm": ("a permutation of the axes", lambda v: isinstance(v, tuple) and sorted(v) == [0, 1, 2]),
    "symmetry": (f"one of {', '.join(_SYMMETRIES)}", lambda v: isinstance(v, str) and v in _SYMMETRIES),
    "function": (f"one of {', '.join(FUNCTIONS)}", lambda v: isinstance(v, str) and v in FUNCTIONS),
}


#: operators with a table of frames → its columns a frame
_TABLES = {"positions": 2, "frame_table": 1}
#: operators that take a mean over frames → the places of their mask and of its lengths
_MASKED = {"mean_requant": (1, 2), "attention": (3, 4), "instance_norm": (1, 2)}


def check(program: Program) -> dict[str, int]:
    """Return the channels of every value of a well-formed program (0 for lengths).

    Raises ProofError, naming the instruction and the invariant, for any other.
    """
    _require(_whole(program.max_frames, 1, _FAR), "program", "max_frames must be 1 or more")
    _require(_whole(program.channels, 1, _FAR), "program", "channels must be 1 or more")
    made = {program.inputs[0]: program.channels, program.inputs[1]: 0}
    frames = dict.fromkeys(program.inputs, program.max_frames)
    clash = sorted(program.constants.keys() & {*made, *(i.out for i in program.code)})
    _require(not clash, "program", f"{clash} name a value and a constant")
    for i in program.code:
        where = f"{i.out} ({i.op})"
        _require(i.op in OPS, where, f"there is no operator {i.op!r}")
        _require(i.out not in made, where, "a value is made twice")
        for name in i.ins:
            _require(
                name in made or name in program.constants, where, f"{name!r} is not made before it is read"
            )
        _check_attributes(i, where)
        _check_constants(i, program, where)
        _check_meaning(i, program, where)
        if i.op in _MASKED:
            masked, length = (i.ins[place] for place in _MASKED[i.op])
            mask = next((j for j in program.code if j.out == masked), None)
            same = mask is not None and mask.op == "time_mask" and mask.ins[1] == length
            _require(same, where, "a mean must run over the frames that its mask keeps")
        frames[i.out] = _frames(i, program, [frames[name] for name in i.ins if name in frames], where)
        given = [made[name] for name in i.ins if name in made]
        island = i.op == "float_island"
        channels = _check_island(i, program, made, where) if island else _channels(i, program, given, where)
        made[i.out] = channels
    for name in program.outputs:
        _require(name in made, "program", f"output {name!r} is never made")
    return made


def _check_attributes(i: Instruction, where: str) -> None:
    parameters = inspect.signature(OPS[i.op].define).parameters.values()
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    _require(
        named == set(i.attrs), where, f"has attributes {sorted(i.attrs)}, its definition {sorted(named)}"
    )
    for name, value in i.attrs.items():
        invariant, holds = ATTRIBUTES[name]
        _require(holds(value), where, f"{name} must be {invariant}, found {_short(value)}")
    if "lo" in i.attrs:
        lo, hi = i.attrs["lo"], i.attrs["hi"]
        kind = TYPES[i.attrs.get("type", U8.name)]
        _require(lo <= hi and kind.holds(lo, hi), where, f"[{lo}, {hi}] is no range of {kind.name}")
    operands = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    if i.op == "add_requant":
        same = len(i.ins) == len(i.attrs["zx"]) == len(i.attrs["m"])
        _require(same, where, "has as many zero points and multipliers as operands")
    elif any(p.kind is p.VAR_POSITIONAL for p in parameters):
        _require(len(i.ins) >= len(operands), where, f"has {len(i.ins)} operands, not {len(operands)}")
    else:
        _require(len(i.ins) == len(operands), where, f"has {len(i.ins)} operands, not {len(operands)}")


#: operator → its constants by place: name, type and number of axes
_CONSTANTS: dict[str, dict[int, tuple[str, type[np.generic], int]]] = {
    "conv_requant": {1: ("w", np.int8, 3), 2: ("bias", np.int32, 1), 3: ("m", np.int32, 1)},
    "conv2d_requant": {1: ("w", np.int8, 4), 2: ("bias", np.int32, 1), 3: ("m", np.int32, 1)},
    "conv_wide_requant": {1: ("w", np.int8, 3), 2: ("bias", np.int32, 1), 3: ("m", np.int32, 1)},
    "conv2d_wide_requant": {1: ("w", np.int8, 4), 2: ("bias", np.int32, 1), 3: ("m", np.int32, 1)},
    "layer_norm": {1: ("m", np.int32, 1), 2: ("bias", np.int32, 1)},
    "instance_norm": {3: ("m", np.int32, 1), 4: ("bias", np.int32, 1)},
    "table": {1: ("entries", np.uint8, 1)},
    "attention": {5: ("high", np.uint8, 1), 6: ("low", np.uint8, 1)},
    "positions": {1: ("table", np.uint8, 2)},
    "frame_table": {1: ("table", np.int16, 2), 2: ("signs", np.int32, 1)},
}


def _check_constants(i: Instruction, program: Program, where: str) -> None:
    if i.op == "float_island":
        return  # its operands are its body's
    wanted = _CONSTANTS.get(i.op, {})
    found: dict[str, np.ndarray] = {}
    for place, name in enumerate(i.ins):
        array = program.constants.get(name)
        if place not in wanted:
            _require(array is None, where, f"operand {place} is no constant")
            continue
        label, kind, rank = wanted[place]
        if array is None or array.dtype != kind or array.ndim != rank or array.size == 0:
            raise ProofError(where, f"{label} is {np.dtype(kind)} of {rank} axes")
        found[label] = array
    if "w" in found:
        rows = len(found["w"])
        _require(int(found["w"].min()) >= -127, where, "weights are symmetric: |w| ≤ 127")
        _require(rows % i.attrs["groups"] == 0, where, "its groups divide its channels")
        _require(int(found["m"].min(initial=1)) >= 1, where, "every multiplier must be 1 or more")
    else:
        rows = i.attrs.get("channels", 0)
    for label in found.keys() & {"bias", "m"}:
        _require(found[label].shape == (rows,), where, f"{label} has {rows} entries")
    if i.op == "table":
        _require(found["entries"].shape == (256,), where, "a table has 256 entries")
    if i.op == "attention":
        steps = (i.attrs["cap"] >> i.attrs["shift"]) + 1
        for entries in found.values():
            _require(entries.shape == (steps,), where, f"its tables have {steps} entries")
        problem = "numerators fall from 1 or more to 0, which is where masked scores lie"
        _require(hides(found["high"], found["low"], i.attrs), where, problem)
    if i.op == "frame_table":
        rows = len(i.attrs["rows"])
        _require(max(i.attrs["rows"]) < len(found["table"]), where, "takes rows that its table has")
        _require(found["signs"].shape == (rows,), where, f"signs has {rows} entries")
    if i.op == "positions":
        _require(
            found["table"].shape[1] % 2 == 0, where, "a table of distances has an even number of columns"
        )


def _frames(i: Instruction, program: Program, operands: list[int], where: str) -> int:
    """Most frames of the result of ``i``, for whose operands' a table must do."""
    _require(bool(operands), where, "reads constants alone")
    if i.op == "float_island":
        # which may leave out frames, as no shape of it says
        return 0
    a, count = i.attrs, operands[0]
    if i.op in _TABLES:
        columns = program.constants[i.ins[1]].shape[1] // _TABLES[i.op]
        _require(columns >= count, where, f"has a table for {columns} frames, its operand up to {count}")
    if "stride" in a:
        stride, grows, dilation = a["stride"], sum(a["padding"]), a["dilation"]
    elif "strides" in a:
        stride, grows, dilation = a["strides"][0], 2 * a["pads"][0], a["dilations"][0]
    else:
        return count
    grows -= dilation * (program.constants[i.ins[1]].shape[2] - 1)
    return max((count + grows - 1) // stride + 1, 1)


def _channels(i: Instruction, program: Program, operands: list[int], where: str) -> int:
    """Channels of the result of ``i``, whose operands have ``operands`` channels and must fit."""
    if i.op in ("conv_requant", "conv2d_requant", "conv_wide_requant", "conv2d_wide_requant"):
        weight = program.constants[i.ins[1]]
        takes = weight.shape[1] * i.attrs["groups"]
        _require(operands == [takes], where, f"takes {takes} channels, its operand has {operands}")
        return len(weight)
    if i.op in ("layer_norm", "instance_norm"):
        takes = i.attrs["channels"]
        _require(operands[:1] == [takes], where, f"takes {takes} channels, its operand has {operands}")
    if i.op == "take_channels":
        _require(max(i.attrs["index"]) < operands[0], where, f"takes from {operands[0]} channels")
        return len(i.attrs["index"])
    if i.op == "image":
        return 1
    if i.op == "flatten":
        return int(i.attrs["channels"])
    if i.op == "positions":
        return len(program.constants[i.ins[1]])
    if i.op == "frame_table":
        return len(i.attrs["rows"])
    if i.op == "rotate":
        takes = len(i.attrs["pair"])
        _require({*operands} == {takes}, where, f"turns {takes} channels, its operands have {operands}")
        _require(max(i.attrs["pair"]) < takes, where, f"turns channels of {takes}")
    if i.op == "attention":
        query, key, value, _, _, *position = operands
        takes = i.attrs["heads"] * i.attrs["size"]
        right = {query, key, value, *position} == {takes} and len(position) in (0, 2)
        _require(right, where, f"takes {takes} channels, its operands have {operands}")
    if i.op in ("add_requant", "mul_requant", "mul_wide_requant"):
        widest = max(operands)
        _require({*operands} <= {1, widest}, where, f"joins values of {operands} channels")
        return widest
    return operands[0]


def _check_island(i: Instruction, program: Program, made: dict[str, int], where: str) -> int:
    """Return the channels of a float island, whose body takes what it is given and gives one value."""
    # here, since integers alone need no ONNX
    from zeroq_asr.integer.backends.float_bodies import check_operands

    a = i.attrs
    first, last = len(a["scales"]), len(a["scales"]) + a["lengths"]
    _require(isinstance(a["zx"], tuple) and len(a["zx"]) == first, where, "has as many zero points as scales")
    _require(a["type"] == U8.name or a["zero_point"] == 0, where, "an int32 has zero point 0")
    _require(len(i.ins) >= last, where, f"has {len(i.ins)} operands, not {last} or more")
    values, weights = i.ins[:last], i.ins[last:]
    _require(all(name in made for name in values), where, "an operand before its weights is a constant")
    _require(all(name in program.constants for name in weights), where, "a weight is no constant")
    channels = [made[name] for name in values]
    right = all(channels[:first]) and not any(channels[first:])
    _require(right, where, "its operands are activations, then lengths, then weights")
    try:
        arrays = [program.constants[name] for name in weights]
        return check_operands(a["body"], channels[:first], a["lengths"], arrays)
    except ValueError as error:
        raise ProofError(where, f"its body {error}") from None


def _check_meaning(i: Instruction, program: Program, where: str) -> None:
    """What the integers are said to mean agrees with what the instruction gives."""
    info = program.values.get(i.out)
    if info is None:
        return
    meant = _real(info.scale) and info.scale > 0 and info.type in TYPES
    meant = meant and all(_whole(v, I32.lo, I32.hi) for v in (info.zero_point, info.lo, info.hi))
    _require(meant, where, "its scale, zero point and range are not those of an integer value")
    _require(info.type == i.attrs.get("type", info.type), where, f"is said to be {info.type}")
    if "lo" in i.attrs:
        inside = info.lo <= i.attrs["lo"] and i.attrs["hi"] <= info.hi
        _require(inside, where, f"is said to lie in [{info.lo}, {info.hi}]")
    zero_point = i.attrs.get("zy", i.attrs.get("zero_point", info.zero_point))
    _require(info.zero_point == zero_point, where, f"is said to have zero point {info.zero_point}")


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    # an attribute may be a number of a million digits, which Python refuses to print
    if isinstance(value, int) and abs(value) >= 1 << 70:
        return "a far larger number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _require(holds: bool, where: str, problem: str) -> None:
    if not holds:
        raise ProofError(where, problem)
