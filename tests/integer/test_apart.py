"""What is behind the end of an utterance changes nothing, or the account of it says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec
from zeroq_asr.embedded import embedded_model
from zeroq_asr.integer.apart import reads_behind
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.program import Program
from zeroq_asr.pipeline import build, prepare

from .islands import with_island
from .programs import random_program


def changes(program: Program, seed: int) -> bool:
    """Whether an utterance gives something else beside a longer one than alone."""
    generator = np.random.default_rng(seed)
    for frames, valid in ((9, 8), (30, 17), (60, 31)):
        x = generator.standard_normal((2, program.channels, frames)).astype(np.float32) * np.float32(3)
        beside, ends = program.run(NumpyBackend(), x, np.array([frames, valid]))
        alone, _ = program.run(NumpyBackend(), x[1:, :, :valid], np.array([valid]))
        if not np.array_equal(beside[1, : ends[1]], alone[0, : ends[1]]):
            return True
    return False


def test_what_is_said_to_be_apart_is_apart() -> None:
    apart = [seed for seed in range(150) if not reads_behind(random_program(seed, steps=4))]
    assert len(apart) > 20
    for seed in apart:
        assert not changes(random_program(seed, steps=4), seed), seed


def test_what_is_not_said_to_be_apart_often_is_not() -> None:
    mixed = [seed for seed in range(60) if reads_behind(random_program(seed, steps=4))]
    assert len(mixed) > 20
    assert sum(changes(random_program(seed, steps=4), seed) for seed in mixed) > len(mixed) / 3


@pytest.fixture(scope="module")
def masked() -> Program:
    few = SynthesisSpec(batch=1, frames=64, iterations=0)
    spec = QuantSpec(rounding="nearest", max_seconds=2)
    return build(prepare(embedded_model(), spec=spec, synthesis=few, calibration=CalibrationSpec("noise")))


def test_a_network_with_masks_is_apart(masked: Program) -> None:
    assert reads_behind(masked) == ""
    assert not changes(masked, 0)


def test_without_one_mask_it_is_not(masked: Program) -> None:
    masks = {i.out: i.ins[0] for i in masked.code if i.op == "mask_time"}
    convs = [i for i in masked.code if i.op == "conv_requant" and i.attrs["padding"][1]]
    read = next(i for i in convs if i.ins[0] in masks)

    def unmasked(i: Any) -> Any:
        return replace(i, ins=(masks[i.ins[0]], *i.ins[1:])) if i is read else i

    program = replace(masked, code=[unmasked(i) for i in masked.code])
    assert reads_behind(program) == f"{read.out} (conv_requant)"
    assert changes(program, 0)


def test_of_islands_nothing_is_said() -> None:
    assert reads_behind(with_island()) == "c (float_island)"


def test_a_convolution_without_padding_behind_needs_no_mask() -> None:
    program = next(
        p
        for p in (random_program(seed, steps=2) for seed in range(500))
        if all(i.attrs.get("stride", 1) == 1 and "strides" not in i.attrs for i in p.code) and reads_behind(p)
    )
    kernel = {i.out: program.constants[i.ins[1]].shape[2] for i in program.code if i.op == "conv_requant"}

    def causal(i: Any) -> Any:
        if i.op != "conv_requant":
            return i
        reach = i.attrs["dilation"] * (kernel[i.out] - 1)
        return replace(i, attrs={**i.attrs, "padding": (reach, 0)})

    program = replace(program, code=[causal(i) for i in program.code])
    assert reads_behind(program) == ""
    assert not changes(program, 1)
