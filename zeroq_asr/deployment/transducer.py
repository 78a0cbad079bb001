"""Recognisers that give tokens instead of scores of frames: transducers.

Shapes: B batch, M mels, T feature frames.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.decoding.decoder import BeamDecoder
from zeroq_asr.decoding.hypothesis import Hypothesis
from zeroq_asr.decoding.transducer import Array, Labels, State, greedy_transducer
from zeroq_asr.errors import CheckpointError
from zeroq_asr.lines import size, summary
from zeroq_asr.model import TransducerModel, require_inference
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
Lengths = npt.NDArray[np.int64]


@runtime_checkable
class TokenRecognizer(Protocol):
    """What evaluation and transcription need of a recogniser whose scores depend on what it has said."""

    frontend: FrontendConfig
    tokenizer: Tokenizer
    name: str
    #: longest recording accepted, in seconds; None: no limit
    max_seconds: float | None
    #: feature frames per encoded frame
    subsampling_factor: int | None

    def hypotheses(self, features: Floats, lengths: Lengths) -> list[Hypothesis]:
        """Return what is said in each of features [B, M, T] with lengths [B] in frames."""


class TransducerRecognizer:
    """The float parts of a transducer, run as they are and decoded greedily, or by a beam."""

    max_seconds: float | None = None

    def __init__(self, model: TransducerModel, beam: BeamSpec | None = None) -> None:
        """Decode as ``beam`` says; None: greedily.

        Raises CheckpointError where the network scores other tokens than the tokenizer has, and ConfigError
        where a beam cannot be had (``BeamDecoder``) or the network is in training mode.
        """
        require_inference(model)
        self.model = model
        self.frontend = model.frontend
        self.tokenizer = model.tokenizer
        self.name = model.name
        self.subsampling_factor: int | None = model.subsampling_factor
        network = model.network
        scores = network.joiner.output.out_features
        expected = self.tokenizer.blank_id + 1 + len(network.durations)
        if scores != expected:
            raise CheckpointError(
                self.name,
                f"gives {scores} scores, expected {expected}: tokens, the blank and durations",
                "is this the tokenizer it was trained with?",
            )
        self.beam = (
            None
            if beam is None
            else BeamDecoder(
                beam, self.tokenizer.tokens, network.durations, texts=self.tokenizer.inner_texts()
            )
        )

    def __repr__(self) -> str:
        """Show the model, on one line."""
        return summary(self, self.name, "float", size(self.model.float_bytes))

    @torch.inference_mode()
    def hypotheses(self, features: Floats, lengths: Lengths) -> list[Hypothesis]:
        """Return tokens, and the encoded frame of each."""
        network = self.model.network
        encoded, ends = network.encoder(torch.from_numpy(features), torch.from_numpy(lengths))

        def predict(labels: Labels, state: State) -> tuple[Array, State]:
            predicted, after = network.predictor(torch.from_numpy(labels), _tensors(state))
            return predicted.numpy(), tuple(part.numpy() for part in after)

        def join(encoding: Array, prediction: Array) -> Array:
            scores: Array = network.joiner(*_tensors((encoding, prediction))).numpy()
            return scores

        start = tuple(part.numpy() for part in network.predictor.start(len(features)))
        parts = (encoded.numpy(), ends.numpy(), predict, join, start)
        if self.beam is not None:
            return [*self.beam(*parts)]
        return greedy_transducer(
            *parts,
            blank_id=self.tokenizer.blank_id,
            durations=network.durations,
            max_symbols=network.max_symbols,
        )


def _tensors(arrays: State) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(one)) for one in arrays)
