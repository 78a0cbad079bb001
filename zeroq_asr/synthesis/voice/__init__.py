"""Made speech: waveforms from a source-filter model of the voice, spoken by nobody and saying nothing.

Imported by: synthesis.
Imports: nothing.
Never imports: operators, embedded, calibration, deployment, pipeline, measure, cli.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zeroq_asr.synthesis.voice.room import recorded
from zeroq_asr.synthesis.voice.score import compose
from zeroq_asr.synthesis.voice.speaker import draw
from zeroq_asr.synthesis.voice.tract import sound

__all__ = ["speak"]


def speak(seconds: float, rate: int, seed: int) -> npt.NDArray[np.float32]:
    """Return a waveform of made speech [N] in [−1, 1], of ``seconds`` at ``rate`` Hz.

    One speaker, drawn with all that he says by ``seed``; the same seed gives the same samples on any number
    of threads, for numpy alone computes them.
    """
    generator = np.random.default_rng(seed)
    speaker = draw(generator)
    wave = sound(compose(seconds, speaker, generator), speaker, rate, generator)
    return recorded(wave, rate, generator)[: round(seconds * rate)]
