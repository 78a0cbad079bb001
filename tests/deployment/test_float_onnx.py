"""The float baseline computes what the network does, and nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import zeroq_asr as zq
from zeroq_asr.architectures.conformer import ConformerCtc
from zeroq_asr.capture.capture import capture
from zeroq_asr.deployment.export import Deployment
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode

MELS = 16
VARIANTS: dict[str, dict[str, Any]] = {
    "striding": {},
    "dw_striding": {"subsampling": "dw_striding", "subsampling_factor": 8, "xscaling": False},
}


def exported(network: nn.Module, mels: int, tokens: int, factor: int, flat: bool = False) -> Any:
    example = torch.randn(2, mels, 64), torch.tensor([64, 50])
    graph = capture(network, example)
    tokenizer = zq.Tokenizer(tuple("abcdefghijklmnopqrstuvwxyz'"[:tokens]))
    deployment = Deployment("float", zq.FrontendConfig(features=mels), tokenizer, 5.0, factor)
    return export_float(graph, deployment, flat=flat)


def session(model: Any) -> Any:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def same(network: nn.Module, model: Any, mels: int) -> None:
    found_by = session(model)
    for frames in (64, 201):
        x = np.random.default_rng(frames).standard_normal((3, mels, frames)).astype(np.float32)
        lengths = np.array([frames, 41, 17])
        found, counts = found_by.run(["logprobs", "encoded_lengths"], {"audio_signal": x, "length": lengths})
        with torch.inference_mode():
            logits, encoded = network(torch.from_numpy(x), torch.from_numpy(lengths))
        expected = torch.log_softmax(logits, -1).numpy()
        np.testing.assert_array_equal(counts, encoded.numpy())
        for row, count in enumerate(counts):
            np.testing.assert_allclose(found[row, :count], expected[row, :count], atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_conformers(conformer_of: Callable[..., ConformerCtc], name: str) -> None:
    network = conformer_of(**VARIANTS[name])
    model = exported(network, MELS, 4, VARIANTS[name].get("subsampling_factor", 4))
    same(network, model, MELS)
    count = Counter(node.op_type for node in model.graph.node)
    # one mask a number of frames, whoever reads it
    assert count["Less"] == (3 if name == "striding" else 4)
    assert count["LayerNormalization"] == 10
    assert count["Softmax"] == 2


@pytest.mark.parametrize("flat", [False, True])
def test_convolutions(small_model: zq.AsrModel, flat: bool) -> None:
    mels, tokens = small_model.frontend.features, len(small_model.tokenizer.tokens)
    factor = small_model.subsampling_factor
    model = exported(small_model.network, mels, min(tokens, 27), factor, flat)
    same(small_model.network, model, mels)
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    ranks = {len(shapes[node.input[1]]) for node in model.graph.node if node.op_type == "Conv"}
    assert ranks == ({3} if flat else {3, 4})


def test_a_real_conformer(test_data: Path) -> None:
    model = zq.load_checkpoint(test_data / "models" / "conformer_ctc_tiny.nemo")
    assert isinstance(model.network, ConformerCtc)
    same(model.network, exported(model.network, 80, 27, 4), 80)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "conformer", "rotary", "parakeet"])
def test_networks_of_transformers(huggingface_graph: Callable[[str], Any], kind: str) -> None:
    model, graph = huggingface_graph(kind)
    deployment = Deployment("float", model.frontend, model.tokenizer, 1.0, model.subsampling_factor)
    written = export_float(graph, deployment)
    found = session(written)
    for samples in (8000, 5003):
        wave = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
        x, lengths = zq.Frontend(model.frontend).batch([wave, wave[:4000], wave[:1600]])
        scores, counts = found.run(None, {"audio_signal": x, "length": lengths})
        with torch.inference_mode():
            logits, encoded = model.network(torch.from_numpy(x), torch.from_numpy(lengths))
        expected = torch.log_softmax(logits, -1).numpy()
        np.testing.assert_array_equal(counts, encoded.numpy())
        for row, count in enumerate(counts):
            np.testing.assert_allclose(scores[row, :count], expected[row, :count], atol=1e-4)


def test_instance_norm_sees_an_utterance_alone() -> None:
    weight, bias = torch.linspace(0.5, 2, 4), torch.linspace(-1, 1, 4)
    attrs = {"weight": weight, "bias": bias, "epsilon": 1e-3}
    nodes = [
        FloatNode("instance_norm", "normal", ("audio_signal", "length"), attrs),
        FloatNode("transpose", "logits", ("normal",), {"perm": (0, 2, 1)}),
    ]
    graph = FloatGraph(("audio_signal", "length"), ("logits", "length"), nodes)
    deployment = Deployment("norm", zq.FrontendConfig(features=4), zq.Tokenizer(("a", "b", "c")), 1.0, 1)
    found = session(export_float(graph, deployment))
    x, lengths = 3 * torch.randn(2, 4, 50) + 10, torch.tensor([50, 31])
    scores, _ = found.run(None, {"audio_signal": x.numpy(), "length": lengths.numpy()})
    logits, _ = graph.run(x, lengths)
    for row, count in enumerate(lengths.tolist()):
        expected = torch.nn.functional.group_norm(x[row : row + 1, :, :count], 4, weight, bias, 1e-3)[0].T
        torch.testing.assert_close(logits[row, :count], expected, atol=1e-5, rtol=1e-5)
        normal = torch.log_softmax(expected, -1).numpy()
        np.testing.assert_allclose(scores[row, :count], normal, atol=1e-5)
