"""Greedy decoding of transducers, batched, over callables: whatever computes their predictor and joiner.

Each utterance stands at one encoded frame and has one prediction.  The joiner scores both together:

- a token is taken down, the predictor reads it, and the utterance goes on by the duration of the best score,
  of a transducer without durations by nothing;
- a blank is not taken down and the prediction stays; the utterance goes on by the duration, by one frame at
  least, of a transducer without durations by one;
- an utterance that has given ``max_symbols`` tokens without leaving a frame goes on by one.

These are the rules of NeMo's batched greedy decoding (label looping, Bataev et al., arXiv 2406.06220).  As
there, the next token of every utterance is sought before the predictor runs, once for all of them.

Shapes: B batch, S encoded frames, J joint width, V tokens without the blank, K durations, N utterances of
the batch that a call is about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroq_asr.decoding.hypothesis import Hypothesis

Array = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]
#: what a predictor remembers: arrays whose second axis is the batch
State = tuple[Array, ...]
#: (labels [N], state) → (prediction [N, J], next state)
PredictorStep = Callable[[Labels, State], tuple[Array, State]]
#: (encoding [N, J], prediction [N, J]) → scores [N, V + 1 + K], integers or floats, higher is better
JoinerStep = Callable[[Array, Array], Array]


def greedy_transducer(
    encoded: Array,
    lengths: npt.NDArray[np.integer[Any]],
    predictor: PredictorStep,
    joiner: JoinerStep,
    start: State,
    *,
    blank_id: int,
    durations: Sequence[int] = (),
    max_symbols: int = 10,
) -> list[Hypothesis]:
    """Return the best path of every utterance of encodings [B, S, J] with lengths [B], token by token.

    ``start`` is the predictor's state of B utterances before its first step, which reads the blank, number
    ``blank_id`` = V.  ``durations`` [K] says how many frames each of the scores after the blank's stands for,
    0 or more.  A tie goes to the lower number, of tokens and of durations.  No utterance gets more than
    ``max_symbols`` tokens a frame, so that decoding ends whatever the scores.

    Raises ValueError where ``max_symbols`` is below 1, or scores are not V + 1 + K.
    """
    if max_symbols < 1:
        raise ValueError(f"max_symbols must be 1 or more, got {max_symbols}")
    batch, classes = len(encoded), blank_id + 1
    jumps = np.asarray(durations, dtype=np.int64)
    ends = np.minimum(lengths, encoded.shape[1]).astype(np.int64)
    at = np.zeros(batch, dtype=np.int64)  # the frame at which an utterance stands
    given = np.zeros(batch, dtype=np.int64)  # tokens since it came there
    found = [Hypothesis() for _ in range(batch)]
    rows = np.flatnonzero(ends > 0)
    if not len(rows):
        return found
    predicted, state = predictor(np.full(batch, blank_id, dtype=np.int64), start)
    predicted, state = predicted.copy(), tuple(part.copy() for part in state)
    labels = np.full(batch, blank_id, dtype=np.int64)
    while len(rows):
        seeking = rows
        while len(seeking):
            scores = joiner(encoded[seeking, at[seeking]], predicted[seeking])
            if scores.shape != (len(seeking), classes + len(jumps)):
                expected = [len(seeking), classes + len(jumps)]
                raise ValueError(f"the joiner gives scores {list(scores.shape)}, expected {expected}")
            best = scores[:, :classes].argmax(axis=1)
            blank = best == blank_id
            skip = jumps[scores[:, classes:].argmax(axis=1)] if len(jumps) else np.zeros_like(best)
            skip = np.where(blank & (skip == 0), 1, skip)
            labels[seeking] = best
            for row, label in zip(seeking[~blank].tolist(), best[~blank].tolist(), strict=True):
                found[row].tokens.append(label)
                found[row].frames.append(int(at[row]))
            given[seeking] = np.where(blank, 0, given[seeking] + 1)
            # as many tokens as a frame may give, and none of them led away from it
            skip = np.where((skip == 0) & (given[seeking] >= max_symbols), 1, skip)
            at[seeking] += skip
            given[seeking[skip > 0]] = 0
            seeking = seeking[blank & (at[seeking] < ends[seeking])]
        rows = rows[(labels[rows] != blank_id) & (at[rows] < ends[rows])]
        if len(rows):
            out, after = predictor(labels[rows], tuple(part[:, rows] for part in state))
            predicted[rows] = out
            for part, new in zip(state, after, strict=True):
                part[:, rows] = new
    return found
