"""The clock on transducers: the whole recogniser and its parts, of checkpoints and of bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained_transducers import trained

import zeroq_asr as zq
from zeroq_asr.deployment import float_files
from zeroq_asr.deployment.machine import this_machine
from zeroq_asr.measure.bench.parts import RUNS, of_folder, spoken
from zeroq_asr.measure.bench.plot import plot
from zeroq_asr.measure.bench.transducers import of_transducer

PARTS = ["recogniser", "encoder", "predictor", "joiner", "joiner ahead"]
FAST = zq.LabelSpec(label_sequences=4, label_length=5, joint_pairs=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "small.int8"
    noise = zq.CalibrationSpec("noise")
    zq.quantize_transducer(trained(), path, calibration=noise, labels=FAST, spec=zq.QuantSpec(max_seconds=5))
    return path


def test_every_form_of_a_checkpoint(tmp_path: Path) -> None:
    result = zq.bench(model=trained(), seconds=(0.5, 1.0), threads=(1, 2), rounds=2)
    labels = {"float", "fused W8", "strict W8", "ORT dynamic"}
    labels |= {"fused W8 at full range"} if result.machine.exact_at_full_range else set()
    groups: dict[tuple[str, float | None, int], list[zq.Timing]] = {}
    for row in result.rows:
        groups.setdefault((row.part, row.seconds, row.threads), []).append(row)
    # steps take no audio, and are measured once for each number of threads
    lengths = {part: (0.5, 1.0) if part in PARTS[:2] else (None,) for part in PARTS}
    assert set(groups) == {(part, s, n) for part in PARTS for s in lengths[part] for n in (1, 2)}
    for rows in groups.values():
        assert {row.label for row in rows} == labels
        base = next(row for row in rows if row.label == "float")
        for row in rows:
            assert row.absent == ""
            assert row.median
            assert base.median
            assert row.speedup == pytest.approx(base.median / row.median)
            assert row.load_seconds
            assert row.size
            assert (row.real_time_factor is None) is (row.seconds is None)
    sizes = {(row.label, row.part): row.size or 0 for row in result.rows}
    for label in labels:
        assert sizes[label, "recogniser"] == sum(sizes[label, part] for part in PARTS[1:4])
    assert result.baseline == "float"
    first = result.to_dict()["rows"][0]
    assert (first["part"], first["audio_seconds"]) == ("recogniser", 0.5)
    titles = {row.title for row in result.rows}
    assert "the whole recogniser, 0.5 s of speech decoded greedily, 1 thread" in titles
    assert "joiner, 32 frames at once, 2 threads" in titles
    plot(result, tmp_path / "times.svg")
    assert (tmp_path / "times.svg").stat().st_size


def test_float_parts_of_more_than_2_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    features = spoken(model.frontend, 1.0)
    held = of_transducer(model, this_machine(), folder=tmp_path, peers_only=True)
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr(float_files, "MOST", 100)
    filed = of_transducer(model, this_machine(), folder=tmp_path, peers_only=True)
    # the joiner has tensors of less than a kilobyte alone, which stay in
    assert len([*tmp_path.glob("*.data")]) == 2
    for one, other in zip(held, filed, strict=True):
        assert (one.label, one.part) == (other.label, other.part)
        assert one.size == pytest.approx(other.size, rel=0.1)
        other.open(1, features)()


def test_forms_say_what_the_network_says(tmp_path: Path) -> None:
    model = trained(durations=(0, 1, 2))
    features = spoken(model.frontend, 2.0)
    given = features, np.array([features.shape[2]])
    found = of_transducer(model, this_machine(), folder=tmp_path)
    recognizer = zq.TransducerRecognizer(model)
    assert recognizer.hypotheses(*given)[0].tokens
    assert [*dict.fromkeys(c.part for c in found)] == PARTS
    for contender in found:
        # each runs, also of a network with durations
        contender.open(1, features)()


def test_bundles_against_a_checkpoint(folder: Path) -> None:
    result = zq.bench([folder, folder], against=trained(), seconds=[0.5], rounds=1)
    labels = [row.label for row in result.rows if row.part == "recogniser"]
    assert labels == ["small.int8", "small.int8 (2)", "float", "ORT dynamic"]
    row = result.rows[0]
    assert (row.dialect, result.baseline) == ("fused", "float")
    assert row.size == sum(file.stat().st_size for file in folder.glob("*.onnx"))
    alone = zq.bench([folder], seconds=[0.5], rounds=1)
    assert alone.baseline == "small.int8"
    assert {row.part for row in alone.rows} == {*PARTS} == {*RUNS} - {"network"}


def test_speech_is_as_long_as_it_is_asked_for() -> None:
    frontend = trained().frontend
    for seconds in (0.5, 130.0):
        features = spoken(frontend, seconds)
        assert features.shape == (1, 16, pytest.approx(100 * seconds, abs=2))
        assert np.isfinite(features).all()
    assert spoken(frontend, 1e-6).shape[2] >= 1


def test_what_cannot_be_measured_is_refused(folder: Path, small_model: Any, tmp_path: Path) -> None:
    with pytest.raises(zq.ConfigError, match="only some of the networks are transducers; measure them apart"):
        zq.bench([folder], model=small_model, rounds=1)
    with pytest.raises(zq.ConfigError, match="--device: trained is a transducer"):
        zq.bench(model=trained(), devices=["cpu", "cuda"])
    with pytest.raises(zq.ConfigError, match="a transducer takes no keep_float"):
        zq.bench(model=trained(), spec=zq.QuantSpec(keep_float=("joiner*",)))
    zq.reexport(folder, with_frontend=True).write(tmp_path / "audio")
    with pytest.raises(zq.CheckpointError, match=r"takes audio: .*--without-frontend"):
        of_folder(tmp_path / "audio")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bundle.json").write_text("{}")
    with pytest.raises(zq.CheckpointError):
        zq.bench([tmp_path / "broken"])


def test_a_quantizer_that_fails_is_a_row_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: Any) -> bytes:
        raise RuntimeError

    monkeypatch.setattr("zeroq_asr.measure.bench.transducers.ort_dynamic", fails)
    result = zq.bench(against=trained(), seconds=[0.5], rounds=1)
    absent = {row.part: row.absent for row in result.rows if row.label == "ORT dynamic"}
    assert absent == dict.fromkeys(PARTS, "its quantizer fails (RuntimeError)")
