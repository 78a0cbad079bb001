from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from zeroq_asr.errors import AudioError
from zeroq_asr.speech.audio import audio_duration, load_audio


def tone(rate: int, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_reads_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(16000), 16000)
    samples = load_audio(path, 16000)
    assert samples.dtype == np.float32
    assert samples.shape == (8000,)
    np.testing.assert_allclose(samples[100:-100], tone(16000)[100:-100], atol=0.03)
    assert audio_duration(path) == pytest.approx(0.5)


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    stereo = np.stack([tone(16000), np.zeros(8000, np.float32)], axis=1)
    soundfile.write(path, stereo, 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path, 16000), tone(16000) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_any_rate_is_resampled(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate), rate, subtype="FLOAT")
    samples = load_audio(path, 16000)
    assert abs(len(samples) - 8000) <= 1
    np.testing.assert_allclose(samples[500:7500], tone(16000)[500:7500], atol=2e-3)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a readable"),
        (b"no sound at all" * 10, "not a readable"),
        (b"fLaC\x00\x00", "not a readable"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "broken.flac"
    path.write_bytes(content)
    for read in (lambda: load_audio(path, 16000), lambda: audio_duration(path)):
        with pytest.raises(AudioError, match=problem) as caught:
            read()
        assert caught.value.where == str(path)
        assert "\n" not in str(caught.value)


def test_missing_empty_and_not_finite(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        load_audio(tmp_path / "none.wav", 16000)
    with pytest.raises(AudioError, match="no regular file"):
        audio_duration(tmp_path)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(AudioError, match="empty"):
        load_audio(tmp_path / "empty.wav", 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        load_audio(tmp_path / "nan.wav", 16000)
