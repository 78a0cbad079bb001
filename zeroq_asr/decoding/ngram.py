"""n-gram language models over a recogniser's tokens.

Their words are the tokens, spelled as the tokenizer spells them; the token of a space, " ", is the word
``<space>``.  Such a file is what ``lmplz`` makes of text that was cut to tokens with a space between each two
(of SentencePiece: ``spm_encode --output_format=piece``).  NeMo's files have a character for each token
instead, of its number and an offset; they are refused.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from zeroq_asr.decoding.arpa import HOW, RESERVED, UNKNOWN, Arpa, read_arpa
from zeroq_asr.decoding.fusion import Floats
from zeroq_asr.decoding.transducer import Array
from zeroq_asr.errors import ConfigError, warn

#: the word of the token " "
SPACE = "<space>"
#: what pieces begin with that begin a word, or continue one
MARKS = ("\u2581", "##")
#: NeMo's character of the token i is that of number i + 100
_NEMO_OFFSET = 100
#: contexts whose scores are kept
_KEPT = 4096


class NGram:
    """The log-probability, in nats, of each token behind the tokens before it; a Scorer.

    A token that the model does not have counts as its ``<unk>``.  The end of a sentence is not scored:
    recordings are cut anywhere.
    """

    def __init__(self, source: str | os.PathLike[str] | Arpa, tokens: Sequence[str]) -> None:
        """Read an ARPA file, or take what was read of one, for a recogniser's ``tokens``.

        Raises ConfigError where it is over words other than the tokens, and as ``read_arpa``; a ZeroqWarning
        says where it has fewer than half of the tokens.
        """
        arpa = source if isinstance(source, Arpa) else read_arpa(source)
        problem = misfit(arpa, tokens)
        if problem is not None:
            raise ConfigError(arpa.path, problem, HOW)
        self._model, self._new_state = arpa.model, arpa.new_state
        words = [_word(token) for token in tokens]
        known = _known(arpa, words)
        if 2 * known < len(tokens):
            warn(arpa.path, f"has {known} of the {len(tokens)} tokens; the others count as {UNKNOWN}")
        self._words = words
        self._scores = functools.lru_cache(_KEPT)(self._all_scores)

    def start(self) -> Any:
        """Return the state at the beginning of a sentence."""
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def scores(self, memories: Sequence[Any], predictions: Array) -> Floats:
        """Return log-probabilities [N, V]; what the predictor gives is not looked at."""
        return np.stack([self._scores(state) for state in memories])

    def follow(self, memory: Any, token: int) -> Any:
        """Return the state behind ``token``."""
        state = self._new_state()
        self._model.BaseScore(memory, self._words[token], state)
        return state

    def finish(self, memory: Any) -> float:
        """Return 0: the end of a sentence is not scored."""
        return 0.0

    def _all_scores(self, state: Any) -> Floats:
        score, out = self._model.BaseScore, self._new_state()
        return math.log(10) * np.array([score(state, word, out) for word in self._words])


def misfit(arpa: Arpa, tokens: Sequence[str]) -> str | None:
    """Return why n-grams are not over a recogniser's ``tokens``; None where they are."""
    words = [_word(token) for token in tokens]
    known = _known(arpa, words)
    characters = sum(chr(_NEMO_OFFSET + i) in arpa.model for i in range(len(tokens)))
    if characters > known and all(len(word) == 1 for word in arpa.words):
        return "has NeMo's characters for tokens (number of the token + 100), not the tokens"
    # words alone begin no token, and a space is none of them
    marks = [word for word in words if word == SPACE or word.startswith(MARKS)]
    if known and (not marks or any(word in arpa.model for word in marks)):
        return None
    has = f"{known} of the {len(tokens)} tokens, and of those that mark where words begin none"
    return f"is no model over the tokens: its words include {has}"


def _known(arpa: Arpa, words: Sequence[str]) -> int:
    return sum(word in arpa.model for word in words if word != UNKNOWN)


def _word(token: str) -> str:
    """Return the word that a token is in the file; ``<unk>`` for one that can be none."""
    if token == " ":
        return SPACE
    # what separates words, or ends a text in C
    impossible = not token or "\0" in token or any(c.isspace() for c in token)
    return UNKNOWN if impossible or token in RESERVED else token
