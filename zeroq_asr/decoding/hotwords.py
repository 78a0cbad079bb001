"""Words and phrases that are likely to be said, and are preferred where they may have been.

A hotword adds to a hypothesis for each time that it is said in it as a whole word or phrase, in upper or
lower case.  It is paid as it is spelled, so that a beam does not lose it before its end: of a hotword of L
characters, each that is spelled adds 1 / L, and all of them are taken away again where another follows than
the hotword has.  Which tokens spell it does not matter: the text is followed, not its cutting into pieces.

The text runs through an automaton (Aho and Corasick, 1975) whose patterns are the hotwords between spaces;
a text begins and ends with one.  What has been paid in a state is the most of what is spelled there of any
hotword, and each hotword that ends there is paid for good.

Shapes: N hypotheses, V tokens without the blank.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from zeroq_asr.decoding.fusion import Floats
from zeroq_asr.decoding.transducer import Array
from zeroq_asr.decoding.word_ngram import spaced
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

#: states whose scores are kept
_KEPT = 4096


class Hotwords:
    """1 for each hotword that is said; a Scorer, whose memory is the number of a state."""

    def __init__(self, hotwords: Sequence[str], texts: Sequence[str]) -> None:
        """``texts`` [V]: what each token adds to a text that has begun, white space included.

        Raises ConfigError, naming it, for a hotword that no tokens spell.
        """
        self._texts = [spaced(text.casefold()) for text in texts]
        patterns = [spaced(f" {' '.join(word.split())} ".casefold()) for word in hotwords]
        pieces = frozenset(text for text in self._texts if text)
        for word, pattern in zip(hotwords, patterns, strict=True):
            _require_spelled(word, pattern, pieces)
        # by state: what leads on; the longest end of its text that begins a pattern, too; what has been paid
        # there; how many patterns end there
        self._next: list[dict[str, int]] = [{}]
        self._back, self._paid, self._ended = [0], [0.0], [0]
        for pattern in patterns:
            self._add(pattern)
        self._link()
        self._start = self._next[0].get(" ", 0)
        self._followed = functools.lru_cache(_KEPT)(self._all_followed)

    def start(self) -> int:
        """Return the state behind the space that a text begins with."""
        return self._start

    def scores(self, memories: Sequence[Any], predictions: Array) -> Floats:
        """Return what each token adds [N, V]; what a predictor gives is not looked at."""
        return np.stack([self._followed(state)[0] for state in memories])

    def follow(self, memory: Any, token: int) -> int:
        """Return the state behind ``token``."""
        return self._followed(memory)[1][token]

    def finish(self, memory: Any) -> float:
        """Return what is added by the space that a text ends with, less what was paid for no whole word."""
        if self._ends_in_space[memory]:
            return -self._paid[memory]
        _, ended = self._step(memory, " ")
        return ended - self._paid[memory]

    def _all_followed(self, state: int) -> tuple[Floats, list[int]]:
        """Return what each token adds behind a state, and the state behind it."""
        added, states = np.zeros(len(self._texts)), []
        for number, text in enumerate(self._texts):
            after = state
            for character in text:
                # spaces behind each other are one
                if character == " " and self._ends_in_space[after]:
                    continue
                after, ended = self._step(after, character)
                added[number] += ended
            added[number] += self._paid[after] - self._paid[state]
            states.append(after)
        return added, states

    def _step(self, state: int, character: str) -> tuple[int, int]:
        """Return the state behind a character, and how many patterns end there."""
        while character not in self._next[state] and state:
            state = self._back[state]
        after = self._next[state].get(character, 0)
        return after, self._ended[after]

    def _add(self, pattern: str) -> None:
        state, length = 0, len(pattern) - 2
        for depth, character in enumerate(pattern):
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._back.append(0)
                self._paid.append(0.0)
                self._ended.append(0)
            state = self._next[state][character]
            # behind the last character what was paid is paid for good
            if depth <= length:
                self._paid[state] = max(self._paid[state], depth / length)
        self._ended[state] += 1

    def _link(self) -> None:
        """Find, from the shortest on, where the text of each state goes on when it cannot."""
        # every pattern begins with a space: of a text that ends in one, so much at least is its state's
        self._ends_in_space = [False] * len(self._next)
        waiting = deque(self._next[0].values())
        for character, state in self._next[0].items():
            self._ends_in_space[state] = character == " "
        while waiting:
            state = waiting.popleft()
            for character, after in self._next[state].items():
                self._back[after], _ = self._step(self._back[state], character)
                self._ends_in_space[after] = character == " "
                self._paid[after] = max(self._paid[after], self._paid[self._back[after]])
                self._ended[after] += self._ended[self._back[after]]
                waiting.append(after)


def _require_spelled(word: str, pattern: str, pieces: frozenset[str]) -> None:
    """Raise ConfigError where no pieces behind each other spell a pattern, spaces at its ends aside."""
    longest = max(map(len, pieces), default=0)
    end = len(pattern) - 1
    reached = {0, 1}
    for at in range(end):
        if at in reached:
            spans = range(at + 1, min(at + longest, end + 1) + 1)
            reached |= {to for to in spans if pattern[at:to] in pieces}
    if not reached & {end, end + 1}:
        spelled = "".join(pieces)
        odd = sorted({character for character in pattern.strip() if character not in spelled})
        why = f": {' '.join(odd)} is in none of them" if odd else ""
        problem = f"the hotword {shown(word)} cannot be spelled by the recogniser's tokens{why}"
        raise ConfigError("hotwords", problem, "leave it out, or spell it as it sounds")
