"""Which target a processor gets."""

from __future__ import annotations

from pathlib import Path

import pytest

import zeroq_asr as zq
from zeroq_asr.config import TARGETS
from zeroq_asr.deployment.export import TARGET_BOUNDS
from zeroq_asr.deployment.machine import Machine, _linux, best_target, settled, this_machine


def machine(architecture: str, *features: str) -> Machine:
    return Machine("a processor", architecture, frozenset(features), 2)


OLD = machine("x86", "avx2")
CASES = [
    (OLD, 8, "x86-any"),
    (OLD, 7, "x86-any"),
    (OLD, 4, "x86-any"),
    (machine("x86", "avx2", "avx512f"), 8, "x86-any"),
    (machine("x86", "avx2", "avx512f", "avx512_vnni"), 8, "x86-vnni"),
    (machine("x86", "avx2", "avx_vnni"), 8, "x86-vnni"),
    (machine("x86", "avx2", "avx_vnni"), 7, "x86-any"),
    (machine("arm", "asimd"), 8, "arm"),
    (machine("arm", "asimd", "asimddp"), 4, "arm"),
    # nothing is known of it: what is exact everywhere
    (machine("x86"), 8, "x86-any"),
    (machine("riscv64"), 8, "x86-any"),
    (machine("riscv64"), 7, "x86-any"),
]


@pytest.mark.parametrize(("processor", "bits", "target"), CASES)
def test_best_target(processor: Machine, bits: int, target: str) -> None:
    found, reason = best_target(processor, bits)
    assert found == target
    assert reason
    spec = settled(zq.QuantSpec(weight_bits=bits, target="auto"), processor)
    assert spec.target == target


def test_every_target_but_auto_has_a_bound() -> None:
    assert set(TARGETS) - {"auto"} == set(TARGET_BOUNDS)


def test_a_target_that_was_chosen_stays() -> None:
    assert settled(zq.QuantSpec(target="arm"), OLD).target == "arm"


def test_this_machine_says_something() -> None:
    found = this_machine()
    assert found.processor
    assert found.cores >= 1
    assert set(found.to_dict()) == {"processor", "architecture", "instruction_sets", "cores"}


def test_linux_is_read(tmp_path: Path) -> None:
    x86 = (
        "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n"
    )
    (tmp_path / "x86").write_text(x86)
    assert _linux(tmp_path / "x86") == ("Some CPU @ 2 GHz", {"fpu", "avx2", "avx512_vnni"})
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert _linux(tmp_path / "arm") == ("", {"fp", "asimd", "asimddp", "i8mm"})
    assert _linux(tmp_path / "none") == ("", set())
