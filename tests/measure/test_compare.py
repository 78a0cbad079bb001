"""The comparison: which rows there are, what each is measured against, and what it refuses."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import soundfile

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.deployment import float_files
from zeroq_asr.deployment.export import Deployment
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.errors import AudioError, CalibrationError, ConfigError, ZeroqWarning
from zeroq_asr.measure.compare import compare
from zeroq_asr.measure.comparison import DATA_FREE, FLOAT, FROM_NOISE, REAL
from zeroq_asr.measure.evaluate import evaluate
from zeroq_asr.measure.onnxruntime_quantizers import attempt, ort_dynamic, ort_static, preprocess
from zeroq_asr.measure.subjects import ORT_DYNAMIC, ORT_STATIC
from zeroq_asr.speech.manifest import Utterance
from zeroq_asr.synthesis.sources import source_for

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=1)
EMBEDDED_CONFORMER = Path(zq.__file__).parent / "embedded" / "conformer.pt"


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
def full(small_model: Any, recordings: list[Utterance]) -> zq.Comparison:
    folder = str(recordings[0].audio_path.parent)
    return compare(small_model, recordings, folder, synthesis=FAST, seeds=2, calibration_limit=2)


def test_every_kind_has_its_row(full: zq.Comparison) -> None:
    labels = [row.label for row in full.rows]
    seeded = [f"{DATA_FREE}, seed 0", f"{DATA_FREE}, seed 1"]
    assert labels == [FLOAT, *seeded, REAL, ORT_STATIC, ORT_DYNAMIC, FROM_NOISE]
    assert (full.heard, full.utterances, full.bits) == ("recordings with text", 3, "W8A8")
    assert full.audio_seconds == pytest.approx(2.1)
    assert all(row.size > 0 for row in full.rows)
    assert full.absent == {}


def test_every_file_is_timed_against_the_float_network(full: zq.Comparison, small_model: Any) -> None:
    assert full.timed_seconds == 10.0
    base = full.rows[0].median
    assert base
    for row in full.rows:
        assert row.median
        assert row.speedup == pytest.approx(base / row.median)
    first = full.to_dict()["rows"][0]
    assert (first["median_seconds"], first["speedup"]) == (base, 1.0)
    # never on more than the files accept
    short = compare(small_model, spec=zq.QuantSpec(max_seconds=2), synthesis=FAST)
    assert short.timed_seconds == 2.0
    assert all(row.median for row in short.rows)
    untimed = compare(small_model, synthesis=FAST, timed=False)
    assert untimed.timed_seconds is None
    assert all(row.median is None and row.speedup is None for row in untimed.rows)


def test_a_float_network_of_more_than_2_gib_is_compared_like_others(
    full: zq.Comparison, small_model: Any, recordings: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_files, "MOST", 100)
    folder = str(recordings[0].audio_path.parent)
    found = compare(small_model, recordings, folder, synthesis=FAST, seeds=2, calibration_limit=2)
    timed = {"median_seconds", "speedup"}
    rows, plain = (
        [{k: v for k, v in row.items() if k not in timed} for row in one.to_dict()["rows"]]
        for one in (found, full)
    )
    # ONNX Runtime's quantizers take it, too
    assert rows == plain
    assert not found.absent
    assert all(row.median for row in found.rows)


@pytest.mark.parametrize(
    ("made", "reason"),
    [(RuntimeError("no"), r"its quantizer fails \(RuntimeError\)"), (b"no model", "its file cannot be run")],
)
def test_a_peer_that_fails_is_left_out_and_said_so(
    small_model: Any, monkeypatch: pytest.MonkeyPatch, made: Any, reason: str
) -> None:
    def broken(model: onnx.ModelProto) -> bytes:
        if isinstance(made, bytes):
            return made
        raise made

    monkeypatch.setattr("zeroq_asr.measure.subjects.ort_dynamic", broken)
    found = compare(small_model, synthesis=FAST, timed=False)
    assert [row.label for row in found.rows] == [FLOAT, DATA_FREE, FROM_NOISE]
    assert re.match(reason, found.absent[ORT_DYNAMIC])
    assert found.to_dict()["absent"] == found.absent


def test_float_agrees_with_itself_and_is_what_evaluate_says(
    full: zq.Comparison, small_model: Any, recordings: list[Utterance]
) -> None:
    first = full.rows[0]
    assert first.agreement is not None
    assert (first.agreement.errors, first.frames, first.divergence) == (0, 0.0, 0.0)
    assert first.words == evaluate(zq.TorchRecognizer(small_model), recordings).words


def test_a_row_is_the_file_that_quantize_writes(
    full: zq.Comparison, small_model: Any, recordings: list[Utterance], tmp_path: Path
) -> None:
    made = zq.quantize(small_model, tmp_path / "x.onnx", synthesis=FAST)
    row = full.rows[1]
    assert row.size == made.size
    assert row.words == evaluate(zq.OnnxRecognizer(tmp_path / "x.onnx"), recordings).words
    assert row.divergence > 0


def test_every_row_is_decoded_by_one_beam(
    full: zq.Comparison, small_model: Any, recordings: list[Utterance], tmp_path: Path
) -> None:
    beam = zq.BeamSpec(3, length_bonus=-2.0)
    floats = zq.TorchRecognizer(small_model)
    said = evaluate(zq.BeamRecognizer(floats, beam), recordings).transcripts
    listed = [replace(u, text=one.hypothesis) for u, one in zip(recordings, said, strict=True)]
    assert evaluate(floats, listed).words.errors > 0
    found = compare(small_model, listed, synthesis=FAST, beam=beam, timed=False)
    assert found.beam == beam
    assert found.rows[0].words is not None
    assert found.rows[0].words.errors == 0
    zq.quantize(small_model, tmp_path / "x.onnx", synthesis=FAST)
    opened = zq.BeamRecognizer(zq.OnnxRecognizer(tmp_path / "x.onnx"), beam)
    assert found.rows[1].words == evaluate(opened, listed).words
    assert found.rows[1].frames == full.rows[1].frames
    with pytest.raises(ConfigError, match="modified is of transducers"):
        compare(small_model, recordings, beam=zq.BeamSpec(2, "modified"))


def test_gaps_pair_kinds(full: zq.Comparison) -> None:
    pairs = [(gap.label, gap.other) for gap in full.gaps]
    assert pairs == [
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
    rates = {row.label: row.words.rate for row in full.rows if row.words is not None and row.words.rate}
    mean = (rates[f"{DATA_FREE}, seed 0"] + rates[f"{DATA_FREE}, seed 1"]) / 2
    assert full.gaps[0].difference.value == pytest.approx(mean - rates[FLOAT])


def test_other_sources_have_rows(
    small_model: Any, recordings: list[Utterance], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    default = source_for(small_model)
    found = compare(
        small_model, recordings[:1], synthesis=FAST, sources=("speech", "synthetic", "both"), timed=False
    )
    names = {"speech": "made speech", "synthetic": "matched", "both": "both"}
    labels = [f"{DATA_FREE}, {name}" for source, name in names.items() if source != default]
    assert [row.label for row in found.rows] == [FLOAT, DATA_FREE, *labels, ORT_DYNAMIC, FROM_NOISE]
    assert {(DATA_FREE, label) for label in labels} <= {(gap.label, gap.other) for gap in found.gaps}
    # the rows are there to show what sources do: none is warned of
    assert not [one for one in recwarn if issubclass(one.category, ZeroqWarning)]
    zq.quantize(
        small_model,
        tmp_path / "x.onnx",
        synthesis=FAST,
        calibration=zq.CalibrationSpec("both"),
        dialect="fused",
    )
    row = next(row for row in found.rows if row.label.endswith("both"))
    assert row.words == evaluate(zq.OnnxRecognizer(tmp_path / "x.onnx"), recordings[:1]).words
    with pytest.raises(ConfigError, match="source 'noise' is not one of synthetic, speech, both"):
        compare(small_model, sources=("noise",))


def test_without_text_there_is_agreement(small_model: Any, recordings: list[Utterance]) -> None:
    silent = [Utterance(recordings[0].audio_path), recordings[1]]
    found = compare(small_model, silent, synthesis=FAST)
    assert [row.label for row in found.rows] == [FLOAT, DATA_FREE, ORT_DYNAMIC, FROM_NOISE]
    assert (found.heard, found.gaps) == ("recordings", ())
    assert all(row.words is None and row.agreement is not None for row in found.rows)


def test_without_recordings_there_are_frames(small_model: Any) -> None:
    found = compare(small_model, synthesis=FAST)
    assert (found.heard, found.utterances, found.audio_seconds) == ("synthetic features", 2, 0.0)
    assert all(row.words is None and row.agreement is None for row in found.rows)
    assert [row.divergence > 0 for row in found.rows] == [False, True, True, True]


def test_held_out_features_are_not_those_that_calibrate(
    small_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    original = sys.modules[compare.__module__].make_features

    def spy(model: Any, spec: zq.SynthesisSpec, **options: Any) -> Any:
        seeds.append(spec.seed)
        return original(model, spec, **options)

    monkeypatch.setattr(sys.modules[compare.__module__], "make_features", spy)
    compare(small_model, synthesis=FAST, seeds=3)
    assert len(seeds) == 1
    assert seeds[0] not in (0, 1, 2)


def test_a_recording_that_is_too_long_is_refused_before_the_work(
    small_model: Any, recordings: list[Utterance]
) -> None:
    with pytest.raises(AudioError, match=r"1\.wav.*0\.9 s.*--max-seconds"):
        compare(small_model, recordings, spec=zq.QuantSpec(max_seconds=0.8))
    with pytest.raises(ConfigError, match="seeds"):
        compare(small_model, seeds=0)


def _plain(model: Any) -> onnx.ModelProto:
    """The float export that other tools quantize."""
    graph = capture(model.network, model.example_input(), model.name)
    deployment = Deployment(model.name, model.frontend, model.tokenizer, 60.0, model.subsampling_factor)
    return export_float(graph, deployment, quantizable=True)


def _noise(model: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    mels = model.frontend.features
    return [
        (generator.standard_normal((1, mels, n)).astype(np.float32), np.array([n], dtype=np.int64))
        for n in (40, 64)
    ]


@pytest.mark.parametrize("kind", ["u8", "s8", "dynamic"])
@pytest.mark.parametrize("ready", [False, True])
def test_ort_quantizers_are_close_to_float(small_model: Any, kind: str, ready: bool) -> None:
    plain = _plain(small_model)
    source = preprocess(plain) if ready else plain
    pairs = _noise(small_model)
    signed = kind == "s8"
    if kind == "dynamic":
        data = ort_dynamic(source)
    else:
        data = ort_static(source, iter(pairs), signed_weights=signed, per_channel=signed)
    kinds = {node.op_type for node in onnx.load_from_string(data).graph.node}
    assert ("DynamicQuantizeLinear" if kind == "dynamic" else "DequantizeLinear") in kinds
    assert "QLinearConv" not in kinds
    results = []
    for model in (plain.SerializeToString(), data):
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        results.append(session.run(["logprobs"], {"audio_signal": pairs[0][0], "length": pairs[0][1]})[0])
    wanted, found = results
    assert 0 < np.abs(found - wanted).max() < 0.3 * np.abs(wanted - wanted.mean()).max()


def test_of_attention_ort_quantizes_products_alone() -> None:
    model = zq.load_checkpoint(EMBEDDED_CONFORMER)
    data = ort_static(_plain(model), _noise(model))
    nodes = onnx.load_from_string(data).graph.node
    quantized = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    takers = {node.op_type for node in nodes if quantized.intersection(node.input)}
    assert {"MatMul", "Conv"} <= takers
    assert not takers & {"Softmax", "LayerNormalization"}


def test_preprocessing_that_fails_leaves_the_export(
    small_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization import shape_inference

    def fails(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(shape_inference, "quant_pre_process", fails)
    plain = _plain(small_model)
    assert preprocess(plain) is plain


def test_an_attempt_keeps_errors_of_our_own() -> None:
    def fails() -> bytes:
        raise AudioError("x.wav", "cannot be read")

    with pytest.raises(AudioError):
        attempt(fails)
    assert attempt(lambda: b"model") == (b"model", "")


def test_ort_static_needs_features(small_model: Any) -> None:
    with pytest.raises(CalibrationError, match="no features"):
        ort_static(_plain(small_model), iter(()))


def test_other_formats_have_rows_of_their_own(small_model: Any, recordings: list[Utterance]) -> None:
    also = (zq.QuantSpec(weight_bits=4), zq.QuantSpec(weight_bits=4, rounding="nearest"))
    found = compare(small_model, recordings, also=also, synthesis=FAST, seeds=2)
    assert [row.label for row in found.rows[3:7]] == [
        f"{DATA_FREE} W4A8, seed 0",
        f"{DATA_FREE} W4A8, seed 1",
        f"{DATA_FREE} W4A8 to nearest, seed 0",
        f"{DATA_FREE} W4A8 to nearest, seed 1",
    ]
    low, plain, *_ = (row.divergence for row in found.rows[3:7:2])
    assert low > found.rows[1].divergence
    assert plain != low
    gaps = [(gap.label, gap.other) for gap in found.gaps]
    assert (f"{DATA_FREE} W4A8", FLOAT) in gaps
    # the same features serve every format
    alone = compare(small_model, recordings, spec=also[0], synthesis=FAST)
    assert alone.rows[1].divergence == found.rows[3].divergence


def test_what_was_prepared_is_not_made_again(
    small_model: Any, recordings: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    specs, folder = (zq.QuantSpec(), zq.QuantSpec(weight_bits=4)), str(recordings[0].audio_path.parent)
    wanted = compare(
        small_model, recordings, folder, spec=specs[0], also=specs[1:], synthesis=FAST, timed=False
    )
    prepared = zq.prepare(small_model, spec=specs[0], also=specs[1:], synthesis=FAST)
    prepare = sys.modules["zeroq_asr.pipeline.prepare"]
    make = prepare.make_features
    made: list[str] = []

    def noted(model: Any, spec: zq.SynthesisSpec, source: str, progress: Any) -> Any:
        made.append(source)
        return make(model, spec, source, progress)

    def never(*args: Any, **fields: Any) -> Any:
        raise AssertionError("it was captured before")

    monkeypatch.setattr(prepare, "make_features", noted)
    for module in (prepare, sys.modules["zeroq_asr.measure.subjects"]):
        monkeypatch.setattr(module, "capture", never)
    assert compare(prepared, recordings, folder, timed=False) == wanted
    assert made == ["noise"]


def test_only_what_is_like_other_rows_may_be_prepared(small_model: Any, recordings: list[Utterance]) -> None:
    prepared = zq.prepare(small_model, synthesis=FAST)
    for fields in ({"spec": zq.QuantSpec()}, {"also": [zq.QuantSpec()]}, {"synthesis": FAST}):
        with pytest.raises(ConfigError, match="is prepared already, for formats and by features of its own"):
            compare(prepared, **fields)
    real, noise = str(recordings[0].audio_path.parent), "noise"
    ways = [zq.CalibrationSpec(real), zq.CalibrationSpec(noise), zq.CalibrationSpec(method="minmax")]
    for way in ways:
        with pytest.raises(ConfigError, match="than other rows are"):
            compare(zq.prepare(small_model, synthesis=FAST, calibration=way))
