"""Who speaks: a point in a continuum of tracts, larynges and manners.

Lengths of the tract and pitches: Fitch and Giedd, "Morphology and development of the human vocal tract",
JASA 106 (1999), figure 4 (some 11 cm at eight years, 14 for women, 15.5 for men; formants scale inversely,
and Peterson and Barney's men stand for 17 cm); Baken and Orlikoff, "Clinical Measurement of Speech and
Voice" (2000), chapter 6 (means of 90 to 150 Hz for men, 170 to 240 for women, 220 to 300 for children;
within a speaker a deviation of two to four semitones).  Syllables a second: Jacewicz and others,
"Articulation rate across dialect, age, and gender", Language Variation and Change 21 (2009): 3 to 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Speaker:
    """What does not change within an utterance."""

    #: factor on all formants: 1 for a man of 17 cm
    tract: float
    #: factors on each of five formants besides
    formants: tuple[float, ...]
    #: Hz, the pitch about which speech moves
    pitch: float
    #: semitones, the deviation of that movement
    liveliness: float
    #: cycles a second of a slow tremor of pitch, and the share by which one period differs from the next
    flutter: float
    jitter: float
    #: share of a period in which the glottis is open
    openness: float
    #: dB an octave by which the source falls besides the pulse's own spectrum
    tilt: float
    #: factor on all breath; voicing 0 is a whisper
    breath: float
    voicing: float
    #: factor on all durations
    slowness: float
    #: share by which sounds reach their targets: 1 is careful speech
    care: float
    #: factor on the noise of fricatives and bursts
    hiss: float


def draw(generator: np.random.Generator) -> Speaker:
    """Draw a speaker: a man, a woman or a child, one in twenty of whom whispers."""
    kind = generator.choice(3, p=(0.45, 0.45, 0.1))
    (low, high), (deep, bright) = (
        ((0.92, 1.10), (85.0, 160.0)),
        ((1.06, 1.25), (160.0, 250.0)),
        ((1.2, 1.45), (220.0, 320.0)),
    )[kind]
    whispers = generator.random() < 0.05
    return Speaker(
        tract=generator.uniform(low, high),
        formants=tuple(generator.normal(1.0, 0.04, 5)),
        pitch=deep * (bright / deep) ** generator.random(),
        liveliness=generator.uniform(1.0, 4.0),
        flutter=generator.uniform(0.0, 0.02),
        jitter=generator.uniform(0.002, 0.02),
        openness=generator.uniform(0.4, 0.75),
        tilt=generator.uniform(0.0, 9.0),
        breath=2.0 ** generator.normal(0.0, 1.0),
        voicing=0.0 if whispers else 1.0,
        slowness=generator.uniform(0.7, 1.4),
        care=generator.uniform(0.6, 1.0),
        hiss=2.0 ** generator.normal(0.0, 0.5),
    )
