"""Sounds of made speech: resonances of the vocal tract, sources, durations, and how they follow each other.

Frequencies in Hz, of a tract of 17 cm (an adult man).  Vowels: the means of men in Peterson and Barney,
"Control Methods Used in a Study of the Vowels", JASA 24 (1952), table II. Consonants: formants, bursts and
amplitudes near table II and III of Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67
(1980).  Mean durations: Crystal and House, "Segmental durations in connected-speech signals", JASA 83
(1988), rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Phone:
    """A sound: where its resonances go, what excites them, how long it lasts."""

    #: first three formants
    formants: tuple[float, float, float]
    #: bandwidths of them
    bandwidths: tuple[float, float, float] = (60.0, 90.0, 150.0)
    #: share of the full glottal source, 0 to 1
    voicing: float = 1.0
    #: of breath through the glottis, beside full voicing
    breath: float = 0.02
    #: of noise made at a narrow place, and the centre and width of its spectrum
    noise: float = 0.0
    centre: float = 4000.0
    width: float = 1500.0
    #: seconds: the mean, and the share by which it varies
    seconds: float = 0.08
    spread: float = 0.3
    #: a closure: silent but for voicing, then a burst of noise, then so many seconds of breath
    stop: bool = False
    aspiration: float = 0.0
    #: couples the nose: a pole and a zero besides
    nasal: bool = False


#: steady vowels
VOWELS: tuple[Phone, ...] = tuple(
    Phone((f1, f2, f3), (60.0, 90.0, 150.0), seconds=seconds)
    for f1, f2, f3, seconds in (
        (270, 2290, 3010, 0.12),
        (390, 1990, 2550, 0.08),
        (530, 1840, 2480, 0.09),
        (660, 1720, 2410, 0.13),
        (730, 1090, 2440, 0.13),
        (570, 840, 2410, 0.13),
        (440, 1020, 2240, 0.09),
        (300, 870, 2240, 0.11),
        (640, 1190, 2390, 0.09),
        (490, 1350, 1690, 0.11),
        (500, 1500, 2500, 0.05),
    )
)

#: the tongue is near the roof of the mouth, but nothing hisses: w, y, r, l
GLIDES: tuple[Phone, ...] = (
    Phone((290, 610, 2150), (50, 80, 60), voicing=0.8, seconds=0.06),
    Phone((260, 2070, 3020), (40, 250, 500), voicing=0.8, seconds=0.06),
    Phone((310, 1060, 1380), (70, 100, 120), voicing=0.8, seconds=0.06),
    Phone((310, 1050, 2880), (50, 100, 280), voicing=0.8, seconds=0.06),
)

#: m, n, ng
NASALS: tuple[Phone, ...] = (
    Phone((280, 900, 2200), (60, 100, 200), voicing=0.7, seconds=0.065, nasal=True),
    Phone((280, 1700, 2600), (60, 150, 200), voicing=0.7, seconds=0.06, nasal=True),
    Phone((280, 2300, 2750), (60, 150, 200), voicing=0.7, seconds=0.065, nasal=True),
)

#: f, th, s, sh, h, and the voiced v, dh, z, zh
FRICATIVES: tuple[Phone, ...] = (
    Phone((340, 1100, 2080), (200, 120, 150), 0.0, 0.05, 0.12, 5000, 5000, 0.1),
    Phone((320, 1290, 2540), (200, 90, 200), 0.0, 0.05, 0.10, 6000, 4000, 0.09),
    Phone((320, 1390, 2530), (200, 80, 200), 0.0, 0.02, 0.60, 6000, 1800, 0.11),
    Phone((300, 1840, 2750), (200, 100, 300), 0.0, 0.02, 0.55, 3200, 1200, 0.11),
    Phone((500, 1500, 2500), (250, 150, 200), 0.0, 0.40, 0.0, 2000, 2000, 0.06),
    Phone((220, 1100, 2080), (60, 90, 120), 0.5, 0.03, 0.06, 5000, 5000, 0.06),
    Phone((270, 1290, 2540), (60, 80, 170), 0.6, 0.03, 0.04, 6000, 4000, 0.05),
    Phone((240, 1390, 2530), (70, 60, 180), 0.45, 0.03, 0.30, 6000, 1800, 0.08),
    Phone((270, 1840, 2750), (60, 100, 300), 0.45, 0.03, 0.30, 3200, 1200, 0.08),
)

#: p, t, k, ch without voice, b, d, g, j with
STOPS: tuple[Phone, ...] = (
    Phone((400, 1100, 2150), (300, 150, 220), 0.0, 0.3, 0.25, 800, 1500, 0.09, stop=True, aspiration=0.05),
    Phone((400, 1600, 2600), (300, 120, 250), 0.0, 0.3, 0.60, 4500, 1800, 0.08, stop=True, aspiration=0.05),
    Phone((300, 1990, 2850), (250, 160, 330), 0.0, 0.3, 0.55, 2200, 800, 0.09, stop=True, aspiration=0.06),
    Phone((350, 1800, 2820), (200, 90, 300), 0.0, 0.1, 0.60, 3200, 1300, 0.12, stop=True, aspiration=0.07),
    Phone((200, 1100, 2150), (60, 110, 130), 0.2, 0.03, 0.15, 800, 1500, 0.07, stop=True, aspiration=0.01),
    Phone((200, 1600, 2600), (60, 100, 170), 0.2, 0.03, 0.40, 4500, 1800, 0.06, stop=True, aspiration=0.01),
    Phone((200, 1990, 2850), (60, 150, 280), 0.2, 0.03, 0.40, 2200, 800, 0.07, stop=True, aspiration=0.015),
    Phone((260, 1800, 2820), (60, 80, 270), 0.2, 0.05, 0.45, 3200, 1300, 0.10, stop=True, aspiration=0.04),
)

#: what may begin and end a syllable, and how often: English syllables mostly have the shape CV or CVC
_ONSETS = ((None, 0.12), (STOPS, 0.34), (FRICATIVES, 0.24), (NASALS, 0.14), (GLIDES, 0.16))
_CODAS = ((None, 0.52), (STOPS, 0.16), (FRICATIVES, 0.14), (NASALS, 0.13), (GLIDES, 0.05))


def syllable(generator: np.random.Generator) -> list[Phone]:
    """Draw the sounds of a syllable: perhaps a consonant or two, a vowel or two, perhaps a consonant."""
    sounds = _consonant(_ONSETS, generator)
    if sounds and sounds[0] not in GLIDES and generator.random() < 0.12:
        sounds.append(_one(GLIDES, generator))
    sounds.append(_one(VOWELS, generator))
    if generator.random() < 0.2:
        sounds.append(_one(VOWELS, generator))
    return sounds + _consonant(_CODAS, generator)


def _consonant(
    table: tuple[tuple[tuple[Phone, ...] | None, float], ...], generator: np.random.Generator
) -> list[Phone]:
    shares = np.array([share for _, share in table])
    kind = table[int(generator.choice(len(table), p=shares / shares.sum()))][0]
    return [] if kind is None else [_one(kind, generator)]


def _one(kind: tuple[Phone, ...], generator: np.random.Generator) -> Phone:
    return kind[int(generator.integers(len(kind)))]
