"""Voices for espeak-ng: its own variants, and as many random ones as asked.

A variant is a small text file that scales pitch and formants.  The random ones vary them
continuously, so that a recogniser does not learn a list of voices; the held-out ones are
espeak-ng's own, made by other people, and none of the random ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: shares of the accents in training and held-out speech
ACCENTS = {
    "en-us": 0.42,
    "en-gb": 0.2,
    "en-gb-x-rp": 0.15,
    "en-gb-scotland": 0.08,
    "en-gb-x-gbclan": 0.05,
    "en-gb-x-gbcwmd": 0.05,
    "en-029": 0.05,
}
#: espeak-ng's variants that no training speech uses
HELD_OUT = ("f2", "f4", "m3", "m6", "Andrea", "Annie", "Mike", "david", "gustave", "Jacky", "linda", "travis")
#: espeak-ng's variants that sound like people
NAMED = (
    "Alex", "Alicia", "Andy", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Lee", "Marco",
    "Mario", "Michael", "adam", "anika", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb",
    "ed", "edward", "edward2", "f1", "f3", "f5", "grandma", "grandpa", "iven", "iven2", "iven3", "iven4",
    "john", "klatt", "klatt2", "klatt3", "klatt4", "m1", "m2", "m4", "m5", "m7", "m8", "max", "michel",
    "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph",
    "steph2", "steph3", "victor", "zac",
)  # fmt: skip
#: the share of training speech that uses a named variant
NAMED_SHARE = 0.25
#: scale of the formants and lowest pitch in Hz, each as (from, to)
_KINDS = {
    "male": ((0.88, 1.08), (65, 130)),
    "female": ((1.04, 1.26), (150, 245)),
    "child": ((1.15, 1.4), (220, 330)),
}


@dataclass(frozen=True)
class Voice:
    """What one utterance is spoken with."""

    #: an accent of espeak-ng
    accent: str
    variant: str
    #: words a minute
    rate: int
    #: 0 to 99, 50 is the variant's own
    pitch: int
    #: pauses between words, in 10 ms
    gap: int
    #: played so many times as fast, pitch and formants included
    speed: float

    @property
    def arguments(self) -> list[str]:
        """Return espeak-ng's arguments."""
        spoken = round(self.rate / self.speed)
        return [
            "-v",
            f"{self.accent}+{self.variant}",
            "-s",
            str(spoken),
            "-p",
            str(self.pitch),
            "-g",
            str(self.gap),
        ]


def write_variants(data: Path, folder: Path, count: int, seed: int) -> list[str]:
    """Copy espeak-ng's ``data`` to ``folder`` with ``count`` random variants, and return their names."""
    shutil.copytree(data, folder / "espeak-ng-data", dirs_exist_ok=True)
    generator = np.random.default_rng(seed)
    names = []
    for number in range(count):
        name = f"random{number}"
        (folder / "espeak-ng-data" / "voices" / "!v" / name).write_text(_random_variant(name, generator))
        names.append(name)
    return names


def _random_variant(name: str, generator: np.random.Generator) -> str:
    """Return a variant file: lines of a key and numbers, percent unless espeak-ng says otherwise."""
    uniform = generator.uniform
    kind = generator.choice(list(_KINDS), p=[0.45, 0.45, 0.1])
    (low, high), pitches = _KINDS[kind]
    scale, pitch = uniform(low, high), uniform(*pitches)
    lines = ["language variant", f"name {name}", f"gender {'male' if kind == 'male' else 'female'}"]
    lines.append(f"pitch {pitch:.0f} {pitch * uniform(1.2, 1.7):.0f}")
    for formant in range(9):
        frequency = 100 * scale * generator.normal(1, 0.035)
        lines.append(f"formant {formant} {frequency:.0f} {uniform(60, 130):.0f} {uniform(80, 160):.0f}")
    lines += [f"flutter {generator.integers(0, 6)}", f"roughness {generator.integers(0, 4)}"]
    lines += [f"consonants {uniform(70, 130):.0f} {uniform(60, 120):.0f}", f"voicing {uniform(70, 150):.0f}"]
    if generator.random() < 0.2:
        lines.append("breath 0 " + " ".join(f"{n}" for n in generator.integers(1, 5, 7)))
    if generator.random() < 0.1:
        lines.append(f"klatt {generator.integers(1, 5)}")
    return "\n".join(lines) + "\n"


def draw(variants: list[str], named: tuple[str, ...], share: float, generator: np.random.Generator) -> Voice:
    """Draw a voice: one of ``named`` with probability ``share``, else one of ``variants``."""
    pool = named if generator.random() < share else variants
    return Voice(
        accent=str(generator.choice(list(ACCENTS), p=list(ACCENTS.values()))),
        variant=str(generator.choice(pool)),
        rate=int(generator.integers(125, 205)),
        pitch=int(generator.integers(30, 71)),
        gap=int(generator.integers(0, 4)),
        speed=float(generator.uniform(0.9, 1.12)),
    )
