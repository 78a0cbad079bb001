"""Transducers of tables: an encoding and a prediction are numbers, which look scores up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zeroq_asr.decoding.contexts import Parts
from zeroq_asr.decoding.fusion import Fusion, LengthBonus, Scorer
from zeroq_asr.decoding.transducer import Array, Labels, State

#: what a prediction and an encoding may be
PREDICTIONS, ENCODINGS = 7, 5


@dataclass
class Lookup:
    """A transducer whose prediction depends on every label before it."""

    table: np.ndarray  # [ENCODINGS, PREDICTIONS, V + 1 + K]
    tokens: int
    durations: tuple[int, ...] = ()
    predicted: int = 0
    joined: int = 0
    #: most labels that were read at once
    widest: int = 0

    def predict(self, labels: Labels, state: State) -> tuple[Array, State]:
        self.predicted += 1
        self.widest = max(self.widest, len(labels))
        assert labels.dtype == np.int64
        assert state[0].shape == (1, len(labels))
        after = (3 * state[0] + labels + 1) % PREDICTIONS
        return after[0][:, None], (after,)

    def join(self, encoded: Array, predicted: Array) -> Array:
        self.joined += 1
        assert encoded.shape == predicted.shape == (len(encoded), 1)
        return self.table[encoded[:, 0], predicted[:, 0]]

    def prediction(self, tokens: tuple[int, ...]) -> int:
        """What the predictor gives behind ``tokens``."""
        found = 0
        for label in (self.tokens, *tokens):
            found = (3 * found + label + 1) % PREDICTIONS
        return found

    def log_probs(self, encoding: int, tokens: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of tokens and blank, and of durations."""
        scores = self.table[encoding, self.prediction(tokens)].astype(np.float64)
        words, jumps = scores[: self.tokens + 1], scores[self.tokens + 1 :]
        parts = [part - np.log(np.exp(part).sum()) for part in (words, jumps) if len(part)]
        return parts[0], parts[1] if self.durations else np.zeros(1)

    def parts(self, scorer: Scorer | None = None) -> Parts:
        nothing = Fusion(((0.0, LengthBonus(self.tokens)),))
        return Parts(self.predict, self.join, scorer or nothing, self.tokens, self.durations)


def random_lookup(
    seed: int, tokens: int = 3, durations: tuple[int, ...] = (), sharpness: float = 1.0
) -> Lookup:
    generator = np.random.default_rng(seed)
    shape = (ENCODINGS, PREDICTIONS, tokens + 1 + len(durations))
    return Lookup((sharpness * generator.standard_normal(shape)).astype(np.float32), tokens, durations)


def start_of(batch: int) -> State:
    return (np.zeros((1, batch), np.int64),)


def as_encoded(rows: Any) -> Array:
    return np.array(rows, dtype=np.int64)[:, :, None]


def write_arpa(
    path: Path, unigrams: dict[str, tuple[float, float]], bigrams: dict[tuple[str, str], float]
) -> Path:
    """Write log10 probabilities, and the weights of backing off, as an ARPA file."""
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    lines += [f"{p}\t{word}\t{back}" for word, (p, back) in unigrams.items()]
    lines += ["", "\\2-grams:", *(f"{p}\t{' '.join(pair)}" for pair, p in bigrams.items()), "", "\\end\\", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Following:
    """A scorer of a function: what each token adds behind the tokens before it, which it remembers."""

    function: Callable[[tuple[int, ...]], np.ndarray]

    def start(self) -> tuple[int, ...]:
        return ()

    def scores(self, memories: Any, predictions: Array) -> np.ndarray:
        assert len(memories) == len(predictions)
        return np.stack([self.function(memory) for memory in memories])

    def follow(self, memory: Any, token: int) -> tuple[int, ...]:
        return (*memory, token)

    def finish(self, memory: tuple[int, ...]) -> float:
        return 0.0

    def total(self, tokens: tuple[int, ...]) -> float:
        return float(sum(self.function(tokens[:i])[token] for i, token in enumerate(tokens)))


def bigrams_of(seed: int, tokens: int) -> Following:
    """A scorer by the token before, random."""
    table = np.random.default_rng(seed).standard_normal((tokens + 1, tokens))
    return Following(lambda before: table[before[-1] if before else tokens])
