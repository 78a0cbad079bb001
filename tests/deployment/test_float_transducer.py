"""A transducer in float ONNX says what its network says, and so do the files that other tools make of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from trained_transducers import MELS, speech, trained

import zeroq_asr as zq
from zeroq_asr.capture.transducer import TransducerGraphs, capture_transducer
from zeroq_asr.deployment.float_transducer import FloatTransducer, export_float_transducer
from zeroq_asr.deployment.metadata import Decoding, Deployment
from zeroq_asr.measure.onnxruntime_quantizers import ort_dynamic

KINDS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "durations": {"durations": (0, 1, 2)},
    "stateless": {"stateless": True},
    "tanh": {"activation": "tanh"},
}


@cache
def captured(kind: str) -> tuple[zq.TransducerModel, TransducerGraphs, Deployment]:
    model = trained(**KINDS[kind])
    network = model.network
    decoding = Decoding(tuple(network.durations), network.max_symbols)
    deployment = Deployment(
        model.name, model.frontend, model.tokenizer, 20.0, model.subsampling_factor, decoding=decoding
    )
    return model, capture_transducer(network, model.example_input(), model.name), deployment


def batch() -> tuple[np.ndarray, np.ndarray]:
    features, _ = speech(3, 12, 7)
    return features.numpy(), np.array([features.shape[2], 101, 64])


@pytest.mark.parametrize("kind", KINDS)
def test_files_say_what_the_network_says(kind: str) -> None:
    model, graphs, deployment = captured(kind)
    made = export_float_transducer(graphs, deployment)
    files = {part: one.SerializeToString() for part, one in made.items()}
    for beam in (None, zq.BeamSpec(width=3, ilm_weight=0.2)):
        found = FloatTransducer(files, graphs, deployment, 1, beam).hypotheses(*batch())
        expected = zq.TransducerRecognizer(model, beam).hypotheses(*batch())
        assert all(len(one.tokens) > 2 for one in expected)
        assert [(f.tokens, f.frames) for f in found] == [(e.tokens, e.frames) for e in expected]


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
def test_ports_are_those_of_the_graphs(kind: str) -> None:
    _, graphs, deployment = captured(kind)
    made = export_float_transducer(graphs, deployment)

    def ports(part: str) -> list[tuple[str, list[Any]]]:
        graph = made[part].graph
        return [
            (
                value.name,
                [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
            )
            for value in (*graph.input, *graph.output)
        ]

    assert ports("encoder") == [
        ("audio_signal", ["batch", MELS, "frames"]),
        ("length", ["batch"]),
        ("encoded", ["batch", 20, "encoded"]),
        ("encoded_lengths", ["batch"]),
    ]
    assert ports("joiner") == [
        ("encoded", ["batch", 20, 1]),
        ("predicted", ["batch", 20, 1]),
        ("logits", ["batch", 6, 1]),
    ]
    states = [f"{name}_{layer}" for layer in (0, 1) for name in ("hidden", "cell")] if kind == "lstm" else []
    assert ports("predictor") == [
        ("labels", ["batch", 1 if kind == "lstm" else 2, 1]),
        *((name, ["batch", 16, 1]) for name in states),
        ("predicted", ["batch", 20, 1]),
        *((f"next_{name}", ["batch", 16, 1]) for name in states),
    ]


def test_what_onnx_runtimes_quantizer_makes_of_them_is_decoded_alike(tmp_path: Path) -> None:
    model, graphs, deployment = captured("lstm")
    files: dict[str, Path] = {}
    for part, one in export_float_transducer(graphs, deployment, quantizable=True).items():
        files[part] = tmp_path / f"{part}.onnx"
        files[part].write_bytes(ort_dynamic(one))
    kinds = {part: {n.op_type for n in onnx.load(file).graph.node} for part, file in files.items()}
    # a single frame's layers are products of matrices, for ConvInteger is slow with them
    assert "DynamicQuantizeLSTM" in kinds["predictor"]
    for part in ("predictor", "joiner"):
        assert "MatMulInteger" in kinds[part]
        assert "ConvInteger" not in kinds[part]
    found = FloatTransducer(files, graphs, deployment, 1).hypotheses(*batch())
    expected = zq.TransducerRecognizer(model).hypotheses(*batch())
    assert [one.tokens for one in found] == [one.tokens for one in expected]


def test_files_that_cannot_be_run_are_refused_by_name() -> None:
    _, graphs, deployment = captured("lstm")
    files = {
        part: one.SerializeToString() for part, one in export_float_transducer(graphs, deployment).items()
    }
    with pytest.raises(zq.CheckpointError, match="joiner: is not an ONNX file that can be run"):
        FloatTransducer({**files, "joiner": b"no model"}, graphs, deployment)
    swapped = FloatTransducer({**files, "joiner": files["predictor"]}, graphs, deployment, 1)
    with pytest.raises(zq.CheckpointError, match="joiner: fails on operands"):
        swapped.hypotheses(*batch())
    with pytest.raises(zq.ConfigError, match="is no transducer's bundle"):
        FloatTransducer(files, graphs, Deployment("x", deployment.frontend, deployment.tokenizer, 5.0, 4))
