"""Modified beam search of transducers: one token a frame at most, hypotheses summed up by their tokens.

At every encoded frame each hypothesis goes on by a blank or by a token (Graves, arXiv 1211.3711, without the
loop over tokens within a frame, as k2 does it).  Alignments that give the same tokens and stand at the same
frame are one hypothesis, whose probability is their sum.  With durations (TDT, Xu et al., arXiv 2304.06795)
a hypothesis goes on by a pair of a token and a duration, by one frame at least, and waits where it arrives.

All hypotheses that stand at a frame, of all utterances, pass the joiner together, and those of them that
said something since pass the predictor together.

Shapes: B batch, S encoded frames, J joint width, V tokens without the blank, K durations, N hypotheses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from zeroq_asr.decoding.contexts import Context, Parts, ScoredHypothesis, Tokens
from zeroq_asr.decoding.fusion import Floats
from zeroq_asr.decoding.transducer import Array, State


@dataclass(slots=True, eq=False)
class _Path:
    """All alignments of the same tokens that stand at one frame."""

    tokens: Tokens
    frames: Tokens
    model: float
    fusion: float
    #: behind the tokens, or behind all but the last, which is then ``unread``
    context: Context
    unread: bool = False

    @property
    def score(self) -> float:
        return self.model + self.fusion


def modified_beam_search(
    encoded: Array,
    lengths: npt.NDArray[np.integer[Any]],
    parts: Parts,
    start: State,
    width: int,
) -> list[list[ScoredHypothesis]]:
    """Return at most ``width`` hypotheses of every utterance of [B, S, J] with lengths [B], best first.

    At every frame the ``width`` best continuations of all hypotheses that stand there are kept, and of those
    that arrive the ``width`` best go on.  A duration of 0 counts as 1.  Ties go to the hypothesis that stood
    higher, then to the lower token, the blank being the highest, then to the lower duration, as listed.
    A ``width`` of 1 is greedy decoding with one token a frame.
    """
    ends = np.minimum(lengths, encoded.shape[1]).astype(np.int64).tolist()
    if max(ends, default=0) == 0:
        return [[ScoredHypothesis()] for _ in ends]
    jumps = [max(jump, 1) for jump in parts.durations or (1,)]
    # by utterance: the frame at which hypotheses arrive → their tokens → they
    waiting: list[dict[int, dict[Tokens, _Path]]] = [
        {0: {(): _Path((), (), 0.0, 0.0, root)}} for root in parts.begin(start, len(ends))
    ]
    known: list[WeakValueDictionary[Tokens, Context]] = [WeakValueDictionary() for _ in ends]
    for frame in range(max(ends)):
        beams = [
            (row, _best(waiting[row].pop(frame).values(), width))
            for row, end in enumerate(ends)
            if frame < end and frame in waiting[row]
        ]
        paths = [(row, path) for row, beam in beams for path in beam]
        if not paths:
            continue
        _read(paths, parts, known)
        encodings = encoded[[row for row, _ in paths], frame]
        tokens, durations = parts.log_probs(encodings, [path.context for _, path in paths])
        first = 0
        for row, beam in beams:
            own = slice(first, first := first + len(beam))
            scores = tokens[own, :, None] + durations[own, None, :]
            for path, jump in _continued(beam, scores, frame, width):
                arrival = min(frame + jumps[jump], ends[row])
                _arrive(waiting[row].setdefault(arrival, {}), path)
    found = []
    for arrived, end in zip(waiting, ends, strict=True):
        for path in arrived[end].values():
            path.fusion += parts.finish(path.context, path.tokens[-1] if path.unread else None)
        best = _best(arrived[end].values(), width)
        found.append(
            [ScoredHypothesis([*path.tokens], [*path.frames], path.model, path.fusion) for path in best]
        )
    return found


def _best(paths: Iterable[_Path], width: int) -> list[_Path]:
    return sorted(paths, key=lambda path: -path.score)[:width]


def _read(
    paths: list[tuple[int, _Path]], parts: Parts, known: list[WeakValueDictionary[Tokens, Context]]
) -> None:
    """Have the predictor read the last token of every path where it has not, once for all."""
    unread = []
    for row, path in paths:
        if path.unread:
            # another alignment of the same tokens may have come first
            context = known[row].get(path.tokens)
            if context is None:
                unread.append((row, path))
            else:
                path.context, path.unread = context, False
    if unread:
        contexts = parts.follow([path.context for _, path in unread], [path.tokens[-1] for _, path in unread])
        for (row, path), context in zip(unread, contexts, strict=True):
            path.context, path.unread = context, False
            known[row][path.tokens] = context


def _continued(beam: list[_Path], scores: Floats, frame: int, width: int) -> list[tuple[_Path, int]]:
    """Return the ``width`` best continuations of a beam with the index of the duration of each, best first.

    ``scores`` [N, V + 1, K]: log-probabilities of tokens and blank with each duration.
    """
    blank = scores.shape[1] - 1
    model = scores + np.array([path.model for path in beam])[:, None, None]
    index = {path.tokens: i for i, path in enumerate(beam)}
    # a hypothesis that stays and a shorter one that catches up with it are the same
    caught: dict[int, tuple[_Path, npt.NDArray[np.bool_]]] = {}
    for i, path in enumerate(beam):
        other = index.get(path.tokens[:-1]) if path.tokens else None
        if other is not None:
            stays, catches = model[i, blank], model[other, path.tokens[-1]]
            caught[i] = beam[other], catches > stays
            model[i, blank], model[other, path.tokens[-1]] = np.logaddexp(stays, catches), -np.inf
    ranked = model + np.array([path.fusion for path in beam])[:, None, None]
    ranked[:, :blank] += np.stack([path.context.added for path in beam])[:, :, None]
    found = []
    for place in highest(ranked.reshape(-1), width):
        i, token, jump = (int(part) for part in np.unravel_index(place, ranked.shape))
        path, mass = beam[i], float(model[i, token, jump])
        if token == blank:
            frames = path.frames
            if i in caught and caught[i][1][jump]:
                frames = (*caught[i][0].frames, frame)
            found.append((_Path(path.tokens, frames, mass, path.fusion, path.context), jump))
        else:
            fusion = path.fusion + float(path.context.added[token])
            tokens, frames = (*path.tokens, token), (*path.frames, frame)
            found.append((_Path(tokens, frames, mass, fusion, path.context, unread=True), jump))
    return found


def highest(values: Floats, count: int) -> list[int]:
    """Return where the ``count`` highest values above −∞ stand, highest first, of equal ones the first."""
    if len(values) > count:
        least = np.partition(values, len(values) - count)[len(values) - count]
        places = np.flatnonzero((values >= least) & (values > -np.inf))
    else:
        places = np.flatnonzero(values > -np.inf)
    found: list[int] = places[np.argsort(-values[places], kind="stable")][:count].tolist()
    return found


def _arrive(there: dict[Tokens, _Path], path: _Path) -> None:
    """Add a hypothesis to those that wait at a frame; one of the same tokens takes up its probability."""
    other = there.get(path.tokens)
    if other is None:
        there[path.tokens] = path
        return
    if path.model > other.model:
        other.frames = path.frames
    if other.unread and not path.unread:
        other.context, other.unread = path.context, False
    other.model = float(np.logaddexp(other.model, path.model))
