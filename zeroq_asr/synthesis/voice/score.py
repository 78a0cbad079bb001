"""What a speaker does, five milliseconds by five milliseconds: formants, sources, pitch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zeroq_asr.synthesis.voice.phones import Phone, syllable
from zeroq_asr.synthesis.voice.speaker import Speaker

Array = npt.NDArray[np.float64]

#: control frames a second
FRAMES_PER_SECOND = 200
#: the two formants above those of the sounds, and their bandwidths, Hz (Klatt 1980, table I)
_UPPER, _UPPER_WIDTHS = (3300.0, 3750.0), (250.0, 200.0)
#: where the tongue lies when it has no work to do
_NEUTRAL = np.array([500.0, 1500.0, 2500.0])
#: frames of a pause in which the voice dies away
_FALL = 6


@dataclass(frozen=True)
class Score:
    """Controls [F] or [F, 5] of an utterance of F control frames."""

    #: Hz
    formants: Array
    bandwidths: Array
    #: amplitudes of the glottal pulses, of the breath, and of the noise of narrow places
    voicing: Array
    breath: Array
    noise: Array
    #: Hz, of the spectrum of that noise
    centre: Array
    width: Array
    #: 0 to 1
    nasality: Array
    #: Hz
    pitch: Array


def compose(seconds: float, speaker: Speaker, generator: np.random.Generator) -> Score:
    """Draw what ``speaker`` does for ``seconds``: phrases of three to twelve syllables, with pauses."""
    count = max(round(seconds * FRAMES_PER_SECOND), 8)
    rows: list[Array] = [_pause(generator.uniform(0.05, 0.5))]
    progress: list[Array] = [np.zeros(len(rows[0]))]
    while sum(map(len, rows)) < count:
        phrase = [_frames(p, speaker, loud, generator) for p, loud in _phrase(generator)]
        voiced = np.concatenate(phrase)
        rows += [voiced, _pause(generator.exponential(0.25) + 0.05)]
        progress += [np.linspace(1.0, -1.0, len(voiced)), np.full(len(rows[-1]), -1.0)]
    controls = np.concatenate(rows)[:count]
    # the mouth takes time to move, the sources hardly any
    slow = _smoothed(controls[:, :6], 13)
    target = _NEUTRAL + speaker.care * (slow[:, :3] - _NEUTRAL)
    upper = np.broadcast_to(_UPPER, (count, 2))
    scale = speaker.tract * np.array(speaker.formants)
    drift = 1 + 0.02 * _drifting(count, 60, generator)[:, None]
    amplitudes = _smoothed(controls[:, 6:9], 3)
    return Score(
        formants=np.concatenate((target, upper), axis=1) * scale * drift,
        bandwidths=np.concatenate((slow[:, 3:], np.broadcast_to(_UPPER_WIDTHS, (count, 2))), axis=1),
        voicing=speaker.voicing * amplitudes[:, 0],
        # whoever whispers opens the glottis for every vowel
        breath=speaker.breath * (amplitudes[:, 1] + 0.2 * (1 - speaker.voicing) * amplitudes[:, 0]),
        noise=speaker.hiss * amplitudes[:, 2],
        centre=_smoothed(controls[:, 9:10], 3)[:, 0] * speaker.tract**0.5,
        width=_smoothed(controls[:, 10:11], 3)[:, 0],
        nasality=_smoothed(controls[:, 11:12], 5)[:, 0],
        pitch=_pitch(np.concatenate(progress)[:count], speaker, generator),
    )


def _phrase(generator: np.random.Generator) -> list[tuple[Phone, float]]:
    """Draw the sounds of a phrase, each with the loudness of its syllable; the last one is drawn out."""
    sounds = []
    for _ in range(int(generator.integers(3, 13))):
        stress = generator.choice([0.45, 0.7, 1.0], p=[0.3, 0.4, 0.3])
        sounds += [(phone, stress * 10 ** generator.normal(0, 0.05)) for phone in syllable(generator)]
    return sounds


def _frames(phone: Phone, speaker: Speaker, loud: float, generator: np.random.Generator) -> Array:
    """Return the controls [F, 12] of one sound."""
    seconds = (
        phone.seconds
        * speaker.slowness
        * (0.7 + 0.5 * loud)
        * np.exp(phone.spread * generator.standard_normal())
    )
    count = max(3, round(seconds * FRAMES_PER_SECOND))
    row = np.array(
        [
            *phone.formants,
            *phone.bandwidths,
            phone.voicing,
            phone.breath,
            phone.noise,
            phone.centre,
            phone.width,
            phone.nasal,
        ]
    )
    frames = np.tile(row, (count, 1))
    frames[:, 6:9] *= loud
    if phone.stop:
        burst = 2
        breath = max(1, round(phone.aspiration * speaker.slowness * FRAMES_PER_SECOND))
        tail = np.tile(row, (burst + breath, 1))
        tail[:, 6:9] *= loud
        frames[:, 7:9] = 0.0
        tail[:burst, 6:8] *= 0.3
        tail[burst:, 8] *= 0.15
        frames = np.concatenate((frames, tail))
    return frames


def _pause(seconds: float) -> Array:
    frames = np.zeros((max(_FALL, round(seconds * FRAMES_PER_SECOND)), 12))
    frames[:, :6] = (*_NEUTRAL, 100.0, 120.0, 180.0)
    frames[:, 9:11] = (4000.0, 2000.0)
    return frames


def _pitch(progress: Array, speaker: Speaker, generator: np.random.Generator) -> Array:
    """Return pitch [F]: it falls over a phrase, moves with the speaker's liveliness, and trembles."""
    count = len(progress)
    semitones = 2.0 * progress + speaker.liveliness * _drifting(count, 35, generator)
    tremor = speaker.flutter * _drifting(count, 10, generator)
    return speaker.pitch * 2.0 ** (semitones / 12) * (1 + tremor)


def _drifting(count: int, frames: int, generator: np.random.Generator) -> Array:
    """Return noise [count] of variance about 1 that changes over some ``frames``."""
    white = generator.standard_normal(count + frames)
    taps = np.hanning(frames + 2)[1:-1]
    taps /= np.linalg.norm(taps)
    return np.convolve(white, taps, mode="same")[:count]


def _smoothed(x: Array, frames: int) -> Array:
    """Return ``x`` [F, C] averaged over a window of ``frames``, an odd number."""
    taps = np.hanning(frames + 2)[1:-1]
    taps /= taps.sum()
    edged = np.pad(x, ((frames // 2, frames // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, taps, mode="valid") for column in edged.T], axis=1)
