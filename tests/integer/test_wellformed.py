"""Programs that no lowering writes must be refused before anything is proven of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnxruntime_bodies import decode, encode
from zeroq_asr.integer.program import Instruction, Port, Program, StatePort, ValueInfo
from zeroq_asr.integer.proof import prove
from zeroq_asr.integer.wellformed import check
from zeroq_asr.registry import INTEGER_OPERATORS

from .islands import with_island
from .programs import random_program


def program_with(*ops: str) -> Program:
    """The first random program that has all of ``ops``."""
    return next(
        p for p in (random_program(seed, steps=14) for seed in range(200)) if {*ops} <= {i.op for i in p.code}
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_programs_are_well_formed(seed: int) -> None:
    check(random_program(seed))


def change(program: Program, kind: str, **fields: Any) -> None:
    """Replace fields of the first instruction of a kind, or of that name; ``attrs`` are merged."""
    at = next(k for k, i in enumerate(program.code) if kind in (i.op, i.out))
    attrs = {**program.code[at].attrs, **fields.pop("attrs", {})}
    program.code[at] = replace(program.code[at], attrs=attrs, **fields)


def constant(program: Program, op: str, place: int, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    name = next(i for i in program.code if i.op == op).ins[place]
    program.constants[name] = edit(program.constants[name].copy())


def other_mask(op: str, place: int) -> Callable[[Program], None]:
    """What ``op`` does over frames, over those that another length keeps."""

    def damage(program: Program) -> None:
        mean = next(i for i in program.code if i.op == op)
        at = program.code.index(mean)
        attrs = {"before": 0, "divisor": 1, "after": 10**7}
        step = replace(mean, op="length_step", out="longer", ins=(mean.ins[place],), attrs=attrs)
        ins = (*mean.ins[:place], "longer", *mean.ins[place + 1 :])
        program.code[at : at + 1] = [step, replace(mean, ins=ins)]

    return damage


def operand(op: str, place: int, name: Callable[[Any], str]) -> Callable[[Program], None]:
    """Operand ``place`` of the first ``op`` is another: what ``name`` makes of the instruction."""

    def damage(program: Program) -> None:
        i = next(i for i in program.code if i.op == op)
        change(program, op, ins=(*i.ins[:place], name(i), *i.ins[place + 1 :]))

    return damage


def attribute(op: str, **attrs: Any) -> Callable[[Program], None]:
    return lambda program: change(program, op, attrs=attrs)


def edited(op: str, place: int, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Program], None]:
    return lambda program: constant(program, op, place, edit)


def without_last_operand(program: Program) -> None:
    """Attention with the queries of positions and without their distances."""
    at = next(k for k, i in enumerate(program.code) if i.op == "attention" and len(i.ins) == 9)
    program.code[at] = replace(program.code[at], ins=program.code[at].ins[:-1])


def other_zero(op: str, name: str = "zx") -> Callable[[Program], None]:
    """The first ``op`` that has all operands takes another number for zero."""

    def damage(program: Program) -> None:
        i = max((i for i in program.code if i.op == op), key=lambda i: len(i.ins))
        old = i.attrs[name]
        new = tuple((z + 1) % 256 for z in old) if isinstance(old, tuple) else (old + 1) % 256
        change(program, i.out, attrs={name: new})

    return damage


def other_meaning(op: str) -> Callable[[Program], None]:
    """What the first ``op`` gives is said to have another zero point."""

    def damage(program: Program) -> None:
        name = next(i.out for i in program.code if i.op == op)
        info = program.values[name]
        program.values[name] = replace(info, zero_point=(info.zero_point + 1) % 256)

    return damage


def pair_of(program: Program) -> tuple[int, ...]:
    pair: tuple[int, ...] = next(i for i in program.code if i.op == "rotate").attrs["pair"]
    return pair


def renamed(name: str) -> Callable[[Program], None]:
    """The last convolution's result is called so, wherever it is read."""

    def damage(program: Program) -> None:
        old = next(i.out for i in program.code if i.op == "conv_requant")
        program.values.pop(old)
        program.code = [
            replace(i, out=name if i.out == old else i.out, ins=tuple(name if n == old else n for n in i.ins))
            for i in program.code
        ]

    return damage


def constant_called(name: str) -> Callable[[Program], None]:
    def damage(program: Program) -> None:
        old = next(i for i in program.code if i.op == "conv_requant").ins[2]
        program.constants[name] = program.constants.pop(old)
        change(
            program,
            "conv_requant",
            ins=(*program.code[_first_conv(program)].ins[:2], name, _multiplier(program)),
        )

    return damage


def _first_conv(program: Program) -> int:
    return next(k for k, i in enumerate(program.code) if i.op == "conv_requant")


def _multiplier(program: Program) -> str:
    return program.code[_first_conv(program)].ins[3]


def shorter(op: str, place: int) -> Callable[[Program], None]:
    """Operand ``place`` of the first ``op`` whose results have all its frames has lost one before."""

    def damage(program: Program) -> None:
        shapes = check(program).values
        met = [k for k, i in enumerate(program.code) if i.op == op and 1 not in _frames_of(i, shapes)]
        at = met[0] if met else next(k for k, i in enumerate(program.code) if i.op == op)
        name = program.code[at].ins[place]
        channels = shapes[name].channels
        ones = np.ones(channels, np.int32)
        program.constants |= {"cut.w": np.ones((channels, 1, 2), np.int8), "cut.b": ones, "cut.m": ones}
        layout = {"stride": 1, "padding": (0, 0), "dilation": 1, "groups": channels}
        said = program.values.get(name, ValueInfo("uint8", 1.0, 0, 0, 255))
        zero, program.values["cut"] = said.zero_point, replace(said, lo=0, hi=255)
        form = {"zx": zero, "c": 0, "zy": zero, "lo": 0, "hi": 255, "type": "uint8", "saturate": True}
        ins = (name, "cut.w", "cut.b", "cut.m")
        cut = Instruction("conv_requant", "cut", ins, {**layout, **form}, "cut")
        operands = list(program.code[at].ins)
        operands[place] = "cut"
        program.code[at : at + 1] = [cut, replace(program.code[at], ins=tuple(operands))]

    return damage


def _frames_of(i: Instruction, shapes: Any) -> list[Any]:
    return [shapes[name].dims[2] for name in i.ins if name in shapes and len(shapes[name].dims) > 2]


def last_is_one(low: np.ndarray) -> np.ndarray:
    low[-1] = 1
    return low


def all_strides(program: Program) -> None:
    """The last convolution over time in front of a mean takes every second frame alone."""
    mean = next(k for k, i in enumerate(program.code) if i.op == "mean_requant")
    made = {i.out: k for k, i in enumerate(program.code)}
    name = program.code[mean].ins[0]
    while program.code[made[name]].op != "conv_requant" and program.code[made[name]].ins[0] in made:
        name = program.code[made[name]].ins[0]
    i = program.code[made[name]]
    stride = {"stride": "stride", "strides": "strides"}
    if i.op == "conv_requant":
        program.code[made[name]] = replace(i, attrs={**i.attrs, stride["stride"]: i.attrs["stride"] + 1})
    else:
        shorter("mean_requant", 0)(program)


BROKEN: dict[str, tuple[str, Callable[[Program], Any], str]] = {
    "negative multiplier": (
        "add_requant",
        lambda p: change(p, "add_requant", attrs={"m": (-3,)}),
        "m must be",
    ),
    "multiplier of zero": ("mul_requant", lambda p: change(p, "mul_requant", attrs={"m": 0}), "m must be"),
    "multipliers below one": (
        "conv_requant",
        lambda p: constant(p, "conv_requant", 3, lambda m: m * 0),
        "every multiplier must be 1 or more",
    ),
    "negative multipliers": (
        "conv_requant",
        lambda p: constant(p, "conv_requant", 3, lambda m: -m),
        "every multiplier must be 1 or more",
    ),
    "multipliers of another shape": (
        "conv_requant",
        lambda p: constant(p, "conv_requant", 3, lambda m: np.append(m, m)),
        "m has . entries",
    ),
    "wide weights": (
        "conv_requant",
        lambda p: constant(p, "conv_requant", 1, lambda w: w.astype(np.int32)),
        "w is int8",
    ),
    "lopsided weights": (
        "conv_requant",
        lambda p: constant(p, "conv_requant", 1, lambda w: np.full_like(w, -128)),
        "127",
    ),
    "short table": ("table", lambda p: constant(p, "table", 1, lambda t: t[:100]), "256 entries"),
    "zero point beyond a byte": ("mask_time", lambda p: change(p, "mask_time", attrs={"zx": 256}), "a byte"),
    "no stride": ("conv_requant", lambda p: change(p, "conv_requant", attrs={"stride": 0}), "stride must be"),
    "a shift of ages": (
        "conv_requant",
        lambda p: change(p, "conv_requant", attrs={"c": 10**5000}),
        "found a int that cannot be shown",
    ),
    "range upside down": (
        "conv_requant",
        lambda p: change(p, "conv_requant", attrs={"lo": 200, "hi": 100, "type": "uint8"}),
        "no range",
    ),
    "unknown attribute": ("transpose", lambda p: change(p, "transpose", attrs={"axis": 1}), "its definition"),
    "unknown operator": ("transpose", lambda p: change(p, "transpose", op="softmax"), "no operator"),
    "too few operands": ("mul_requant", lambda p: change(p, "mul_requant", ins=("v0",)), "1 operands, not 2"),
    "operands without multipliers": (
        "add_requant",
        lambda p: change(p, "add_requant", ins=("v0",) * 7),
        "as many zero points",
    ),
    "use before definition": ("transpose", lambda p: change(p, "transpose", ins=("later",)), "not made"),
    "value made twice": ("transpose", lambda p: p.code.append(p.code[-1]), "made twice"),
    "value called like a constant": (
        "conv_requant",
        lambda p: p.constants.update({p.code[0].out: np.zeros(1, np.int32)}),
        "a value and a constant",
    ),
    "output that is not made": (
        "transpose",
        lambda p: setattr(p, "outputs", (replace(p.outputs[0], value="nothing"), p.outputs[1])),
        "never made",
    ),
    "other meaning": (
        "transpose",
        lambda p: p.values.update({p.code[0].out: ValueInfo("uint8", 0.1, 3, 90, 80)}),
        "is said to",
    ),
    "meaning without scale": (
        "transpose",
        lambda p: p.values.update({p.code[0].out: ValueInfo("uint8", float("nan"), 0, 0, 255)}),
        "its scale",
    ),
    "weights for other channels": (
        "conv_requant",
        lambda p: constant(p, "conv_requant", 1, lambda w: np.repeat(w, 3, axis=1)),
        "channels, its operand has",
    ),
    "channels beyond the last": (
        "take_channels",
        lambda p: change(p, "take_channels", attrs={"index": (0, 99)}),
        "takes from",
    ),
    "a mean over other frames": ("mean_requant", other_mask("mean_requant", 2), "its mask keeps"),
    "attention to other frames": ("attention", other_mask("attention", 4), "its mask keeps"),
    "a norm over other frames": ("instance_norm", other_mask("instance_norm", 2), "its mask keeps"),
    "a mask that is none": ("attention", operand("attention", 3, lambda i: i.ins[0]), "its mask keeps"),
    "numerators that do not end": ("attention", edited("attention", 6, last_is_one), "numerators fall"),
    "tables of nothing": (
        "attention",
        lambda p: [constant(p, "attention", place, np.zeros_like) for place in (5, 6)],
        "numerators fall",
    ),
    "scores behind which none is hidden": (
        "attention",
        attribute("attention", up=1 << 24),
        "numerators fall",
    ),
    "tables of other lengths": (
        "attention",
        edited("attention", 5, lambda t: np.append(t, t)),
        r"tables have \d+ entries",
    ),
    "tables of words": ("attention", edited("attention", 5, lambda t: t.astype(np.int32)), "high is uint8"),
    "tables that are no constants": (
        "attention",
        operand("attention", 5, lambda i: i.ins[0]),
        "high is uint8",
    ),
    "queries that are constants": (
        "attention",
        operand("attention", 0, lambda i: i.ins[5]),
        "operand 0 is no constant",
    ),
    "heads of other sizes": ("attention", attribute("attention", heads=5), "takes .* channels"),
    "no heads": ("attention", attribute("attention", heads=0), "heads must be"),
    "positions without distances": ("positions", without_last_operand, "takes .* channels"),
    "a cap beyond scores": ("attention", attribute("attention", cap=1 << 30), "cap must be"),
    "distances of an odd number": (
        "positions",
        edited("positions", 1, lambda t: t[:, 1:]),
        "even number of columns",
    ),
    "fewer distances than frames": (
        "positions",
        edited("positions", 1, lambda t: t[:, :2]),
        r"has a table for \d+ frames, its operand up to \d+",
    ),
    "fewer angles than frames": (
        "frame_table",
        edited("frame_table", 1, lambda t: t[:, :1]),
        r"has a table for 1 frames, its operand up to \d+",
    ),
    "angles of bytes": (
        "frame_table",
        edited("frame_table", 1, lambda t: t.astype(np.int8)),
        "int16 of 2 axes",
    ),
    "rows that are not there": ("frame_table", attribute("frame_table", rows=(0, 2)), "takes rows that its"),
    "rows below the first": ("frame_table", attribute("frame_table", rows=(-1,)), "rows must be"),
    "fewer signs than rows": (
        "frame_table",
        edited("frame_table", 2, lambda s: s[1:]),
        "signs has . entries",
    ),
    "a pair beyond the channels": (
        "rotate",
        lambda p: change(p, "rotate", attrs={"pair": (99, *pair_of(p)[1:])}),
        "turns channels of",
    ),
    "a pair too many": (
        "rotate",
        lambda p: change(p, "rotate", attrs={"pair": (0, *pair_of(p))}),
        "turns . channels, its operands have",
    ),
    "a table that reads constants": (
        "frame_table",
        operand("frame_table", 0, lambda i: i.ins[1]),
        "no constant",
    ),
    "distances in a row": ("positions", edited("positions", 1, lambda t: t[0]), "uint8 of 2 axes"),
    "a norm of other channels": (
        "layer_norm",
        attribute("layer_norm", channels=99),
        "has 99 entries",
    ),
    "a norm without channels": ("layer_norm", attribute("layer_norm", channels=0), "channels must be"),
    "epsilon beyond its bits": ("layer_norm", attribute("layer_norm", epsilon=1 << 39), "epsilon must be"),
    "epsilon below zero": ("instance_norm", attribute("instance_norm", epsilon=-1), "epsilon must be"),
    "a norm's multipliers of bytes": (
        "layer_norm",
        edited("layer_norm", 1, lambda m: m.astype(np.int8)),
        "m is int32",
    ),
    "a polynomial of nothing": (
        "polynomial_requant",
        attribute("polynomial_requant", coefficients=()),
        "coefficients must be",
    ),
    "coefficients that are no integers": (
        "polynomial_requant",
        attribute("polynomial_requant", coefficients=(1.5,)),
        "coefficients must be",
    ),
    "a polynomial of any degree": (
        "polynomial_requant",
        attribute("polynomial_requant", coefficients=(1,) * 17),
        "coefficients must be",
    ),
    "a coefficient that is no tuple": (
        "polynomial_requant",
        attribute("polynomial_requant", coefficients=5),
        "coefficients must be",
    ),
    "a polynomial that leaves int32": (
        "polynomial_requant",
        attribute("polynomial_requant", coefficients=(1 << 30,), reach=255),
        "outside of int32",
    ),
    "a reach beyond bytes": (
        "polynomial_requant",
        attribute("polynomial_requant", reach=256),
        "reach must be",
    ),
    "a reach below nothing": (
        "polynomial_requant",
        attribute("polynomial_requant", reach=-1),
        "reach must be",
    ),
    "another symmetry": (
        "polynomial_requant",
        attribute("polynomial_requant", symmetry="both"),
        "symmetry must be",
    ),
    "a falling line": (
        "polynomial_requant",
        attribute("polynomial_requant", slope=-1),
        "slope must be",
    ),
    "a bias beyond int32": (
        "polynomial_requant",
        attribute("polynomial_requant", bias=1 << 31),
        "bias must be",
    ),
    "a function of another name": (
        "polynomial_requant",
        attribute("polynomial_requant", function="sine"),
        "function must be",
    ),
    "one pad": ("conv2d_requant", attribute("conv2d_requant", pads=(1,)), "pads must be"),
    "a pad that cuts": ("conv2d_requant", attribute("conv2d_requant", pads=(0, -1)), "pads must be"),
    "no stride over frequencies": (
        "conv2d_requant",
        attribute("conv2d_requant", strides=(1, 0)),
        "strides must be",
    ),
    "weights of three axes": (
        "conv2d_requant",
        edited("conv2d_requant", 1, lambda w: w[..., 0]),
        "w is int8 of 4 axes",
    ),
    "an image of other channels": (
        "conv2d_requant",
        edited("conv2d_requant", 1, lambda w: np.repeat(w, 2, axis=1)),
        "takes 2 channels",
    ),
    "groups that do not divide": (
        "conv2d_requant",
        attribute("conv2d_requant", groups=4),
        "its groups divide",
    ),
    "no frames": ("transpose", lambda p: setattr(p, "max_frames", 0), "max_frames"),
    "one stride more": (
        "mean_requant",
        all_strides,
        "lengths that count its frames|operands of equal extents",
    ),
    "strides beyond sense": ("conv_requant", attribute("conv_requant", stride=1 << 40), "stride must be"),
    "a padding of ages": (
        "conv_requant",
        attribute("conv_requant", padding=((1 << 31) - 1, (1 << 31) - 1)),
        "padding must be two counts, at most 1048576",
    ),
    "factors of other frames": ("mul_requant", shorter("mul_requant", 0), "operands of equal extents"),
    "a mask of other frames": ("mask_time", shorter("mask_time", 0), "operands of equal extents"),
    "keys of other frames": ("attention", shorter("attention", 1), "needs"),
    "values of other frames": ("attention", shorter("attention", 2), "needs"),
    "a mean of other frames": ("mean_requant", shorter("mean_requant", 0), "operands of equal extents"),
    "lengths that lie": (
        "length_step",
        attribute("length_step", after=5),
        "lengths that count its frames|counts",
    ),
    "dilated beyond any input": (
        "table",
        lambda p: (shorter("table", 0)(p), change(p, "cut", attrs={"dilation": 1 << 20})),
        "a frame or more to be left",
    ),
    "a name of digits": ("conv_requant", renamed("5"), "'5'.* is no name"),
    "the name of a file's own node": ("conv_requant", renamed("12/3"), "is no name"),
    "a name of two lines": ("conv_requant", renamed("a\nb"), "is no name"),
    "no name": ("conv_requant", renamed(""), "is no name"),
    "a constant called like a port": (
        "conv_requant",
        constant_called("encoded_lengths"),
        "a constant and a port",
    ),
    "a constant called like a file's own": ("conv_requant", constant_called("const/int32/0"), "is no name"),
    "an image flattened to other channels": ("flatten", attribute("flatten", channels=999), "999 entries"),
    "features read as integers": (
        "conv_requant",
        operand("conv_requant", 0, lambda i: "audio_signal"),
        "reads float32 where its conv needs uint8|takes",
    ),
    "features looked up": (
        "table",
        operand("table", 0, lambda i: "audio_signal"),
        "reads float32 where its lookup needs uint8 or int32",
    ),
    "lengths quantized": (
        "quantize_input",
        operand("quantize_input", 0, lambda i: "length"),
        "reads int64 where its quantize needs float32",
    ),
    "bytes quantized": (
        "conv_requant",
        lambda p: p.code.insert(1, replace(p.code[0], out="again", ins=(p.code[0].out,))),
        "reads uint8 where its quantize needs float32",
    ),
    "padded with another number": ("conv_requant", other_zero("conv_requant"), "zx is .*, the zero point of"),
    "masked with another number": ("mask_time", other_zero("mask_time"), "zx is .*, the zero point of"),
    "an image masked with another number": (
        "mask_image",
        other_zero("mask_image"),
        "zx is .*, the zero point of",
    ),
    "added to another zero": ("add_requant", other_zero("add_requant"), "zx is .*, the zero point of"),
    "keys of another zero": ("attention", other_zero("attention", "zk"), "zk is .*, the zero point of"),
    "distances of another zero": ("positions", other_zero("attention", "zr"), "zr is .*, the zero point of"),
    "channels that mean something else": ("take_channels", other_meaning("take_channels"), "what it moves"),
    "masked frames that mean something else": ("mask_time", other_meaning("mask_time"), "what it moves"),
    "an operand of which nothing is said": (
        "mask_time",
        lambda p: p.values.pop(next(i for i in p.code if i.op == "mask_time").ins[0]),
        "is said to have none",
    ),
    "words with a zero point": (
        "transpose",
        lambda p: (
            change(p, p.code[-2].out, attrs={"zy": 5}),
            p.values.update({p.code[-2].out: replace(p.values[p.code[-2].out], zero_point=5)}),
        ),
        "int32 with zero point 5, not 0",
    ),
    "a meaning of nothing": (
        "transpose",
        lambda p: p.values.update(nothing=ValueInfo("uint8", 0.1, 0, 0, 255)),
        "which are never made",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_ill_formed_programs_are_refused(name: str) -> None:
    op, damage, message = BROKEN[name]
    program = program_with(op)
    damage(program)
    with pytest.raises(ProofError, match=message):
        prove(program)


@pytest.mark.parametrize("op", INTEGER_OPERATORS)
def test_every_attribute_and_constant_of_an_operator_has_an_invariant(op: str) -> None:
    record = INTEGER_OPERATORS[op]
    parameters = [*inspect.signature(record.define).parameters.values()]
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} == record.attributes.keys()
    assert all(attribute.must_be for attribute in record.attributes.values())
    operands = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    assert {place: operands[place] for place in record.constants} == {
        place: constant.name for place, constant in record.constants.items()
    }


@pytest.mark.parametrize("op", INTEGER_OPERATORS)
def test_no_invariant_holds_of_what_no_program_has(op: str) -> None:
    for name, attribute in INTEGER_OPERATORS[op].attributes.items():
        for value in (None, object(), b"", {}, [1], 1 + 2j, float("nan")):
            assert not attribute.holds(value), f"{name}: {value!r}"


def ports(**changes: Any) -> Callable[[Program], None]:
    """The features' port is another."""
    return lambda p: setattr(p, "inputs", (replace(p.inputs[0], **changes), p.inputs[1]))


def outputs(**changes: Any) -> Callable[[Program], None]:
    """The logits' port is another."""
    return lambda p: setattr(p, "outputs", (replace(p.outputs[0], **changes), p.outputs[1]))


def state(**changes: Any) -> Callable[[Program], None]:
    """The program hands the bytes that its first instruction makes to its next run."""

    def damage(program: Program) -> None:
        made = program.code[0].out
        held = StatePort("h", "h", made, "uint8", ("batch", program.channels, "frames"), 0, 255)
        program.states = (replace(held, **changes),)

    return damage


#: what is done to the ports of a random program, and what is said of it
BROKEN_PORTS: dict[str, tuple[Callable[[Program], None], str]] = {
    "no channels": (ports(dims=("batch", True, "frames")), r"extents \['batch', True, 'frames'\]"),
    "channels of nothing": (ports(dims=("batch", 0, "frames")), "are no names or numbers"),
    "channels of any number": (ports(dims=("batch", "mels", "frames")), "its number of channels"),
    "an extent that is no name": (ports(dims=("batch", 4, "2 frames")), "are no names or numbers"),
    "no extents": (ports(dims=()), "are no names or numbers"),
    "another type": (ports(type="float64"), "a port of type 'float64'"),
    "bounds upside down": (ports(lo=1), r"\[1, 0\] is no range"),
    "bounds beyond any type": (ports(hi=1 << 31), "is no range"),
    "bounds that are no numbers": (ports(hi=True), "is no range"),
    "a port of truth values": (ports(type="bool"), "a port of type 'bool'"),
    "a port of halves": (ports(type="int16"), "a port of type 'int16'"),
    "integers of 64 bits": (ports(type="int64"), r"lengths are \[batch\]"),
    "a port of digits": (ports(name="5"), "a port is called '5'"),
    "a port of two lines": (ports(name="a\nb"), "a port is called"),
    "a port called like another": (ports(name="length"), "two ports have this name"),
    "a port called like what leaves": (ports(name="logits"), "two ports have this name"),
    "frames before the batch": (ports(dims=("frames", 4, "batch")), "are one"),
    "the batch twice": (ports(dims=("batch", 4, "batch")), "that of another extent"),
    "a batch of one": (ports(dims=(1, 4, "frames")), "the batch, is a name"),
    "an output of another type": (outputs(type="int64"), "is said to be int64"),
    "an output of truth values": (outputs(type="bool"), "is said to be bool"),
    "an output of other channels": (outputs(dims=("batch", "encoded", 5)), "is said to be"),
    "an output of other axes": (outputs(dims=("batch", "encoded")), "is said to be"),
    "an output of features": (outputs(value="audio_signal"), "gives float32"),
    "an output of as many frames as enter": (
        lambda p: (attribute("conv_requant", stride=2)(p), outputs(dims=("batch", "frames", 3))(p)),
        "is said to be|needs|counts",
    ),
    "one value twice": (ports(value="length"), "'length' enters twice"),
    "a value that is made, too": (ports(value="v0"), "is made twice|is not made"),
    "a value called like a constant": (
        lambda p: p.constants.update(length=np.zeros(1, np.int32)),
        "a value and a constant",
    ),
    "a state of real numbers": (state(type="float32"), "a port of type 'float32'"),
    "a state of another type than leaves": (state(type="int64"), "a port of type 'int64'"),
    "a state beyond its type": (state(hi=256), "is no range of uint8"),
    "a state that begins outside": (state(initial=256), "begins at 256"),
    "a state that is never made": (state(leaves="nothing"), "'nothing' is never made"),
    "a state that enters as another": (state(enters="length"), "enters twice"),
    "a state of other channels": (state(dims=("batch", 3, "frames")), "enters with 3 channels"),
    "a state that may not enter again": (state(hi=1), "state h: what leaves is uint8"),
    "a packing of nothing": (lambda p: p.packings.update(nothing="bytes"), "which is no constant"),
    "a packing that nobody knows": (
        lambda p: p.packings.update({next(iter(p.constants)): "base7"}),
        "there is no packing 'base7'",
    ),
    "a result too many": (
        lambda p: p.code.append(replace(p.code[-1], out="a", others=("b",))),
        "gives 1 results, not 2",
    ),
}


@pytest.mark.parametrize("name", BROKEN_PORTS)
def test_ill_formed_ports_are_refused(name: str) -> None:
    damage, message = BROKEN_PORTS[name]
    program = program_with("transpose")
    damage(program)
    with pytest.raises(ProofError, match=message):
        prove(program)


def test_a_state_that_may_enter_again_is_well_formed() -> None:
    program = program_with("transpose")
    state()(program)
    prove(program)


def test_an_input_keeps_a_frame_of_every_value() -> None:
    program = program_with("table")
    assert prove(program).least_frames == 1
    before = list(program.code)
    shorter("table", 0)(program)
    change(program, "cut", attrs={"dilation": 4})
    # nobody reads it
    program.code = [*before[:1], *(i for i in program.code if i.out == "cut"), *before[1:]]
    change(program, "cut", ins=(before[0].out, *program.code[1].ins[1:]))
    program.constants["cut.w"] = np.ones((program.channels, 1, 2), np.int8)
    program.constants |= {name: np.ones(program.channels, np.int32) for name in ("cut.b", "cut.m")}
    info = program.values[before[0].out]
    change(program, "cut", attrs={"zx": info.zero_point, "zy": info.zero_point, "groups": program.channels})
    program.values["cut"] = replace(info, hi=255)
    assert prove(program).least_frames == 5
    features, lengths = np.zeros((1, program.channels, 5), np.float32), np.array([5])
    program.run(NumpyBackend(), features, lengths)


def test_ports_need_no_features() -> None:
    add = {"zx": (0,), "m": (1,), "c": 0, "zy": 0, "lo": -7, "hi": 7, "type": "int32"}
    program = Program(
        (Port("given", "x", "int32", ("batch", 5, 1), -9, 9),),
        (Port("made", "y", "int32", ("batch", 5, 1)),),
        [Instruction("add_requant", "y", ("x",), add)],
        {},
        {},
        max_frames=1,
    )
    assert {name: v.channels for name, v in check(program).values.items()} == {"x": 5, "y": 5}
    assert prove(program).peak == 9


def other_body(edit: Callable[[onnx.ModelProto], Any]) -> Callable[[Program], None]:
    """The island's body is changed."""

    def damage(program: Program) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(decode(program.code[1].attrs["body"]))
        edit(model)
        change(program, "float_island", attrs={"body": encode(model)})

    return damage


#: a graph that an attribute may hold
EMPTY = helper.make_graph([], "empty", [], [])


def between(model: onnx.ModelProto, op: str, extra: list[str] | None = None, **attrs: Any) -> None:
    """Another node stands before the last."""
    last = model.graph.node[-1]
    model.graph.node.insert(
        len(model.graph.node) - 1, helper.make_node(op, [last.input[0], *(extra or [])], ["between"], **attrs)
    )
    last.input[0] = "between"


def padded(model: onnx.ModelProto) -> None:
    """One frame more."""
    pads = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 1]), "pads")
    model.graph.initializer.append(pads)
    between(model, "Pad", extra=["pads"])
    model.graph.output[0].type.tensor_type.shape.dim[2].ClearField("dim_param")


def summed(model: onnx.ModelProto) -> None:
    """All utterances are added."""
    axes = numpy_helper.from_array(np.array([0]), "over")
    model.graph.initializer.append(axes)
    between(model, "ReduceSum", extra=["over"])
    model.graph.output[0].type.tensor_type.shape.dim[0].ClearField("dim_param")


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def constants_of(**changes: Any) -> Callable[[Program], None]:
    """The island's weight is another array."""

    def damage(program: Program) -> None:
        name = program.code[1].ins[-1]
        program.constants[name] = changes["edit"](program.constants[name])

    return damage


#: name → (what is done to the program of ``with_island``, what is said of it)
BROKEN_ISLANDS: dict[str, tuple[Callable[[Program], Any], str]] = {
    "no base64": (attribute("float_island", body="§"), "its body is no ONNX graph"),
    "no graph": (attribute("float_island", body="AAAA"), "its body"),
    "no text": (attribute("float_island", body=7), "body must be text"),
    "another domain": (
        other_body(lambda m: setattr(m.graph.node[0], "domain", "com.microsoft")),
        "of another domain",
    ),
    "another opset": (other_body(lambda m: setattr(m.opset_import[0], "version", 20)), "standard ONNX 18"),
    "random": (
        other_body(lambda m: m.graph.node.insert(0, helper.make_node("RandomNormal", [], ["r"], shape=[1]))),
        "RandomNormal, which is random",
    ),
    "training": (
        other_body(lambda m: between(m, "Dropout", extra=["ratio", "train"])),
        "holds Dropout, which is random, trains",
    ),
    "normalizing as it trains": (
        other_body(lambda m: between(m, "BatchNormalization", training_mode=1)),
        "holds BatchNormalization, which trains",
    ),
    "branches": (other_body(lambda m: between(m, "If", then_branch=EMPTY)), "holds If, which"),
    "a loop without end": (other_body(lambda m: between(m, "Loop", body=EMPTY)), "holds Loop, which"),
    "as many entries as data say": (other_body(lambda m: between(m, "NonZero")), "holds NonZero, which"),
    "text": (other_body(lambda m: between(m, "StringNormalizer")), "holds StringNormalizer, which"),
    "an operator of nobody": (other_body(lambda m: between(m, "Nothing")), "holds Nothing, which"),
    "a graph in an attribute": (
        other_body(lambda m: between(m, "Identity", body=EMPTY)),
        "holds Identity with",
    ),
    "a function": (other_body(lambda m: m.functions.add(name="f", domain="d")), "other operators"),
    "an older IR": (other_body(lambda m: setattr(m, "ir_version", 3)), "other operators"),
    "tensors without end": (
        other_body(lambda m: m.graph.initializer.add(name="w", data_type=1, dims=[1 << 40])),
        "cannot be run|is not valid ONNX",
    ),
    "tensors of text": (
        other_body(lambda m: m.graph.initializer.add(name="w", data_type=8, dims=[1])),
        "of ONNX type 8",
    ),
    "frames that none of its operands has": (other_body(padded), "lengths that count|counts|needs"),
    "a batch that is gone": (other_body(summed), "of a batch of 2"),
    "tensors outside": (other_body(outside), "tensors outside of itself"),
    "a dangling name": (
        other_body(lambda m: m.graph.node[-1].input.__setitem__(0, "nothing")),
        "is not valid ONNX",
    ),
    "two results": (
        other_body(lambda m: m.graph.output.add().CopyFrom(m.graph.output[0])),
        "valid ONNX|one float32",
    ),
    "other channels of the result": (
        other_body(lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 5)),
        "is not valid ONNX",
    ),
    "other channels of an operand": (
        other_body(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 5)),
        "valid ONNX|does not take 4 channels",
    ),
    "weights of another shape": (constants_of(edit=lambda w: w[:2]), "takes weights float32"),
    "weights of another type": (constants_of(edit=lambda w: w.astype(np.int8)), "takes weights float32"),
    "a weight that is a value": (operand("float_island", 2, lambda i: "q"), "a weight is no constant"),
    "lengths that are a value": (operand("float_island", 1, lambda i: "q"), "activations, then lengths"),
    "too few operands": (lambda p: change(p, "float_island", ins=("q",)), "has 1 operands, not 2"),
    "a scale of zero": (attribute("float_island", scales=(0.0,)), "scales must be"),
    "a scale below float32's": (attribute("float_island", scale=1e-60), "scale must be"),
    "zero points of more operands": (attribute("float_island", zx=(7, 7)), "as many zero points"),
    "a zero point by itself": (attribute("float_island", zx=7), "as many zero points"),
    "words around another zero": (attribute("float_island", zero_point=1), "zero point 0"),
    "a range beyond its type": (attribute("float_island", type="uint8"), "no range of uint8"),
    "paths that are none": (attribute("float_island", layers=(1,)), "layers must be paths"),
}


def test_an_island_is_well_formed() -> None:
    assert check(with_island()).values["c"].channels == 3
    assert prove(with_island()).instructions == 3


@pytest.mark.parametrize("name", BROKEN_ISLANDS)
def test_ill_formed_islands_are_refused(name: str) -> None:
    damage, message = BROKEN_ISLANDS[name]
    program = with_island()
    damage(program)
    with pytest.raises(ProofError, match=message):
        prove(program)
