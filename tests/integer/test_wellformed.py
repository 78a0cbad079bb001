"""Programs that no lowering writes must be refused before anything is proven of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.integer.programs import random_program
from zeroq_asr.errors import ProofError
from zeroq_asr.integer.ops import OPS
from zeroq_asr.integer.program import Program, ValueInfo
from zeroq_asr.integer.proof import prove
from zeroq_asr.integer.wellformed import ATTRIBUTES, check


def program_with(*ops: str) -> Program:
    """The first random program that has all of ``ops``."""
    return next(
        p for p in (random_program(seed, steps=14) for seed in range(200)) if {*ops} <= {i.op for i in p.code}
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_programs_are_well_formed(seed: int) -> None:
    check(random_program(seed))


def change(program: Program, kind: str, **fields: Any) -> None:
    """Replace fields of the first instruction of a kind; ``attrs`` are merged."""
    at = next(k for k, i in enumerate(program.code) if i.op == kind)
    attrs = {**program.code[at].attrs, **fields.pop("attrs", {})}
    program.code[at] = replace(program.code[at], attrs=attrs, **fields)


def constant(program: Program, op: str, place: int, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    name = next(i for i in program.code if i.op == op).ins[place]
    program.constants[name] = edit(program.constants[name].copy())


def other_mask(program: Program) -> None:
    """A mean over frames that another length keeps."""
    mean = next(i for i in program.code if i.op == "mean_requant")
    at = program.code.index(mean)
    step = replace(mean, op="length_step", out="longer", ins=(mean.ins[2],), attrs={})
    step = replace(step, attrs={"before": 0, "divisor": 1, "after": 10**7})
    program.code[at : at + 1] = [step, replace(mean, ins=(mean.ins[0], mean.ins[1], "longer"))]


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
        "m is int32",
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
    "short table": ("table", lambda p: constant(p, "table", 1, lambda t: t[:100]), "uint8 \\[256\\]"),
    "zero point beyond a byte": ("mask_time", lambda p: change(p, "mask_time", attrs={"zx": 256}), "a byte"),
    "no stride": ("conv_requant", lambda p: change(p, "conv_requant", attrs={"stride": 0}), "stride must be"),
    "a shift of ages": (
        "conv_requant",
        lambda p: change(p, "conv_requant", attrs={"c": 10**5000}),
        "a far larger number",
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
        lambda p: setattr(p, "outputs", ("nothing", p.outputs[1])),
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
    "a mean over other frames": ("mean_requant", other_mask, "its mask keeps"),
    "no frames": ("transpose", lambda p: setattr(p, "max_frames", 0), "max_frames"),
    "no channels": ("transpose", lambda p: setattr(p, "channels", True), "channels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_ill_formed_programs_are_refused(name: str) -> None:
    op, damage, message = BROKEN[name]
    program = program_with(op)
    damage(program)
    with pytest.raises(ProofError, match=message):
        prove(program)


def test_every_attribute_of_every_operator_has_an_invariant() -> None:
    for op in OPS.values():
        for parameter in inspect.signature(op.define).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                assert parameter.name in ATTRIBUTES, f"{op.name}: {parameter.name}"
