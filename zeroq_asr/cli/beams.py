"""Options that say how a transducer is decoded, and the specification that they make together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zeroq_asr.cli.options import alternatives, one_of
from zeroq_asr.config.decoding import MODIFIED, MOST_WIDTH, NEEDS, SEARCHES, BeamSpec
from zeroq_asr.errors import ConfigError

Beam = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_WIDTH,
        metavar="WIDTH",
        help="Decode a transducer by a beam of so many hypotheses; by default it is decoded greedily.",
    ),
]
BeamSearch = Annotated[
    str | None,
    typer.Option(
        metavar=alternatives(SEARCHES),
        callback=lambda value: value if value is None else one_of(SEARCHES)(value),
        help=f"How a beam is searched: one token a frame at most ({MODIFIED}, the default), or several.",
    ),
]
Lm = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.arpa",
        help="An n-gram model whose words are the recogniser's tokens, which ranks a beam, too.",
    ),
]
LmWeight = Annotated[float | None, typer.Option(help="What --lm counts; 0.3 by default.")]
SourceLm = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.arpa",
        help="A model of the text that the recogniser was trained on, taken away from --lm (density ratio).",
    ),
]
SourceLmWeight = Annotated[float | None, typer.Option(help="What --source-lm counts; 0.3 by default.")]
IlmWeight = Annotated[
    float | None,
    typer.Option(help="What the transducer's internal language model counts, which is taken away."),
]
LengthBonus = Annotated[
    float | None, typer.Option(help="Added to a hypothesis in a beam for every token, in nats.")
]


def beam_of(
    width: int | None,
    search: str | None,
    lm: Path | None,
    lm_weight: float | None,
    source_lm: Path | None,
    source_lm_weight: float | None,
    ilm_weight: float | None,
    length_bonus: float | None,
) -> BeamSpec | None:
    """Return what the options say; None where they say nothing, which is greedy decoding.

    Raises ConfigError, naming it, for one that means nothing without another, or is out of its range.
    """
    given: dict[str, Any] = {
        "search": search,
        "lm": None if lm is None else str(lm),
        "lm_weight": lm_weight,
        "source_lm": None if source_lm is None else str(source_lm),
        "source_lm_weight": source_lm_weight,
        "ilm_weight": ilm_weight,
        "length_bonus": length_bonus,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        other = NEEDS.get(name)
        if other is not None and other not in given:
            raise ConfigError(_option(name), f"means nothing without {_option(other)}", "name that, too")
        if width is None:
            raise ConfigError(_option(name), "means nothing without --beam", "name a width, as --beam 4")
    return None if width is None else BeamSpec(width, **given)


def _option(field: str) -> str:
    return "--beam-search" if field == "search" else "--" + field.replace("_", "-")
