"""Modified adaptive expansion search (MAES) of transducers: as many tokens a frame as seem worth it.

Kim et al., "Accelerating RNN Transducer Inference via Adaptive Expansion Search" (IEEE Signal Processing
Letters 27, 2020), with the rules of NeMo's decoder.  At every encoded frame

1. a hypothesis that goes on where another ends takes up the probability of getting there from it within
   this frame, if it is longer by ``prefix_alpha`` tokens at most;
2. up to ``steps`` times, each hypothesis is expanded by its ``width`` + ``beta`` best of blank and tokens, of
   these by those at most ``gamma`` below the best.  The ``width`` + ``beta`` best of what tokens make go into
   the next step, what a blank makes waits for the next frame.  Tokens that lead to a hypothesis that was
   there before are left to 1;
3. what is left after the last step gets its blank, and the ``width`` best go on.

Unlike NeMo's, scores of language models count where expansions are chosen, too, and a step hands no more
hypotheses to the next than one has expansions: without a limit a flat network makes thousands.

Shapes: B batch, S encoded frames, J joint width, N hypotheses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroq_asr.decoding.beam import highest
from zeroq_asr.decoding.contexts import Context, Parts, ScoredHypothesis, Tokens
from zeroq_asr.decoding.fusion import Floats
from zeroq_asr.decoding.transducer import Array, State


@dataclass(frozen=True)
class Expansion:
    """How far one frame is searched."""

    #: times that hypotheses are expanded
    steps: int
    #: expansions of one hypothesis beyond the width of the beam
    beta: int
    #: how far below its best expansion another may score, in nats
    gamma: float
    #: tokens by which a hypothesis may be longer than one that it takes probability from
    prefix_alpha: int


@dataclass(slots=True, eq=False)
class _Path:
    """One sequence of tokens, and the contexts behind its last tokens, its own last."""

    tokens: Tokens
    frames: Tokens
    model: float
    fusion: float
    contexts: tuple[Context, ...]

    @property
    def score(self) -> float:
        return self.model + self.fusion


#: hypotheses, each with the number of its utterance
_Paths = list[tuple[int, _Path]]


def adaptive_expansion_search(
    encoded: Array,
    lengths: npt.NDArray[np.integer[Any]],
    parts: Parts,
    start: State,
    width: int,
    expansion: Expansion,
) -> list[list[ScoredHypothesis]]:
    """Return at most ``width`` hypotheses of every utterance of [B, S, J] with lengths [B], best first.

    Ties go to the hypothesis that stood higher, then to the lower token, the blank being the highest.
    Raises ValueError for a transducer with durations.
    """
    if parts.durations:
        raise ValueError("adaptive expansion search knows no durations")
    ends = np.minimum(lengths, encoded.shape[1]).astype(np.int64).tolist()
    if max(ends, default=0) == 0:
        return [[ScoredHypothesis()] for _ in ends]
    beams = [[_Path((), (), 0.0, 0.0, (root,))] for root in parts.begin(start, len(ends))]
    for frame in range(max(ends)):
        rows = [row for row, end in enumerate(ends) if frame < end]
        # longest first: a prefix gives before it is given to
        going = {row: sorted(beams[row], key=lambda path: -len(path.tokens)) for row in rows}
        paths = [(row, path) for row in rows for path in going[row]]
        scored = _scores(paths, encoded, frame, parts, back=expansion.prefix_alpha)
        for row in rows:
            _join_prefixes(going[row], scored, frame, expansion.prefix_alpha)
        there = {(row, path.tokens) for row, path in paths}
        ended: dict[int, list[_Path]] = {row: [] for row in rows}
        for step in range(expansion.steps):
            if step:
                scored = _scores(paths, encoded, frame, parts)
            paths = _expanded(paths, scored, frame, parts, width, expansion, there, ended)
            if not paths:
                break
        else:
            scored = _scores(paths, encoded, frame, parts)
            for row, path in paths:
                path.model += float(scored[path.contexts[-1]][parts.blank_id])
                ended[row].append(path)
        for row in rows:
            beams[row] = sorted(ended[row], key=lambda path: -path.score)[:width]
    found = []
    for beam in beams:
        for path in beam:
            path.fusion += parts.finish(path.contexts[-1])
        best = sorted(beam, key=lambda path: -path.score)
        found.append(
            [ScoredHypothesis([*path.tokens], [*path.frames], path.model, path.fusion) for path in best]
        )
    return found


def _scores(paths: _Paths, encoded: Array, frame: int, parts: Parts, back: int = 0) -> dict[Context, Floats]:
    """Return log-probabilities of tokens and blank at ``frame`` in the last 1 + ``back`` contexts."""
    wanted = {context: row for row, path in paths for context in path.contexts[-1 - back :]}
    tokens, _ = parts.log_probs(encoded[list(wanted.values()), frame], list(wanted))
    return dict(zip(wanted, tokens, strict=True))


def _join_prefixes(paths: list[_Path], scored: dict[Context, Floats], frame: int, alpha: int) -> None:
    """Add to each path what comes to it from shorter ones; paths stand longest first."""
    index = {path.tokens: path for path in paths}
    for path in paths:
        own = path.model
        for more in range(1, min(alpha, len(path.tokens)) + 1):
            prefix = index.get(path.tokens[:-more])
            if prefix is None:
                continue
            said = zip(path.contexts[-1 - more : -1], path.tokens[-more:], strict=True)
            mass = prefix.model + sum(float(scored[context][token]) for context, token in said)
            path.model = float(np.logaddexp(path.model, mass))
            if mass > own:
                own, path.frames = mass, prefix.frames + (frame,) * more


def _expanded(
    paths: _Paths,
    scored: dict[Context, Floats],
    frame: int,
    parts: Parts,
    width: int,
    expansion: Expansion,
    there: set[tuple[int, Tokens]],
    ended: dict[int, list[_Path]],
) -> _Paths:
    """Return the best of what tokens make of paths, and put what blanks make of them into ``ended``."""
    most = width + expansion.beta
    made: dict[int, list[_Path]] = {}
    for row, path in paths:
        context = path.contexts[-1]
        model = scored[context]
        ranked = model.copy()
        ranked[: parts.blank_id] += context.added
        places = highest(ranked, most)
        for token in places:
            if ranked[token] < ranked[places[0]] - expansion.gamma:
                break
            mass = path.model + float(model[token])
            if token == parts.blank_id:
                ended[row].append(_Path(path.tokens, path.frames, mass, path.fusion, path.contexts))
            elif (row, tokens := (*path.tokens, token)) not in there:
                fusion = path.fusion + float(context.added[token])
                frames = (*path.frames, frame)
                made.setdefault(row, []).append(_Path(tokens, frames, mass, fusion, path.contexts))
    found = [
        (row, path)
        for row, some in made.items()
        for path in sorted(some, key=lambda path: -path.score)[:most]
    ]
    if found:
        contexts = parts.follow(
            [path.contexts[-1] for _, path in found], [path.tokens[-1] for _, path in found]
        )
        for (_, path), context in zip(found, contexts, strict=True):
            kept = path.contexts[-expansion.prefix_alpha :] if expansion.prefix_alpha else ()
            path.contexts = (*kept, context)
    return found
