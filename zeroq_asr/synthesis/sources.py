"""What features are made from, by name, and which of them a network is best served with."""

from __future__ import annotations

from zeroq_asr.config import SynthesisSpec
from zeroq_asr.config.calibration import AUTO, BOTH, MATCHED, NOISE, SPEECH
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import Progress, silent
from zeroq_asr.synthesis.features import SyntheticFeatures
from zeroq_asr.synthesis.made_speech import joined, made_speech
from zeroq_asr.synthesis.statistics import stores_statistics
from zeroq_asr.synthesis.synthesize import gaussian_noise, synthesize


def make_features(
    model: AsrModel, spec: SynthesisSpec, source: str = AUTO, progress: Progress = silent
) -> SyntheticFeatures:
    """Return features for ``model`` made as ``source`` says, one of ``config.calibration.MADE``."""
    source = source_for(model, source)
    if source == NOISE:
        return gaussian_noise(model, spec)
    if source == SPEECH:
        return made_speech(model, spec, progress)
    matched = synthesize(model, spec, progress)
    return joined(matched, made_speech(model, spec, progress)) if source == BOTH else matched


def source_for(model: AsrModel, source: str = AUTO) -> str:
    """Return what "auto" stands for, and any other source as it is.

    Matched features where the network stores statistics and its frontend normalizes every feature, which is
    where matching starts from; made speech for any other.
    """
    if source != AUTO:
        return source
    matchable = model.frontend.normalize == "per_feature" and stores_statistics(
        model.network, model.example_input()
    )
    return MATCHED if matchable else SPEECH
