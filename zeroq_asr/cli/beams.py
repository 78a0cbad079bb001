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


#: names of the options that are fields of the specification as they are
_FIELDS = (
    "lm_weight",
    "lm_unit",
    "unk_score_offset",
    "source_lm_weight",
    "ilm_weight",
    "length_bonus",
    "word_bonus",
    "hotword_weight",
)


def beam_of(ctx: typer.Context) -> BeamSpec | None:
    """Return what the options of a command say, which has all of this page; None where they say nothing.

    None is greedy decoding.  Raises ConfigError, naming it, for an option that means nothing without another,
    or is out of its range.
    """
    options = ctx.params
    width, file = options["beam"], options["hotwords"]
    given: dict[str, Any] = {
        "search": options["beam_search"],
        **{name: options[name] for name in _FIELDS},
        **{name: None if options[name] is None else str(options[name]) for name in ("lm", "source_lm")},
        "hotwords": _hotwords(options["hotword"] or (), None if file is None else Path(file)),
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        other = NEEDS.get(name)
        if other is not None and other not in given:
            raise ConfigError(_option(name), f"means nothing without {_option(other)}", "name that, too")
        if width is None:
            raise ConfigError(_option(name), "means nothing without --beam", "name a width, as --beam 4")
    if width is None:
        return None
    try:
        return BeamSpec(width, **given)
    except ConfigError as error:
        field, _, problem = error.problem.partition(" ")
        if field in given:
            raise ConfigError(_option(field), problem, error.remedy) from None
        # what else is wrong is one of the hotwords, or how many there are
        raise ConfigError(_option("hotwords"), error.problem, error.remedy) from None


def language_model_of(decoding: BeamSpec | None, recognizer: object) -> str | None:
    """Return the language model that a recogniser's beam was given, and what it is over; None without one."""
    if decoding is None or decoding.lm is None:
        return None
    decoder = getattr(recognizer, "beam", None)
    return f"{decoding.lm}, over {getattr(decoder, 'lm_unit', AUTO)}s"


def beam_fields(decoding: BeamSpec | None, recognizer: object) -> dict[str, Any] | None:
    """Return the fields of a recogniser's beam, with what its language model was found to be over.

    None where it decodes greedily.
    """
    if decoding is None:
        return None
    unit = getattr(getattr(recognizer, "beam", None), "lm_unit", None)
    return {**decoding.to_dict(), "lm_unit": unit or decoding.lm_unit}


def decoded_by(beam: BeamSpec | None) -> str:
    """Return how scores are decoded, in words: greedily, or by which beam."""
    if beam is None:
        return "greedily"
    words = [f"by a beam of {beam.width}"]
    if beam.search != AUTO:
        words.append(beam.search)
    if beam.lm is not None:
        words.append(f"with {Path(beam.lm).name}")
    if beam.source_lm is not None:
        words.append(f"without {Path(beam.source_lm).name}")
    if beam.hotwords:
        words.append("1 hotword" if len(beam.hotwords) == 1 else f"{len(beam.hotwords)} hotwords")
    return ", ".join(words)


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
