"""What the CTC recognisers share: the head behind an encoder, and the sections of a configuration.

Shapes: B batch, C channels, S encoded frames, V tokens with the blank last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from zeroq_asr.architectures.options import REQUIRED, Options
from zeroq_asr.errors import ConfigError

_MAX_CHANNELS, _MAX_CLASSES = 65536, 2**20


class ConvDecoder(nn.Module):
    """A 1×1 convolution from channels to tokens and blank."""

    def __init__(self, config: Options, channels: int) -> None:
        """Build the head that ``config`` describes behind an encoder of ``channels``."""
        super().__init__()
        read_module(config)
        # NeMo asks the encoder where this is null, 0 or absent
        given = config.raw("feat_in")
        if given not in (None, 0) and config.whole("feat_in", 1, _MAX_CHANNELS) != channels:
            raise ConfigError(config.where("feat_in"), f"is {given}, the encoder gives {channels} channels")
        classes = config.whole("num_classes", -1, _MAX_CLASSES, -1)
        if classes <= 0:
            vocabulary = config.raw("vocabulary")
            if not isinstance(vocabulary, list | tuple) or not vocabulary:
                raise config.wrong("vocabulary", "a list of tokens where num_classes is not positive")
            classes = len(vocabulary)
        config.ignore("vocabulary")
        config.only("add_blank", True)
        config.finish()
        self.decoder_layers = nn.Sequential(nn.Conv1d(channels, classes + 1, 1))

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """Return logits [B, S, V] of an encoding [B, C, S]."""
        logits: torch.Tensor = self.decoder_layers(encoded)
        return logits.transpose(1, 2)


def parts(config: Mapping[str, Any]) -> tuple[Options, Options]:
    """Return the sections of the encoder and the decoder, or raise ConfigError."""
    # beside them may stand whatever else a model's configuration has
    whole = Options(config, "")
    encoder = Options(whole.raw("encoder", REQUIRED), "encoder")
    decoder = Options(whole.raw("decoder", REQUIRED), "decoder")
    return encoder, decoder


def read_module(section: Options) -> None:
    """Read what says which class a section is of, and how its weights began."""
    section.ignore("_target_", "cls", "init_mode")
