"""N-grams of pieces, interpolated by Witten and Bell, as an ARPA file.

With c(h w) the times that w follows h, and t(h) the number of different pieces that follow h,

    P(w | h) = (c(h w) + t(h) · P(w | h without its first piece)) / (c(h) + t(h)),

and below single pieces stands a uniform distribution.  N-grams that say little more than shorter ones may be
left out of the file (weighted differences: Seymore and Rosenfeld, ICSLP 1996); the weight of backing off
makes up for them, so that every distribution sums to one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

BEGIN, END = "<s>", "</s>"
Gram = tuple[str, ...]


@dataclass(frozen=True)
class Arpa:
    """Log₁₀ probabilities and weights of backing off, by n-gram."""

    probabilities: dict[Gram, float]
    weights: dict[Gram, float]

    @cached_property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return max(map(len, self.probabilities))

    def score(self, piece: str, history: Gram) -> float:
        """Return log₁₀ P(piece | history), as every reader of the format does."""
        history = history[max(0, len(history) - self.order + 1) :]
        spent = 0.0
        while (*history, piece) not in self.probabilities:
            spent += self.weights.get(history, 0.0)
            history = history[1:]
        return spent + self.probabilities[(*history, piece)]

    def sentence(self, pieces: Sequence[str]) -> float:
        """Return log₁₀ of the probability of a whole sentence, its end included."""
        read: Gram = (BEGIN,)
        total = 0.0
        for piece in (*pieces, END):
            total += self.score(piece, read)
            read = (*read, piece)
        return total

    def text(self) -> str:
        """Return the file: counts, then for every n-gram its probability, its pieces and its weight."""
        grams = [sorted(g for g in self.probabilities if len(g) == n + 1) for n in range(self.order)]
        lines = ["\\data\\", *(f"ngram {n}={len(found)}" for n, found in enumerate(grams, 1)), ""]
        for n, found in enumerate(grams, 1):
            lines.append(f"\\{n}-grams:")
            for gram in found:
                weight = f"\t{self.weights[gram]:.4f}" if gram in self.weights else ""
                lines.append(f"{self.probabilities[gram]:.4f}\t{' '.join(gram)}{weight}")
            lines.append("")
        return "\n".join([*lines, "\\end\\", ""])


def estimate(
    sentences: Iterable[Sequence[str]], pieces: Sequence[str], order: int, gain: float = -math.inf
) -> Arpa:
    """Return the n-grams of ``sentences`` up to ``order`` over a vocabulary of ``pieces``.

    Those of two pieces and more are kept that make the sentences more probable than shorter ones do by a
    factor of e to the ``gain``, all of their occurrences together, and what those begin with; by default all.
    """
    follow = _count(sentences, order)
    vocabulary = [*pieces, END]
    smooth: dict[Gram, float] = {}
    for piece in vocabulary:
        after = follow[()]
        rest = len(after) / len(vocabulary)
        smooth[(piece,)] = (after[piece] + rest) / (after.total() + len(after))
    kept = set(smooth)
    for history in sorted(follow, key=lambda h: (len(h), h)):
        if not history:
            continue
        after = follow[history]
        for piece, count in after.items():
            lower = smooth[(*history[1:], piece)]
            found = (count + len(after) * lower) / (after.total() + len(after))
            smooth[(*history, piece)] = found
            if count * math.log(found / lower) >= gain:
                # a history without its own entry has nowhere to keep its weight
                kept.update((*history, piece)[:length] for length in range(2, len(history) + 2))
    return _with_weights({gram: smooth[gram] for gram in sorted(kept)})


def _count(sentences: Iterable[Sequence[str]], order: int) -> dict[Gram, Counter[str]]:
    """Return for every history of up to ``order`` − 1 pieces how often each piece follows it."""
    follow: dict[Gram, Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        padded = (BEGIN, *sentence, END)
        for end in range(1, len(padded)):
            for start in range(max(0, end - order + 1), end + 1):
                follow[padded[start:end]][padded[end]] += 1
    return follow


def _with_weights(kept: dict[Gram, float]) -> Arpa:
    """Return the file of probabilities, each history with what is left over what shorter ones leave."""
    seen: dict[Gram, list[str]] = defaultdict(list)
    for gram in kept:
        if len(gram) > 1:
            seen[gram[:-1]].append(gram[-1])
    weights: dict[Gram, float] = {}
    logs = {gram: math.log10(p) for gram, p in kept.items()}
    # never said, and there all the same for its weight
    logs[(BEGIN,)] = -99.0
    found = Arpa(logs, weights)
    # shorter ones first: longer ones back off to them
    for history in sorted(seen, key=len):
        spent = math.fsum(kept[(*history, piece)] for piece in seen[history])
        lower = math.fsum(10 ** found.score(piece, history[1:]) for piece in seen[history])
        weights[history] = math.log10(max(1 - spent, 1e-12) / max(1 - lower, 1e-12))
    return found
