"""What language models and hotwords add to the score of a hypothesis, token by token.

A *scorer* says what each next token adds, given the tokens before it, and what the end does; scorers add up
to scorers.  With a network's log-probability log P(y|x) of the tokens y, and weights λ of 0 or more:

- shallow fusion adds λ · log P_LM(y);
- density ratio fusion (McDermott et al., arXiv 2002.11268) adds λ_t · log P_target(y) and takes
  λ_s · log P_source(y) away, source being the text that the recogniser was trained on;
- internal language model estimation (Meng et al., arXiv 2011.01991) takes λ_i · log P_ILM(y) away, where
  P_ILM is what a transducer says of tokens without hearing anything;
- a length bonus adds β · |y|;
- hotwords (``zeroq_asr.decoding.hotwords``) add for each that is said.

Shapes: N hypotheses, J joint width, V tokens without the blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zeroq_asr.decoding.transducer import Array, JoinerStep
from zeroq_asr.errors import CheckpointError

Floats = npt.NDArray[np.float64]


class Scorer(Protocol):
    """What each next token adds to the score of a hypothesis, given the tokens before it.

    What it remembers of those tokens is a *memory*, whatever that is; it is handed back and never changed.
    """

    def start(self) -> Any:
        """Return the memory before the first token."""

    def scores(self, memories: Sequence[Any], predictions: Array) -> Floats:
        """Return [N, V], in nats, for N memories and what the predictor gives there, [N, J].

        Of CTC, which has no predictor, J is 0.
        """

    def follow(self, memory: Any, token: int) -> Any:
        """Return the memory behind ``token``."""

    def finish(self, memory: Any) -> float:
        """Return what is added where nothing follows, in nats."""


@dataclass(frozen=True)
class LengthBonus:
    """The same for every token, of which there are ``tokens``."""

    tokens: int

    def start(self) -> None:
        """Return None: nothing is remembered."""

    def scores(self, memories: Sequence[Any], predictions: Array) -> Floats:
        """Return ones [N, V]."""
        return np.ones((len(memories), self.tokens))

    def follow(self, memory: Any, token: int) -> None:
        """Return None."""

    def finish(self, memory: Any) -> float:
        """Return 0."""
        return 0.0


@dataclass(frozen=True)
class InternalLanguageModel:
    """A transducer's own language model: its joiner over an encoding that says nothing.

    log-softmax of the scores of the V tokens, without the blank and without durations, where the joiner
    reads ``silence`` [J] for the encoding: that of real zeros, in whatever type the joiner reads.
    """

    joiner: JoinerStep
    silence: Array
    tokens: int

    def start(self) -> None:
        """Return None: what has been said is in the prediction."""

    def scores(self, memories: Sequence[Any], predictions: Array) -> Floats:
        """Return log-probabilities [N, V]."""
        silence = np.repeat(self.silence[None], len(predictions), axis=0)
        return log_softmax(self.joiner(silence, predictions)[:, : self.tokens])

    def follow(self, memory: Any, token: int) -> None:
        """Return None."""

    def finish(self, memory: Any) -> float:
        """Return 0."""
        return 0.0


@dataclass(frozen=True)
class Fusion:
    """A weighted sum of scorers, one or more; a weight below 0 takes away."""

    parts: tuple[tuple[float, Scorer], ...]

    def start(self) -> tuple[Any, ...]:
        """Return the memory of each."""
        return tuple(scorer.start() for _, scorer in self.parts)

    def scores(self, memories: Sequence[Any], predictions: Array) -> Floats:
        """Return the sum [N, V]."""
        total: Floats = np.zeros(())
        for index, (weight, scorer) in enumerate(self.parts):
            total = total + weight * scorer.scores([memory[index] for memory in memories], predictions)
        return total

    def follow(self, memory: Any, token: int) -> tuple[Any, ...]:
        """Return the memory of each."""
        return tuple(scorer.follow(one, token) for one, (_, scorer) in zip(memory, self.parts, strict=True))

    def finish(self, memory: Any) -> float:
        """Return the sum."""
        parts = zip(memory, self.parts, strict=True)
        return sum(weight * scorer.finish(one) for one, (weight, scorer) in parts)


def log_softmax(scores: Array, where: str = "joiner") -> Floats:
    """Return log-probabilities over the last axis, in float64; a score of −∞ stays that.

    Raises CheckpointError, of ``where``, where scores are no numbers, +∞, or all of a row −∞: no
    probabilities.
    """
    values = scores.astype(np.float64)
    highest = values.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise CheckpointError(where, "gives scores that are not finite", "is the checkpoint damaged?")
    values -= highest
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
