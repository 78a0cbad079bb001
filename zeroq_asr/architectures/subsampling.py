"""The convolutions that shorten features before a Conformer's layers.

Shapes: B batch, M mels, T input frames, S encoded frames, C convolution channels, D model width.  Module
names are those of NeMo's checkpoints.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from zeroq_asr.architectures.options import UnsupportedOptionError
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

#: kernel, stride and zeros on either side of every strided convolution, in time and in frequency
KERNEL, STRIDE, PADDING = 3, 2, 1
KINDS = ("striding", "dw_striding")

Count = TypeVar("Count", int, torch.Tensor)


def strided_length(length: Count) -> Count:
    """Return how many frames, or mels, one strided convolution leaves of ``length``."""
    return (length + 2 * PADDING - KERNEL) // STRIDE + 1


class ConvSubsampling(nn.Module):
    """2-D convolutions of stride 2 over time and frequency, then a projection of what is left of both.

    "striding": full convolutions; "dw_striding": depthwise and pointwise after the first.
    """

    def __init__(self, mels: int, width: int, channels: int, factor: int, kind: str) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UnsupportedOptionError(
                "encoder.subsampling", f"{shown(kind)} is not supported", f"supported: {', '.join(KINDS)}"
            )
        if factor not in (2, 4, 8, 16):
            raise UnsupportedOptionError("encoder.subsampling_factor", f"{factor} is no power of 2 up to 16")
        layers: list[nn.Module] = []
        inputs, left = 1, mels
        for index in range(factor.bit_length() - 1):
            separable = kind == "dw_striding" and index > 0
            groups = channels if separable else 1
            layers.append(nn.Conv2d(inputs, channels, KERNEL, STRIDE, PADDING, groups=groups))
            if separable:
                layers.append(nn.Conv2d(channels, channels, 1))
            layers.append(nn.ReLU())
            inputs, left = channels, strided_length(left)
        if left < 1:
            raise ConfigError(
                "encoder.subsampling_factor", f"{mels} mels are too few for a subsampling of {factor}"
            )
        self.conv = nn.Sequential(*layers)
        self.out = nn.Linear(channels * left, width)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return [B, S, D] of features [B, M, T], and lengths [B] in frames of it."""
        x = mask_rows(features.transpose(1, 2), lengths).unsqueeze(1)
        for layer in self.conv:
            x = layer(x)
            if isinstance(layer, nn.Conv2d) and layer.stride == (STRIDE, STRIDE):
                lengths = strided_length(lengths)
            if isinstance(layer, nn.Conv2d):
                # what the bias puts into padded frames must not reach valid ones
                x = x * valid_frames(x.shape[2], lengths)[:, None, :, None]
        batch, channels, frames, left = x.shape
        x = x.transpose(1, 2).reshape(batch, frames, channels * left)
        return self.out(x), lengths


def mask_rows(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Zero the frames of ``x`` [B, T, D] at or after ``lengths`` [B]."""
    return x * valid_frames(x.shape[1], lengths)[:, :, None]


def valid_frames(frames: int, lengths: torch.Tensor) -> torch.Tensor:
    """Return bool [B, T], true before each of ``lengths`` [B]."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]
