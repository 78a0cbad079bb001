"""Paired bootstrap over utterances: how sure a difference of error rates is.

Two recognisers heard the same utterances, so utterances are drawn with replacement and the difference
of the corpus error rates is taken on each draw (Bisani and Ney, "Bootstrap estimates for confidence
intervals in ASR performance evaluation", ICASSP 2004, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zeroq_asr.errors import ConfigError

#: draws of the whole corpus
DRAWS = 10_000
#: at most so many random numbers at a time, whatever the corpus
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Difference:
    """A difference of two error rates, 0.01 for one point, and its confidence interval."""

    value: float
    low: float
    high: float


def paired_bootstrap(
    errors: npt.ArrayLike,
    other_errors: npt.ArrayLike,
    lengths: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference | None:
    """Return Σ errors / Σ lengths − Σ other_errors / Σ lengths and its percentile interval.

    All three are [utterances]: errors of each recogniser, which may be means over several runs, and
    words of the references.  None where no reference has a word.  Raises ConfigError for lists of
    different lengths.
    """
    first, second, words = (np.asarray(a, dtype=np.float64) for a in (errors, other_errors, lengths))
    if not first.shape == second.shape == words.shape or words.ndim != 1:
        raise ConfigError(
            "paired_bootstrap",
            f"needs one number an utterance, received {first.shape}, {second.shape} and {words.shape}",
        )
    total = words.sum()
    if total == 0:
        return None
    gap = first - second
    generator = np.random.default_rng(seed)
    count = len(words)
    found = []
    left = draws
    while left:
        block = min(left, max(1, _BLOCK // count))
        drawn = generator.integers(count, size=(block, count))
        spoken = words[drawn].sum(axis=1)
        # a draw of silent utterances alone says nothing
        found.append((gap[drawn].sum(axis=1)[spoken > 0]) / spoken[spoken > 0])
        left -= block
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(found), [tail, 100 - tail])
    return Difference(float(gap.sum() / total), float(low), float(high))
