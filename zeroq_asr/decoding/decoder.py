"""Beam decoding of transducers as a specification says: the search, the width and the language models.

Shapes: B batch, S encoded frames, J joint width, V tokens without the blank, K durations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroq_asr.config.decoding import LM_WEIGHT, MAES, BeamSpec
from zeroq_asr.decoding.beam import modified_beam_search
from zeroq_asr.decoding.contexts import Parts, ScoredHypothesis
from zeroq_asr.decoding.expansion import Expansion, adaptive_expansion_search
from zeroq_asr.decoding.fusion import Fusion, InternalLanguageModel, LengthBonus, Scorer
from zeroq_asr.decoding.ngram import NGram
from zeroq_asr.decoding.transducer import Array, JoinerStep, PredictorStep, State
from zeroq_asr.errors import ConfigError


class BeamDecoder:
    """A beam over the hypotheses of a transducer, in place of ``greedy_transducer``.

    The joiner must give real logits, float32: of the softmax, not only its order, much depends here.
    """

    def __init__(self, spec: BeamSpec, tokens: Sequence[str], durations: Sequence[int] = ()) -> None:
        """Read the language models that ``spec`` names, for a transducer of V tokens and K durations.

        Raises ConfigError where one cannot be read (``NGram``), and for adaptive expansion search with
        durations.
        """
        if spec.search == MAES and durations:
            problem = f"{MAES} is not known for a transducer with durations (TDT)"
            raise ConfigError("--beam-search", problem, "choose modified, which is over pairs with durations")
        self.spec, self.durations = spec, tuple(durations)
        self.blank_id = len(tokens)
        # however much it counts: without any scorer there are no scores to add
        scorers: list[tuple[float, Scorer]] = [(spec.length_bonus, LengthBonus(self.blank_id))]
        weights = ((spec.lm, spec.lm_weight, 1), (spec.source_lm, spec.source_lm_weight, -1))
        for path, weight, sign in weights:
            if path is not None:
                scorers.append((sign * (LM_WEIGHT if weight is None else weight), NGram(path, tokens)))
        self._scorers = tuple(scorers)

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
