"""Greedy decoding of transducers, batched, over callables: whatever computes their predictor and joiner.

Each utterance stands at one encoded frame and has one prediction.  The joiner scores both together:

- a token is taken down, the predictor reads it, and the utterance goes on by the duration of the best score,
  of a transducer without durations by nothing;
- a blank is not taken down and the prediction stays; the utterance goes on by the duration, by one frame at
  least, of a transducer without durations by one;
- an utterance that has given ``max_symbols`` tokens without leaving a frame goes on by one.

These are the rules of NeMo's batched greedy decoding (label looping, Bataev et al., arXiv 2406.06220).  As
there, the next token of every utterance is sought before the predictor runs, once for all of them.  A blank
leaves the prediction as it is, so that the joiner is asked of several frames at once: of few behind a token,
and of twice as many for as long as none is found.

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
#: frames that the joiner is first asked of behind a token, and at once at most
_FIRST_AHEAD, MOST_AHEAD = 4, 32
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
    ahead: int = MOST_AHEAD,
) -> list[Hypothesis]:
    """Return the best path of every utterance of encodings [B, S, J] with lengths [B], token by token.

    ``start`` is the predictor's state of B utterances before its first step, which reads the blank, number
    ``blank_id`` = V.  ``durations`` [K] says how many frames each of the scores after the blank's stands for,
    0 or more.  A tie goes to the lower number, of tokens and of durations.  No utterance gets more than
    ``max_symbols`` tokens a frame, so that decoding ends whatever the scores.  ``ahead``: frames of an
    utterance that the joiner is asked of at once at most; 1: of none that decoding does not come to.

    Raises ValueError where ``max_symbols`` or ``ahead`` is below 1, or scores are not V + 1 + K.
    """
    for name, value in (("max_symbols", max_symbols), ("ahead", ahead)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    batch, classes = len(encoded), blank_id + 1
    encoded = np.ascontiguousarray(encoded)
    walks = [_Walk(int(end)) for end in np.minimum(lengths, encoded.shape[1])]
    rows = [row for row, walk in enumerate(walks) if walk.goes_on]
    if not rows:
        return [walk.found for walk in walks]
    predicted, state = predictor(np.full(batch, blank_id, dtype=np.int64), start)
    while rows:
        seeking, count = rows, min(_FIRST_AHEAD, ahead)
        while seeking:
            pieces = [
                encoded[row, walks[row].at : min(walks[row].at + count, walks[row].end)] for row in seeking
            ]
            scores = joiner(
                np.concatenate(pieces), np.repeat(predicted[seeking], [*map(len, pieces)], axis=0)
            )
            expected = (sum(map(len, pieces)), classes + len(durations))
            if scores.shape != expected:
                raise ValueError(f"the joiner gives scores {list(scores.shape)}, expected {list(expected)}")
            best = scores[:, :classes].argmax(axis=1).tolist()
            jumps = [0] * len(best)
            if durations:
                jumps = [durations[k] for k in scores[:, classes:].argmax(axis=1).tolist()]
            first = 0
            for row, piece in zip(seeking, pieces, strict=True):
                last = first + len(piece)
                walks[row].walk(best[first:last], jumps[first:last], blank_id, max_symbols)
                first = last
            seeking = [row for row in seeking if walks[row].label is None and walks[row].goes_on]
            count = min(2 * count, ahead)
        rows = [row for row in rows if walks[row].label is not None and walks[row].goes_on]
        if rows:
            labels = np.array([walks[row].label for row in rows], dtype=np.int64)
            if len(rows) == batch:
                predicted, state = predictor(labels, state)
                continue
            out, after = predictor(labels, tuple(part[:, rows] for part in state))
            predicted, state = predicted.copy(), tuple(part.copy() for part in state)
            predicted[rows] = out
            for part, new in zip(state, after, strict=True):
                part[:, rows] = new
    return [walk.found for walk in walks]


class _Walk:
    """One utterance's way along its frames."""

    def __init__(self, end: int) -> None:
        self.found = Hypothesis()
        #: encoded frames that it has, and that at which it stands
        self.end, self.at = end, 0
        #: tokens since it came there
        self._given = 0
        #: the token that it stopped at; None where it found none
        self.label: int | None = None

    @property
    def goes_on(self) -> bool:
        """Whether there are frames left."""
        return self.at < self.end

    def walk(self, best: list[int], jumps: list[int], blank_id: int, max_symbols: int) -> None:
        """Go along frames, from that at which it stands on, to the next token or to their end or beyond.

        ``best``: the best token of each frame; ``jumps``: the frames that its best duration is of.
        """
        self.label, step = None, 0
        while step < len(best):
            label, jump = best[step], jumps[step]
            if label == blank_id:
                step += jump or 1
                self._given = 0
                continue
            self.label = label
            self.found.tokens.append(label)
            self.found.frames.append(self.at + step)
            self._given += 1
            # as many tokens as a frame may give, and none of them led away from it
            jump = jump or int(self._given >= max_symbols)
            if jump:
                self._given = 0
            step += jump
            break
        self.at += step
