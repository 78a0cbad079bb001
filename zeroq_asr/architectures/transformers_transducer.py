"""Transducers of Hugging Face transformers, Parakeet with RNN-T or TDT, cut into this package's parts.

The modules are transformers' own, put together as a `Transducer`: the projection of the encoding is a module
of its own there, that of the prediction stands in the decoder, and activation and output layer are its joint
network.

Shapes: B batch, M mels, T input frames, S encoded frames, D encoder width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zeroq_asr.architectures.subsampling import mask_rows, strided_length, valid_frames
from zeroq_asr.architectures.transducer import Joiner, LstmPredictor, ProjectedEncoder, Transducer


class ParakeetEncoder(nn.Module):
    """Parakeet's FastConformer without a head; ``encoder`` is transformers' module."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.strides = encoder.config.subsampling_factor.bit_length() - 1

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoding [B, S, D] of log-mels [B, M, T] with lengths [B], and encoded lengths [B]."""
        x = mask_rows(features.transpose(1, 2), lengths)
        valid = valid_frames(x.shape[1], lengths)
        encoded: torch.Tensor = self.encoder(input_features=x, attention_mask=valid).last_hidden_state
        for _ in range(self.strides):
            lengths = strided_length(lengths)
        return encoded, lengths


def parakeet_transducer(model: Any) -> Transducer:
    """Return the parts of transformers' ParakeetForRNNT or ParakeetForTDT, which are used up."""
    decoder, config = model.decoder, model.config
    # a step is [1, B, H] here
    decoder.lstm.batch_first = False
    return Transducer(
        ProjectedEncoder(ParakeetEncoder(model.encoder), model.encoder_projector),
        LstmPredictor(decoder.embedding, decoder.lstm, decoder.decoder_projector),
        Joiner(model.joint.activation, model.joint.head),
        tuple(getattr(config, "durations", ())),
        config.max_symbols_per_step,
    )
