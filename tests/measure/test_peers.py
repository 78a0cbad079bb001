"""A transducer by ONNX Runtime's static quantizer: near to float, and honest of what stays in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from trained_transducers import speech, trained

import zeroq_asr as zq
from zeroq_asr.capture.transducer import TransducerGraphs, capture_transducer
from zeroq_asr.deployment.float_transducer import FloatTransducer, export_float_transducer
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.measure.peers import Peer, static_peer
from zeroq_asr.measure.said import Distance, Features, hear
from zeroq_asr.pipeline.transducer import deployment_of

LSTM_STAYS = "the predictor's LSTM stays in float, of which its quantizer knows nothing"


def heard(seed: int) -> list[Features]:
    """Two utterances of the language that the transducers learned."""
    features, _ = speech(2, 12, seed)
    return [(one[None].numpy(), np.array([one.shape[1]], dtype=np.int64)) for one in features]


def parts_of(**kind: Any) -> tuple[TransducerGraphs, Deployment, dict[str, onnx.ModelProto]]:
    model = trained(**kind)
    graphs = capture_transducer(model.network, model.example_input(), model.name)
    deployment = deployment_of(model, 20.0)
    return graphs, deployment, export_float_transducer(graphs, deployment, quantizable=True)


@pytest.mark.parametrize(
    ("kind", "note"),
    [({}, LSTM_STAYS), ({"durations": (0, 1, 2)}, LSTM_STAYS), ({"stateless": True}, "")],
    ids=["lstm", "durations", "stateless"],
)
def test_every_part_is_quantized_and_near_to_float(kind: dict[str, Any], note: str) -> None:
    graphs, deployment, models = parts_of(**kind)
    made = static_peer(models, graphs, deployment, heard(0))
    assert made.note == note
    for part, data in made.files.items():
        kinds = {node.op_type for node in onnx.load_from_string(data).graph.node}
        assert "DequantizeLinear" in kinds, part
    floats = zq.TransducerRecognizer(trained(**kind))
    distance = Distance()
    for features in heard(1):
        truth = hear(floats, features)
        found = hear(FloatTransducer(made.files, graphs, deployment), features, truth.path)
        distance = distance.plus(truth, found)
    assert distance.steps > 20
    assert 0 < distance.divergence / distance.steps < 0.2


def test_what_it_cannot_quantize_stays_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: onnx.ModelProto, feeds: Any) -> bytes:
        assert feeds
        # one step of a predictor, and one pair of a joiner
        assert all(len(operand) == 1 for feed in feeds for operand in feed.values())
        raise NotImplementedError

    monkeypatch.setattr("zeroq_asr.measure.peers.ort_static_on", fails)
    graphs, deployment, models = parts_of()
    made: Peer = static_peer(models, graphs, deployment, heard(0))
    why = "stays in float, for its quantizer fails (NotImplementedError)"
    assert made.note == f"the predictor {why}; the joiner {why}"
    assert made.files["joiner"] == models["joiner"].SerializeToString()
    assert made.files["encoder"] != models["encoder"].SerializeToString()


def test_without_recordings_there_is_nothing_to_calibrate_on() -> None:
    graphs, deployment, models = parts_of()
    with pytest.raises(zq.CalibrationError, match="no features"):
        static_peer(models, graphs, deployment, [])


def test_the_tables_say_what_stays_in_float(tmp_path: Path) -> None:
    from zeroq_asr.cli.compare import _legend
    from zeroq_asr.measure.comparison import Comparison, Row

    row = Row("ORT static, real data", 1, None, None, 0.0, 0.0, note=LSTM_STAYS)
    result = Comparison("m", "transducer", "W8A8", "recordings", 1, 1.0, (row,), ())
    assert f"ORT static, real data: {LSTM_STAYS}." in _legend(result)
