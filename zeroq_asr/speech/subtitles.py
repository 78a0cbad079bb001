"""Subtitles of words with times: SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from zeroq_asr.lines import printable
from zeroq_asr.speech.words import Word

#: characters of a line and lines of a cue, as broadcasters have them
COLUMNS, LINES = 42, 2
#: seconds: a longer pause ends a cue, no cue lasts longer, and a shorter one stays as long, if none follows
PAUSE, LONGEST, SHORTEST = 1.0, 7.0, 1.0
#: what a WebVTT file of ours begins with
VTT_HEADER = "WEBVTT - zeroq-asr"


@dataclass(frozen=True)
class Cue:
    """What is shown at a time: lines of text, from ``start`` to ``end`` in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def cues_of(words: Iterable[Word]) -> list[Cue]:
    """Return the cues that show ``words``, in order of their start."""
    groups: list[list[Word]] = []
    for word in sorted(words, key=lambda word: word.start):
        if not groups or _full([*groups[-1], word]):
            groups.append([])
        groups[-1].append(word)
    cues = []
    for number, group in enumerate(groups):
        limit = groups[number + 1][0].start if number + 1 < len(groups) else float("inf")
        start, end = group[0].start, max(word.end for word in group)
        end = min(max(end, start + SHORTEST), max(limit, start))
        cues.append(Cue(start, end, tuple(_wrapped(group))))
    return cues


def srt(words: Iterable[Word]) -> str:
    """Return a SubRip file."""
    blocks = (
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues_of(words), start=1)
    )
    return "\n".join(blocks)


def vtt(words: Iterable[Word]) -> str:
    """Return a WebVTT file."""
    blocks = (
        f"\n{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n" + "\n".join(map(_escaped, cue.lines)) + "\n"
        for cue in cues_of(words)
    )
    return f"{VTT_HEADER}\n" + "".join(blocks)


def _full(group: list[Word]) -> bool:
    """Tell whether the last of two words or more begins another cue."""
    before, word = group[-2:]
    return (
        word.start - before.end > PAUSE or word.end - group[0].start > LONGEST or len(_wrapped(group)) > LINES
    )


def _wrapped(group: list[Word]) -> list[str]:
    text = " ".join(printable(word.text) for word in group)
    return textwrap.wrap(text, COLUMNS, break_on_hyphens=False)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, point: str) -> str:
    whole = round(1000 * seconds)
    minutes, rest = divmod(whole, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
