"""Speak a text, put it into a room, add noise."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from voices import Voice

SAMPLE_RATE = 16000
Waveform = npt.NDArray[np.float32]


def speak(text: str, voice: Voice, folder: Path) -> Waveform:
    """Return ``text`` [N] as espeak-ng says it with the variants below ``folder``."""
    command = ["espeak-ng", f"--path={folder}", *voice.arguments, "--stdout", text]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    # espeak-ng cannot seek back in a pipe: the sizes in its header are placeholders
    samples, rate = soundfile.read(io.BytesIO(_with_sizes(wav)), dtype="float32")
    played: Waveform = soxr.resample(samples, rate * voice.speed, SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(played) > 1e-3)
    if not len(loud):
        raise ValueError(f"espeak-ng said nothing for {text!r} with {voice}")
    return played[loud[0] : loud[-1] + 1]


def _with_sizes(wav: bytes) -> bytes:
    """Return a WAV file with the two sizes of its header set."""
    sizes = (len(wav) - 8).to_bytes(4, "little"), (len(wav) - 44).to_bytes(4, "little")
    return wav[:4] + sizes[0] + wav[8:40] + sizes[1] + wav[44:]


def disturb(speech: Waveform, generator: np.random.Generator) -> Waveform:
    """Return speech [N] with silence around it, in half the cases reverberant, mostly with noise."""
    before, after = generator.integers(800, 5600, 2)
    wave = np.pad(speech, (before, after)).astype(np.float64)
    if generator.random() < 0.5:
        wave = _reverberate(wave, generator)
    wave /= np.abs(wave).max()
    if generator.random() < 0.75:
        noise = _noise(len(wave), generator)
        decibels = generator.uniform(8, 35)
        level = np.sqrt(np.mean(wave**2) / np.mean(noise**2)) * 10 ** (-decibels / 20)
        wave = wave + level * noise
    wave *= 10 ** (generator.uniform(-30, -1) / 20) / np.abs(wave).max()
    return wave.astype(np.float32)


def _reverberate(wave: npt.NDArray[Any], generator: np.random.Generator) -> npt.NDArray[Any]:
    """Convolve with a direct path and an exponentially decaying noise, 60 dB down after 0.1 to 0.6 s."""
    decay = generator.uniform(0.1, 0.6)
    time = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    tail = generator.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    tail[: int(0.002 * SAMPLE_RATE)] = 0
    # direct over reverberant energy, in dB
    tail *= 10 ** (-generator.uniform(2, 18) / 20) / np.linalg.norm(tail)
    tail[0] = 1
    return _convolve(wave, tail)[: len(wave)]


def _convolve(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    size = 1 << (len(a) + len(b) - 2).bit_length()
    return np.fft.irfft(np.fft.rfft(a, size) * np.fft.rfft(b, size), size)


def _noise(count: int, generator: np.random.Generator) -> npt.NDArray[Any]:
    """Return noise whose spectrum falls by a random power of the frequency, with a random hump."""
    size = 1 << (count - 1).bit_length()
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 30)
    shape = frequencies ** -generator.uniform(0, 1.2)
    centre, width = generator.uniform(100, 6000), generator.uniform(100, 2000)
    hump = np.exp(-(((frequencies - centre) / width) ** 2))
    shape *= 1 + generator.uniform(0, 8) * hump * (generator.random() < 0.4)
    phases = np.exp(2j * np.pi * generator.random(len(shape)))
    return np.fft.irfft(shape * phases, size)[:count]
