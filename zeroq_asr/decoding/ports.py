"""Predictor and joiner between ports, such as those of float graphs and programs, as the decoder calls them.

Between ports every value is [B, C, 1]; to the decoder predictions and scores are [N, C], and what a predictor
remembers are arrays whose second axis is the batch.  A predictor that reads several labels beside each other,
the latest first, has those before the last in its memory, oldest first: they are moved and never computed.

Shapes: N utterances, C channels, J joint width, P labels that are read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zeroq_asr.decoding.transducer import Array, Labels, State

#: ports: an encoder gives the first, a predictor the second, and a joiner takes both
ENCODED, PREDICTED = "encoded", "predicted"
#: of lengths [N] of the encoding, of labels int32 [N, P, 1], and of scores [N, C, 1]
ENCODED_LENGTHS, LABELS, LOGITS = "encoded_lengths", "labels", "logits"
#: states of an LSTM's layers, by their number: h and c
HIDDEN, CELL = "hidden_{}", "cell_{}"
#: (labels int32 [N, P, 1], states [N, C, 1] each) → (prediction [N, J, 1], next states)
Predict = Callable[[Array, State], tuple[Array, State]]
#: (encoding [N, J, 1], prediction [N, J, 1]) → scores [N, C, 1]
Join = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class PortedPredictor:
    """A predictor between ports: a step of it, as ``greedy_transducer`` takes one."""

    run: Predict
    #: P
    context: int
    #: which label stands where there is none yet
    blank_id: int

    def start(self, states: Sequence[Array], batch: int) -> State:
        """Return the memory before the first step, of a batch, from the states [batch, C, 1] of then."""
        memory = np.full((self.context - 1, batch), self.blank_id, dtype=np.int64)
        return (memory, *(part[None, :, :, 0] for part in states))

    def __call__(self, labels: Labels, state: State) -> tuple[Array, State]:
        """Return the prediction [N, J] behind labels [N], and the memory after them."""
        before, *states = state
        seen = np.concatenate((before, labels[None]))
        latest_first = np.ascontiguousarray(seen[::-1].T[:, :, None], dtype=np.int32)
        given = tuple(np.ascontiguousarray(part[0, :, :, None]) for part in states)
        predicted, after = self.run(latest_first, given)
        return predicted[:, :, 0], (seen[1:], *(part[None, :, :, 0] for part in after))


def ported_joiner(run: Join) -> Callable[[Array, Array], Array]:
    """Return a joiner between ports as ``greedy_transducer`` takes one."""

    def join(encoding: Array, prediction: Array) -> Array:
        # rows of an encoding stand far apart in memory
        columns = (np.ascontiguousarray(part)[:, :, None] for part in (encoding, prediction))
        return run(*columns)[:, :, 0]

    return join
