"""What is known behind a sequence of labels, computed for many hypotheses at once.

The predictor reads labels alone, so that all hypotheses of one label sequence share what it gives, and what
a scorer says of the tokens behind it.

Shapes: B batch, N hypotheses, J joint width, V tokens without the blank, K durations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zeroq_asr.decoding.fusion import Floats, Scorer, log_softmax
from zeroq_asr.decoding.hypothesis import Hypothesis
from zeroq_asr.decoding.transducer import Array, JoinerStep, PredictorStep, State

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class ScoredHypothesis(Hypothesis):
    """What may have been said in an utterance, and the score of it, in nats.

    ``frames``: of the likeliest of the alignments that were summed up.
    """

    #: log-probability that the network gives the tokens, summed over the alignments that were searched
    model: float = 0.0
    #: what the scorers add
    fusion: float = 0.0

    @property
    def score(self) -> float:
        """What hypotheses are ranked by."""
        return self.model + self.fusion


@dataclass(slots=True, weakref_slot=True, eq=False)
class Context:
    """What is known behind one sequence of labels."""

    #: of the predictor: [J]
    prediction: Array
    #: the predictor's own, each without its axis of the batch
    state: State
    #: what each next token adds to a score, [V] in nats
    added: Floats
    #: the scorer's own
    memory: Any = field(repr=False)


@dataclass(frozen=True)
class Parts:
    """The parts of a transducer that run while it is decoded, over hypotheses in place of a batch."""

    predictor: PredictorStep
    joiner: JoinerStep
    scorer: Scorer
    blank_id: int
    durations: tuple[int, ...] = ()

    def begin(self, start: State, batch: int) -> list[Context]:
        """Return the context of nothing said yet, of each of B utterances, by the state before the blank."""
        labels = np.full(batch, self.blank_id, dtype=np.int64)
        return self._contexts(*self.predictor(labels, start), [self.scorer.start()] * batch)

    def follow(self, contexts: Sequence[Context], tokens: Sequence[int]) -> list[Context]:
        """Return what is known behind a token more, of each of N contexts."""
        state = tuple(np.stack(part, axis=1) for part in zip(*(c.state for c in contexts), strict=True))
        memories = [self.scorer.follow(c.memory, k) for c, k in zip(contexts, tokens, strict=True)]
        return self._contexts(*self.predictor(np.array(tokens, dtype=np.int64), state), memories)

    def finish(self, context: Context, unread: int | None = None) -> float:
        """Return what the scorer adds where nothing follows, behind a token that was not yet read, if any."""
        memory = context.memory if unread is None else self.scorer.follow(context.memory, unread)
        return self.scorer.finish(memory)

    def log_probs(self, encodings: Array, contexts: Sequence[Context]) -> tuple[Floats, Floats]:
        """Return log-probabilities of tokens and blank [N, V + 1], and of durations [N, K], at [N, J].

        Without durations K is 1 and the log-probability 0.  Raises ValueError where scores are not V + 1 + K.
        """
        scores = self.joiner(encodings, np.stack([context.prediction for context in contexts]))
        classes = self.blank_id + 1
        expected = (len(contexts), classes + len(self.durations))
        if scores.shape != expected:
            problem = f"the joiner gives scores {list(scores.shape)}, expected {list(expected)}"
            raise ValueError(problem)
        if not self.durations:
            return log_softmax(scores), np.zeros((len(contexts), 1))
        return log_softmax(scores[:, :classes]), log_softmax(scores[:, classes:])

    def _contexts(self, predictions: Array, state: State, memories: list[Any]) -> list[Context]:
        added = self.scorer.scores(memories, predictions)
        # copies: whoever computes them may use the same arrays again, and one row must not hold all
        return [
            Context(predictions[i].copy(), tuple(part[:, i].copy() for part in state), added[i], memory)
            for i, memory in enumerate(memories)
        ]
