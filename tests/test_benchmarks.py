"""The scripts that compare integers run, count what they compare, and find a difference."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zeroq_asr.deployment.export import export
from zeroq_asr.deployment.machine import this_machine
from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.torch import TorchBackend

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import adversarial
import equality
import interpreters

#: a program that is small
ONE = "random programs, 3"


def test_every_interpreter_is_equal_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    account = tmp_path / "equality.txt"
    assert equality.main(["--integers", "1e5", "--only", ONE, "--out", str(account)]) == 0
    text = account.read_text()
    assert text == capsys.readouterr().out
    found = re.match(r"([\d,]+) comparisons .* of which ([\d,]+) are of logits and lengths: 0 differ", text)
    assert found is not None
    total, leaving = (int(n.replace(",", "")) for n in found.groups())
    assert leaving < total
    assert total >= 100_000
    rows = re.findall(r"^((?:torch|strict|fused), .*?) +1 +([\d,]+) +([\d,]+) +0$", text, re.MULTILINE)
    # torch twice; of strict and fused five levels, another way, and all values twice; where the processor has
    # VNNI, fused once more for that
    assert len(rows) == 2 + 2 * (5 + 1 + 2) + this_machine().exact_at_full_range
    assert sum(int(n.replace(",", "")) for *_, n in rows) == total
    assert sum(int(n.replace(",", "")) for _, n, _ in rows) == leaving
    inside = {int(n.replace(",", "")) for name, _, n in rows if "all values" in name}
    assert len(inside) == 1
    assert inside.pop() > leaving / len(rows)


def test_a_difference_is_named_and_found_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = TorchBackend.conv

    def conv(self: TorchBackend, x: torch.Tensor, w: torch.Tensor, **layout: object) -> torch.Tensor:
        made = exact(self, x, w, **layout)  # type: ignore[arg-type]
        return made + 900 * (x.shape[2] > 30)

    monkeypatch.setattr(TorchBackend, "conv", conv)
    assert equality.main(["--integers", "1e5", "--only", ONE]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    form = r"first of \d+ differences: random programs, 3: torch, float carriers, all values: '\w+' of "
    form += r"conv\w* \(layer\.\d+\) \[[\d, ]+\] is -?\d+, the reference's -?\d+; \d+ × \d+ frames, .*; "
    found = re.match(form + r"program [0-9a-f]{16}; python benchmarks/equality\.py (.*)$", told)
    assert found is not None, told
    assert equality.main(shlex.split(found[1])) == 1
    again = capsys.readouterr().err.splitlines()[-1]
    assert again.partition(": ")[2] == told.partition(": ")[2]


def test_a_run_that_fails_is_a_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def quantize(*_: object, **__: object) -> None:
        raise ProofError("quantize", "overflow")

    monkeypatch.setattr(NumpyBackend, "quantize", quantize)
    assert equality.main(["--only", ONE, "--round", "0"]) == 1
    assert "the reference fails on" in capsys.readouterr().err


def test_a_program_that_is_not_proven_is_a_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise ProofError("attention", "scores too far apart")

    monkeypatch.setattr(equality, "interpreters", refuse)
    assert equality.main(["--only", ONE]) == 1
    assert f"{ONE}: ProofError: attention: scores too far apart" in capsys.readouterr().err


def test_nothing_compared_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert equality.main(["--only", "random programs, none"]) == 1
    assert "no case matches 'random programs, none'" in capsys.readouterr().out


def test_kinds_are_what_they_say() -> None:
    generator, scale = np.random.default_rng(0), 0.0173
    for name, make in adversarial.KINDS.items():
        made = make(generator, (4, 50), scale).astype(np.float32)
        assert made.shape == (4, 50)
        assert np.isfinite(made).all(), name
    ties = adversarial.KINDS["ties"](generator, (4, 500), scale)
    away = np.abs(np.abs(ties.astype(np.float64) / np.float32(scale)) % 1 - 0.5)
    assert away.max() < 1e-4
    assert np.abs(adversarial.KINDS["denormal"](generator, (4, 50), scale)).max() < 1e-38
    rounds = [adversarial.features([0, 1], n, 4, (1, 40), scale, adversarial.BATCHES) for n in range(12)]
    every = next(lengths for x, lengths, _ in rounds if len(x) == adversarial.EVERY)
    assert every[0] == 1
    for x, lengths, _ in rounds:
        assert x.dtype == np.float32
        assert 1 <= lengths.min() <= lengths.max() <= x.shape[2]
    same = adversarial.features([0, 1], 5, 4, (1, 40), scale, adversarial.BATCHES)
    np.testing.assert_array_equal(same[0], rounds[5][0])


def test_what_is_compared_is_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    (case, _), *_ = equality._random_cases(lambda name: name == ONE)
    exported = export(case.program, case.deployment, "fused")
    monkeypatch.setitem(interpreters.DIALECTS, "fused", interpreters.OnnxStrictBackend)
    with pytest.raises(AssertionError, match="are not those of the file"):
        interpreters.with_all_values(case.program, exported, "fused")
    monkeypatch.undo()
    _, symbols = interpreters.with_all_values(case.program, exported, "fused")
    assert list(symbols) == [out for i in case.program.code for out in i.outs]
    assert interpreters.DIALECTS["fused"] is OnnxFusedBackend
