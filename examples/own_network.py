"""Quantize a network of your own: any nn.Module made of the supported operators.

    cd examples
    python own_network.py own.pt                      # stands for your training: writes weights
    zeroq-asr quantize own.pt --loader own_network:load

The loader is a function of the checkpoint's path that returns a ``zq.AsrModel``.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import zeroq_asr as zq

TOKENS = (" ", *"abcdefghijklmnopqrstuvwxyz")
MELS = 40


class OwnNetwork(nn.Module):
    """Two strided convolutions, a residual one, and a projection to tokens (the CTC blank last)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(MELS, width, 5, stride=2, padding=2), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.body = nn.Sequential(
            nn.Conv1d(width, width, 7, padding=3, groups=width),
            nn.Conv1d(width, width, 1),
            nn.BatchNorm1d(width),
        )
        self.tokens = nn.Linear(width, len(TOKENS) + 1)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, MELS, T] and lengths [B] in frames → logits [B, S, V] and lengths [B]."""
        x = self.stem(self._masked(features, lengths))
        lengths = torch.div(lengths - 1, 2, rounding_mode="floor") + 1
        x = torch.relu(x + self.body(self._masked(x, lengths)))
        return self.tokens(x.transpose(1, 2)), lengths

    @staticmethod
    def _masked(x: Tensor, lengths: Tensor) -> Tensor:
        """Clear the padding, so that a batch gives each utterance what it gets alone."""
        valid = torch.arange(x.shape[2], device=x.device)[None, :] < lengths[:, None]
        return x * valid[:, None, :]


def load(path: str) -> zq.AsrModel:
    """Read a checkpoint; this is what ``--loader own_network:load`` calls."""
    network = OwnNetwork()
    network.load_state_dict(torch.load(path, weights_only=True))
    return zq.AsrModel(
        network=network.eval().requires_grad_(False),
        frontend=zq.FrontendConfig(features=MELS),
        tokenizer=zq.Tokenizer(TOKENS, "characters"),
        name="own",
        subsampling_factor=2,
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(OwnNetwork().state_dict(), sys.argv[1])
