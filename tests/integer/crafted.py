"""Files that nobody's lowering wrote: small programs, altered and written again with right hashes.

What `verify` accepts of them must load and run, give the integers of the reference, and say how many frames
there are.  `benchmarks/crafted.py` makes as many as one likes, `test_crafted` a few.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from zeroq_asr.deployment.export import Deployment, export
from zeroq_asr.deployment.verify import verify
from zeroq_asr.errors import ZeroqError
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.extents import at
from zeroq_asr.integer.float_parts import islands
from zeroq_asr.integer.program import Instruction, Port, Program, StatePort, ValueInfo, is_ctc
from zeroq_asr.integer.wellformed import check
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

from .islands import with_island
from .programs import random_program, subsampling_of

#: entries of all values beyond which a file is not run here
_MOST = 1 << 24
_LENGTHS = (1, 2, 3, 7, 16, 33, 200)
_WHOLE = (
    -1,
    0,
    1,
    2,
    3,
    4,
    7,
    16,
    127,
    128,
    255,
    256,
    1 << 15,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    10**400,
)
_REAL = (0.0, -1.0, 1e300, 1e-300, 2.0**-126, 1e-20, 1.0, float("nan"), float("inf"))
_TEXT = (
    "",
    "5",
    "12/3",
    "logits",
    "length",
    "const/int32/0",
    "v0",
    "a\nb",
    "uint8",
    "int32",
    "bool",
    "float32",
    "x",
)


@dataclass
class Crafted:
    """A program and what surrounds it, and the ways in which both were altered."""

    program: Program
    deployment: Deployment
    done: list[str]


def stateful() -> Program:
    """A value that is averaged with its own past, frame by frame, and a sum of it."""
    words = {"zy": 0, "lo": -9000, "hi": 9000, "type": "int32"}
    back = {"zx": (0,), "m": (1,), "c": 6, "zy": 128, "lo": 0, "hi": 255, "type": "uint8"}
    return Program(
        inputs=(Port("bytes", "x", "uint8", ("batch", 4, 1), 0, 255),),
        outputs=(Port("memory", "y", "uint8", ("batch", 4, 1)),),
        states=(StatePort("h", "h", "kept", "int32", ("batch", 4, 1), -9000, 9000, initial=7),),
        code=[
            Instruction(
                "add_requant", "kept", ("h", "x"), {"zx": (0, 128), "m": (3, 90), "c": 2, **words}, "m"
            ),
            Instruction("add_requant", "y", ("kept",), back, "m"),
        ],
        constants={},
        values={"kept": ValueInfo("int32", 0.01, 0, -9000, 9000), "y": ValueInfo("uint8", 0.6, 128, 0, 255)},
        max_frames=1,
    )


def base(generator: np.random.Generator) -> Crafted:
    """A sound program of a random family."""
    kind = int(generator.integers(10))
    if kind == 0:
        program = stateful()
    elif kind == 1:
        program = with_island()
    else:
        program = random_program(int(generator.integers(1 << 20)), steps=int(generator.integers(1, 9)))
    factor = 1
    if kind:
        factor = subsampling_of(program)
    tokens = Tokenizer(("a", "b"))
    recipe = {"quantization": {"weight_bits": 8}}
    seconds = (program.max_frames - 1) / 100
    return Crafted(
        program, Deployment("m", FrontendConfig(features=4), tokens, max(seconds, 0.01), factor, recipe), []
    )


# -- alterations -----------------------------------------------------------------------------------


def altered(crafted: Crafted, generator: np.random.Generator) -> Crafted:
    """One or two alterations of a copy."""
    made = Crafted(copy.deepcopy(crafted.program), crafted.deployment, [])
    for _ in range(int(generator.integers(1, 3))):
        way = _WAYS[int(generator.integers(len(_WAYS)))]
        made.done.append(way.__name__.strip("_"))
        way(made, generator)
    return made


def _one(generator: np.random.Generator, options: Any) -> Any:
    options = list(options)
    return options[int(generator.integers(len(options)))]


def _other(value: Any, generator: np.random.Generator) -> Any:
    """Something else of about the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return _one(generator, (*_WHOLE, value - 1, value + 1, 2 * value))
    if isinstance(value, float):
        return _one(generator, (*_REAL, 2 * value, value / 2))
    if isinstance(value, str):
        return _one(generator, _TEXT)
    if isinstance(value, tuple) and value:
        entries = list(value)
        at_ = int(generator.integers(len(entries)))
        kind = int(generator.integers(4))
        if kind == 0:
            del entries[at_]
        elif kind == 1:
            entries.insert(at_, entries[at_])
        else:
            entries[at_] = _other(entries[at_], generator)
        return tuple(entries)
    return _one(generator, (None, 0, "x"))


def _instruction(c: Crafted, generator: np.random.Generator) -> int:
    return int(generator.integers(len(c.program.code))) if c.program.code else -1


def _attribute(c: Crafted, generator: np.random.Generator) -> None:
    place = _instruction(c, generator)
    i = c.program.code[place]
    if i.attrs:
        name = _one(generator, i.attrs)
        c.program.code[place] = replace(i, attrs={**i.attrs, name: _other(i.attrs[name], generator)})


def _layout(c: Crafted, generator: np.random.Generator) -> None:
    """What changes how many frames there are, by a little."""
    names = (
        "stride",
        "padding",
        "dilation",
        "strides",
        "pads",
        "dilations",
        "before",
        "divisor",
        "after",
        "perm",
    )
    with_them = [k for k, i in enumerate(c.program.code) if {*names} & i.attrs.keys()]
    if with_them:
        place = _one(generator, with_them)
        i = c.program.code[place]
        name = _one(generator, [n for n in names if n in i.attrs])
        step = int(generator.integers(1, 3))
        value = i.attrs[name]
        changed = tuple(int(v) + step for v in value) if isinstance(value, tuple) else value + step
        c.program.code[place] = replace(i, attrs={**i.attrs, name: changed})


def _operand(c: Crafted, generator: np.random.Generator) -> None:
    place = _instruction(c, generator)
    i = c.program.code[place]
    if i.ins:
        names = [*c.program.entering, *(n for j in c.program.code for n in j.outs), *c.program.constants]
        ins = list(i.ins)
        ins[int(generator.integers(len(ins)))] = _one(generator, names)
        c.program.code[place] = replace(i, ins=tuple(ins))


def _lost(c: Crafted, generator: np.random.Generator) -> None:
    del c.program.code[_instruction(c, generator)]


def _operator(c: Crafted, generator: np.random.Generator) -> None:
    place = _instruction(c, generator)
    c.program.code[place] = replace(c.program.code[place], op=_one(generator, [i.op for i in c.program.code]))


def _constant(c: Crafted, generator: np.random.Generator) -> None:
    if not c.program.constants:
        return
    name = _one(generator, c.program.constants)
    array = c.program.constants[name]
    ways: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda a: a[1:],
        lambda a: np.concatenate([a, a]),
        lambda a: a.astype(np.int32),
        lambda a: a.astype(np.int8),
        lambda a: a * 0,
        lambda a: np.full_like(a, np.iinfo(a.dtype).max),
        lambda a: np.full_like(a, np.iinfo(a.dtype).min),
        lambda a: a[..., :1],
        lambda a: a[None],
        lambda a: np.swapaxes(a, 0, -1).copy(),
        lambda a: a.reshape(-1)[:0],
        lambda a: np.flip(a).copy(),
    ]
    c.program.constants[name] = _one(generator, ways)(array)


def _port(c: Crafted, generator: np.random.Generator) -> None:
    side = _one(generator, ("inputs", "outputs", "states"))
    ports = list(getattr(c.program, side))
    if ports:
        place = int(generator.integers(len(ports)))
        field = _one(generator, ports[place].__dataclass_fields__)
        value = getattr(ports[place], field)
        ports[place] = replace(ports[place], **{field: _other(value, generator)})
        setattr(c.program, side, tuple(ports))


def _name(c: Crafted, generator: np.random.Generator) -> None:
    """A value or a constant has another name, wherever it stands."""
    program = c.program
    old = _one(generator, [*(n for i in program.code for n in i.outs), *program.constants])
    new = _one(generator, _TEXT)
    program.code = [
        replace(
            i,
            out=new if i.out == old else i.out,
            ins=tuple(new if name == old else name for name in i.ins),
        )
        for i in program.code
    ]
    if old in program.constants:
        program.constants[new] = program.constants.pop(old)
    if old in program.values:
        program.values[new] = program.values.pop(old)
    program.outputs = tuple(replace(p, value=new) if p.value == old else p for p in program.outputs)


def _meaning(c: Crafted, generator: np.random.Generator) -> None:
    if c.program.values:
        name = _one(generator, c.program.values)
        info = c.program.values[name]
        field = _one(generator, ("type", "scale", "zero_point", "lo", "hi"))
        c.program.values[name] = replace(info, **{field: _other(getattr(info, field), generator)})


def _logits(c: Crafted, generator: np.random.Generator) -> None:
    name = c.program.outputs[0].value
    if name in c.program.values:
        c.program.values[name] = replace(c.program.values[name], scale=_one(generator, _REAL))


def _longest(c: Crafted, generator: np.random.Generator) -> None:
    c.program.max_frames = _other(c.program.max_frames, generator)


def _surroundings(c: Crafted, generator: np.random.Generator) -> None:
    d = c.deployment
    field = _one(generator, ("name", "max_seconds", "subsampling_factor"))
    changed: dict[str, Any] = {field: _other(getattr(d, field), generator)}
    if generator.integers(4) == 0:
        tokens = d.tokenizer.tokens
        changed = {"tokenizer": Tokenizer(_one(generator, (tokens[1:], (*tokens, "c"), tokens[::-1])))}
    elif generator.integers(4) == 0:
        frontend = _one(generator, ("features", "sample_rate", "window_stride", "pad_to"))
        changed = {
            "frontend": replace(d.frontend, **{frontend: _other(getattr(d.frontend, frontend), generator)})
        }
    c.deployment = replace(d, **changed)


_WAYS = (
    *(_attribute, _attribute, _layout, _layout, _layout, _operand, _operand, _lost, _operator, _constant),
    *(_port, _name, _meaning, _logits, _longest, _surroundings),
)


# -- what becomes of them --------------------------------------------------------------------------


def outcome(generator: np.random.Generator, folder: Path) -> str:
    """Make one file and hold it to what `verify` says: "refused", "unwritten", "accepted" or "large".

    Raises AssertionError where a file is accepted that does not run, or not as it says.
    """
    sound = base(generator)
    dialect = "fused" if islands(sound.program) else str(_one(generator, ("strict", "fused")))
    try:
        crafted = altered(sound, generator)
    except ZeroqError:
        return "unwritten"
    path = folder / "crafted.onnx"
    try:
        with np.errstate(all="ignore"):
            path.write_bytes(export(crafted.program, crafted.deployment, dialect).to_bytes())
    except ZeroqError:
        # what is not exported is not verified, for that exports it again
        return "refused"
    except (TypeError, AttributeError, ValueError, OverflowError, IndexError, KeyError) as error:
        # of a type that no JSON file holds at that place, for Program.from_json refuses it
        if _is_typed(crafted):
            raise AssertionError(f"{crafted.done}: {type(error).__name__}: {error}") from error
        return "unwritten"
    try:
        verify(path)
    except ZeroqError:
        return "refused"
    return "accepted" if _runs(crafted, path, generator) else "large"


def _is_typed(crafted: Crafted) -> bool:
    try:
        Program.from_json(json.loads(json.dumps(crafted.program.to_json())), crafted.program.constants)
    except (ZeroqError, ValueError):
        return False
    return True


def _runs(crafted: Crafted, path: Path, generator: np.random.Generator) -> bool:
    """Run a file for several lengths and batches; False where that is too much for a test."""
    program = crafted.program
    shapes = check(program)
    free = {d for p in (*program.inputs, *program.states) for d in p.dims[1:] if isinstance(d, str)}
    shortest = max((shapes.least.get(name, 1) for name in free), default=1)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ran = False
    tolerance = 1 if islands(program) else 0
    for frames in sorted({shortest, shortest + 1, *_LENGTHS}):
        sizes = {**dict.fromkeys(free, frames), **{str(p.dims[0]): 2 for p in program.inputs}}
        entries = sum(np.prod([float(at(d, sizes)) for d in v.dims]) for v in shapes.values.values())
        if not shortest <= frames <= program.max_frames or entries > _MOST:
            continue
        for batch in (1, 2):
            _compare(crafted, session, frames, batch, generator, tolerance)
        ran = True
    return ran


def _compare(
    crafted: Crafted, session: Any, frames: int, batch: int, generator: np.random.Generator, tolerance: int
) -> None:
    program = crafted.program
    where = f"{crafted.done}, {batch} of {frames} frames"
    feed: dict[str, np.ndarray] = {}
    for port in (*program.inputs, *program.states):
        shape = [d if isinstance(d, int) else frames for d in port.dims]
        shape[0] = batch
        if port.type == "float32":
            feed[port.name] = generator.standard_normal(shape).astype(np.float32) * np.float32(3)
        elif port.type == "int64":
            feed[port.name] = np.array([frames, int(generator.integers(1, frames + 1))][:batch])
        else:
            feed[port.name] = generator.integers(port.lo, port.hi + 1, shape).astype(port.type)
    names = [*(port.name for port in program.outputs), *(f"next_{state.name}" for state in program.states)]
    with np.errstate(all="ignore"):
        wanted = program.run(NumpyBackend(), *feed.values())
    found = dict(zip(names, session.run(names, feed), strict=True))
    for name, array in zip(names, wanted, strict=True):
        assert found[name].dtype == array.dtype, where
        assert found[name].shape == array.shape, f"{where}: {name}"
        apart = np.abs(found[name].astype(np.int64) - array).max(initial=0)
        assert apart <= tolerance, f"{where}: {name} is {apart} apart"
    if is_ctc(program):
        assert found["encoded_lengths"][0] == found["logits"].shape[1], where
        (scores,) = session.run(["logprobs"], feed)
        assert np.isfinite(scores).all(), where
