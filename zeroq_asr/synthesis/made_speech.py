"""Features of speech that nobody spoke: made waveforms through the checkpoint's own frontend.

So they are what the network will meet, whatever its frontend makes: log-mels, normalized or not, or
waveforms.  Nothing in the network is asked, and no statistics are needed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from zeroq_asr.config import SynthesisSpec
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import Progress, silent
from zeroq_asr.speech.frontend import Frontend
from zeroq_asr.synthesis.features import SyntheticFeatures
from zeroq_asr.synthesis.voice import speak
from zeroq_asr.threads import one_thread

#: seeds of utterances are so far apart from those of another synthesis
_APART = 1_000_003
#: utterances and seconds of each that other features are compared with: so few that it costs little
_FEW, _SHORT = 4, 4.0
#: of those whose covariances weights are rounded by
_MANY = 32
#: from a seed to that of utterances for another purpose
_OTHER = 1


@one_thread()
def made_speech(
    model: AsrModel, spec: SynthesisSpec | None = None, progress: Progress = silent
) -> SyntheticFeatures:
    """Return the features of ``spec.speakers`` made utterances of ``spec.seconds`` each.

    Every utterance has a speaker, a room and a level of its own.  The same seed gives the same waveforms on
    any machine.  There is nothing to match, so ``losses`` and ``account`` are empty.
    """
    spec = SynthesisSpec.preset("default") if spec is None else spec
    frontend, rate = Frontend(model.frontend), model.frontend.sample_rate
    # a network needs some length to give a frame at all
    seconds = max(spec.seconds, 2 * model.frontend.window_size)
    made = []
    progress("speak", 0, spec.speakers)
    for number in range(spec.speakers):
        made.append(frontend(speak(seconds, rate, spec.seed * _APART + number)))
        progress("speak", number + 1, spec.speakers)
    lengths = np.array([length for _, length in made], dtype=np.int64)
    features = np.stack([values[:, : lengths.max()] for values, _ in made]).astype(np.float32)
    return SyntheticFeatures(features, lengths, spec)


def little_speech(model: AsrModel, spec: SynthesisSpec) -> SyntheticFeatures:
    """Return a few short made utterances, other ones than ``spec`` makes, for ranges to be compared with."""
    few = dataclasses.replace(spec, speakers=_FEW, seconds=_SHORT, seed=spec.seed + _OTHER)
    return made_speech(model, few)


def rounding_speech(model: AsrModel, spec: SynthesisSpec) -> SyntheticFeatures:
    """Return made utterances, other ones than ``spec`` makes, for what weights are multiplied with.

    Rounding by feedback makes up for one weight by another as far as their inputs go together, and needs more
    speakers to know that than ranges do.
    """
    return made_speech(
        model, dataclasses.replace(spec, speakers=_MANY, seconds=_SHORT, seed=spec.seed + 2 * _OTHER)
    )


def joined(first: SyntheticFeatures, second: SyntheticFeatures) -> SyntheticFeatures:
    """Return the utterances of both, with what is told of the first; the shorter are padded with zeros."""
    longest = max(first.features.shape[2], second.features.shape[2])
    padded = [
        np.pad(one.features, ((0, 0), (0, 0), (0, longest - one.features.shape[2])))
        for one in (first, second)
    ]
    lengths = np.concatenate((first.lengths, second.lengths))
    return dataclasses.replace(first, features=np.concatenate(padded), lengths=lengths)
