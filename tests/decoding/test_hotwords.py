"""Hotwords: what a text is given is their number in it, whichever tokens spell it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeroq_asr.decoding.hotwords import Hotwords
from zeroq_asr.errors import ConfigError

LETTERS = ("a", "b", "c", " ")
NO_PREDICTIONS = np.zeros((1, 0))


def walk(scorer: Hotwords, texts: tuple[str, ...], tokens: list[int]) -> list[float]:
    """What has been added behind each token, and behind the end."""
    memory, total, sums = scorer.start(), 0.0, []
    for token in tokens:
        total += scorer.scores([memory], NO_PREDICTIONS)[0][token]
        memory = scorer.follow(memory, token)
        sums.append(total)
    return [*sums, total + scorer.finish(memory)]


def spelled(scorer: Hotwords, text: str) -> list[float]:
    return walk(scorer, LETTERS, [LETTERS.index(character) for character in text])


def count(hotwords: list[str], text: str) -> int:
    spaced = " ".join(text.split())
    return sum(len(re.findall(rf"(?<!\S)(?={re.escape(word)}(?!\S))", spaced)) for word in hotwords)


words = st.text("abc", min_size=1, max_size=3)
phrases = st.lists(words, min_size=1, max_size=3).map(" ".join)


@given(st.lists(phrases, min_size=1, max_size=4, unique=True), st.text("abc ", max_size=14))
def test_a_text_is_given_one_for_each_hotword_in_it(hotwords: list[str], text: str) -> None:
    sums = spelled(Hotwords(hotwords, LETTERS), text)
    assert sums[-1] == pytest.approx(count(hotwords, text), abs=1e-12)
    # never less than what is paid for good, nor more than one hotword above it
    for i, paid in enumerate(sums[:-1]):
        banked = count(hotwords, text[: i + 1].rpartition(" ")[0]) if " " in text[: i + 1] else 0
        assert banked - 1e-9 <= paid <= banked + len(hotwords) + 1e-9


PIECES = ("a", "b", "c", " a", " b", "ab", "ca ", " abc", "  ", " ")


@given(
    st.lists(phrases, min_size=1, max_size=3, unique=True),
    st.lists(st.integers(0, len(PIECES) - 1), max_size=8),
)
def test_pieces_are_given_what_their_letters_are(hotwords: list[str], tokens: list[int]) -> None:
    text = "".join(PIECES[token] for token in tokens)
    found = walk(Hotwords(hotwords, PIECES), PIECES, tokens)[-1]
    assert found == pytest.approx(spelled(Hotwords(hotwords, LETTERS), text)[-1], abs=1e-12)


def test_a_hotword_is_paid_as_it_is_spelled_and_taken_away_where_another_follows() -> None:
    scorer = Hotwords(["abc"], LETTERS)
    assert spelled(scorer, "abc") == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert spelled(scorer, "abc a") == pytest.approx([1 / 3, 2 / 3, 1, 1, 1 + 1 / 3, 1])
    assert spelled(scorer, "ab ") == pytest.approx([1 / 3, 2 / 3, 0, 0])
    # within a word nothing begins, and a longer word is another
    assert spelled(scorer, "aabc") == pytest.approx([1 / 3, 0, 0, 0, 0])
    assert spelled(scorer, "abcc") == pytest.approx([1 / 3, 2 / 3, 1, 0, 0])


def test_phrases_may_begin_with_another_hotword() -> None:
    scorer = Hotwords(["a", "a b"], LETTERS)
    assert spelled(scorer, "a")[-1] == pytest.approx(1)
    # both are said
    assert spelled(scorer, "a b")[-1] == pytest.approx(2)
    assert spelled(scorer, "a c")[-1] == pytest.approx(1)


def test_case_and_white_space_do_not_matter() -> None:
    texts = ("A", "b", "\t", " ")
    found = walk(Hotwords(["aB  b"], texts), texts, [3, 3, 0, 1, 2, 3, 1])
    assert found[-1] == 1
    # one letter of two cases
    greek = ("Σ", "σ", "ς")
    assert walk(Hotwords(["ΣΣ"], greek), greek, [1, 2])[-1] == 1


def test_what_no_tokens_spell_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"hotword 'abé' cannot be spelled .*: é is in none of them"):
        Hotwords(["abc", "abé"], LETTERS)
    # letters that are there, in no piece that fits
    with pytest.raises(ConfigError, match="hotword 'ba' cannot be spelled by the recogniser's tokens; leave"):
        Hotwords(["ba"], (" ab", "ab"))
    with pytest.raises(ConfigError, match="hotword 'a b'"):
        Hotwords(["a b"], ("a", "b"))
    Hotwords(["ab", "ab ab"], (" ab",))


def test_a_token_that_says_nothing_adds_nothing() -> None:
    texts = ("a", "b", "")
    assert walk(Hotwords(["ab"], texts), texts, [2, 0, 2, 1, 2]) == pytest.approx([0, 0.5, 0.5, 1, 1, 1])
