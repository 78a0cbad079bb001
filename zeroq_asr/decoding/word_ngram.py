"""n-gram language models over whole words, and a bonus for each word.

Words are what stands between spaces in a hypothesis' text, whatever tokens spell it.  A word is scored where
it ends: where a token brings a space, or where the text ends,

    log P(w_i | w_1 … w_(i-1)),    and for one that the model does not have    log P(<unk> | …) + offset,

as pyctcdecode does.  The offset is paid as soon as no word of the model begins like what is spelled, so that
a beam does not keep what cannot become one; nothing else is said of a word that has not ended.

A word is looked up as it is spelled, and where the file does not have it so, in upper or lower case.

Shapes: N hypotheses, V tokens without the blank.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from zeroq_asr.decoding.arpa import HOW, UNKNOWN, Arpa
from zeroq_asr.decoding.fusion import Floats
from zeroq_asr.decoding.ngram import MARKS, SPACE
from zeroq_asr.decoding.transducer import Array
from zeroq_asr.errors import ConfigError

#: contexts, and words that have begun, whose scores are kept
_KEPT = 4096


class _Memory(NamedTuple):
    """What has been said."""

    #: KenLM's state behind the words that have ended
    state: Any
    #: the word that has begun, as it is spelled; "" behind a space
    word: str
    #: whether no word of the model begins so, for which the offset has been paid
    lost: bool


class WordNGram:
    """The log-probability, in nats, of each word behind the words before it, where it ends; a Scorer.

    The end of a sentence is not scored: recordings are cut anywhere.
    """

    def __init__(self, arpa: Arpa, texts: Sequence[str], unk_score_offset: float) -> None:
        """``texts`` [V]: what each token adds to a text that has begun, white space included.

        ``unk_score_offset``: added for a word that the model does not have, in nats.  Raises ConfigError
        where the tokens mark no words, or cannot spell any of the model's.
        """
        if not marks_words(texts):
            raise ConfigError(arpa.path, _NO_WORDS, "give a model over its tokens")
        if not _spelled(arpa, texts):
            raise ConfigError(arpa.path, "has no word that the recogniser's tokens spell", HOW)
        self._arpa, self._offset = arpa, unk_score_offset
        self._texts = [spaced(text) for text in texts]
        self._exact = frozenset(arpa.words)
        # of those that differ in case alone the first
        self._any_case = {word.casefold(): word for word in reversed(arpa.words)}
        self._sorted = sorted(self._any_case)
        #: tokens that end a word first, and begin another at most; those whose text has spaces elsewhere
        self._ending = np.array([text[:1] == " " for text in self._texts])
        self._odd = [number for number, text in enumerate(self._texts) if " " in text.lstrip(" ")]
        # what those add that a word begins by, behind a space
        self._beginning = self._continued("")
        self._continued_by = functools.lru_cache(_KEPT)(self._continued)
        self._scores = functools.lru_cache(_KEPT)(self._all_scores)

    def start(self) -> _Memory:
        """Return the memory at the beginning of a sentence."""
        state = self._arpa.new_state()
        self._arpa.model.BeginSentenceWrite(state)
        return _Memory(state, "", False)

    def scores(self, memories: Sequence[_Memory], predictions: Array) -> Floats:
        """Return what each token adds [N, V]; what the predictor gives is not looked at."""
        return np.stack([self._scores(memory) for memory in memories])

    def follow(self, memory: _Memory, token: int) -> _Memory:
        """Return the memory behind ``token``."""
        return self._said(memory, self._texts[token])[0]

    def finish(self, memory: _Memory) -> float:
        """Return the score of the word that the text ends with."""
        return self._said(memory, " ")[1]

    def _all_scores(self, memory: _Memory) -> Floats:
        """Return what each token adds [V], as ``_said`` says of each."""
        going_on = 0.0 if memory.lost else self._continued_by(memory.word)
        _, end = self._said(memory, " ")
        added = np.where(self._ending, end + self._beginning, going_on)
        for token in self._odd:
            added[token] = self._said(memory, self._texts[token])[1]
        return added

    def _said(self, memory: _Memory, text: str) -> tuple[_Memory, float]:
        """Return the memory behind a text more, and what it adds."""
        state, word, lost = memory
        total = 0.0
        for number, part in enumerate(text.split(" ")):
            if number:
                if word:
                    state, score = self._ended(state, word, lost)
                    total += score
                word, lost = "", False
            word += part
            if part and not lost and not self._begins(word):
                lost = True
                total += self._offset
        return _Memory(state, word, lost), total

    def _ended(self, state: Any, word: str, lost: bool) -> tuple[Any, float]:
        """Return the state behind a word, and its score; what is ``lost`` has its offset already."""
        found = word if word in self._exact else self._any_case.get(word.casefold())
        after = self._arpa.new_state()
        score = math.log(10) * self._arpa.model.BaseScore(state, found or UNKNOWN, after)
        return after, score + (self._offset if found is None and not lost else 0.0)

    def _continued(self, word: str) -> Floats:
        """Return what a word that goes on by each token adds [V], spaces in front of it aside."""
        parts = (text.lstrip(" ") for text in self._texts)
        return np.array([self._offset if part and not self._begins(word + part) else 0.0 for part in parts])

    def _begins(self, word: str) -> bool:
        """Tell whether any word of the model begins so, in upper or lower case."""
        folded = word.casefold()
        place = bisect_left(self._sorted, folded)
        return place < len(self._sorted) and self._sorted[place].startswith(folded)


class WordBonus:
    """1 for each word that begins; a Scorer, whose memory is whether one has begun and not ended."""

    def __init__(self, texts: Sequence[str]) -> None:
        """``texts`` are as of ``WordNGram``; raises ConfigError where they mark no words."""
        if not marks_words(texts):
            raise ConfigError("--word-bonus", _NO_WORDS, "leave it out, or say --length-bonus")
        self._texts = [spaced(text) for text in texts]
        words = np.array([len(text.split()) for text in self._texts], dtype=np.float64)
        going_on = np.array([text[:1] not in ("", " ") for text in self._texts])
        self._added = {False: words, True: words - going_on}

    def start(self) -> bool:
        """Return False: no word has begun."""
        return False

    def scores(self, memories: Sequence[bool], predictions: Array) -> Floats:
        """Return how many words begin with each token [N, V]."""
        return np.stack([self._added[memory] for memory in memories])

    def follow(self, memory: bool, token: int) -> bool:
        """Return whether a word has begun behind ``token``."""
        text = self._texts[token]
        return text[-1] != " " if text else memory

    def finish(self, memory: bool) -> float:
        """Return 0."""
        return 0.0


_NO_WORDS = "is of whole words, and the recogniser's tokens have no space that words could end at"


def marks_words(texts: Sequence[str]) -> bool:
    """Tell whether a recogniser's tokens tell where words end, by what each adds to a text."""
    return any(character.isspace() for text in texts for character in text)


def spaced(text: str) -> str:
    """Return a text whose white space is spaces, by character."""
    return "".join(" " if character.isspace() else character for character in text)


def word_misfit(arpa: Arpa, texts: Sequence[str]) -> str | None:
    """Return why n-grams are not over words that a recogniser's tokens spell; None where they are.

    Words have two characters or more, most of them, and no marks of pieces.
    """
    if not marks_words(texts):
        return _NO_WORDS
    if any(word == SPACE or word.startswith(MARKS) for word in arpa.words):
        return "has marks of pieces of words"
    spelled = sum(len(word) > 1 for word in _spelled(arpa, texts))
    if 2 * spelled < len(arpa.words) or not spelled:
        return f"has {spelled} words of two characters or more that the tokens spell, of {len(arpa.words)}"
    return None


def _spelled(arpa: Arpa, texts: Sequence[str]) -> list[str]:
    """Return the words of a model all of whose characters are in tokens' texts, in upper or lower case."""
    characters = frozenset("".join(texts).casefold())
    return [word for word in arpa.words if characters.issuperset(word.casefold())]
