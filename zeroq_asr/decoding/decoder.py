"""Beam decoding as a specification says: the search, the width, the language models and the hotwords.

Shapes: B batch, S encoded frames, J joint width, V tokens without the blank, K durations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroq_asr.config.choices import AUTO
from zeroq_asr.config.decoding import (
    HOTWORD_WEIGHT,
    LM_WEIGHT,
    MAES,
    MODIFIED,
    PREFIX,
    TOKEN,
    UNK_SCORE_OFFSET,
    WORD,
    BeamSpec,
)
from zeroq_asr.decoding.arpa import HOW, read_arpa
from zeroq_asr.decoding.beam import modified_beam_search
from zeroq_asr.decoding.contexts import Parts, ScoredHypothesis
from zeroq_asr.decoding.expansion import Expansion, adaptive_expansion_search
from zeroq_asr.decoding.fusion import Fusion, InternalLanguageModel, LengthBonus, Scorer, log_softmax
from zeroq_asr.decoding.hotwords import Hotwords
from zeroq_asr.decoding.ngram import NGram, misfit
from zeroq_asr.decoding.prefix import prefix_beam_search
from zeroq_asr.decoding.transducer import Array, JoinerStep, PredictorStep, State
from zeroq_asr.decoding.word_ngram import WordBonus, WordNGram, word_misfit
from zeroq_asr.errors import ConfigError


class BeamDecoder:
    """A beam over the hypotheses of a transducer, in place of ``greedy_transducer``.

    ``lm_unit``: what its language model is over, "token" or "word"; None without one.

    The joiner must give real logits, float32: of the softmax, not only its order, much depends here.
    """

    def __init__(
        self,
        spec: BeamSpec,
        tokens: Sequence[str],
        durations: Sequence[int] = (),
        *,
        texts: Sequence[str] | None = None,
    ) -> None:
        """Read the language models that ``spec`` names, for a transducer of V tokens and K durations.

        ``texts`` [V]: what each token adds to a text (``Tokenizer.inner_texts``); None: the tokens are that.

        Raises ConfigError where a model cannot be read (``read_arpa``), is over neither tokens nor words that
        they spell or not over what ``spec`` says, or a hotword cannot be spelled (``Hotwords``), for the
        search of CTC networks, and for adaptive expansion search with durations.
        """
        if spec.search == PREFIX:
            problem = f"{PREFIX} is of CTC networks, this is a transducer"
            raise ConfigError("--beam-search", problem, f"choose {MODIFIED} or {MAES}")
        if spec.search == MAES and durations:
            problem = f"{MAES} is not known for a transducer with durations (TDT)"
            raise ConfigError("--beam-search", problem, "choose modified, which is over pairs with durations")
        self.spec, self.durations = spec, tuple(durations)
        self.blank_id = len(tokens)
        self._scorers, self.lm_unit = _scorers(spec, tokens, texts)

    def __call__(
        self,
        encoded: Array,
        lengths: npt.NDArray[np.integer[Any]],
        predictor: PredictorStep,
        joiner: JoinerStep,
        start: State,
        *,
        silence: Array | None = None,
    ) -> list[ScoredHypothesis]:
        """Return the best hypothesis of every utterance, as `n_best` does all."""
        found = self.n_best(encoded, lengths, predictor, joiner, start, silence=silence)
        return [hypotheses[0] for hypotheses in found]

    def n_best(
        self,
        encoded: Array,
        lengths: npt.NDArray[np.integer[Any]],
        predictor: PredictorStep,
        joiner: JoinerStep,
        start: State,
        *,
        silence: Array | None = None,
    ) -> list[list[ScoredHypothesis]]:
        """Return the hypotheses of every utterance of encodings [B, S, J] with lengths [B], best first.

        ``start`` is the predictor's state of B utterances before it reads the blank, number V.  ``silence``
        [J] is the encoding of real zeros, which the internal language model hears: where encodings are
        integers, their zero points; None: zeros.

        Raises ValueError where scores are not V + 1 + K, CheckpointError where they are no numbers.
        """
        scorers = self._scorers
        if self.spec.ilm_weight:
            quiet = np.zeros_like(encoded, shape=encoded.shape[2:]) if silence is None else silence
            scorers += ((-self.spec.ilm_weight, InternalLanguageModel(joiner, quiet, self.blank_id)),)
        parts = Parts(predictor, joiner, Fusion(scorers), self.blank_id, self.durations)
        if self.spec.search == MAES:
            expansion = Expansion(
                self.spec.maes_num_steps,
                self.spec.maes_expansion_beta,
                self.spec.maes_expansion_gamma,
                self.spec.maes_prefix_alpha,
            )
            return adaptive_expansion_search(encoded, lengths, parts, start, self.spec.width, expansion)
        return modified_beam_search(encoded, lengths, parts, start, self.spec.width)


class CtcBeamDecoder:
    """A beam over what the alignments of a CTC network say, in place of ``greedy_ctc``.

    ``lm_unit``: what its language model is over, "token" or "word"; None without one.
    """

    def __init__(self, spec: BeamSpec, tokens: Sequence[str], *, texts: Sequence[str] | None = None) -> None:
        """Read the language models that ``spec`` names, for a network of V tokens and the blank behind them.

        ``texts`` and errors are as for ``BeamDecoder``; ConfigError, too, for a search of transducers, and
        where the internal language model of a transducer is to be taken away.
        """
        if spec.search not in (AUTO, PREFIX):
            problem = f"{spec.search} is of transducers, this is a CTC network"
            raise ConfigError("--beam-search", problem, f"choose {PREFIX}, or leave it out")
        if spec.ilm_weight:
            problem = "a CTC network has no internal language model that can be asked"
            raise ConfigError("--ilm-weight", problem, "leave it out, or name a --source-lm")
        self.spec = spec
        scorers, self.lm_unit = _scorers(spec, tokens, texts)
        self._scorer = Fusion(scorers)

    def __call__(
        self, scores: npt.NDArray[Any], lengths: npt.NDArray[np.integer[Any]]
    ) -> list[ScoredHypothesis]:
        """Return the best hypothesis of every utterance, as `n_best` does all."""
        return [hypotheses[0] for hypotheses in self.n_best(scores, lengths)]

    def n_best(
        self, scores: npt.NDArray[Any], lengths: npt.NDArray[np.integer[Any]]
    ) -> list[list[ScoredHypothesis]]:
        """Return the hypotheses of every utterance of scores [B, S, V + 1] with lengths [B], best first.

        ``scores``: real logits or log-probabilities, the blank's last.  Raises CheckpointError where they are
        no numbers.
        """
        return [
            prefix_beam_search(log_softmax(one[:end], "network"), self._scorer, self.spec.width)
            for one, end in zip(np.asarray(scores), lengths, strict=True)
        ]


def _scorers(
    spec: BeamSpec, tokens: Sequence[str], texts: Sequence[str] | None
) -> tuple[tuple[tuple[float, Scorer], ...], str | None]:
    """Return what ``spec`` adds to scores, with the weight of each, and what its language model is over."""
    texts = tokens if texts is None else texts
    # however much it counts: without any scorer there are no scores to add
    scorers: list[tuple[float, Scorer]] = [(spec.length_bonus, LengthBonus(len(tokens)))]
    if spec.word_bonus:
        scorers.append((spec.word_bonus, WordBonus(texts)))
    unit = None
    if spec.lm is not None:
        model, unit = _language_model(spec.lm, spec, tokens, texts, spec.unk_score_offset)
        scorers.append((LM_WEIGHT if spec.lm_weight is None else spec.lm_weight, model))
    if spec.source_lm is not None:
        # an offset that is taken away would prefer what neither model knows
        model, _ = _language_model(spec.source_lm, spec, tokens, texts, 0.0)
        scorers.append((-(LM_WEIGHT if spec.source_lm_weight is None else spec.source_lm_weight), model))
    if spec.hotwords:
        weight = HOTWORD_WEIGHT if spec.hotword_weight is None else spec.hotword_weight
        scorers.append((weight, Hotwords(spec.hotwords, texts)))
    return tuple(scorers), unit


def _language_model(
    path: str, spec: BeamSpec, tokens: Sequence[str], texts: Sequence[str], offset: float | None
) -> tuple[Scorer, str]:
    """Return the n-gram model in an ARPA file, and whether it is over tokens or over words.

    ``offset``: of unknown words; None: ``UNK_SCORE_OFFSET``.  Raises ConfigError where it cannot be told, or
    an offset was asked for of a model over tokens.
    """
    arpa = read_arpa(path)
    unit = spec.lm_unit
    if unit == AUTO:
        of_tokens, of_words = misfit(arpa, tokens), word_misfit(arpa, texts)
        if of_tokens is not None and of_words is not None:
            raise ConfigError(path, f"{of_tokens}; as one over words it {of_words}", HOW)
        unit = TOKEN if of_tokens is None else WORD
    if unit == WORD:
        return WordNGram(arpa, texts, UNK_SCORE_OFFSET if offset is None else offset), unit
    if offset:
        problem = f"is of models over words, and {path} is over tokens"
        raise ConfigError("--unk-score-offset", problem, "leave it out")
    return NGram(arpa, tokens), unit
