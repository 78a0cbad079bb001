"""Bundles of programs, states between runs, and recurrences within one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.deployment.export import Deployment, export_bundle, write_bundle
from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.program import Instruction, Port, Program, StatePort, ValueInfo
from zeroq_asr.integer.proof import prove, prove_bundle
from zeroq_asr.integer.types import I32
from zeroq_asr.registry import IntegerOperator, Operator, register, unregister

CHANNELS, STEPS = 6, 50
WORD = 32767


def memory(reach: int = WORD, leaves: int = WORD) -> Program:
    """h ← half_even((3·h + 300·(x − 128)) / 4), clamped to ± ``leaves``; the state may hold ± ``reach``."""
    attrs: dict[str, Any] = {"zx": (0, 128), "m": (3, 300), "c": 2, "zy": 0, "lo": -leaves, "hi": leaves}
    back: dict[str, Any] = {"zx": (0,), "m": (1,), "c": 8, "zy": 128, "lo": 0, "hi": 255}
    return Program(
        inputs=(Port("bytes", "x", "uint8", ("batch", CHANNELS, 1), 0, 255),),
        outputs=(Port("memory", "y", "uint8", ("batch", CHANNELS, 1)),),
        states=(StatePort("h", "h", "h_next", "int32", ("batch", CHANNELS, 1), -reach, reach, initial=7),),
        code=[
            Instruction("add_requant", "h_next", ("h", "x"), {**attrs, "type": "int32"}, "memory"),
            Instruction("add_requant", "y", ("h_next",), {**back, "type": "uint8"}, "memory"),
        ],
        constants={},
        values={
            "h_next": ValueInfo("int32", 0.01, 0, -leaves, leaves),
            "y": ValueInfo("uint8", 2.56, 128, 0, 255),
        },
        max_frames=1,
    )


def steps(count: int = STEPS, batch: int = 2) -> np.ndarray:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (count, batch, CHANNELS, 1)).astype(np.uint8)
    x[:20, 0], x[20:, 0] = 255, 0
    return x


def test_a_state_is_proven_by_induction() -> None:
    assert prove(memory()).peak > WORD


@pytest.mark.parametrize("leaves", [WORD - 1, 100])
def test_what_leaves_a_state_must_be_what_may_enter_it(leaves: int) -> None:
    prove(memory(WORD, leaves))
    with pytest.raises(zq.ProofError, match=r"h\b"):
        prove(memory(leaves, WORD))


def test_a_program_with_a_state_survives_json() -> None:
    program = memory()
    again = Program.from_json(json.loads(json.dumps(program.to_json())), {})
    assert again == program
    assert again.digest() == program.digest()
    changed = dataclasses.replace(program.states[0], hi=WORD - 1)
    assert dataclasses.replace(program, states=(changed,)).digest() != program.digest()


@pytest.fixture(scope="module")
def bundle(small_model: zq.AsrModel) -> tuple[Bundle, Deployment]:
    spec = zq.QuantSpec(max_seconds=2.0)
    made = zq.quantize(small_model, spec=spec, calibration=zq.CalibrationSpec("noise"))
    return Bundle({"network": made.program, "memory": memory()}), made.deployment


@pytest.mark.parametrize("dialect", ["fused", "strict"])
def test_a_bundle_of_two_is_exported_verified_and_stepped(
    bundle: tuple[Bundle, Deployment], dialect: str, tmp_path: Path
) -> None:
    programs, deployment = bundle
    write_bundle(tmp_path / "b", export_bundle(programs, deployment, dialect, "x86-any"), deployment)
    certificate = zq.verify(tmp_path / "b")
    assert certificate.program_sha256 == programs.digest()
    assert certificate.integer_only
    session = onnxruntime.InferenceSession(
        str(tmp_path / "b" / "memory.onnx"), providers=["CPUExecutionProvider"]
    )
    (h,) = programs.programs["memory"].initial_states(batch=2)
    g = h
    for x in steps():
        y, h = programs.programs["memory"].run(NumpyBackend(), x, h)
        z, g = session.run(["memory", "next_h"], {"bytes": x, "h": g})
        np.testing.assert_array_equal(z, y)
        np.testing.assert_array_equal(g, h)
    assert np.abs(h).max() > 1000, "the state never moved"


def test_a_bundle_is_what_it_was_written_as(bundle: tuple[Bundle, Deployment], tmp_path: Path) -> None:
    programs, deployment = bundle
    exports = export_bundle(programs, deployment, "fused", "x86-any")
    write_bundle(tmp_path / "b", exports, deployment)
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "bundle.json",
        "memory.onnx",
        "network.onnx",
    ]
    proofs = prove_bundle(programs)
    assert proofs.keys() == {"network", "memory"}
    for damage in ("swap", "json", "extra", "missing"):
        folder = tmp_path / damage
        write_bundle(folder, exports, deployment)
        if damage == "swap":
            (folder / "memory.onnx").write_bytes((folder / "network.onnx").read_bytes())
        elif damage == "json":
            text = (folder / "bundle.json").read_text()
            (folder / "bundle.json").write_text(text.replace('"memory"', '"memery"'))
        elif damage == "extra":
            (folder / "more.onnx").write_bytes(b"")
        else:
            (folder / "memory.onnx").unlink()
        with pytest.raises((zq.VerificationError, zq.CheckpointError)):
            zq.verify(folder)


# -- a recurrence within one program ---------------------------------------------------------------


def leaky_sum(f: Backend[V], x: V, start: V, *, keep: int, lo: int, hi: int, type: str) -> tuple[V, V]:
    """Carry h ← clamp(h·keep / 2^4 + x, lo, hi) over the frames of x: every h, and the last one."""

    def step(carried: list[V], inputs: list[V]) -> tuple[list[V], list[V]]:
        h = f.clamp(f.add(f.shift_right(f.mul(carried[0], keep), 4), f.cast(inputs[0], I32)), lo, hi)
        return [h], [h]

    last, every = f.scan(step, [start], [x], bounds=[(lo, hi)])
    return every[0], last[0]


@pytest.fixture
def leaky() -> Iterator[Operator]:
    from zeroq_asr.integer.attributes import INT32, TYPE, whole

    integer = IntegerOperator(
        "leaky_sum",
        leaky_sum,
        {"keep": whole(0, 16, "0 ≤ keep ≤ 16"), "lo": INT32, "hi": INT32, "type": TYPE},
        results=2,
    )
    operator = register(Operator("leaky_sum", integers=(integer,)))
    yield operator
    unregister(operator)


def summing(keep: int = 15, hi: int = 9000, reach: int = 9000) -> Program:
    code = [
        Instruction(
            "leaky_sum",
            "every",
            ("x", "h"),
            {"keep": keep, "lo": -hi, "hi": hi, "type": "int32"},
            "sum",
            others=("last",),
        )
    ]
    dims = ("batch", CHANNELS, 1)
    return Program(
        inputs=(Port("bytes", "x", "uint8", ("batch", CHANNELS, "frames"), 0, 255),),
        outputs=(Port("sums", "every", "int32", ("batch", CHANNELS, "frames")),),
        states=(StatePort("h", "h", "last", "int32", dims, -reach, reach),),
        code=code,
        constants={},
        values={},
        max_frames=1000,
    )


def test_a_recurrence_is_the_same_everywhere_and_in_pieces(
    leaky: Operator, small_model: zq.AsrModel, bundle: tuple[Bundle, Deployment], tmp_path: Path
) -> None:
    program, x = summing(), np.moveaxis(steps(40), 0, -1)[:, :, 0]
    prove(program)
    (h,) = program.initial_states(batch=2)
    wanted, last = program.run(NumpyBackend(), x, h)
    assert wanted.shape == x.shape
    pieces = []
    for part in np.split(x, [1, 7, 30], axis=2):
        made, h = program.run(NumpyBackend(), part, h)
        pieces.append(made)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=2), wanted)
    np.testing.assert_array_equal(h, last)
    simulated = program.run(
        TorchBackend(), torch.from_numpy(x), torch.zeros(2, CHANNELS, 1, dtype=torch.int32)
    )
    np.testing.assert_array_equal(simulated[0].numpy(), wanted)
    for dialect in ("fused", "strict"):
        folder = tmp_path / dialect
        exports = export_bundle(Bundle({"a": program, "b": memory()}), bundle[1], dialect, "x86-any")
        write_bundle(folder, exports, bundle[1])
        zq.verify(folder)
        session = onnxruntime.InferenceSession(str(folder / "a.onnx"), providers=["CPUExecutionProvider"])
        found = session.run(["sums", "next_h"], {"bytes": x, "h": np.zeros((2, CHANNELS, 1), np.int32)})
        np.testing.assert_array_equal(found[0], wanted)
        np.testing.assert_array_equal(found[1], last)


def test_a_recurrence_without_bounds_is_not_proven(leaky: Operator) -> None:
    with pytest.raises(zq.ProofError):
        prove(summing(hi=2**31 - 1, reach=2**31 - 1))
    with pytest.raises(zq.ProofError):
        prove(summing(hi=9000, reach=9001))
