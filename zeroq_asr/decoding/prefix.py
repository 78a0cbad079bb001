"""Prefix beam search of CTC: the tokens that all alignments together make likeliest.

A CTC network (Graves et al., 2006) says each frame's token or blank by itself, and many alignments say the
same: a run of one token is one, and blanks are none.  Hypotheses are prefixes of what is said, and each has
the sum of its alignments, apart by whether they end in a blank, since only behind a blank the same token can
follow (Hannun et al., arXiv 1408.2873).

Shapes: S encoded frames, V tokens without the blank, N prefixes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zeroq_asr.decoding.beam import highest
from zeroq_asr.decoding.contexts import ScoredHypothesis, Tokens
from zeroq_asr.decoding.fusion import Floats, Scorer

_NEVER = float("-inf")


@dataclass(slots=True)
class _Ending:
    """The alignments of a prefix that end in the same way."""

    #: log-probability of all, and of the likeliest
    mass: float = _NEVER
    best: float = _NEVER
    #: at which the run of each token begins, in the likeliest
    frames: Tokens = ()

    def then(self, log_prob: float) -> _Ending:
        """Return them a frame later."""
        return _Ending(self.mass + log_prob, self.best + log_prob, self.frames)

    def begin(self, log_prob: float, frame: int) -> _Ending:
        """Return them where a token's run begins."""
        return _Ending(self.mass + log_prob, self.best + log_prob, (*self.frames, frame))

    def __or__(self, other: _Ending) -> _Ending:
        likelier = other if other.best > self.best else self
        return _Ending(_log_add(self.mass, other.mass), likelier.best, likelier.frames)


@dataclass(slots=True, eq=False)
class _Prefix:
    """Tokens, and the alignments that say them."""

    tokens: Tokens
    #: that end in a blank, or in the last token
    blank: _Ending
    token: _Ending
    #: what scorers added so far, remember, and add for each token that follows, [V]
    fusion: float
    memory: Any
    added: Floats

    @property
    def all(self) -> _Ending:
        return self.blank | self.token

    def before(self, token: int) -> _Ending:
        """Return the alignments behind which a run of ``token`` begins."""
        return self.blank if self.tokens[-1:] == (token,) else self.all


def prefix_beam_search(log_probs: Floats, scorer: Scorer, width: int) -> list[ScoredHypothesis]:
    """Return at most ``width`` hypotheses of an utterance's log-probabilities [S, V + 1], best first.

    The last column is the blank's.  After every frame the ``width`` best prefixes are kept, by their
    probability and what the scorer adds; what it adds at the end counts in the last order alone.  Ties go to
    the prefix that stood higher, then to what stays as it is, then to the lower token.  The frames of a
    hypothesis are those at which the runs of its likeliest alignment begin.
    """
    start = scorer.start()
    said = _Ending(0.0, 0.0)
    beam = [_Prefix((), said, _Ending(), 0.0, start, _added(scorer, [start])[0])]
    for frame, row in enumerate(log_probs):
        beam = _continued(beam, row, frame, scorer, width)
    found = [
        ScoredHypothesis(
            [*prefix.tokens],
            [*prefix.all.frames],
            prefix.all.mass,
            prefix.fusion + scorer.finish(prefix.memory),
        )
        for prefix in beam
    ]
    return sorted(found, key=lambda one: -one.score)


def _continued(beam: list[_Prefix], row: Floats, frame: int, scorer: Scorer, width: int) -> list[_Prefix]:
    """Return the ``width`` best of what log-probabilities [V + 1] of a frame make of prefixes, best first."""
    count, blank = len(beam), len(row) - 1
    everything = [prefix.all for prefix in beam]
    # what stays, then what grows by each token
    ranked = np.empty((count, 1 + blank))
    ranked[:, 1:] = np.array([one.mass for one in everything])[:, None] + row[None, :blank]
    log_probs: list[float] = row.tolist()
    index = {prefix.tokens: i for i, prefix in enumerate(beam)}
    stays = [(one.then(log_probs[blank]), _Ending()) for one in everything]
    for i, prefix in enumerate(beam):
        if not prefix.tokens:
            continue
        last = prefix.tokens[-1]
        ranked[i, 1 + last] = prefix.blank.mass + log_probs[last]
        runs = prefix.token.then(log_probs[last])
        # a shorter prefix that grows to this one
        shorter = index.get(prefix.tokens[:-1])
        if shorter is not None:
            runs |= beam[shorter].before(last).begin(log_probs[last], frame)
        stays[i] = stays[i][0], runs
    # only now: what grows by its own last token was written above
    for prefix in beam:
        shorter = index.get(prefix.tokens[:-1]) if prefix.tokens else None
        if shorter is not None:
            ranked[shorter, 1 + prefix.tokens[-1]] = _NEVER
    ranked[:, 0] = [_log_add(blanks.mass, runs.mass) for blanks, runs in stays]
    ranked[:, 1:] += np.stack([prefix.added for prefix in beam])
    ranked += np.array([prefix.fusion for prefix in beam])[:, None]
    found, grown = [], []
    for place in highest(ranked.reshape(-1), width):
        i, token = divmod(place, 1 + blank)
        prefix, token = beam[i], token - 1
        if token < 0:
            found.append(replace(prefix, blank=stays[i][0], token=stays[i][1]))
            continue
        runs = prefix.before(token).begin(log_probs[token], frame)
        fusion = prefix.fusion + float(prefix.added[token])
        memory = scorer.follow(prefix.memory, token)
        found.append(_Prefix((*prefix.tokens, token), _Ending(), runs, fusion, memory, prefix.added))
        grown.append(found[-1])
    if grown:
        for one, added in zip(grown, _added(scorer, [one.memory for one in grown]), strict=True):
            one.added = added
    return found


def _added(scorer: Scorer, memories: list[Any]) -> Floats:
    return scorer.scores(memories, np.zeros((len(memories), 0), dtype=np.float32))


def _log_add(one: float, other: float) -> float:
    """Return log(e^a + e^b) of two numbers: numpy is slow for so few."""
    high, low = (one, other) if one > other else (other, one)
    return high if low == _NEVER else high + math.log1p(math.exp(low - high))
