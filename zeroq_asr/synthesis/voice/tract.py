"""From a score to a waveform: glottal pulses and noises through a vocal tract that moves.

The source is the derivative of Klatt and Klatt's glottal flow u² − u³ ("Analysis, synthesis, and perception
of voice quality variations", JASA 87 (1990), section I.B), which includes the radiation at the lips.  The
tract is Klatt's cascade of digital resonators (JASA 67 (1980), section I.A), one set of coefficients a
control frame: each windowed stretch of the source passes the frame's transfer function, and the outcomes
are added.
"""

from __future__ import annotations

import numpy as np

from zeroq_asr.synthesis.voice.score import FRAMES_PER_SECOND, Array, Score
from zeroq_asr.synthesis.voice.speaker import Speaker

#: the pulses' edges are sharper than the sample rate: they are made at a multiple of it
_OVERSAMPLED = 4
#: Hz: pole of the nose, its bandwidth, and where its zero goes as it opens (Klatt 1980, table I)
_NOSE, _NOSE_WIDTH, _NOSE_ZERO = 270.0, 100.0, 450.0
#: Hz: below, the source does not fall any faster for a larger tilt
_TILTS_FROM = 500.0
#: seconds that resonances ring at most
_RINGS = 0.048


def sound(score: Score, speaker: Speaker, rate: int, generator: np.random.Generator) -> Array:
    """Return the waveform [N] of a score at ``rate`` Hz, of no particular level."""
    hop = max(1, round(rate / FRAMES_PER_SECOND))
    count = hop * len(score.pitch)
    pulses, opening = _glottis(score, speaker, rate, hop, generator)
    breath = generator.standard_normal(count) * (0.5 + 0.5 * opening)
    voiced = _over(score.voicing, hop) * pulses + 0.4 * _over(score.breath, hop) * breath
    hiss = 0.5 * _over(score.noise, hop) * generator.standard_normal(count)
    size = 1 << (2 * hop + round(_RINGS * rate)).bit_length()
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    tilt = (np.maximum(frequencies, _TILTS_FROM) / _TILTS_FROM) ** (-speaker.tilt / 6.02)
    spectrum = _stretches(voiced, hop, size) * _cascade(score, frequencies, rate) * tilt
    place = np.exp(-(((frequencies - score.centre[:, None]) / score.width[:, None]) ** 2)) + 0.02
    spectrum += _stretches(hiss, hop, size) * place
    return _added(np.fft.irfft(spectrum, size, axis=1), hop)[:count]


def _glottis(
    score: Score, speaker: Speaker, rate: int, hop: int, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Return the derivative of the flow through the glottis, and how open it is, [N] each."""
    fine = rate * _OVERSAMPLED
    pitch = _over(score.pitch, hop * _OVERSAMPLED)
    cycles = np.cumsum(pitch / fine)
    # every period is a little longer or shorter than it should be
    errors = speaker.jitter * generator.standard_normal(int(cycles[-1]) + 2)
    phase = cycles + errors[cycles.astype(np.int64)] * (cycles % 1)
    share = (phase % 1) / speaker.openness
    inside = share < 1
    pulse = np.where(inside, 2 * share - 3 * share**2, 0.0)
    return _decimated(pulse), np.where(inside, np.sin(np.pi * np.minimum(share, 1)), 0.0)[::_OVERSAMPLED]


def _decimated(x: Array) -> Array:
    """Return every fourth sample of ``x`` without what lies above half of the new rate."""
    spectrum = np.fft.rfft(x)
    kept = len(x) // _OVERSAMPLED
    return np.fft.irfft(spectrum[: kept // 2 + 1], kept) / _OVERSAMPLED


def _cascade(score: Score, frequencies: Array, rate: int) -> np.ndarray:
    """Return the transfer function [F, K] of the tract in every control frame."""
    delay = np.exp(-2j * np.pi * frequencies / rate)
    whole = np.ones((len(score.pitch), len(frequencies)), dtype=np.complex128)
    for number in range(score.formants.shape[1]):
        whole *= _resonator(score.formants[:, number], score.bandwidths[:, number], delay, rate)
    # a pole and a zero that cancel each other while the nose is shut
    zero = _NOSE + score.nasality * (_NOSE_ZERO - _NOSE)
    nose = _resonator(np.full(len(zero), _NOSE), np.full(len(zero), _NOSE_WIDTH), delay, rate)
    return whole * nose / _resonator(zero, np.full(len(zero), _NOSE_WIDTH), delay, rate)


def _resonator(frequency: Array, bandwidth: Array, delay: np.ndarray, rate: int) -> np.ndarray:
    """Return A / (1 − B·z⁻¹ − C·z⁻²) [F, K] of resonators [F] with gain 1 at 0 Hz; 1 above half the rate."""
    c = -np.exp(-2 * np.pi * bandwidth / rate)
    b = 2 * np.exp(-np.pi * bandwidth / rate) * np.cos(2 * np.pi * frequency / rate)
    response = (1 - b - c)[:, None] / (1 - b[:, None] * delay - c[:, None] * delay**2)
    return np.where((frequency < 0.45 * rate)[:, None], response, 1.0)


def _over(controls: Array, hop: int) -> Array:
    """Return controls [F] at every sample, straight lines between the frames."""
    return np.interp(np.arange(len(controls) * hop) / hop, np.arange(len(controls)), controls)


def _stretches(x: Array, hop: int, size: int) -> np.ndarray:
    """Return the spectra [F, K] of stretches of two hops, windowed so that they add up to ``x``."""
    window = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop)) ** 2
    padded = np.pad(x, (hop // 2, 2 * hop))
    parts = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[: len(x) : hop]
    return np.fft.rfft(parts * window, size, axis=1)


def _added(parts: Array, hop: int) -> Array:
    """Return the sum of parts [F, size], each ``hop`` samples behind the one before."""
    count, size = parts.shape
    whole = np.zeros(count * hop + size)
    for place in range(0, size, hop):
        piece = np.zeros((count, hop))
        piece[:, : min(hop, size - place)] = parts[:, place : place + hop]
        whole[place : place + count * hop] += piece.ravel()
    return whole
