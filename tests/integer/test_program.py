"""A program is data: it survives JSON, and its digest sees every bit of it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Instruction, Program, StatePort, canonical_json, is_ctc
from zeroq_asr.registry import INTEGER_OPERATORS

from .parity import all_cases
from .programs import random_features, random_program

SEEDS = st.integers(0, 2**32 - 1)


def through_json(program: Program) -> Program:
    return Program.from_json(json.loads(canonical_json(program.to_json())), program.constants)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_json_round_trip(seed: int) -> None:
    program = random_program(seed)
    rebuilt = through_json(program)
    assert rebuilt == program
    assert rebuilt.digest() == program.digest()
    assert canonical_json(rebuilt.to_json()) == canonical_json(program.to_json())
    # attributes are tuples again, so that definitions see what the lowering gave them
    for ours, theirs in zip(rebuilt.code, program.code, strict=True):
        assert {k: type(v) for k, v in ours.attrs.items()} == {k: type(v) for k, v in theirs.attrs.items()}


def test_rebuilt_programs_run_alike() -> None:
    program = random_program(3)
    features, lengths = random_features(4)
    for ours, theirs in zip(
        through_json(program).run(NumpyBackend(), features, lengths),
        program.run(NumpyBackend(), features, lengths),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.data())
def test_digest_sees_every_bit_of_every_constant(seed: int, data: st.DataObject) -> None:
    program = random_program(seed)
    before = program.digest()
    name = data.draw(st.sampled_from(sorted(program.constants)))
    changed = copy.deepcopy(program)
    raw = changed.constants[name].view(np.uint8).reshape(-1)
    raw[data.draw(st.integers(0, raw.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert changed.digest() != before


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.data())
def test_digest_sees_every_attribute(seed: int, data: st.DataObject) -> None:
    program = random_program(seed)
    index = data.draw(st.integers(0, len(program.code) - 1))
    attrs = program.code[index].attrs
    if not attrs:
        return
    key = data.draw(st.sampled_from(sorted(attrs)))
    value = attrs[key]
    if isinstance(value, bool):
        other: object = not value
    elif isinstance(value, tuple):
        place = data.draw(st.integers(0, len(value) - 1))
        other = (*value[:place], value[place] + 1, *value[place + 1 :])
    elif isinstance(value, float):
        other = float(np.nextafter(value, np.inf))
    else:
        other = value + "x" if isinstance(value, str) else value + 1
    changed = copy.deepcopy(program)
    changed.code[index] = replace(program.code[index], attrs={**attrs, key: other})
    assert changed.digest() != program.digest()


def test_digest_sees_structure() -> None:
    program = random_program(5)
    digests = {program.digest()}

    def differs(changed: Program) -> None:
        digest = changed.digest()
        assert digest not in digests
        digests.add(digest)

    for i in range(len(program.code) - 1):
        swapped = copy.deepcopy(program)
        swapped.code[i], swapped.code[i + 1] = swapped.code[i + 1], swapped.code[i]
        differs(swapped)
        shorter = copy.deepcopy(program)
        del shorter.code[i]
        differs(shorter)
    differs(replace(program, code=[*program.code, program.code[-1]]))
    differs(replace(program, outputs=(program.outputs[1], program.outputs[0])))
    for side in ("inputs", "outputs"):
        ports = getattr(program, side)
        for place, port in enumerate(ports):
            others = {"name": "other", "value": "features", "type": "uint8", "dims": (*port.dims[:-1], 77)}
            for field, value in {**others, "lo": -1, "hi": 1}.items():
                changed = (*ports[:place], replace(port, **{field: value}), *ports[place + 1 :])
                differs(replace(program, **{side: changed}))
        differs(replace(program, **{side: ports[:1]}))
    differs(replace(program, max_frames=program.max_frames + 1))
    value = program.code[0].out
    state = StatePort("h", "h", value, "uint8", ("batch", program.channels, 1), 0, 255)
    differs(replace(program, states=(state,)))
    others = {
        "name": "g",
        "enters": "g",
        "leaves": "g",
        "type": "int32",
        "dims": ("batch",),
        "lo": 1,
        "hi": 7,
    }
    for field, other in {**others, "initial": 3}.items():
        differs(replace(program, states=(replace(state, **{field: other}),)))
    differs(replace(program, packings={next(iter(program.constants)): "other"}))
    instruction = program.code[-1]
    differs(replace(program, code=[*program.code[:-1], replace(instruction, others=("second",))]))
    name, info = next(iter(program.values.items()))
    for changes in ({"scale": info.scale * 2}, {"zero_point": info.zero_point + 1}, {"type": "int32"}):
        differs(replace(program, values={**program.values, name: replace(info, **changes)}))
    first, *others = program.constants
    differs(replace(program, constants={k: program.constants[k] for k in others}))
    renamed = {("other" if k == first else k): v for k, v in program.constants.items()}
    differs(replace(program, constants=renamed))
    differs(replace(program, constants={**program.constants, first: program.constants[first][..., None]}))


def test_two_constants_that_trade_places_change_the_digest() -> None:
    program = random_program(5)
    for op in ("conv_requant",):
        weights = [i.ins[1] for i in program.code if i.op == op]
        swapped = dict(program.constants)
        swapped[weights[0]], swapped[weights[1]] = swapped[weights[1]], swapped[weights[0]]
        assert replace(program, constants=swapped).digest() != program.digest()


def test_digest_ignores_order_and_memory_of_constants() -> None:
    program = random_program(6)
    turned = dict(reversed(program.constants.items()))
    assert replace(program, constants=turned).digest() == program.digest()
    strided = {k: np.asfortranarray(v) for k, v in program.constants.items()}
    assert replace(program, constants=strided).digest() == program.digest()
    # how wide a container an integer sits in is the dialect's business, not the program's
    wide = {k: v.astype(np.int64) for k, v in program.constants.items()}
    assert replace(program, constants=wide).digest() == program.digest()


def test_digest_does_not_depend_on_who_ran_the_program() -> None:
    program = random_program(7)
    before = program.digest()
    program.run(NumpyBackend(), *random_features(1))
    for backend in (OnnxStrictBackend(), OnnxFusedBackend(), OnnxFusedBackend("x86-vnni")):
        build(backend, program)
        assert program.digest() == before


def test_constants_may_be_read_only() -> None:
    # as arrays read from a file are
    program = random_program(8)
    for array in program.constants.values():
        array.setflags(write=False)
    features, lengths = random_features(2)
    expected, _ = program.run(NumpyBackend(), features, lengths)
    with torch.inference_mode():
        found, _ = program.run(TorchBackend(), torch.from_numpy(features), torch.from_numpy(lengths))
    np.testing.assert_array_equal(found.numpy(), expected)


def test_values_are_released_after_their_last_use() -> None:
    program = random_program(9)
    seen: list[str] = []
    program.run(NumpyBackend(), *random_features(1), observe=lambda i, _: seen.append(i.out))
    assert seen == [i.out for i in program.code]


def test_instructions_of_every_operator_survive_json() -> None:
    seen = set()
    for case in all_cases():
        others = ("second", "third")[: INTEGER_OPERATORS[case.op].results - 1]
        instruction = Instruction(case.op, "out", case.order, case.attrs, "layer.0", others)
        assert Instruction.from_json(json.loads(json.dumps(instruction.to_json()))) == instruction
        seen.add(case.op)
    assert seen == set(INTEGER_OPERATORS)
    several = Instruction("split", "a", ("x",), {"sizes": (1, 2)}, "layer.0", ("b", "c"))
    assert Instruction.from_json(json.loads(json.dumps(several.to_json()))) == several


def test_ports_of_a_ctc_network_are_known() -> None:
    program = random_program(3)
    assert is_ctc(program)
    assert (program.channels, program.features, program.lengths) == (4, *program.inputs)
    assert program.output("logits").value == program.leaving[0]
    with pytest.raises(KeyError):
        program.output("logprobs")
    state = StatePort("h", "h", program.code[0].out, "uint8", ("batch", 4, 1), 0, 255)
    assert not is_ctc(replace(program, states=(state,)))
    assert not is_ctc(replace(program, inputs=program.inputs[:1]))
    for side in ("inputs", "outputs"):
        first, second = getattr(program, side)
        assert not is_ctc(replace(program, **{side: (replace(first, name="other"), second)}))
        assert not is_ctc(replace(program, **{side: (second, first)}))
    # what the values are called inside of the program is no matter
    assert is_ctc(replace(program, inputs=(replace(program.inputs[0], value="x"), program.inputs[1])))


def test_states_begin_as_they_say() -> None:
    program = random_program(3)
    states = [
        StatePort(k, k, k, kind, ("batch", 4, 1), -5, 5, first)
        for k, kind, first in (("g", "int32", -5), ("h", "uint8", 3))
    ]
    g, h = replace(program, states=(*states,)).initial_states(batch=2)
    assert (g.dtype, g.shape, h.dtype, h.shape) == (np.int32, (2, 4, 1), np.uint8, (2, 4, 1))
    assert (g == -5).all()
    assert (h == 3).all()


@pytest.mark.parametrize("first", ["a", "b"])
def test_canonical_json_ignores_insertion_order(first: str) -> None:
    data = {"a": 1, "b": [1.5, "é"]}
    assert canonical_json(dict(sorted(data.items(), key=lambda kv: kv[0] != first))) == (
        '{"a":1,"b":[1.5,"é"]}'.encode()
    )
