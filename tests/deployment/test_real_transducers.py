"""NeMo's tiny transducers as bundles, on their own reference features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.capture.transducer import capture_transducer
from zeroq_asr.decoding.fusion import log_softmax
from zeroq_asr.deployment.float_transducer import FloatTransducer, export_float_transducer
from zeroq_asr.integer.program import Program
from zeroq_asr.pipeline.transducer import deployment_of
from zeroq_asr.synthesis.features import SyntheticFeatures

#: of encodings and predictions behind their projections, in dB; 34.8 at least
SQNR = 32.0
#: largest distance of a log-probability, in nats; 0.023 at most
LOG_PROBABILITY = 0.04
#: share of pairs with the same best token, or duration; 0.965 at least, for random weights choose narrowly
SAME_BEST = 0.93
NAMES = ["conformer_rnnt_tiny", "fastconformer_tdt_tiny", "fastconformer_hybrid_tiny"]


@pytest.mark.parametrize("name", NAMES)
def test_float_parts_say_what_nemo_says(test_data: Path, name: str) -> None:
    model = zq.load_model(test_data / "models" / f"{name}.nemo", head="transducer")
    assert isinstance(model, zq.TransducerModel)
    graphs = capture_transducer(model.network, model.example_input(), model.name)
    deployment = deployment_of(model, 10.0)
    files = {
        part: one.SerializeToString() for part, one in export_float_transducer(graphs, deployment).items()
    }
    recognizer = FloatTransducer(files, graphs, deployment, 1)
    reference = np.load(test_data / "models" / f"{name}.npz")
    for utterance in (0, 1):
        features = reference[f"features{utterance}"][None].astype(np.float32)
        lengths = reference[f"features_len{utterance}"].astype(np.int64)
        (found,) = recognizer.hypotheses(features, lengths)
        assert found.tokens == reference[f"greedy{utterance}"].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_decodes_as_its_programs_do(test_data: Path, name: str, tmp_path: Path) -> None:
    model = zq.load_model(test_data / "models" / f"{name}.nemo", head="transducer")
    assert isinstance(model, zq.TransducerModel)
    spec, synthesis = zq.QuantSpec(max_seconds=10.0), zq.SynthesisSpec.preset("fast")
    made = zq.quantize_transducer(model, tmp_path / "b", spec=spec, synthesis=synthesis)
    assert zq.verify(tmp_path / "b").program_sha256 == made.bundle.digest()
    reference = np.load(test_data / "models" / f"{name}.npz")
    features = reference["features0"][None].astype(np.float32)
    lengths = reference["features_len0"].astype(np.int64)
    opened = zq.open_recognizer(tmp_path / "b")
    assert isinstance(opened, zq.IntegerTransducer)
    found = opened.hypotheses(features, lengths)
    assert found[0].tokens
    for backend in (False, True):
        simulated = zq.IntegerTransducer.of_programs(made.bundle, made.deployment, torch=backend)
        assert simulated.hypotheses(features, lengths) == found


def real(program: Program, integers: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The real numbers that the integers mean which a program gives first."""
    means = program.values[program.outputs[0].value]
    return (integers.astype(np.float64) - means.zero_point) * means.scale


def sqnr(wanted: npt.NDArray[np.float32], found: npt.NDArray[np.float64]) -> float:
    """Signal over noise, in dB."""
    return float(10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum()))


# ranges are those of the reference features, so that what is measured is what integers cost
@pytest.mark.filterwarnings("ignore:.*ranges of half of its values miss")
@pytest.mark.parametrize("name", NAMES)
def test_integers_say_what_nemo_says(test_data: Path, name: str, tmp_path: Path) -> None:
    reference = np.load(test_data / "models" / f"{name}.npz")
    features = np.concatenate([reference[f"features{k}"][None] for k in (0, 1)]).astype(np.float32)
    lengths = np.concatenate([reference[f"features_len{k}"] for k in (0, 1)]).astype(np.int64)
    SyntheticFeatures(features, lengths, zq.SynthesisSpec()).save(tmp_path / "reference.npz")
    model = zq.load_model(test_data / "models" / f"{name}.nemo", head="transducer")
    assert isinstance(model, zq.TransducerModel)
    network, blank = model.network, model.tokenizer.blank_id
    made = zq.quantize_transducer(
        model,
        tmp_path / "b",
        spec=zq.QuantSpec(max_seconds=10.0),
        calibration=zq.CalibrationSpec(str(tmp_path / "reference.npz")),
    )
    opened = zq.IntegerTransducer.of_folder(tmp_path / "b")
    for k in (0, 1):
        frames = int(reference[f"encoded_len{k}"][0])
        one = opened.decodable(features[k : k + 1], lengths[k : k + 1])
        assert one.lengths.tolist() == [frames]
        encoded, predicted, state = one.encoded[0, :frames], [], one.start
        for label in (blank, *reference[f"joint_targets{k}"][0].tolist()):
            found, state = one.predictor(np.array([label], dtype=np.int64), state)
            predicted.append(found[0])
        # both with the joint network's projection behind them, where the programs end
        with torch.inference_mode():
            wanted = {
                "encoder": network.encoder.projection(torch.from_numpy(reference[f"encoded{k}"].T[:frames])),
                "predictor": network.predictor.projection(torch.from_numpy(reference[f"decoder_out{k}"].T)),
            }
        given = {"encoder": encoded, "predictor": np.stack(predicted)}
        for part, floats in wanted.items():
            assert sqnr(floats.numpy(), real(made.bundle.programs[part], given[part])) > SQNR, part
        pairs = np.repeat(encoded, len(predicted), axis=0), np.tile(given["predictor"], (frames, 1))
        scores = log_softmax(opened.real(one.joiner(*pairs))).reshape(frames, len(predicted), -1)
        joint = reference[f"joint{k}"][:frames]
        assert np.abs(scores - joint).max() < LOG_PROBABILITY
        # tokens and the blank, then durations
        for part in (slice(0, blank + 1), slice(blank + 1, None)):
            if joint[..., part].size:
                same = scores[..., part].argmax(-1) == joint[..., part].argmax(-1)
                assert same.mean() > SAME_BEST
