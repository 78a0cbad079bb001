"""How scores become text by a beam: the search, and what has a say in it, language models and hotwords."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zeroq_asr.config.checks import choice, from_dict, names, real, text, whole
from zeroq_asr.config.choices import AUTO
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

#: how transducers' hypotheses are expanded: ``zeroq_asr.decoding.beam`` and ``zeroq_asr.decoding.expansion``
MODIFIED, MAES = "modified", "maes"
#: how those of CTC networks are: ``zeroq_asr.decoding.prefix``
PREFIX = "prefix"
#: the first is the last for a CTC network, and the second for a transducer
SEARCHES = (AUTO, MODIFIED, MAES, PREFIX)
#: weight of a language model where nobody names one
LM_WEIGHT = 0.3
#: what an n-gram model is over
TOKEN, WORD = "token", "word"
LM_UNITS = (AUTO, TOKEN, WORD)
#: what is added for a word that a model over words does not have where nobody says it, in nats
UNK_SCORE_OFFSET = -10.0
#: what a hotword counts where nobody says it, in nats
HOTWORD_WEIGHT = 5.0
#: hotwords, and characters of one: more are another file
MOST_HOTWORDS, MOST_CHARACTERS = 10_000, 200
#: most hypotheses that are kept: more are a slip of the pen
MOST_WIDTH = 1024
#: fields that mean nothing without another
NEEDS = {
    "lm_weight": "lm",
    "lm_unit": "lm",
    "unk_score_offset": "lm",
    "source_lm": "lm",
    "source_lm_weight": "source_lm",
    "hotword_weight": "hotwords",
}


@dataclass(frozen=True)
class BeamSpec:
    """How wide a beam is, how it is searched, and what is added to its scores."""

    #: hypotheses that are kept from frame to frame
    width: int = 4
    #: of a transducer "modified": one token a frame at most, or "maes": several, as many as seem worth it;
    #: of a CTC network "prefix"; "auto": modified or prefix
    search: str = AUTO
    #: path of an n-gram model over tokens or over words, in the ARPA format; None: none
    lm: str | None = None
    #: what its log-probability counts; None: ``LM_WEIGHT``
    lm_weight: float | None = None
    #: what ``lm`` and ``source_lm`` are over, "token" or "word"; "auto": as their words tell
    lm_unit: str = AUTO
    #: added to the log-probability of a word that ``lm``, over words, does not have, in nats, 0 or less;
    #: None: ``UNK_SCORE_OFFSET``
    unk_score_offset: float | None = None
    #: path of a model of the text that the recogniser was trained on, which is taken away (density ratio)
    source_lm: str | None = None
    #: what its log-probability counts; None: ``LM_WEIGHT``
    source_lm_weight: float | None = None
    #: what the log-probability of a transducer's internal language model counts, which is taken away
    ilm_weight: float = 0.0
    #: added for every token, in nats; below 0 it makes hypotheses shorter
    length_bonus: float = 0.0
    #: added for every word, in nats; below 0 it makes hypotheses shorter
    word_bonus: float = 0.0
    #: words or phrases that are likely to be said, and preferred, in upper or lower case
    hotwords: tuple[str, ...] = ()
    #: what each of them adds where it is said, in nats; None: ``HOTWORD_WEIGHT``
    hotword_weight: float | None = None
    #: of "maes": expansions of one frame at most
    maes_num_steps: int = 2
    #: of "maes": a hypothesis has ``width`` + beta expansions at most …
    maes_expansion_beta: int = 2
    #: … of scores at most gamma nats below the best of them
    maes_expansion_gamma: float = 2.3
    #: of "maes": tokens by which a hypothesis may be longer than one that it takes probability from
    maes_prefix_alpha: int = 1

    def __post_init__(self) -> None:
        where = "BeamSpec"
        whole(where, "width", self.width, 1, MOST_WIDTH)
        choice(where, "search", self.search, SEARCHES)
        for name in ("lm", "source_lm"):
            if getattr(self, name) is not None:
                text(where, name, getattr(self, name))
        choice(where, "lm_unit", self.lm_unit, LM_UNITS)
        if self.unk_score_offset is not None:
            real(where, "unk_score_offset", self.unk_score_offset, at_least=-1000.0, at_most=0.0)
        object.__setattr__(self, "hotwords", _hotwords(where, self.hotwords))
        for name in ("lm_weight", "source_lm_weight", "ilm_weight", "hotword_weight"):
            if getattr(self, name) is not None:
                real(where, name, getattr(self, name), at_least=0.0, at_most=100.0)
        for name in ("length_bonus", "word_bonus"):
            real(where, name, getattr(self, name), at_least=-100.0, at_most=100.0)
        whole(where, "maes_num_steps", self.maes_num_steps, 1, 100)
        whole(where, "maes_expansion_beta", self.maes_expansion_beta, 0, 1 << 20)
        real(where, "maes_expansion_gamma", self.maes_expansion_gamma, at_least=0.0)
        whole(where, "maes_prefix_alpha", self.maes_prefix_alpha, 0, 100)
        for name, other in NEEDS.items():
            if getattr(self, name) not in (None, AUTO) and getattr(self, other) in (None, ()):
                raise ConfigError(where, f"{name} is given without {other}", f"name {other}, too")
        if self.search != MAES:
            for field in dataclasses.fields(self):
                if field.name.startswith("maes_") and getattr(self, field.name) != field.default:
                    raise ConfigError(where, f"{field.name} is of the search {MAES}, not of {self.search}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**dataclasses.asdict(self), "hotwords": [*self.hotwords]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BeamSpec:
        """Return the specification that ``to_dict`` wrote; ConfigError for unknown keys."""
        return from_dict(cls, data)


def _hotwords(where: str, value: object) -> tuple[str, ...]:
    """Return hotwords with single spaces, each once; ConfigError for what are none."""
    given = names(where, "hotwords", value)
    if len(given) > MOST_HOTWORDS:
        raise ConfigError(where, f"{len(given)} hotwords are more than the {MOST_HOTWORDS} that there may be")
    for word in given:
        if len(word) > MOST_CHARACTERS:
            problem = f"the hotword {shown(word)} has more than {MOST_CHARACTERS} characters"
            raise ConfigError(where, problem, "name words or short phrases")
    return tuple(dict.fromkeys(" ".join(word.split()) for word in given))
