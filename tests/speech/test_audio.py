from __future__ import annotations

import io
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from zeroq_asr.errors import AudioError, ManifestError, ZeroqWarning
from zeroq_asr.speech import audio
from zeroq_asr.speech.audio import AudioReader, audio_duration, check_segments, load_audio
from zeroq_asr.speech.manifest import Utterance


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
    np.testing.assert_allclose(load_audio(path, 16000, channel="average"), tone(16000) / 2, atol=1e-6)
    with pytest.warns(ZeroqWarning, match="stereo.wav: its 2 channels were averaged into one; choose one"):
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
    with pytest.raises(AudioError, match="is a folder, a file was expected"):
        audio_duration(tmp_path)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(AudioError, match="empty"):
        load_audio(tmp_path / "empty.wav", 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        load_audio(tmp_path / "nan.wav", 16000)


def noise(frames: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)


@pytest.fixture
def long(tmp_path: Path) -> Path:
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(32000), 16000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("offset", "duration", "start", "end"),
    [
        (0.5, 0.25, 8000, 12000),
        (1.5, None, 24000, 32000),
        (1.5, 0, 24000, 32000),
        (0, 0.5, 0, 8000),
        (None, 0.5, 0, 8000),
        # rounded to two digits, the end is the end
        (0.5, 1.495, 8000, 32000),
        (0.5, 1.505, 8000, 32000),
        (0.5, 1.6, 8000, 32000),
    ],
)
def test_segments(long: Path, offset: float | None, duration: float | None, start: int, end: int) -> None:
    got = load_audio(long, 16000, offset=offset, duration=duration)
    np.testing.assert_array_equal(got, noise(32000)[start:end, 0])
    assert audio_duration(Utterance(long, duration, offset=offset)) == (end - start) / 16000


@pytest.mark.parametrize("kind", [("flac", "PCM_16"), ("ogg", "VORBIS"), ("wav", "PCM_24"), ("mp3", None)])
def test_a_segment_is_what_the_whole_has_there(tmp_path: Path, kind: tuple[str, str | None]) -> None:
    path = tmp_path / f"a.{kind[0]}"
    soundfile.write(
        path, np.concatenate([noise(24000)[:, 0], np.tile(tone(16000), 6)]), 16000, subtype=kind[1]
    )
    whole = load_audio(path, 16000)
    np.testing.assert_allclose(
        load_audio(path, 16000, offset=1.25, duration=2.5), whole[20000:60000], atol=1e-3
    )


def test_only_the_segment_is_decoded(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = soundfile.SoundFile.read

    def spy(self: soundfile.SoundFile, frames: int, **options: object) -> np.ndarray:
        found = read(self, frames, **options)
        asked.append(len(found))
        return found

    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    load_audio(long, 16000, offset=1.0, duration=0.1)
    assert sum(asked) == 1600


@pytest.mark.parametrize(
    ("offset", "duration", "problem"),
    [
        (2.0, 1.0, r"offset 2 s is behind the end of .*long\.wav \(2\.0000 s\)"),
        (1e6, None, "behind the end"),
        (1.5, 1.0, r"the segment ends at 2\.5000 s, behind the end"),
        (-1.0, 1.0, "offset must be a number of seconds, got -1"),
        (float("nan"), 1.0, "offset must be a number of seconds"),
        (0.5, float("inf"), "duration must be a number of seconds"),
        (0.5, True, "duration must be a number of seconds"),
        ("1", None, "offset must be a number of seconds"),
    ],
)
def test_segments_that_are_not_there(long: Path, offset: float, duration: float, problem: str) -> None:
    with pytest.raises(AudioError, match=problem):
        load_audio(long, 16000, offset=offset, duration=duration)
    listed = Utterance(long, duration, None, "list.jsonl:7", offset=offset)
    for use in (lambda: check_segments([listed]), lambda: audio_duration(listed)):
        with pytest.raises(ManifestError, match=problem) as caught:
            use()
        assert caught.value.where == "list.jsonl:7"


def test_a_list_that_says_too_much_of_a_whole_recording_is_told_of(long: Path) -> None:
    with (
        pytest.warns(ZeroqWarning, match=r"list.jsonl:7: the list says 5 s, the recording lasts 2 s"),
        AudioReader(16000) as read,
    ):
        assert len(read(Utterance(long, 5.0, None, "list.jsonl:7"))) == 32000


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_channel(tmp_path: Path, channel: int) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1000, 3), 16000, subtype="FLOAT")
    got = load_audio(tmp_path / "a.wav", 16000, channel=channel)
    np.testing.assert_array_equal(got, noise(1000, 3)[:, channel])


@pytest.mark.parametrize(
    ("channels", "channel", "problem"),
    [
        (2, 2, "has 2 channels, 0 to 1: there is no channel 2"),
        (1, 1, "has one channel, 0: there is no channel 1"),
        (2, -1, "a channel is a number from 0, or average, not -1"),
        (2, True, "not True"),
        (2, "left", "not 'left'"),
    ],
)
def test_channels_that_are_not_there(tmp_path: Path, channels: int, channel: object, problem: str) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1000, channels), 16000)
    with pytest.raises(AudioError, match=problem):
        load_audio(tmp_path / "a.wav", 16000, channel=channel)


def test_averaging_is_said_once_of_all(tmp_path: Path) -> None:
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", noise(1000, 2 if name != "b" else 1), 16000)
    read = AudioReader(16000)
    for name in "abcab":
        read(Utterance(tmp_path / f"{name}.wav"))
    with pytest.warns(ZeroqWarning, match=r"a\.wav: its 2 channels .* \(2 recordings in all") as caught:
        read.__exit__()
    assert len(caught) == 1


def wave(samples: int = 1600) -> bytearray:
    stream = io.BytesIO()
    soundfile.write(stream, noise(samples), 16000, format="WAV", subtype="PCM_16")
    return bytearray(stream.getvalue())


def changed(data: bytearray, at: int, value: int, size: int = 4) -> bytes:
    data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


DATA = wave().index(b"data") + 4


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
@pytest.mark.parametrize("behind", [b"", b"\0"])
def test_a_length_that_is_not_filled_in(tmp_path: Path, size: int, behind: bytes) -> None:
    data = wave()
    data[4:8] = (0 if size == 0 else 0xFFFFFFFF).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(changed(data, DATA, size) + behind)
    with pytest.warns(ZeroqWarning, match="a.wav: the length in its header is not filled in"):
        got = load_audio(tmp_path / "a.wav", 16000)
    np.testing.assert_allclose(got, noise(1600)[:, 0], atol=1e-4)
    assert audio_duration(tmp_path / "a.wav") == 0.1


def test_an_empty_recording_is_not_one_without_a_length(tmp_path: Path) -> None:
    data = changed(wave(0), 4, 0)
    note = b"LIST\x04\0\0\0INFO"
    (tmp_path / "a.wav").write_bytes(data + note)
    with pytest.raises(AudioError, match="the recording is empty"):
        load_audio(tmp_path / "a.wav", 16000)


@pytest.mark.parametrize("left", [1000, 1001])
def test_a_recording_that_is_cut_off(tmp_path: Path, left: int) -> None:
    (tmp_path / "a.wav").write_bytes(wave()[: 44 + left])
    with pytest.warns(ZeroqWarning, match=r"is cut off: 0\.068[67]\d* s of what its header says are missing"):
        assert len(load_audio(tmp_path / "a.wav", 16000)) == 500


@pytest.mark.parametrize("format_", ["AIFF", "AU", "RF64", "MP3"])
def test_other_formats_that_are_cut_off(tmp_path: Path, format_: str) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, np.tile(tone(16000), 8), 16000, format=format_)
    (tmp_path / "a").write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    with pytest.warns(ZeroqWarning, match=r"is cut off: (1\.9|2)\d* s|is cut off: 2\.\d+ s"):
        load_audio(tmp_path / "a", 16000)


def test_bytes_of_no_kind_behind_the_sound(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(changed(wave(), DATA, 1600))
    with pytest.warns(ZeroqWarning, match="1600 bytes behind its sound are of no known kind"):
        assert len(load_audio(tmp_path / "a.wav", 16000)) == 800


def flac(total: int) -> bytes:
    """A FLAC of 1600 samples whose header says ``total``, 0: not known."""
    stream = io.BytesIO()
    soundfile.write(stream, noise(1600), 16000, format="FLAC")
    data = bytearray(stream.getvalue())
    data[21] = data[21] & 0xF0 | total >> 32
    data[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def test_flac_from_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(flac(0))
    whole = load_audio(path, 16000)
    np.testing.assert_allclose(whole, noise(1600)[:, 0], atol=1e-4)
    assert audio_duration(path) == 0.1
    np.testing.assert_array_equal(load_audio(path, 16000, offset=0.05), whole[800:])
    with pytest.raises(AudioError, match="behind the end"):
        load_audio(path, 16000, offset=0.2)
    with pytest.raises(AudioError, match="the segment ends at"):
        load_audio(path, 16000, offset=0.05, duration=0.5)


def test_a_header_that_claims_everything_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(flac(2**36 - 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.warns(ZeroqWarning, match="is cut off"):
        assert len(load_audio(path, 16000)) == 1600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_reader_with_a_limit_stops_there(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AudioReader(16000, at_most=0.5) as read:
        samples, seconds = read.hear(Utterance(long))
    assert (len(samples), seconds) == (24000, 2.0)
    monkeypatch.setattr(audio, "MAX_SAMPLES", 1000)
    with pytest.raises(AudioError, match="more than 1000 samples"):
        load_audio(long, 16000)


@pytest.mark.parametrize("rate", [0, 1, 999, 2_000_000, 4_000_000_000])
def test_absurd_rates(tmp_path: Path, rate: int) -> None:
    (tmp_path / "a.wav").write_bytes(changed(wave(), 24, rate))
    with pytest.raises(AudioError, match=r"not a readable sound file|a second, 1000 to 1000000 are read"):
        load_audio(tmp_path / "a.wav", 16000)


def test_a_thousand_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(100, 1000), 16000, subtype="FLOAT")
    got = load_audio(tmp_path / "a.wav", 16000, channel="average")
    np.testing.assert_allclose(got, noise(100, 1000).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/shm", "pipe", "link"])
def test_only_regular_files(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for read in (lambda: load_audio(tmp_path / name, 16000), lambda: audio_duration(tmp_path / name)):
        with pytest.raises(AudioError, match=r"is a (device|pipe|folder), a file was expected"):
            read()
