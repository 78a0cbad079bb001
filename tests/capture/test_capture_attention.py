"""Conformers as float graphs: what they compute, and what is refused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeroq_asr as zq
from zeroq_asr.architectures.conformer import ConformerCtc
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.canonicalize import canonicalize
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.registry import OPERATORS

Make = Callable[..., ConformerCtc]
VARIANTS: dict[str, dict[str, Any]] = {
    "striding": {},
    "dw_striding": {"subsampling": "dw_striding", "subsampling_factor": 8, "xscaling": False},
    "no biases": {"use_bias": False},
}
FEATURES = torch.Generator().manual_seed(1)


def example(frames: int = 64) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 16, frames, generator=FEATURES), torch.tensor([frames, frames - 21])


def example_of(model: zq.AsrModel) -> tuple[Tensor, Tensor]:
    return model.example_input(1000 if model.frontend.is_waveform else 100)


def same(network: nn.Module, graph: FloatGraph, x: Tensor, lengths: Tensor) -> None:
    with torch.inference_mode():
        expected, encoded = network(x, lengths)
        found, counts = graph.run(x, lengths)
    assert torch.equal(encoded, counts)
    for row, frames in enumerate(encoded.tolist()):
        torch.testing.assert_close(found[row, :frames], expected[row, :frames], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_graph_computes_what_the_network_does(conformer_of: Make, name: str) -> None:
    network = conformer_of(**VARIANTS[name])
    graph = capture(network, example())
    count = Counter(node.op for node in graph.nodes)
    assert count["attention"] == 2
    assert count["layer_norm"] == 10
    assert not {"affine", "pad"} & count.keys()
    # at other lengths than it was traced with: positions are a function of the number of frames
    for frames in (23, 64, 131):
        same(network, graph, *example(frames))


def test_masks_are_kept_where_padding_could_be_seen(conformer_of: Make) -> None:
    graph = capture(conformer_of(), example())
    makers = graph.producer()
    for node in graph.nodes:
        if node.op == "conv1d" and node.attrs["weight"].shape[2] > 1:
            assert makers[node.ins[0]].op == "mask_time"


def test_queries_get_their_two_vectors_by_two_convolutions(conformer_of: Make) -> None:
    network = conformer_of()
    graph = capture(network, example())
    node = next(n for n in graph.nodes if n.op == "attention")
    made = graph.producer()
    content, position = made[node.ins[0]], made[node.ins[4]]
    attention = network.encoder.layers[0].self_attn
    assert torch.equal(content.attrs["weight"], position.attrs["weight"])
    difference = content.attrs["bias"] - position.attrs["bias"]
    expected = (attention.pos_bias_u - attention.pos_bias_v).flatten()
    torch.testing.assert_close(difference, expected)
    assert node.attrs["scale"] == pytest.approx(6**-0.5)
    assert node.attrs["positions"](5).shape == (4, 6, 9)


def conv(out: str, source: str) -> FloatNode:
    attrs = {"weight": torch.ones(2, 2, 1), "bias": torch.zeros(2), "stride": 1, "padding": (0, 0)}
    return FloatNode("conv1d", out, (source,), {**attrs, "dilation": 1, "groups": 1})


def test_a_convolution_with_another_reader_is_not_split() -> None:
    affine = {"scale": torch.tensor([2.0]), "shift": torch.tensor([1.0])}
    nodes = [
        conv("a", "audio_signal"),
        FloatNode("affine", "b", ("a",), dict(affine)),
        FloatNode("add", "c", ("a", "b")),
        FloatNode("transpose", "d", ("c",), {"perm": (0, 2, 1)}),
    ]
    graph = canonicalize(FloatGraph(("audio_signal", "length"), ("d", "length"), nodes))
    assert [node.op for node in graph.nodes] == ["conv1d", "conv1d", "add", "transpose"]
    assert graph.nodes[1].ins == ("a",)


class Attention(nn.Module):
    """A layer of attention between two projections, written with one thing changed."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change
        self.inputs, self.qkv, self.out = nn.Linear(16, 12), nn.Linear(12, 36), nn.Linear(12, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        batch, frames = x.shape[0], x.shape[2]
        x = self.inputs(x.transpose(1, 2))
        q, k, v = (
            torch.nn.functional.linear(x, self.qkv.weight[i : i + 12], self.qkv.bias[i : i + 12])
            .view(batch, frames, 3, 4)
            .transpose(1, 2)
            for i in (0, 12, 24)
        )
        if self.change == "scaled query":
            q = q * 0.5
        valid = torch.arange(frames)[None, :] < lengths[:, None]
        if self.change.startswith("sdpa"):
            return self.whole(q, k, v, valid, lengths)
        scores = torch.matmul(q, k.transpose(-2, -1))
        valid = torch.arange(frames)[None, :] < lengths[:, None]
        mask = valid[:, None, None, :]
        if self.change == "no mask":
            weights = torch.softmax(scores, -1)
        elif self.change == "soft mask":
            weights = torch.softmax(scores.masked_fill(~mask, -2.0), -1)
        elif self.change == "over queries":
            weights = torch.softmax(scores.masked_fill(~mask, -1e4), 2)
        else:
            weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), -1)
        return self.out(torch.matmul(weights, v).transpose(1, 2).reshape(batch, frames, 12)), lengths

    def whole(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask: Tensor | None = valid[:, None, None, :]
        options: dict[str, Any] = {}
        if self.change == "sdpa, scaled":
            options["scale"] = 0.3
        elif self.change == "sdpa, pairs":
            mask = valid[:, None, None, :] & valid[:, None, :, None].expand(-1, 1, -1, q.shape[2])
        elif self.change == "sdpa, no mask":
            mask = None
        elif self.change == "sdpa, causal":
            mask, options["is_causal"] = None, True
        elif self.change == "sdpa, negated":
            mask = ~valid[:, None, None, :]
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, **options)
        # as it is already, but for the symbols in its shape
        out = out.reshape(out.shape[0], -1, out.shape[2], 4).transpose(1, 2)
        return self.out(out.reshape(*out.shape[:2], -1)), lengths


@pytest.mark.parametrize("change", ["plain", "scaled query", "sdpa", "sdpa, scaled", "sdpa, pairs"])
def test_other_spellings_of_attention(change: str) -> None:
    torch.manual_seed(0)
    network = Attention(change).eval().requires_grad_(False)
    graph = capture(network, example())
    node = next(node for node in graph.nodes if node.op == "attention")
    if change.startswith("sdpa"):
        assert node.attrs["scale"] == pytest.approx(0.3 if change == "sdpa, scaled" else 0.5)
    same(network, graph, *example(33))


@pytest.mark.parametrize(
    "change",
    ["no mask", "soft mask", "over queries", "sdpa, no mask", "sdpa, causal", "sdpa, negated"],
)
def test_attention_that_is_not_understood_is_refused(change: str) -> None:
    with pytest.raises(UnsupportedOperatorError):
        capture(Attention(change).eval().requires_grad_(False), example())


def test_an_operator_without_lowering_is_refused_before_any_work(
    conformer_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "attention", dataclasses.replace(OPERATORS["attention"], lower=None))
    config: dict[str, Any] = {"encoder": {}, "decoder": {}}
    model = zq.AsrModel(
        network=conformer_of(),
        frontend=zq.FrontendConfig(features=16),
        tokenizer=zq.Tokenizer(("a", "b", "c", "d")),
        name="conformer",
        architecture="conformer_ctc",
        config=config,
    )
    stages: list[str] = []
    with pytest.raises(UnsupportedOperatorError, match=r"self_attn: operator attention has no integer"):
        zq.quantize(model, tmp_path / "out.onnx", progress=lambda stage, *_: stages.append(stage))
    assert "synthesize" not in stages
    assert not list(tmp_path.iterdir())


def test_a_conformer_of_nemo(test_data: Path) -> None:
    model = zq.load_checkpoint(test_data / "models" / "fastconformer_ctc_tiny.nemo")
    assert isinstance(model.network, ConformerCtc)
    graph = capture(model.network, model.example_input(), model.name)
    x = torch.randn(2, 80, 150)
    same(model.network, graph, x, torch.tensor([150, 77]))


#: kind of Hugging Face model → operators of its graph
TRANSFORMERS = {
    "wav2vec2": {"attention": 2, "instance_norm": 1, "layer_norm": 6, "gelu": 5, "mask_time": 1},
    "hubert": {"attention": 2, "layer_norm": 7, "gelu": 5, "mask_time": 1},
    # two of its convolutions are of a gate
    "conformer": {"attention": 2, "layer_norm": 14, "silu": 6, "sigmoid": 2, "mask_time": 3},
    "rotary": {"attention": 2, "rotate": 2, "instance_norm": 1, "layer_norm": 12, "mask_time": 3},
    "parakeet": {"attention": 2, "layer_norm": 10, "silu": 6, "sigmoid": 2, "conv2d": 5},
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_networks_of_transformers(huggingface_graph: Callable[[str], Any], kind: str) -> None:
    model, graph = huggingface_graph(kind)
    count = Counter(node.op for node in graph.nodes)
    assert {op: count[op] for op in TRANSFORMERS[kind]} == TRANSFORMERS[kind]
    assert not {"affine", "pad"} & count.keys()
    waveform = model.frontend.is_waveform
    for frames in (345, 2000, 803) if waveform else (23, 64, 131):
        x = torch.randn(3, model.frontend.features, frames, generator=FEATURES)
        same(model.network, graph, x, torch.tensor([frames, frames * 2 // 3, frames // 2]))


def test_relative_positions_of_transformers(huggingface_graph: Callable[[str], Any]) -> None:
    for kind in ("conformer", "parakeet"):
        model, graph = huggingface_graph(kind)
        node = next(node for node in graph.nodes if node.op == "attention")
        assert len(node.ins) == 5
        assert node.attrs["positions"](7).shape == (4, 8, 13)
        assert node.attrs["scale"] == pytest.approx(8**-0.5)
        # the layers share one table, each with a matrix of its own
        exposed = prepared_graph(graph)
        assert [node.op for node in exposed.nodes].count("positions") == 1
        same(model.network, exposed, *example_of(model))


def test_rotary_positions_of_transformers(huggingface_graph: Callable[[str], Any]) -> None:
    model, graph = huggingface_graph("rotary")
    turns = [node for node in graph.nodes if node.op == "rotate"]
    assert [node.where.rpartition(".")[2] for node in turns] == ["self_attn", "self_attn"]
    # queries and keys are made of what is turned, values are not
    readers = graph.consumers()
    assert [len(readers[node.out]) for node in turns] == [2, 2]
    a, b = turns[0].attrs["coefficients"](50)
    angles = torch.arange(50)[None] / 10000.0 ** (torch.arange(4)[:, None] / 4)
    torch.testing.assert_close(a, angles.cos().repeat(8, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(b, torch.cat((-angles.sin(), angles.sin())).repeat(4, 1), atol=1e-5, rtol=1e-5)
    assert turns[0].attrs["pair"][:9] == (4, 5, 6, 7, 0, 1, 2, 3, 12)
    # nothing of the trace is left in the network
    logits, _ = model.network(*example_of(model))
    assert torch.isfinite(logits).all()
