"""A small transducer that learned a language of its own, so that its scores say something.

Every token is a pattern over the mels that lasts some frames, among noise; the network is trained on the
path along which each token is given where its pattern begins.
"""

from __future__ import annotations

import functools

import torch
from small_transducers import TOKENS
from torch import Tensor, nn

import zeroq_asr as zq
from zeroq_asr.architectures.transducer import (
    ACTIVATIONS,
    Joiner,
    LstmPredictor,
    Predictor,
    ProjectedEncoder,
    StatelessPredictor,
    Transducer,
)
from zeroq_asr.model import TransducerModel

MELS, WIDTH, UNITS, JOINT, BLANK = 16, 24, 16, 20, len(TOKENS)
#: encoded frames of a token, and input frames of an encoded one
HOLD, FACTOR = 4, 4


class Body(nn.Module):
    """Two convolutions of stride 2 with norms; an encoded frame is (T + 3) div 4."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(MELS, WIDTH, 3, 2, 1)
        self.second = nn.Conv1d(WIDTH, WIDTH, 3, 2, 1)
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(2))

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norms[0](self.first(features)).relu()
        x = self.norms[1](self.second(x)).relu()
        return x.transpose(1, 2), (lengths + 3) // 4


def speech(count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features [count, MELS, length · HOLD · FACTOR] and tokens [count, length]."""
    patterns = torch.randn(BLANK, MELS, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, BLANK, (count, length), generator=generator)
    # what follows depends on what was before, as in a language, and no token follows itself
    tokens[:, 1::2] = (tokens[:, ::2][:, : tokens[:, 1::2].shape[1]] + 1) % BLANK
    clean = patterns[tokens].transpose(1, 2).repeat_interleave(HOLD * FACTOR, dim=2)
    return clean + 0.3 * torch.randn(clean.shape, generator=generator), tokens


def _network(stateless: bool, durations: tuple[int, ...], activation: str) -> Transducer:
    projection = nn.Linear(UNITS, JOINT)
    predictor: Predictor
    if stateless:
        tables = [nn.Embedding(BLANK + 1, UNITS - 4), nn.Embedding(BLANK + 1, 4)]
        predictor = StatelessPredictor(tables, True, projection)
    else:
        embedding = nn.Embedding(BLANK + 1, UNITS)
        predictor = LstmPredictor(embedding, nn.LSTM(UNITS, UNITS, 2), projection)
    joiner = Joiner(ACTIVATIONS[activation](), nn.Linear(JOINT, BLANK + 1 + len(durations)))
    return Transducer(ProjectedEncoder(Body(), nn.Linear(WIDTH, JOINT)), predictor, joiner, durations, 3)


@functools.cache
def trained(
    *, stateless: bool = False, durations: tuple[int, ...] = (), activation: str = "relu", steps: int = 120
) -> TransducerModel:
    """Return a network that learned the language; the same one every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _network(stateless, durations, activation).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
        for step in range(steps):
            loss = _loss(network, *speech(16, 6, step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval().requires_grad_(False)
    return TransducerModel(
        network=network,
        frontend=zq.FrontendConfig(features=MELS),
        tokenizer=zq.Tokenizer(tuple(TOKENS), "characters"),
        name="trained",
        subsampling_factor=FACTOR,
    )


def _loss(network: Transducer, features: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy along the path: at the frame where a token begins the token, at all frames the blank."""
    batch, length = tokens.shape
    encoded, _ = network.encoder(features, torch.full((batch,), features.shape[2]))
    predictions, state = [], network.predictor.start(batch)
    for label in (torch.full((batch,), BLANK), *tokens.T):
        predicted, state = network.predictor(label, state)
        predictions.append(predicted)
    frames = torch.arange(length * HOLD)
    begins = frames[::HOLD]
    at = torch.cat((begins, frames))
    said = torch.cat((begins // HOLD, frames // HOLD + 1))
    blanks = torch.full((batch, len(frames)), BLANK)
    wanted = torch.cat((tokens, blanks), dim=1)
    scores = network.joiner(encoded[:, at], torch.stack(predictions, dim=1)[:, said])
    loss = nn.functional.cross_entropy(scores[..., : BLANK + 1].flatten(0, 1), wanted.flatten())
    if network.durations:
        jumps = torch.tensor(
            [network.durations.index(0)] * len(begins) + [network.durations.index(1)] * len(frames)
        )
        loss = loss + nn.functional.cross_entropy(
            scores[..., BLANK + 1 :].flatten(0, 1), jumps.expand(batch, -1).flatten()
        )
    return loss
