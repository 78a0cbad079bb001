"""What lies between a mouth and a file: a room, noise, a microphone's gain.

Reverberation as in Polack's model (an exponentially decaying noise behind the direct path; see Habets,
"Room impulse response generator" (2006)), decay times and ratios of direct sound of furnished rooms (ISO
3382-2; 0.1 to 0.8 s).
"""

from __future__ import annotations

import numpy as np

from zeroq_asr.synthesis.voice.score import Array

#: how many utterances are reverberant, noisy, and recorded too loud
_REVERBERANT, _NOISY, _CLIPPED = 0.5, 0.75, 0.05


def recorded(wave: Array, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Return speech [N] as a microphone in some room records it: float32 in [−1, 1]."""
    if generator.random() < _REVERBERANT:
        wave = _reverberant(wave, rate, generator)
    wave = wave / max(np.abs(wave).max(), 1e-9)
    # a faint noise always, as of any converter
    decibels = generator.uniform(5, 40) if generator.random() < _NOISY else generator.uniform(40, 70)
    noise = _noise(len(wave), rate, generator)
    level = np.sqrt(np.mean(wave**2) / np.mean(noise**2))
    wave = wave + level * 10 ** (-decibels / 20) * noise
    gain = generator.uniform(0, 12) if generator.random() < _CLIPPED else generator.uniform(-32, -1)
    wave = wave * 10 ** (gain / 20) / np.abs(wave).max()
    # files hold 16 bits
    return (np.rint(np.clip(wave, -1.0, 1.0) * 32767) / 32767).astype(np.float32)


def _reverberant(wave: Array, rate: int, generator: np.random.Generator) -> Array:
    decay = generator.uniform(0.1, 0.8)
    time = np.arange(round(decay * rate)) / rate
    tail = generator.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    tail[: round(0.002 * rate)] = 0.0
    # direct over reverberant energy, dB
    tail *= 10 ** (-generator.uniform(0, 18) / 20) / np.linalg.norm(tail)
    tail[0] = 1.0
    size = 1 << (len(wave) + len(tail)).bit_length()
    return np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(tail, size), size)[: len(wave)]


def _noise(count: int, rate: int, generator: np.random.Generator) -> Array:
    """Return noise [count] whose spectrum falls by a random power of the frequency, perhaps with a hump."""
    size = 1 << max(count - 1, 1).bit_length()
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / rate), 30.0)
    shape = frequencies ** -generator.uniform(0, 1.2)
    centre, width = generator.uniform(100, 0.4 * rate), generator.uniform(100, 2000)
    hump = np.exp(-(((frequencies - centre) / width) ** 2))
    shape *= 1 + generator.uniform(0, 8) * hump * (generator.random() < 0.4)
    phases = np.exp(2j * np.pi * generator.random(len(shape)))
    return np.fft.irfft(shape * phases, size)[:count]
