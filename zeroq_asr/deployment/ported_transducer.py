"""Transducers whose parts run behind ports: three ONNX files, or three programs.

Between ports every prediction and score is [B, C, 1] (``zeroq_asr.decoding.ports``); a state enters a file as
NAME and leaves it as next_NAME.

Shapes: B batch, M mels, T feature frames, S encoded frames, J joint width, C channels, N utterances
of a call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.decoding.decoder import BeamDecoder
from zeroq_asr.decoding.ports import PortedPredictor, ported_joiner
from zeroq_asr.decoding.transducer import Array, State
from zeroq_asr.deployment.metadata import Decoding, Deployment
from zeroq_asr.deployment.sessions import reason
from zeroq_asr.deployment.transducer import AnyTransducer, Decodable, Floats, Lengths
from zeroq_asr.errors import CheckpointError, ConfigError

#: what enters a part, inputs, then states → what leaves, outputs, then states
Run = Callable[[tuple[Array, ...]], tuple[Array, ...]]


class PortedTransducer(AnyTransducer):
    """Encoder, predictor and joiner behind ports, decoded greedily, or by a beam."""

    def __init__(
        self,
        deployment: Deployment,
        runs: Mapping[str, Run],
        context: int,
        initial: Callable[[int], Sequence[Array]],
        beam: BeamSpec | BeamDecoder | None = None,
    ) -> None:
        """``runs``: part → what runs it; ``context``: labels that the predictor reads at once.

        ``initial``: batch → the predictor's states [batch, C, 1] before its first step.  ``beam``: how it is
        decoded; None: greedily.  Raises ConfigError for a deployment of a CTC network, and for a beam that
        cannot be had.
        """
        decoding = decoding_of(deployment)
        super().__init__(deployment, decoding.durations, decoding.max_symbols, beam)
        self.max_seconds = deployment.max_seconds
        self._runs, self._context, self._initial = dict(runs), context, initial

    def decodable(self, features: Floats, lengths: Lengths) -> Decodable:
        """Encode features [B, M, T] with lengths [B]; return that with what computes on it."""
        encoded, ends = self._runs["encoder"]((features, lengths))

        def predict(labels: Array, states: State) -> tuple[Array, State]:
            predicted, *after = self._runs["predictor"]((labels, *states))
            return predicted, tuple(after)

        def join(encoding: Array, prediction: Array) -> Array:
            return self._runs["joiner"]((encoding, prediction))[0]

        batch = len(features)
        predictor = PortedPredictor(predict, self._context, self.tokenizer.blank_id)
        start = predictor.start(self._initial(batch), batch)
        return Decodable(encoded.transpose(0, 2, 1), ends, predictor, ported_joiner(join), start)


def decoding_of(deployment: Deployment) -> Decoding:
    """Return how a transducer is decoded; ConfigError for what is none."""
    if deployment.decoding is None:
        raise ConfigError(deployment.name, "is no transducer's bundle", "verify says what it holds")
    return deployment.decoding


def session_run(
    where: str | os.PathLike[str], session: Any, entering: Sequence[str], leaving: Sequence[str]
) -> Run:
    """Return what runs a session of ONNX Runtime by the names of its ports, each in the order of a `Run`.

    Running it raises CheckpointError where ONNX Runtime refuses the operands.
    """
    names = [*leaving]

    def run(given: tuple[Array, ...]) -> tuple[Array, ...]:
        try:
            return tuple(session.run(names, dict(zip(entering, given, strict=True))))
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            shapes = [list(array.shape) for array in given]
            raise CheckpointError(where, f"fails on operands {shapes} ({reason(error)})") from None

    return run
