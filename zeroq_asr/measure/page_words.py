"""What was said against what was recognised, in float and in integers: rates with intervals, and words.

Utterances are told worst first: those in which the integers lose most against the float network.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer

from zeroq_asr.measure.bootstrap import Difference, paired_bootstrap
from zeroq_asr.measure.evaluate import Evaluation, count_errors
from zeroq_asr.measure.page_svg import Bar, bars, escaped

#: utterances whose words are shown, words of each, and characters of one
_WORST, _WORDS, _WORD = 12, 150, 60
#: how jiwer names what became of a word → class, and what the title says
_KINDS = {"equal": "", "substitute": "sub", "insert": "ins", "delete": "del"}


@dataclass(frozen=True)
class Heard:
    """The same recordings, recognised by the float network and by the file."""

    real: Evaluation
    integer: Evaluation


def words(heard: Heard) -> str:
    """Return the HTML of the error rates of both, their intervals, and the worst utterances."""
    counts = [
        [count_errors([t.reference], [t.hypothesis])[0] for t in one.transcripts]
        for one in (heard.real, heard.integer)
    ]
    lengths = [count.length for count in counts[1]]
    errors = [[count.errors for count in one] for one in counts]
    silent = [0] * len(lengths)
    rates = [paired_bootstrap(one, silent, lengths) for one in errors]
    gap = paired_bootstrap(errors[1], errors[0], lengths)
    rows = [
        Bar(label, rate.value, _told(rate), kind, (rate.low, rate.high))
        for label, kind, rate in zip(("float", "integers"), ("float", "integer"), rates, strict=True)
        if rate is not None
    ]
    minutes = f"{heard.integer.audio_seconds / 60:.1f} minutes, {sum(lengths)} words"
    count = f"{len(lengths)} utterance{'' if len(lengths) == 1 else 's'}"
    parts = [f"<p>{count}, {minutes}.</p>"]
    if gap is None:
        return parts[0] + "<p>No reference has a word, so there is no rate.</p>"
    parts.append(bars(rows, "word error rate of float and of integers, with 95 % intervals"))
    span = f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
    parts.append(
        f"<p>Integers − float: <b>{100 * gap.value:+.2f} points</b> (95 % interval {span}, "
        "utterances drawn in pairs).</p>"
    )
    order = sorted(range(len(lengths)), key=lambda k: (errors[0][k] - errors[1][k], -errors[1][k], k))
    worst = [
        k
        for k in order
        if errors[1][k] or heard.real.transcripts[k].hypothesis != heard.integer.transcripts[k].hypothesis
    ][:_WORST]
    if not worst:
        return "".join(parts) + "<p>Every utterance was recognised without an error, in both.</p>"
    parts.append(
        f"<h3>The worst utterances, {len(worst)} of {len(lengths)}</h3>"
        "<p>Those first in which the integers lose most. "
        '<span class="sub">another word</span>, <span class="ins">a word too many</span>, '
        '<span class="del">a word left out</span>; <span class="moved">boxed</span>: '
        "not as the float network has it.</p>"
    )
    parts += [_utterance(heard, k, errors[0][k], errors[1][k]) for k in worst]
    return "".join(parts)


def _told(rate: Difference) -> str:
    return f"{100 * rate.value:.2f} % ({100 * rate.low:.2f} to {100 * rate.high:.2f})"


def _utterance(heard: Heard, place: int, real_errors: int, errors: int) -> str:
    real, integer = heard.real.transcripts[place], heard.integer.transcripts[place]
    said = integer.reference.split()
    theirs, ours = real.hypothesis.split(), integer.hypothesis.split()
    moved = {
        k
        for kind, _, _, first, last in _aligned(theirs, ours)
        if kind in ("substitute", "insert")
        for k in range(first, last)
    }
    # words left out by the integers alone, by their places in what was said
    lost = _left_out(said, ours) - _left_out(said, theirs)
    name = Path(integer.audio_path).name
    segment = "" if integer.offset is None else f" from {integer.offset:g} s"
    told = f"{escaped(name)}{escaped(segment)}: {errors} of {len(said)} words wrong, {real_errors} in float"
    rows = (
        ("said", " ".join(escaped(word, _WORD) for word in said[:_WORDS]), len(said)),
        ("float", _marked(said, theirs), len(theirs)),
        ("integers", _marked(said, ours, moved, lost), len(ours)),
    )
    cells = "".join(
        f"<tr><th>{label}</th><td>{text}{' …' if count > _WORDS else ''}</td></tr>"
        for label, text, count in rows
    )
    return f"<details open><summary>{told}</summary><table class=words>{cells}</table></details>"


def _aligned(said: Sequence[str], found: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """Return runs of words: what became of them, from where to where in either."""
    if not said:
        return [("insert", 0, 0, 0, len(found))] if found else []
    (chunks,) = jiwer.process_words(" ".join(said), " ".join(found)).alignments
    return [(c.type, c.ref_start_idx, c.ref_end_idx, c.hyp_start_idx, c.hyp_end_idx) for c in chunks]


def _left_out(said: Sequence[str], found: Sequence[str]) -> set[int]:
    return {
        k for kind, first, last, _, _ in _aligned(said, found) if kind == "delete" for k in range(first, last)
    }


def _marked(
    said: Sequence[str],
    found: Sequence[str],
    moved: Container[int] = (),
    lost: Container[int] = (),
) -> str:
    """Return recognised words, those that are wrong marked, and those left out in their places.

    Boxed are the words at the places ``moved`` of ``found``, and those left out at the places ``lost`` of
    ``said``.
    """
    parts = []
    for kind, first, last, start, end in _aligned(said, found):
        if kind == "delete":
            parts += [_word(said[k], "del", f"left out: {said[k]}", k in lost) for k in range(first, last)]
        for k in range(start, end):
            told = {"insert": f"not said: {found[k]}"}.get(kind, "")
            if kind == "substitute":
                told = f"said: {said[first + k - start]}"
            parts.append(_word(found[k], _KINDS[kind], told, k in moved))
    return " ".join(parts[:_WORDS])


def _word(word: str, kind: str, title: str, boxed: bool = False) -> str:
    text = escaped(word, _WORD)
    classes = f"{kind} moved".strip() if boxed else kind
    if not classes:
        return text
    title = "; ".join(part for part in (title, "not as in float" if boxed else "") if part)
    return f'<span class="{classes}" title="{escaped(title)}">{text}</span>'
