"""Made speech: what it has in common with speech, and that it is the same for the same seed."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

import zeroq_asr as zq
from zeroq_asr.synthesis.made_speech import made_speech
from zeroq_asr.synthesis.voice import speak
from zeroq_asr.synthesis.voice.phones import FRICATIVES, VOWELS, Phone
from zeroq_asr.synthesis.voice.score import FRAMES_PER_SECOND, Score
from zeroq_asr.synthesis.voice.speaker import Speaker
from zeroq_asr.synthesis.voice.tract import sound

SPEAKER = Speaker(
    tract=1.0,
    formants=(1.0,) * 5,
    pitch=100.0,
    liveliness=0.0,
    flutter=0.0,
    jitter=0.0,
    openness=0.6,
    tilt=0.0,
    breath=1.0,
    voicing=1.0,
    slowness=1.0,
    care=1.0,
    hiss=1.0,
)


def held(phone: Phone, seconds: float = 1.0, pitch: float = 100.0) -> Score:
    """One sound that does not move."""
    count = round(seconds * FRAMES_PER_SECOND)

    def steady(value: float) -> np.ndarray:
        return np.full(count, float(value))

    return Score(
        formants=np.tile((*phone.formants, 3300.0, 3750.0), (count, 1)),
        bandwidths=np.tile((*phone.bandwidths, 250.0, 200.0), (count, 1)),
        voicing=steady(phone.voicing),
        breath=steady(0.0),
        noise=steady(phone.noise),
        centre=steady(phone.centre),
        width=steady(phone.width),
        nasality=steady(0.0),
        pitch=steady(pitch),
    )


def spectrum(wave: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.rfftfreq(len(wave), 1 / rate), np.abs(np.fft.rfft(wave * np.hanning(len(wave))))


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
@pytest.mark.parametrize("vowel", VOWELS[:4])
def test_vowels_have_their_formants_and_their_pitch(vowel: Phone, rate: int) -> None:
    wave = sound(held(vowel), SPEAKER, rate, np.random.default_rng(0))
    assert wave.shape == (FRAMES_PER_SECOND * round(rate / FRAMES_PER_SECOND),)
    frequencies, levels = spectrum(wave, rate)
    # harmonics of 100 Hz and nothing between them
    harmonics = np.abs(frequencies % 100 - 50) > 45
    assert levels[~harmonics & (frequencies > 80) & (frequencies < 3000)].max() < 0.1 * levels.max()
    # the strongest harmonic about the first formant is the nearest one, or its neighbour
    near = (frequencies > 0.5 * vowel.formants[0]) & (frequencies < 1.6 * vowel.formants[0])
    peak = frequencies[near][levels[near].argmax()]
    assert abs(peak - vowel.formants[0]) <= 100


@pytest.mark.parametrize("sibilant", FRICATIVES[2:4])
def test_sibilants_hiss_where_they_should(sibilant: Phone) -> None:
    wave = sound(held(sibilant), SPEAKER, 16000, np.random.default_rng(0))
    frequencies, levels = spectrum(wave, 16000)
    centre = (frequencies * levels**2).sum() / (levels**2).sum()
    assert abs(centre - sibilant.centre) < 0.25 * sibilant.centre


def test_the_same_seed_gives_the_same_samples_on_any_thread() -> None:
    wanted = speak(1.0, 16000, 7)
    assert wanted.shape == (16000,)
    assert wanted.dtype == np.float32
    assert np.abs(wanted).max() <= 1.0
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(speak(1.0, 16000, 7))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        np.testing.assert_array_equal(one, wanted)
    assert not np.array_equal(speak(1.0, 16000, 8), wanted)


def test_levels_go_from_quiet_to_clipped() -> None:
    peaks = np.array([np.abs(speak(0.5, 8000, seed)).max() for seed in range(40)])
    assert peaks.min() < 0.1
    assert peaks.max() == 1.0


def test_features_are_those_of_the_checkpoints_own_frontend() -> None:
    model = zq.embedded_model()
    spec = dataclasses.replace(zq.SynthesisSpec(), speakers=3, seconds=1.0, seed=2)
    made = made_speech(model, spec)
    frames = round(1.0 * model.frontend.frames_per_second)
    assert made.features.shape[:2] == (3, model.frontend.features)
    assert abs(int(made.lengths[0]) - frames) <= 1
    # normalized as all that the network hears
    np.testing.assert_allclose(made.features[0, :, : made.lengths[0]].mean(axis=1), 0, atol=1e-4)
    again = made_speech(model, spec)
    np.testing.assert_array_equal(made.features, again.features)


def test_ranges_from_made_speech_give_a_file() -> None:
    spec = dataclasses.replace(zq.SynthesisSpec(), speakers=2, seconds=1.0)
    made = zq.quantize(zq.embedded_model(), synthesis=spec, calibration=zq.CalibrationSpec("speech"))
    assert made.deployment.recipe["calibration"]["source"] == "speech"
    assert made.deployment.recipe["synthesis"]["speakers"] == 2
