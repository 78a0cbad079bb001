"""The comparison of a transducer: its rows, what they are, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from trained_transducers import trained

import zeroq_asr as zq
from zeroq_asr.decoding.hotwords import Hotwords
from zeroq_asr.measure.compare import compare
from zeroq_asr.measure.comparison import DATA_FREE, FLOAT, FROM_NOISE, REAL
from zeroq_asr.measure.evaluate import evaluate
from zeroq_asr.measure.subjects import ORT_DYNAMIC, ORT_STATIC
from zeroq_asr.speech.manifest import Utterance

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=1)
LABELS = zq.LabelSpec(label_sequences=4, label_length=5, joint_pairs=64)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    folder = tmp_path_factory.mktemp("recordings")
    generator = np.random.default_rng(0)
    found = []
    for k, seconds in enumerate((0.5, 0.9, 0.7)):
        path = folder / f"{k}.wav"
        soundfile.write(path, generator.standard_normal(int(16000 * seconds)) * 0.1, 16000)
        found.append(Utterance(path, None, "a b c"))
    return found


@pytest.fixture(scope="module")
def full(recordings: list[Utterance]) -> zq.Comparison:
    folder = str(recordings[0].audio_path.parent)
    return compare(trained(), recordings, folder, synthesis=FAST, labels=LABELS, seeds=2, calibration_limit=2)


def test_every_kind_has_its_row(full: zq.Comparison) -> None:
    seeded = [f"{DATA_FREE}, seed 0", f"{DATA_FREE}, seed 1"]
    assert [row.label for row in full.rows] == [FLOAT, *seeded, REAL, ORT_STATIC, ORT_DYNAMIC, FROM_NOISE]
    assert (full.head, full.heard, full.utterances, full.absent) == (
        "transducer",
        "recordings with text",
        3,
        {},
    )
    assert full.to_dict()["head"] == "transducer"
    first, *others = full.rows
    assert (first.frames, first.divergence, first.speedup) == (0.0, 0.0, 1.0)
    for row in others:
        assert row.size > 0
        assert row.divergence > 0
        assert row.median
        assert row.words is not None
    notes = {row.label: row.note for row in full.rows if row.note}
    assert notes == {ORT_STATIC: "the predictor's LSTM stays in float, of which its quantizer knows nothing"}
    assert [row["note"] for row in full.to_dict()["rows"]] == [row.note for row in full.rows]
    assert [(gap.label, gap.other) for gap in full.gaps] == [
        (DATA_FREE, FLOAT),
        (REAL, FLOAT),
        (ORT_STATIC, FLOAT),
        (ORT_DYNAMIC, FLOAT),
        (FROM_NOISE, FLOAT),
        (DATA_FREE, REAL),
        (DATA_FREE, ORT_STATIC),
        (DATA_FREE, ORT_DYNAMIC),
        (DATA_FREE, FROM_NOISE),
    ]


def test_a_row_is_the_bundle_that_quantize_writes(
    full: zq.Comparison, recordings: list[Utterance], tmp_path: Path
) -> None:
    words = evaluate(zq.TransducerRecognizer(trained()), recordings).words
    assert words.hits + words.substitutions + words.insertions > 0
    assert full.rows[0].words == words
    for k in (0, 1):
        made = zq.quantize_transducer(
            trained(),
            tmp_path / str(k),
            synthesis=zq.SynthesisSpec(batch=2, frames=64, iterations=1, seed=k),
            labels=zq.LabelSpec(label_sequences=4, label_length=5, joint_pairs=64, label_seed=k),
        )
        row = full.rows[1 + k]
        assert row.size == made.size
        assert row.words == evaluate(zq.IntegerTransducer.of_folder(tmp_path / str(k)), recordings).words


def test_every_row_is_decoded_by_one_beam(
    full: zq.Comparison, recordings: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def reading(*given: Any) -> Hotwords:
        read.append(given)
        return Hotwords(*given)

    monkeypatch.setattr("zeroq_asr.decoding.decoder.Hotwords", reading)
    beam = zq.BeamSpec(3, length_bonus=3.0, hotwords=("a",))
    said = evaluate(zq.TransducerRecognizer(trained(), beam), recordings).transcripts
    listed = [replace(u, text=one.hypothesis) for u, one in zip(recordings, said, strict=True)]
    assert evaluate(zq.TransducerRecognizer(trained()), listed).words.errors > 0
    read.clear()
    found = compare(trained(), listed, synthesis=FAST, labels=LABELS, beam=beam, timed=False)
    # what may be large is read once for all rows
    assert len(read) == 1
    assert (found.beam, found.to_dict()["beam"]) == (beam, beam.to_dict())
    assert full.to_dict()["beam"] is None
    assert found.rows[0].words is not None
    assert found.rows[0].words.errors == 0
    zq.quantize_transducer(trained(), tmp_path / "b", synthesis=FAST, labels=LABELS)
    opened = zq.IntegerTransducer.of_folder(tmp_path / "b", beam=beam)
    assert found.rows[1].words == evaluate(opened, listed).words
    # scores are taken along the greedy path all the same
    assert found.rows[1].frames == full.rows[1].frames
    with pytest.raises(zq.ConfigError, match="prefix is of CTC networks"):
        compare(trained(), recordings, beam=zq.BeamSpec(2, "prefix"))


def test_no_row_warns_of_its_ranges(recordings: list[Utterance], recwarn: pytest.WarningsRecorder) -> None:
    found = compare(
        trained(durations=(0, 1, 2)),
        synthesis=FAST,
        labels=LABELS,
        sources=("speech", "both"),
        timed=False,
    )
    assert [row.label for row in found.rows][:1] == [FLOAT]
    assert found.heard == "synthetic features"
    assert all(row.words is None and row.agreement is None for row in found.rows)
    assert len(found.rows) in (5, 6)
    assert not [one for one in recwarn if issubclass(one.category, zq.ZeroqWarning)]


def test_a_quantizer_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Any) -> bytes:
        return b"no model"

    monkeypatch.setattr("zeroq_asr.measure.subjects.ort_dynamic", broken)
    found = compare(trained(), synthesis=FAST, labels=LABELS, timed=False)
    assert [row.label for row in found.rows] == [FLOAT, DATA_FREE, FROM_NOISE]
    assert found.absent[ORT_DYNAMIC].startswith("its file cannot be run")


def test_other_formats_have_rows_of_their_own() -> None:
    four = zq.QuantSpec(weight_bits=4)
    found = compare(trained(), synthesis=FAST, labels=LABELS, also=[four], timed=False)
    assert [row.label for row in found.rows] == [
        FLOAT,
        DATA_FREE,
        f"{DATA_FREE} W4A8",
        ORT_DYNAMIC,
        FROM_NOISE,
    ]
    assert found.rows[2].divergence > found.rows[1].divergence
    # packed weights: a row is the bundle of its own format
    made = zq.quantize_transducer(trained(), spec=four, synthesis=FAST, labels=LABELS)
    assert found.rows[2].size == made.size != found.rows[1].size


def test_what_a_transducer_has_not_is_refused(small_model: Any) -> None:
    with pytest.raises(zq.ConfigError, match="4 to 8 bits and its values 8, not 2 and 8"):
        compare(trained(), spec=zq.QuantSpec(weight_bits=2))
    with pytest.raises(zq.ConfigError, match="a transducer takes no keep_float"):
        compare(trained(), spec=zq.QuantSpec(keep_float=("joiner*",)))
    with pytest.raises(zq.ConfigError, match="labels are of a transducer"):
        compare(small_model, labels=zq.LabelSpec())
