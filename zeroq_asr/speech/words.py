"""Words with their times, from tokens with the frames at which they were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zeroq_asr.speech.tokenizer import Tokenizer

#: digits of a second that are told: a frame is longer by far
_DIGITS = 3


@dataclass(frozen=True)
class Word:
    """A word that was recognised, and when it is said."""

    text: str
    #: seconds from the beginning of the sound file: where the first token's frame begins, and where the last
    #: token's frame ends
    start: float
    end: float

    def to_dict(self) -> dict[str, Any]:
        """Return the word as JSON values."""
        return {
            "word": self.text,
            "start_seconds": round(self.start, _DIGITS),
            "end_seconds": round(self.end, _DIGITS),
        }


@dataclass(frozen=True)
class Transcription:
    """What was recognised in a recording: the text, and its words with their times."""

    text: str
    words: tuple[Word, ...] = ()


def timed_words(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    frames: Sequence[int],
    seconds: float,
    offset: float = 0.0,
    end: float = float("inf"),
) -> tuple[Word, ...]:
    """Return the words of ``tokens``, of which each was found at the encoded frame of ``frames``.

    ``seconds``: what an encoded frame lasts; ``offset``: seconds at which frame 0 begins; ``end``: seconds
    at which the sound ends, behind which no word does.  Their texts, with spaces between, are what
    ``tokenizer.decode`` gives, white space aside.
    """
    words: list[Word] = []
    letters, first, last = "", 0, 0

    def finish() -> None:
        nonlocal letters
        if letters:
            start = min(offset + first * seconds, end)
            words.append(Word(letters, start, min(offset + (last + 1) * seconds, end)))
        letters = ""

    for text, frame in zip(tokenizer.texts(tokens), frames, strict=True):
        for character in text:
            if character.isspace():
                finish()
                continue
            if not letters:
                first = frame
            letters, last = letters + character, frame
    finish()
    return tuple(words)
