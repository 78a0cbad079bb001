"""Words and their times, from tokens and frames."""

from __future__ import annotations

import itertools

import pytest

from zeroq_asr.speech.tokenizer import Tokenizer
from zeroq_asr.speech.words import Word, timed_words

CHARACTERS = Tokenizer((" ", "a", "b"))
PIECES = Tokenizer(("<unk>", "\u2581the", "re", "\u2581", "is", "<0xC3>", "<0xA9>", "s"), "sentencepiece")
WORDPIECES = Tokenizer(("[CLS]", "the", "##re", "is", "##", "a ##b"), "wordpiece")


def test_a_word_lasts_from_its_first_frame_to_behind_its_last() -> None:
    words = timed_words(CHARACTERS, [0, 1, 2, 0, 0, 2], [0, 3, 4, 6, 7, 9], 0.5, offset=10.0)
    assert words == (Word("ab", 11.5, 12.5), Word("b", 14.5, 15.0))
    assert timed_words(CHARACTERS, [1], [3], 0.5, end=1.75) == (Word("a", 1.5, 1.75),)
    assert timed_words(CHARACTERS, [], [], 0.5) == ()
    assert words[0].to_dict() == {"word": "ab", "start_seconds": 11.5, "end_seconds": 12.5}


def test_bytes_of_a_character_are_one_word() -> None:
    words = timed_words(PIECES, [1, 5, 6, 7, 3, 4], [0, 1, 2, 3, 4, 5], 1.0)
    assert words == (Word("theés", 0.0, 4.0), Word("is", 5.0, 6.0))


@pytest.mark.parametrize("tokenizer", [CHARACTERS, PIECES, WORDPIECES])
def test_words_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    for ids in itertools.product(range(len(tokenizer.tokens)), repeat=4):
        texts = tokenizer.texts(ids)
        assert len(texts) == 4
        words = timed_words(tokenizer, ids, range(4), 1.0)
        assert [word.text for word in words] == tokenizer.decode(ids).split()
        assert all(0 <= word.start < word.end <= 4 for word in words)
