"""Learned clipping: ends that gradients reach, and ranges that the program is lowered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.errors import ConfigError
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.threads import torch_threads
from zeroq_asr.training.clipping import LearnedEnds, few_valued
from zeroq_asr.training.sections import real, rounded

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "reconstruction": "off",
    "training_batch": 4,
    "training_seconds": 0.64,
    "training_speakers": 2,
    "held_out": 2,
}
CLIPPED = zq.TrainingSpec(clipping_steps=30, clipping_rate=3e-2, **SMALL)


@pytest.fixture(scope="module")
def prepared(small_model: Any) -> zq.Prepared:
    return zq.prepare(
        small_model,
        # ranges from end to end leave something to clip
        spec=zq.QuantSpec.parse_bits("w8a4"),
        synthesis=zq.SynthesisSpec(speakers=2, seconds=1.0),
        calibration=zq.CalibrationSpec("speech", "minmax", margin=2.0),
    )


@pytest.fixture(scope="module")
def clipped(prepared: zq.Prepared) -> zq.Quantized:
    return zq.quantize(prepared, training=CLIPPED)


@pytest.mark.parametrize("zero", [0, 4])
def test_nothing_learned_is_the_format(zero: int) -> None:
    info = ValueInfo("uint8", 0.37, zero, 0, 15)
    values = torch.linspace(-7, 9, 301)
    ends = LearnedEnds(info, CPU)
    torch.testing.assert_close(ends(values), real(rounded(values, info), info))
    assert ends.range() == pytest.approx((-zero * 0.37, (15 - zero) * 0.37))


def test_gradients_reach_the_ends_and_what_lies_between() -> None:
    ends = LearnedEnds(ValueInfo("uint8", 0.5, 5, 0, 15), CPU)
    values = torch.tensor([-9.0, 0.6, 9.0], requires_grad=True)
    low, _, high = ends(values)
    low.backward(retain_graph=True)
    assert ends.grown.grad is not None
    # an end that grows by a factor moves what is clipped to it by as much
    assert ends.grown.grad.tolist() == pytest.approx([-2.5, 0.0], abs=1e-5)
    ends.grown.grad = None
    high.backward()
    assert ends.grown.grad.tolist() == pytest.approx([0.0, 5.0], abs=1e-5)
    assert values.grad is not None
    assert values.grad.tolist() == [0, 0, 0]
    (gradient,) = torch.autograd.grad(ends(values).sum(), values)
    assert gradient.tolist() == [0, 1, 0]


def test_an_end_at_zero_stays_there() -> None:
    ends = LearnedEnds(ValueInfo("uint8", 0.5, 0, 0, 15), CPU)
    ends.grown.data += 0.3
    low, high = ends.range()
    assert low == 0
    assert high == pytest.approx(7.5 * np.exp(0.3))


def test_clipping_gets_nearer_to_float(prepared: zq.Prepared, clipped: zq.Quantized) -> None:
    account = clipped.training
    assert account is not None
    assert account.clipping is not None
    before = zq.build(prepared)
    assert account.clipping.values == len(few_valued(prepared.graph, before)) > 2
    assert account.clipping.after < 0.9 * account.clipping.before
    assert account.distillation is None
    # ranges shrank, in the program itself
    names = [*few_valued(prepared.graph, before)]
    assert any(clipped.program.values[n].scale < 0.9 * before.values[n].scale for n in names)
    assert clipped.proof.headroom_bits >= 0
    assert clipped.to_dict()["training"]["clipping"]["steps"] == 30


def test_a_seed_gives_one_program(prepared: zq.Prepared, clipped: zq.Quantized) -> None:
    with torch_threads(3):
        assert zq.quantize(prepared, training=CLIPPED).program.digest() == clipped.program.digest()


def test_clipping_that_is_done_is_not_done_again(
    prepared: zq.Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "x.training"
    spec = zq.QuantSpec.parse_bits("w2a4", sensitive_bits=2, rounding="nearest")
    both = zq.TrainingSpec(clipping_steps=4, distillation_steps=3, **SMALL)
    wanted = zq.quantize(prepared, spec=spec, training=both)

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "distill":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zq.quantize(prepared, spec=spec, training=both, run=run, progress=stop)
    heard: list[str] = []
    made = zq.quantize(
        prepared,
        spec=spec,
        training=both,
        run=run,
        resume=True,
        progress=lambda stage, *_: heard.append(stage),
    )
    assert "clip" not in heard
    assert made.program.digest() == wanted.program.digest()
    assert made.training is not None
    assert wanted.training is not None
    assert made.training.clipping == wanted.training.clipping


def test_values_of_many_bits_are_not_clipped(prepared: zq.Prepared) -> None:
    with pytest.raises(ConfigError, match="no value has 4 bits or fewer"):
        zq.quantize(prepared, spec=zq.QuantSpec.parse_bits("w8a8"), training=CLIPPED)
