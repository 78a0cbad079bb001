"""Training a program: better on what it was not trained on, the same on any number of threads, resumable."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.errors import CalibrationError, ConfigError
from zeroq_asr.progress import Progress, silent
from zeroq_asr.threads import torch_threads
from zeroq_asr.training.features import training_features

SMALL: dict[str, Any] = {
    "section_steps": 12,
    "training_batch": 4,
    "training_seconds": 0.64,
    "training_speakers": 2,
    "held_out": 1,
}
SECTIONS = zq.TrainingSpec(reconstruction="on", **SMALL)
WHOLE = zq.TrainingSpec(reconstruction="off", distillation_steps=12, **SMALL)
OFF = zq.TrainingSpec(reconstruction="off")


@pytest.fixture(scope="module")
def prepared(small_model: Any) -> zq.Prepared:
    spec = zq.QuantSpec.parse_bits("w2a8", sensitive_bits=2)
    synthesis = zq.SynthesisSpec(speakers=2, seconds=1.0)
    return zq.prepare(small_model, spec=spec, synthesis=synthesis, calibration=zq.CalibrationSpec("speech"))


def test_sections_get_nearer_to_float(prepared: zq.Prepared) -> None:
    made = zq.quantize(prepared, training=dataclasses.replace(SECTIONS, section_steps=60))
    assert made.training is not None
    sections = made.training.sections
    assert len(sections) > 2
    assert all(one.after <= one.before for one in sections)
    # rounding by feedback left it little to do
    assert any(one.after < 0.95 * one.before for one in sections)
    assert made.deployment.recipe["training"]["section_steps"] == 60


def test_the_whole_gets_nearer_to_float(small_model: Any) -> None:
    # to nearest, on two levels: there is something to learn
    spec = zq.QuantSpec.parse_bits("w1a8", sensitive_bits=1, rounding="nearest")
    made = zq.quantize(
        small_model,
        spec=spec,
        synthesis=zq.SynthesisSpec(speakers=2, seconds=1.0),
        calibration=zq.CalibrationSpec("speech"),
        training=zq.TrainingSpec(reconstruction="off", distillation_steps=60, **SMALL),
    )
    assert made.training is not None
    done = made.training.distillation
    assert done is not None
    assert done.steps == 60
    assert done.after < done.before


@pytest.mark.parametrize("training", [SECTIONS, WHOLE], ids=["sections", "whole"])
def test_a_seed_gives_one_program_on_any_number_of_threads(
    prepared: zq.Prepared, training: zq.TrainingSpec
) -> None:
    digests = set()
    for threads in (1, 2, 3):
        with torch_threads(threads):
            digests.add(zq.quantize(prepared, training=training).program.digest())
    assert len(digests) == 1
    assert digests != {zq.quantize(prepared, training=OFF).program.digest()}


def test_only_one_bit_is_reconstructed_unasked(small_model: Any) -> None:
    small = zq.TrainingSpec(**SMALL)
    made = {
        bits: zq.quantize(
            small_model,
            spec=zq.QuantSpec.parse_bits(bits),
            synthesis=zq.SynthesisSpec(speakers=2, seconds=1.0),
            calibration=zq.CalibrationSpec("speech"),
            training=small,
        ).training
        for bits in ("w4a8", "w1a8")
    }
    assert made["w4a8"] is None
    assert made["w1a8"] is not None


def stopping_at(stage: str, when: int) -> Progress:
    def tell(name: str, done: int, total: int, note: str = "") -> None:
        if name == stage and done >= when:
            raise KeyboardInterrupt

    return tell


def test_a_stopped_run_goes_on_to_the_same_program(prepared: zq.Prepared, tmp_path: Path) -> None:
    run = tmp_path / "x.training"
    wanted = zq.quantize(prepared, training=SECTIONS).program.digest()
    with pytest.raises(KeyboardInterrupt):
        zq.quantize(prepared, training=SECTIONS, run=run, progress=stopping_at("reconstruct", 2))
    assert run.exists()
    heard: list[int] = []
    made = zq.quantize(
        prepared,
        training=SECTIONS,
        run=run,
        resume=True,
        progress=lambda stage, done, total, note="": heard.append(done),
    )
    assert made.program.digest() == wanted
    assert not run.exists(), "its work is done"


def test_a_stopped_distillation_goes_on(
    prepared: zq.Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeroq_asr.training.run._EVERY", 0.0)
    run = tmp_path / "x.training"
    wanted = zq.quantize(prepared, training=WHOLE).program.digest()
    with pytest.raises(KeyboardInterrupt):
        zq.quantize(prepared, training=WHOLE, run=run, progress=stopping_at("distill", 50))
    made = zq.quantize(prepared, training=WHOLE, run=run, resume=True, progress=silent)
    assert made.program.digest() == wanted
    assert made.training is not None
    assert made.training.distillation is not None
    assert made.training.distillation.steps == 12


def test_a_run_of_another_training_is_refused(prepared: zq.Prepared, tmp_path: Path) -> None:
    run = tmp_path / "x.training"
    with pytest.raises(KeyboardInterrupt):
        zq.quantize(prepared, training=SECTIONS, run=run, progress=stopping_at("reconstruct", 2))
    other = dataclasses.replace(SECTIONS, section_steps=13)
    with pytest.raises(ConfigError, match="the run of another training"):
        zq.quantize(prepared, training=other, run=run, resume=True)
    run.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no run of training"):
        zq.quantize(prepared, training=SECTIONS, run=run, resume=True)
    with pytest.raises(ConfigError, match=r"missing\.training"):
        zq.quantize(prepared, training=SECTIONS, run=tmp_path / "missing.training", resume=True)


def test_nothing_to_train_is_said(small_model: Any) -> None:
    eight = zq.prepare(small_model, calibration=zq.CalibrationSpec("noise"), check_ranges=False)
    assert zq.quantize(eight).training is None
    with pytest.raises(ConfigError, match="nothing to train"):
        zq.quantize(eight, training=zq.TrainingSpec(distillation=5.0))
    with pytest.raises(ConfigError, match="nothing of this format is trained"):
        zq.quantize(eight, resume=True)


def test_pieces_are_of_one_length_and_some_are_held_out(small_model: Any) -> None:
    spec = zq.TrainingSpec(**SMALL)
    frames = round(spec.training_seconds * small_model.frontend.frames_per_second)
    long, short = torch.randn(16, 3 * frames + 5), torch.randn(16, frames // 2)
    made = training_features(small_model, [long, short], spec, zq.SynthesisSpec(seconds=1.0), recorded=False)
    assert made.trained.shape[1:] == (16, frames)
    assert made.held_out.shape[1:] == (16, frames)
    assert torch.equal(made.trained[0], long[:, :frames])
    assert torch.equal(made.trained[3][:, : frames // 2], short), "a short one is repeated"
    recordings = [torch.full((16, frames), float(k)) for k in range(9)]
    heard = training_features(small_model, recordings, spec, zq.SynthesisSpec(), recorded=True)
    assert heard.trained[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 8]
    assert heard.held_out[:, 0, 0].tolist() == [7]
    with pytest.raises(CalibrationError, match="two recordings"):
        training_features(small_model, recordings[:1], spec, zq.SynthesisSpec(), recorded=True)


def test_files_that_were_trained_run_as_they_were_trained(prepared: zq.Prepared, tmp_path: Path) -> None:
    for dialect in ("fused", "strict"):
        made = zq.quantize(prepared, tmp_path / "x.onnx", training=SECTIONS, dialect=dialect)
        assert zq.verify(tmp_path / "x.onnx").program_sha256 == made.program.digest()
        features = np.random.default_rng(0).normal(size=(1, 16, 64)).astype(np.float32)
        from zeroq_asr.integer.backends.numpy import NumpyBackend

        wanted = made.program.run(NumpyBackend(), features, np.array([64]))[0]
        scale = made.program.values[made.program.output("logits").value].scale
        found, _ = zq.OnnxRecognizer(tmp_path / "x.onnx").log_probs(features, np.array([64]))
        real = wanted * scale
        shifted = real - real.max(axis=-1, keepdims=True)
        normal = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        np.testing.assert_allclose(found, normal, atol=1e-4)


PROGRESSIVE = dataclasses.replace(WHOLE, progressive=(8, 4), distillation_steps=10)


@pytest.fixture(scope="module")
def progressive(prepared: zq.Prepared) -> zq.Quantized:
    return zq.quantize(prepared, training=PROGRESSIVE)


def test_widths_step_down_to_the_plans(prepared: zq.Prepared, progressive: zq.Quantized) -> None:
    account = progressive.training
    assert account is not None
    assert account.distillation is not None
    assert [one.bits for one in account.wider] == [8, 4]
    # time is shared
    assert [one.distillation.steps for one in account.wider] == [3, 3]
    assert (account.distillation.steps, account.steps) == (4, 10)
    assert progressive.deployment.recipe["training"]["distillation_steps"] == 10
    # wide weights lose less
    assert account.wider[0].distillation.before < account.wider[1].distillation.before
    # what ships is of the plan's grids
    made = progressive.program
    weights = [made.constants[i.ins[1]] for i in made.code if i.op.startswith("conv")]
    assert weights
    assert all(len(np.unique(weight)) <= 4 for weight in weights)
    assert made.packings.keys() == {i.ins[1] for i in made.code if i.op.startswith("conv")}
    assert made.digest() != zq.quantize(prepared, training=WHOLE).program.digest()


def test_widths_that_are_no_wider_are_left_out(prepared: zq.Prepared, progressive: zq.Quantized) -> None:
    more = dataclasses.replace(PROGRESSIVE, progressive=(8, 4, 2))
    assert zq.quantize(prepared, training=more).program.digest() == progressive.program.digest()


@pytest.mark.parametrize("when", [50, 100])
def test_a_stopped_step_down_goes_on(
    prepared: zq.Prepared,
    progressive: zq.Quantized,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: int,
) -> None:
    monkeypatch.setattr("zeroq_asr.training.run._EVERY", 0.0)
    run, told = tmp_path / "x.training", 0

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal told
        told += stage == "distill" and done >= when
        if told == 2:  # as the next width begins, or within it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zq.quantize(prepared, training=PROGRESSIVE, run=run, progress=tell)
    made = zq.quantize(prepared, training=PROGRESSIVE, run=run, resume=True)
    assert made.program.digest() == progressive.program.digest()
    assert made.training is not None
    assert made.training.steps == 10


def test_progressive_widths_are_checked(prepared: zq.Prepared) -> None:
    for widths, said in (((4, 8), "from wide to narrow"), ((8, 1), "from 2 to 8"), (8, "a list of bits")):
        with pytest.raises(ConfigError, match=said):
            zq.TrainingSpec(progressive=widths, distillation_steps=9)  # type: ignore[arg-type]  # wrong types are the point
    with pytest.raises(ConfigError, match="and there is none"):
        zq.TrainingSpec(progressive=(8,))
    few = dataclasses.replace(PROGRESSIVE, distillation_steps=2)
    with pytest.raises(ConfigError, match="3 widths need a step each, there are 2"):
        zq.quantize(prepared, training=few)
