"""CTC networks of Hugging Face transformers, called as this package calls networks.

The networks are transformers' own modules; nothing of them is rewritten.  Three things are put in their
places, because they look at more than an utterance or cannot be traced at any length:

- a group norm with a group a channel takes its statistics over the padding of a batch too: `InstanceNorm`
  takes them over the valid frames alone;
- the depthwise convolutions of Wav2Vec2-Conformer see what lies behind an utterance: `MaskedConv` clears it;
- its tables of positions are kept from one call to the next: `RelativePositions` and `RotaryPositions`
  compute them.

So a batch of unequal lengths gives every utterance what transformers gives it alone.

Shapes: B batch, N samples, M mels, T input frames, S encoded frames, C channels, D model width, V tokens with
the blank last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from zeroq_asr.architectures.conformer import relative_positions
from zeroq_asr.architectures.subsampling import mask_rows, strided_length, valid_frames

#: lengths [B] of what the modules under way read; transformers' own do not hand them on
_LENGTHS: ContextVar[torch.Tensor] = ContextVar("lengths")


@contextlib.contextmanager
def _reading(lengths: torch.Tensor) -> Iterator[None]:
    """Tell the modules that are called inside how long each utterance is, in frames of what they read."""
    token = _LENGTHS.set(lengths)
    try:
        yield
    finally:
        _LENGTHS.reset(token)


class InstanceNorm(nn.Module):
    """(x − mean) / sqrt(var + epsilon) · weight + bias; a channel's moments over the valid frames."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.epsilon = norm.weight, norm.bias, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to [B, C, T]."""
        lengths = _LENGTHS.get()
        valid = valid_frames(x.shape[2], lengths)[:, None, :]
        count = lengths[:, None, None]
        centred = x - (x * valid).sum(dim=2, keepdim=True) / count
        variance = (centred * centred * valid).sum(dim=2, keepdim=True) / count
        return centred * torch.rsqrt(variance + self.epsilon) * self.weight[:, None] + self.bias[:, None]


class MaskedConv(nn.Module):
    """A convolution over time that reads zeros behind an utterance."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, T] to [B, C, T]."""
        valid = valid_frames(x.shape[2], _LENGTHS.get())[:, None, :]
        out: torch.Tensor = self.conv(x * valid)
        return out


class RelativePositions(nn.Module):
    """Sines and cosines of the distances between frames."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [1, 2S − 1, D] for a stream [B, S, D]: distances S − 1 down to 1 − S."""
        return relative_positions(x.shape[1], x.shape[2], x.device)[None]


class RotaryPositions(nn.Module):
    """Cosines and sines of a frame's number times the frequencies of ``embedding``, transformers' module."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.inv_freq: torch.Tensor
        self.register_buffer("inv_freq", embedding.inv_freq)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [2, S, 1, 1, E] for a stream [B, S, D] of heads of E channels, both halves alike."""
        angles = torch.arange(x.shape[1], device=x.device).type_as(self.inv_freq)[:, None] * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)[:, None, None]
        return torch.stack((angles.cos(), angles.sin())).type_as(x)


class WaveformCtc(nn.Module):
    """wav2vec 2.0, HuBERT or Wav2Vec2-Conformer with a CTC head: waveform to logits.

    ``model`` is transformers' module, whose parts are changed in place as the module's docstring says.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.layers = tuple(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))
        first, encoder = self._body.feature_extractor.conv_layers[0], self._body.encoder
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = InstanceNorm(first.layer_norm)
        _bake_weight_norm(encoder)
        positions = getattr(model.config, "position_embeddings_type", None)
        if positions == "relative":
            encoder.embed_positions = RelativePositions()
        elif positions == "rotary":
            encoder.embed_positions = RotaryPositions(encoder.embed_positions)
        for layer in encoder.layers:
            if hasattr(layer, "conv_module"):
                layer.conv_module.depthwise_conv = MaskedConv(layer.conv_module.depthwise_conv)

    @property
    def _body(self) -> Any:
        """The network without its head, whatever its name."""
        return getattr(self.model, self.model.base_model_prefix)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [B, S, V] of a waveform [B, 1, N] with lengths [B] in samples, and lengths [B]."""
        body, x = self._body, features
        for layer, (kernel, stride) in zip(body.feature_extractor.conv_layers, self.layers, strict=True):
            # without padding, so no valid frame has seen what lies behind the last sample
            lengths = (lengths - kernel) // stride + 1
            with _reading(lengths):
                x = layer(x)
        projected = body.feature_projection(x.transpose(1, 2))
        # of wav2vec 2.0 with what was projected beside it
        x = projected[0] if isinstance(projected, tuple) else projected
        with _reading(lengths):
            x = body.encoder(x, attention_mask=valid_frames(x.shape[1], lengths)).last_hidden_state
        return self.model.lm_head(x), lengths


class ParakeetCtc(nn.Module):
    """Parakeet (a FastConformer) with a CTC head: log-mels to logits; ``model`` is transformers' module."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.strides = model.config.encoder_config.subsampling_factor.bit_length() - 1

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [B, S, V] of log-mels [B, M, T] with lengths [B], and encoded lengths [B]."""
        x = mask_rows(features.transpose(1, 2), lengths)
        valid = valid_frames(x.shape[1], lengths)
        logits = self.model(input_features=x, attention_mask=valid).logits
        for _ in range(self.strides):
            lengths = strided_length(lengths)
        return logits, lengths


def _bake_weight_norm(encoder: nn.Module) -> None:
    """Replace weights that are kept as a direction and a length by their product, which no call changes."""
    for module in encoder.modules():
        if nn.utils.parametrize.is_parametrized(module, "weight"):
            nn.utils.parametrize.remove_parametrizations(module, "weight")


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """Return how many samples one frame behind convolutions in a row sees, and how many lie between two."""
    seen, between = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        seen += (kernel - 1) * between
        between *= stride
    return seen, between
