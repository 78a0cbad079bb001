from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from zeroq_asr.config import SynthesisSpec
from zeroq_asr.errors import SynthesisError
from zeroq_asr.model import AsrModel
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer
from zeroq_asr.synthesis.speech_priors import NONBLANK, SpeechLike, distance, doubt, probabilities, silence
from zeroq_asr.synthesis.synthesize import gaussian_noise, synthesize

SPEC = SynthesisSpec(batch=2, frames=64, iterations=8)
LOCAL = SynthesisSpec(locality=1.0)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def _model(network: nn.Module, mels: int = 16, tokens: str = "abcd") -> AsrModel:
    return AsrModel(network, FrontendConfig(features=mels), Tokenizer(tuple(tokens)), "small")


class Attending(nn.Module):
    """Two heads of four channels attend by ``attend``; no normalization."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attend = attend
        self.project = nn.Linear(16, 24)
        self.head = nn.Linear(8, 5)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.project(features.transpose(1, 2)).unflatten(2, (3, 2, 4))
        q, k, v = x.permute(2, 0, 3, 1, 4)
        return self.head(self.attend(q, k, v).transpose(1, 2).flatten(2)), lengths


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(2, 3) / 2.0


#: spellings of one attention
SPELLINGS: dict[str, Attend] = {
    "torch.softmax": lambda q, k, v: torch.softmax(_scores(q, k), dim=-1) @ v,
    "functional.softmax": lambda q, k, v: functional.softmax(_scores(q, k), -1) @ v,
    "Tensor.softmax": lambda q, k, v: _scores(q, k).softmax(3) @ v,
    "aten softmax": lambda q, k, v: torch.ops.aten.softmax.int(_scores(q, k), -1) @ v,
    "aten _softmax": lambda q, k, v: torch.ops.aten._softmax.default(_scores(q, k), -1, False) @ v,
    "fused": functional.scaled_dot_product_attention,
    "aten fused": lambda q, k, v: torch.ops.aten.scaled_dot_product_attention.default(q, k, v),
}


def _seen(network: nn.Module, features: Tensor, spec: SynthesisSpec = LOCAL) -> list[Tensor]:
    with SpeechLike("small", spec) as speech:
        network(features, torch.full((len(features),), features.shape[2]))
    return speech.distances


def test_distance_is_the_expected_distance_in_shares_of_the_utterance() -> None:
    assert float(distance(torch.eye(5).expand(2, 3, 5, 5))) == 0
    uniform = torch.full((2, 3, 5, 5), 1 / 5)
    assert float(distance(uniform)) == pytest.approx((5**2 - 1) / (3 * 5**2))
    # query 0 looks at key 2, query 1 at itself, query 2 at key 1: (2 + 0 + 1) / 3 queries / 3 frames
    chosen = torch.tensor([[0.0, 0, 1], [0, 1, 0], [0, 1, 0]])[None, None]
    assert float(distance(chosen)) == pytest.approx(1 / 3)
    both = torch.cat([chosen, torch.eye(3)[None, None]], dim=1)
    assert float(distance(both)) == pytest.approx(1 / 6)


def _logits(nonblank: list[list[float]]) -> Tensor:
    """Logits [B, S, 3] of frames whose classes but for the blank share the probabilities given."""
    spoken = torch.tensor(nonblank)
    return torch.stack([spoken / 2, spoken / 2, 1 - spoken], dim=2).log() + 7.0


def test_silence_is_what_an_utterance_falls_short_of() -> None:
    # the first has a mean of 0.05, the second one of 0.4, which is enough
    logits = _logits([[0.02, 0.08], [0.7, 0.1]])
    assert float(silence(logits)) == pytest.approx(math.log(NONBLANK / 0.05) / 2, rel=1e-5)
    assert float(silence(logits[1:])) == 0
    assert float(silence(logits[1:], target=0.8)) == pytest.approx(math.log(2), rel=1e-5)
    # a frame that is sure of its blank still knows where to go
    sure = torch.tensor([[[0.0, -1.0, 60.0]]], requires_grad=True)
    (slope,) = torch.autograd.grad(silence(sure), sure)
    assert slope[0, 0].tolist() == pytest.approx([-0.731, -0.269, 1.0], abs=1e-3)


def test_doubt_is_the_entropy_of_a_frame() -> None:
    assert float(doubt(torch.zeros(2, 3, 4))) == pytest.approx(math.log(4))
    assert float(doubt(torch.tensor([[[0.0, 200.0], [5.0, 5.0]]]))) == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_attention_is_seen_once(name: str) -> None:
    features = torch.randn(2, 16, 24)
    seen = _seen(Attending(SPELLINGS[name]), features)
    (expected,) = _seen(Attending(SPELLINGS["torch.softmax"]), features)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected)
    assert seen[0].requires_grad
    assert _seen(Attending(SPELLINGS[name]), features, SynthesisSpec(nonblank=1.0)) == []


def test_softmax_of_other_things_is_no_attention() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        gates = v.softmax(dim=-1) + _scores(q, k).softmax(dim=2).mean()
        across = functional.scaled_dot_product_attention(q, k[:, :, :5], v[:, :, :5])
        return gates + across + q[0, 0].T.softmax(dim=-1).mean()

    assert _seen(Attending(attend), torch.randn(2, 16, 24)) == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.randn(1, 2, 6, 6)},
        {"attn_mask": torch.ones(6, 6, dtype=torch.bool).triu()},
    ],
)
def test_probabilities_are_those_of_the_fused_operator(options: dict[str, Any]) -> None:
    q, k, v = torch.randn(3, 2, 2, 6, 4)
    expected = functional.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(probabilities(q, k, v, **options) @ v, expected)
    grouped = functional.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True, **options)
    found = probabilities(q, k[:, :1], v[:, :1], enable_gqa=True, **options) @ v[:, :1]
    torch.testing.assert_close(found, grouped)


class Encoder(nn.Module):
    """torch's own Transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(16, 4, 20, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.layer(features.transpose(1, 2))), lengths


@pytest.mark.parametrize("grad", [True, False])
def test_attention_of_torch_is_seen(grad: bool) -> None:
    network, x = Encoder().eval().requires_grad_(False), torch.randn(2, 16, 24)
    plain = network(x, torch.tensor([24, 24]))[0]
    with torch.set_grad_enabled(grad), SpeechLike("small", LOCAL) as speech:
        watched = network(x.requires_grad_(grad), torch.tensor([24, 24]))[0]
    frames = x.transpose(1, 2)
    _, weights = network.layer.self_attn(frames, frames, frames, average_attn_weights=False)
    torch.testing.assert_close(speech.distances, [distance(weights)])
    torch.testing.assert_close(watched, plain)


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_attention_of_torch_returns_what_it_was_asked_for(wanted: bool, averaged: bool) -> None:
    attention = nn.MultiheadAttention(8, 2).eval()
    for shape in ((6, 3, 8), (6, 8)):  # [S, B, D], or one utterance
        x = torch.randn(shape)
        expected = attention(x, x, x, need_weights=wanted, average_attn_weights=averaged)
        with SpeechLike("small", LOCAL) as speech:
            found = attention(x, x, x, need_weights=wanted, average_attn_weights=averaged)
        assert len(speech.distances) == 1
        torch.testing.assert_close(found[0], expected[0])
        assert (found[1] is None) == (expected[1] is None) == (not wanted)
        if wanted:
            torch.testing.assert_close(found[1], expected[1])


def _measured(model: AsrModel, made: Any) -> tuple[float, float, float]:
    with torch.no_grad(), SpeechLike("small", LOCAL) as speech:
        logits, _ = model.network(torch.from_numpy(made.features), torch.from_numpy(made.lengths))
    return float(torch.stack(speech.distances).sum()), float(silence(logits)), float(doubt(logits))


@pytest.mark.parametrize("name", ["locality", "nonblank", "confidence"])
def test_terms_decrease(conformer_of: Callable[..., Any], name: str) -> None:
    model = _model(conformer_of())
    with torch.no_grad():
        model.network.decoder.decoder_layers[0].bias[-1] += 5.0  # nothing but blanks to begin with
    term = ["locality", "nonblank", "confidence"].index(name)
    plain, made = synthesize(model, SPEC), synthesize(model, replace(SPEC, **{name: 30.0}))
    start = _measured(model, synthesize(model, replace(SPEC, iterations=0)))[term]
    assert made.losses[0] - plain.losses[0] == pytest.approx(30 * start, rel=1e-4)
    # with random weights scores are small, and attention is uniform whatever is attended to
    share = 1.0 if name == "locality" else 0.9
    assert _measured(model, made)[term] < share * _measured(model, plain)[term]
    assert len(made.account) == len(plain.account) == 2


def test_terms_alone_are_something_to_optimise() -> None:
    model = _model(Attending(SPELLINGS["fused"]).eval().requires_grad_(False))
    assert synthesize(model, SPEC).losses == ()
    for term, name in enumerate(("locality", "nonblank", "confidence")):
        with torch.no_grad():
            model.network.head.bias[-1] = 6.0 if name == "nonblank" else 0.0
        made = synthesize(model, replace(SPEC, **{name: 1.0}))
        assert made.account == ()
        assert min(made.losses) < made.losses[0]
        assert _measured(model, made)[term] == pytest.approx(min(made.losses), rel=1e-4)


def test_a_network_without_attention_is_refused(small_model: AsrModel) -> None:
    with pytest.raises(
        SynthesisError, match=r"small: locality is 0\.5, but the network has no attention.*locality at 0"
    ):
        synthesize(small_model, SynthesisSpec(batch=1, frames=32, iterations=1, locality=0.5))
    # noise is noise, whatever else was asked for
    noise = gaussian_noise(small_model, SynthesisSpec(batch=1, frames=32, locality=0.5))
    assert np.array_equal(
        noise.features, gaussian_noise(small_model, SynthesisSpec(batch=1, frames=32)).features
    )


@pytest.mark.parametrize("kind", ["wav2vec2", "rotary", "conformer", "parakeet"])
def test_networks_of_transformers_have_attention(huggingface_graph: Callable[[str], Any], kind: str) -> None:
    model, _ = huggingface_graph(kind)
    spec = SynthesisSpec(batch=1, frames=48, iterations=3, locality=1.0, nonblank=1.0)
    with SpeechLike(model.name, spec) as speech:
        model.network(*model.example_input())
    assert len(speech.distances) == 2  # layers
    made = synthesize(model, spec)
    assert min(made.losses) < made.losses[0]
