"""Options that say how scores are decoded by a beam, and the specification that they make together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from zeroq_asr.cli.options import alternatives, one_of
from zeroq_asr.config.choices import AUTO
from zeroq_asr.config.decoding import (
    HOTWORD_WEIGHT,
    LM_UNITS,
    MODIFIED,
    MOST_WIDTH,
    NEEDS,
    PREFIX,
    SEARCHES,
    UNK_SCORE_OFFSET,
    BeamSpec,
)
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import read_file

#: of a file of hotwords
_MOST_BYTES = 1 << 24

Beam = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_WIDTH,
        metavar="WIDTH",
        help="Decode by a beam of so many hypotheses; by default the best of each frame is taken.",
    ),
]
BeamSearch = Annotated[
    str | None,
    typer.Option(
        metavar=alternatives(SEARCHES),
        callback=lambda value: value if value is None else one_of(SEARCHES)(value),
        help=f"How a transducer's beam is searched: one token a frame at most ({MODIFIED}, the default), or "
        f"several; {PREFIX}: of CTC networks, which have no other.",
    ),
]
Lm = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.arpa[.gz]",
        help="An n-gram model over the recogniser's tokens or over words, which ranks a beam, too.",
    ),
]
LmWeight = Annotated[float | None, typer.Option(help="What --lm counts; 0.3 by default.")]
LmUnit = Annotated[
    str | None,
    typer.Option(
        metavar=alternatives(LM_UNITS),
        callback=lambda value: value if value is None else one_of(LM_UNITS)(value),
        help="What --lm and --source-lm are over; by default their words tell.",
    ),
]
UnkScoreOffset = Annotated[
    float | None,
    typer.Option(
        help="Added where --lm, over words, does not have a word, in nats, 0 or less; "
        f"{UNK_SCORE_OFFSET:g} by default."
    ),
]
SourceLm = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.arpa[.gz]",
        help="A model of the text that the recogniser was trained on, taken away from --lm (density ratio).",
    ),
]
SourceLmWeight = Annotated[float | None, typer.Option(help="What --source-lm counts; 0.3 by default.")]
IlmWeight = Annotated[
    float | None,
    typer.Option(help="What a transducer's internal language model counts, which is taken away."),
]
LengthBonus = Annotated[
    float | None, typer.Option(help="Added to a hypothesis in a beam for every token, in nats.")
]
WordBonus = Annotated[
    float | None, typer.Option(help="Added to a hypothesis in a beam for every word, in nats.")
]
Hotword = Annotated[
    list[str] | None,
    typer.Option(metavar="PHRASE", help="A word or phrase that a beam prefers; may be given several times."),
]
Hotwords = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A text file with a hotword on each line, UTF-8.")
]
HotwordWeight = Annotated[
    float | None,
    typer.Option(help=f"What a hotword adds where it is said, in nats; {HOTWORD_WEIGHT:g} by default."),
]


def beam_of(
    width: int | None,
    search: str | None,
    lm: Path | None,
    lm_weight: float | None,
    lm_unit: str | None,
    unk_score_offset: float | None,
    source_lm: Path | None,
    source_lm_weight: float | None,
    ilm_weight: float | None,
    length_bonus: float | None,
    word_bonus: float | None,
    hotword: list[str] | None,
    hotwords: Path | None,
    hotword_weight: float | None,
) -> BeamSpec | None:
    """Return what the options say; None where they say nothing, which is greedy decoding.

    Raises ConfigError, naming it, for one that means nothing without another, or is out of its range.
    """
    given: dict[str, Any] = {
        "search": search,
        "lm": None if lm is None else str(lm),
        "lm_weight": lm_weight,
        "lm_unit": lm_unit,
        "unk_score_offset": unk_score_offset,
        "source_lm": None if source_lm is None else str(source_lm),
        "source_lm_weight": source_lm_weight,
        "ilm_weight": ilm_weight,
        "length_bonus": length_bonus,
        "word_bonus": word_bonus,
        "hotwords": _hotwords(hotword or (), hotwords),
        "hotword_weight": hotword_weight,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        other = NEEDS.get(name)
        if other is not None and other not in given:
            raise ConfigError(_option(name), f"means nothing without {_option(other)}", "name that, too")
        if width is None:
            raise ConfigError(_option(name), "means nothing without --beam", "name a width, as --beam 4")
    return None if width is None else BeamSpec(width, **given)


def language_model_of(decoding: BeamSpec | None, recognizer: object) -> str | None:
    """Return the language model that a recogniser's beam was given, and what it is over; None without one."""
    if decoding is None or decoding.lm is None:
        return None
    decoder = getattr(recognizer, "beam", None)
    return f"{decoding.lm}, over {getattr(decoder, 'lm_unit', AUTO)}s"


def _hotwords(named: Sequence[str], path: Path | None) -> list[str] | None:
    """Return hotwords that are named and those of a file, a line each; None where there are neither."""
    if path is None:
        return [*named] or None
    try:
        text = read_file(path, ConfigError, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(path, "is no text in UTF-8", "write a hotword on each line") from None
    words = [line.strip() for line in text.splitlines() if line.strip()]
    if not words:
        raise ConfigError(path, "holds no hotwords", "write one on each line")
    return [*named, *words]


def _option(field: str) -> str:
    return {"search": "--beam-search", "hotwords": "--hotword"}.get(field, "--" + field.replace("_", "-"))
