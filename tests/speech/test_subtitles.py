"""Subtitles: cues that can be read, in the two formats."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from zeroq_asr.speech.subtitles import COLUMNS, LINES, cues_of, srt, vtt
from zeroq_asr.speech.words import Word

WORDS = [Word("Tom", 0.25, 0.5), Word("&", 0.6, 0.7), Word("<Jerry>", 0.8, 1.5), Word("run", 3700.0, 3700.1)]


def test_subrip() -> None:
    assert srt(WORDS) == (
        "1\n00:00:00,250 --> 00:00:01,500\nTom & <Jerry>\n\n2\n01:01:40,000 --> 01:01:41,000\nrun\n"
    )
    assert srt([]) == ""


def test_webvtt_escapes_what_it_would_read_as_tags() -> None:
    assert vtt(WORDS) == (
        "WEBVTT - zeroq-asr\n\n00:00:00.250 --> 00:00:01.500\nTom &amp; &lt;Jerry&gt;\n"
        "\n01:01:40.000 --> 01:01:41.000\nrun\n"
    )
    assert vtt([]) == "WEBVTT - zeroq-asr\n"


def test_a_control_character_ends_no_line() -> None:
    assert srt([Word("a\x1b[2J", 0.0, 1.0)]).splitlines()[2:] == ["a\\x1b[2J"]


@given(
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=12), st.floats(0.01, 3.0), st.floats(0.01, 1.0)),
        max_size=60,
    )
)
def test_cues_hold_every_word_and_fit_the_screen(spoken: list[tuple[str, float, float]]) -> None:
    words, at = [], 0.0
    for text, pause, length in spoken:
        words.append(Word(text, at + pause, at + pause + length))
        at += pause + length
    cues = cues_of(words)
    assert " ".join(line for cue in cues for line in cue.lines).split() == [word.text for word in words]
    assert all(len(cue.lines) <= LINES and all(len(line) <= COLUMNS for line in cue.lines) for cue in cues)
    assert all(0 < cue.end - cue.start <= 7.0 + 1e-9 for cue in cues)
    assert all(a.end <= b.start for a, b in itertools.pairwise(cues))
    numbers = [int(block.split("\n")[0]) for block in re.split(r"\n\n", srt(words)) if block]
    assert numbers == [*range(1, len(cues) + 1)]
