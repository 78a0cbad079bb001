"""Recognisers that give tokens instead of scores of frames: transducers.

Shapes: B batch, M mels, T feature frames, S encoded frames, J joint width, V tokens without the blank, K
durations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.decoding.decoder import BeamDecoder
from zeroq_asr.decoding.hypothesis import Hypothesis
from zeroq_asr.decoding.transducer import (
    Array,
    JoinerStep,
    Labels,
    PredictorStep,
    State,
    greedy_transducer,
)
from zeroq_asr.deployment.metadata import Deployment
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


@dataclass(frozen=True)
class Decodable:
    """A batch as a decoder takes it: encoded, with the predictor and the joiner that are asked along it."""

    #: [B, S, J], integers or floats, and the frames [B] of each
    encoded: Array
    lengths: npt.NDArray[np.int64]
    predictor: PredictorStep
    #: whose scores may be integers, too
    joiner: JoinerStep
    #: what the predictor remembers before its first step
    start: State


class AnyTransducer:
    """What transducers share, whatever runs their parts: a greedy decoder, or a beam."""

    #: longest recording accepted, in seconds; None: no limit
    max_seconds: float | None = None
    #: what stands for a real zero in an encoding: a beam's internal language model hears nothing else
    silence: int = 0

    def __init__(
        self,
        surroundings: TransducerModel | Deployment,
        durations: Sequence[int],
        max_symbols: int,
        beam: BeamSpec | BeamDecoder | None,
    ) -> None:
        """``beam``: how it is decoded, a decoder of its own or one that others share; None: greedily.

        Raises ConfigError for one that cannot be had.
        """
        self.frontend: FrontendConfig = surroundings.frontend
        self.tokenizer: Tokenizer = surroundings.tokenizer
        self.name: str = surroundings.name
        self.subsampling_factor: int | None = surroundings.subsampling_factor
        self.durations, self.max_symbols = tuple(durations), max_symbols
        if isinstance(beam, BeamSpec):
            texts = self.tokenizer.inner_texts()
            beam = BeamDecoder(beam, self.tokenizer.tokens, self.durations, texts=texts)
        self.beam = beam

    def decodable(self, features: Floats, lengths: Lengths) -> Decodable:
        """Encode features [B, M, T] with lengths [B]; return that with what computes on it."""
        raise NotImplementedError

    def real(self, scores: Array) -> Array:
        """Return the real scores that a joiner's are, float32 [N, V + 1 + K]."""
        return scores

    def hypotheses(self, features: Floats, lengths: Lengths) -> list[Hypothesis]:
        """Return what is said in each of features [B, M, T] with lengths [B], with encoded frames."""
        return self.decode(self.decodable(features, lengths))

    def decode(self, one: Decodable) -> list[Hypothesis]:
        """Return what is said in each utterance of an encoded batch, with encoded frames."""
        if self.beam is not None:

            def real(encoding: Array, prediction: Array) -> Array:
                return self.real(one.joiner(encoding, prediction))

            silence = np.full(one.encoded.shape[2], self.silence, dtype=one.encoded.dtype)
            return [*self.beam(one.encoded, one.lengths, one.predictor, real, one.start, silence=silence)]
        return greedy_transducer(
            one.encoded,
            one.lengths,
            one.predictor,
            one.joiner,
            one.start,
            blank_id=self.tokenizer.blank_id,
            durations=self.durations,
            max_symbols=self.max_symbols,
        )


class TransducerRecognizer(AnyTransducer):
    """The float parts of a transducer, run as they are and decoded greedily, or by a beam."""

    def __init__(self, model: TransducerModel, beam: BeamSpec | BeamDecoder | None = None) -> None:
        """Decode as ``beam`` says; None: greedily.

        Raises CheckpointError where the network scores other tokens than the tokenizer has, and ConfigError
        where a beam cannot be had (``BeamDecoder``) or the network is in training mode.
        """
        require_inference(model)
        network = model.network
        scores = network.joiner.output.out_features
        expected = model.tokenizer.blank_id + 1 + len(network.durations)
        if scores != expected:
            raise CheckpointError(
                model.name,
                f"gives {scores} scores, expected {expected}: tokens, the blank and durations",
                "is this the tokenizer it was trained with?",
            )
        super().__init__(model, network.durations, network.max_symbols, beam)
        self.model = model

    def __repr__(self) -> str:
        """Show the model, on one line."""
        return summary(self, self.name, "float", size(self.model.float_bytes))

    @torch.inference_mode()
    def decodable(self, features: Floats, lengths: Lengths) -> Decodable:
        """Encode features [B, M, T] with lengths [B]; return that with what computes on it."""
        network = self.model.network
        encoded, ends = network.encoder(torch.from_numpy(features), torch.from_numpy(lengths))

        @torch.inference_mode()
        def predict(labels: Labels, state: State) -> tuple[Array, State]:
            predicted, after = network.predictor(torch.from_numpy(labels), _tensors(state))
            return predicted.numpy(), tuple(part.numpy() for part in after)

        @torch.inference_mode()
        def join(encoding: Array, prediction: Array) -> Array:
            scores: Array = network.joiner(*_tensors((encoding, prediction))).numpy()
            return scores

        start = tuple(part.numpy() for part in network.predictor.start(len(features)))
        return Decodable(encoded.numpy(), ends.numpy(), predict, join, start)


def _tensors(arrays: State) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(one)) for one in arrays)
