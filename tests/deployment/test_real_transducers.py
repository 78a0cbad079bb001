"""NeMo's tiny transducers as bundles, on their own reference features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import zeroq_asr as zq
from zeroq_asr.capture.transducer import capture_transducer
from zeroq_asr.deployment.float_transducer import FloatTransducer, export_float_transducer
from zeroq_asr.pipeline.transducer import deployment_of

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
