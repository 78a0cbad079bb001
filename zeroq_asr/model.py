"""A float speech recogniser: what every checkpoint loader returns and everything else starts from.

A recogniser with a CTC head is an `AsrModel`, one network; a transducer is a `TransducerModel`, of three.

Shapes, here and everywhere: B batch, M mels, T feature frames, S encoded frames, V tokens with
the CTC blank last.  Where a network takes the waveform itself, M is 1 and a frame is a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from zeroq_asr.architectures.transducer import Transducer
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import printable, shown, size, summary
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer


@dataclass(frozen=True)
class Model:
    """A pretrained network with all that surrounds it; `AsrModel` and `TransducerModel` say what it computes.

    The network is in eval mode, on the CPU, and its parameters do not require gradients.
    """

    network: nn.Module
    frontend: FrontendConfig
    tokenizer: Tokenizer
    name: str
    #: name in ``zeroq_asr.architectures.ARCHITECTURES`` and the configuration that rebuilds the
    #: network; empty for a network that came from a user's own loader, and another package's own name
    #: for one that it builds.
    architecture: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    #: input frames per encoded frame
    subsampling_factor: int = 1

    def __post_init__(self) -> None:
        if callable(self.frontend):
            problem = "frontend is a function, which says neither its rate nor how many features it gives"
            raise ConfigError(shown(self.name), problem, "give zq.FrontendConfig(…, function=FUNCTION)")
        # it goes into files that hold Unicode alone, and often comes from the name of a file, which may not
        if isinstance(self.name, str):
            object.__setattr__(self, "name", printable(self.name))

    def __repr__(self) -> str:
        """Show the network, its size and its tokens, on one line."""
        kind = self.architecture or type(self.network).__name__
        tokens = f"{len(self.tokenizer.tokens)} {self.tokenizer.kind} tokens"
        return summary(self, self.name, kind, size(self.float_bytes), tokens)

    @property
    def float_bytes(self) -> int:
        """Bytes of the network's parameters and buffers."""
        return sum(t.numel() * t.element_size() for t in self.network.state_dict().values())

    def example_input(self, frames: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features [2, M, frames] and lengths [2] that the network accepts.

        By default 64 frames; of a waveform the samples of 17 encoded frames.
        """
        if frames is None:
            samples = self.frontend.window_length + 16 * self.subsampling_factor
            frames = samples if self.frontend.is_waveform else 64
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(2, self.frontend.features, frames, generator=generator)
        return features, torch.tensor([frames, frames - frames // 4], dtype=torch.int64)


@dataclass(frozen=True, repr=False)
class AsrModel(Model):
    """A recogniser with a CTC head.

    ``network(features, lengths)`` takes float32 features [B, M, T] and int64 lengths [B] in
    frames, and returns logits (or log-probabilities) float32 [B, S, V] and int64 lengths [B].
    """


@dataclass(frozen=True, repr=False)
class TransducerModel(Model):
    """A transducer: encoder, predictor and joiner, each of which becomes one program of a bundle.

    ``network.encoder(features, lengths)`` takes what the network of an `AsrModel` takes, and returns the
    projected encoding float32 [B, S, J] and int64 lengths [B].  What the other two compute, and how the three
    are decoded, say `zeroq_asr.architectures.transducer` and `zeroq_asr.decoding.transducer`.
    """

    network: Transducer


def model_of(network: nn.Module, **surroundings: Any) -> AsrModel | TransducerModel:
    """Return the recogniser around a network: of a `Transducer` a `TransducerModel`, else an `AsrModel`."""
    if isinstance(network, Transducer):
        return TransducerModel(network=network, **surroundings)
    return AsrModel(network=network, **surroundings)


def require_inference(model: Model) -> None:
    """Raise ConfigError for a network in training mode, whose dropout and norms compute something else."""
    training = next((name for name, part in model.network.named_modules() if part.training), None)
    if training is not None:
        where = f"{model.name}: {training}" if training else model.name
        raise ConfigError(where, "is in training mode", "call model.network.eval() first")
