"""Sound files to mono waveforms: whole, or the segments that a list cuts out of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from zeroq_asr.errors import AudioError, ManifestError, ZeroqError, warn
from zeroq_asr.files import open_file
from zeroq_asr.lines import shown
from zeroq_asr.speech.lengths import Length, Patched, examine
from zeroq_asr.speech.manifest import Channel, Utterance

Samples = npt.NDArray[np.float32]

#: samples a second that recordings of speech may have
MIN_RATE, MAX_RATE = 1000, 1_000_000
#: most samples of one recording that are held at once: 18 hours at 16 kHz
MAX_SAMPLES = 2**30
#: samples of all channels that are decoded at a time, whatever a header says
_BLOCK = 2**20
#: seconds: lists round; what lies nearer to the end than ``_ROUNDED`` ends there, and what ends farther
#: behind it than ``_TOLERATED`` is not what the list means
_ROUNDED, _TOLERATED = 0.01, 0.1
#: libsndfile's number of frames of what does not say how many it has
_ENDLESS = 2**60
#: samples that an MP3 is decoded before those that are wanted
_PREROLL = 20 * 1152
#: magnitude of a sample beyond which the energy of a window overflows float32; full scale is 1
LOUDEST = 1e15
#: seconds, far beyond any recording
_FAR = 1e9


def load_audio(
    path: str | os.PathLike[str],
    sample_rate: int,
    *,
    offset: float | None = None,
    duration: float | None = None,
    channel: Channel = None,
) -> Samples:
    """Return the samples [N] of a sound file at ``sample_rate``, one channel of it or the mean of all.

    ``offset`` and ``duration``, in seconds, cut a segment out, as in NeMo's manifests: the offset is 0 and a
    duration of None or 0 reaches to the end, where they are not given.  ``channel`` is a number from 0,
    "average", or None, which averages, too, and says so by a ZeroqWarning.

    Raises AudioError, naming the file, when it is missing, unreadable, empty or not finite, or has no such
    segment or channel.
    """
    with AudioReader(sample_rate) as reader:
        return reader(Utterance(Path(path), duration or None, offset=offset, channel=channel))


def audio_duration(recording: str | os.PathLike[str] | Utterance) -> float:
    """Return the length in seconds of a sound file or of the segment of one, or raise AudioError.

    It is the header's, where that tells.
    """
    utterance = recording if isinstance(recording, Utterance) else Utterance(Path(recording))
    with _opened(utterance.audio_path) as (sound, _):
        total = sound.frames
        if total >= _ENDLESS:
            total = sum(len(block) for block in _blocks(utterance.audio_path, sound, total))
        start, count = _segment(utterance, sound.samplerate, total)
        return float((total - start if count is None else count) / sound.samplerate)


def check_segments(utterances: Iterable[Utterance]) -> None:
    """Raise what reading would for a segment or a channel that is not there, before the long work begins.

    Only headers are read, of recordings of which a segment or a channel is meant.
    """
    for utterance in utterances:
        if utterance.offset or utterance.channel is not None:
            with _opened(utterance.audio_path) as (sound, _):
                _pick(utterance.audio_path, utterance.channel, sound.channels)
                _segment(utterance, sound.samplerate, sound.frames)


class AudioReader:
    """Reads recordings at one rate, and tells of what is odd about them when the block ends.

    Each kind of oddness is one ZeroqWarning, of however many recordings.
    """

    def __init__(self, sample_rate: int, at_most: float | None = None) -> None:
        self.sample_rate = sample_rate
        #: seconds: of a longer recording no more than a second beyond is read
        self.at_most = at_most
        #: kind → recording → what is odd about it
        self._notes: dict[str, dict[str, str]] = {}

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        notes, self._notes = self._notes, {}
        for kind, found in notes.items():
            (where, problem), *others = found.items()
            if others:
                problem += f" ({len(found)} recordings in all are like it)"
            warn(where, problem, _REMEDIES[kind])

    def __call__(self, utterance: Utterance) -> Samples:
        """Return the samples [N] of a recording, or of the segment that is meant.

        Raises AudioError as `load_audio` does; ManifestError, with file and line, for a list's segment that
        is not in its recording.
        """
        return self.hear(utterance)[0]

    def hear(self, utterance: Utterance) -> tuple[Samples, float]:
        """Return the samples [N], and how many seconds there would be without ``at_most``."""
        path = utterance.audio_path
        with _opened(path) as (sound, length):
            rate, channels = sound.samplerate, sound.channels
            pick = _pick(path, utterance.channel, channels)
            start, count = _segment(utterance, rate, sound.frames)
            wanted = sound.frames - start if count is None else count
            most = wanted if self.at_most is None else min(wanted, int((self.at_most + 1) * rate))
            _skip(path, sound, start)
            mono = self._mono(path, _blocks(path, sound, most), pick, rate)
            kept = len(mono)
            self._tell_of_length(utterance, sound, length, start, kept if kept < most else None)
        if not kept and start:
            raise _segment_error(utterance, f"offset {utterance.offset:.7g} s is behind the end of {path}")
        if not kept:
            raise AudioError(path, "the recording is empty, or cut off before its first sample")
        if not np.isfinite(mono).all():
            problem = "the recording contains NaN, infinite samples or such as float32 cannot hold"
            raise AudioError(path, problem, "record it again, or convert it to 16 bits")
        loudest = float(np.abs(mono).max())
        if loudest > LOUDEST:
            problem = f"samples reach {loudest:.3g}, full scale is 1: their energy is beyond float32"
            raise AudioError(path, problem, "scale it down, or convert it to 16 bits")
        if pick is None and utterance.channel is None:
            self.note(path, *_averaged(channels))
        if rate != self.sample_rate:
            mono = soxr.resample(mono, rate, self.sample_rate)
            if not len(mono):
                raise AudioError(path, f"nothing is left of the recording at {self.sample_rate} Hz")
        # where it ended before what the header says, or that says nothing, what was read is all that is known
        told = wanted if kept == most and wanted < _ENDLESS else kept
        return np.ascontiguousarray(mono, dtype=np.float32), told / rate

    def _mono(
        self, path: Path, blocks: Iterator[npt.NDArray[np.float32]], pick: int | None, rate: int
    ) -> Samples:
        parts, kept = [np.empty(0, dtype=np.float32)], 0
        for block in blocks:
            parts.append(block.mean(axis=1) if pick is None else block[:, pick].copy())
            kept += len(block)
            if kept * max(1.0, self.sample_rate / rate) > MAX_SAMPLES:
                problem = f"holds more than {MAX_SAMPLES} samples"
                raise AudioError(path, problem, "cut it, or list segments of it by offset and duration")
        return np.concatenate(parts)

    def _tell_of_length(
        self, utterance: Utterance, sound: soundfile.SoundFile, length: Length, start: int, end: int | None
    ) -> None:
        """Note what header or list say of the length that is not so; ``end``: samples, if it ended."""
        path, rate = utterance.audio_path, sound.samplerate
        if length.guessed:
            self.note(path, "guessed", "the length in its header is not filled in; it was read to its end")
        if length.surplus:
            self.note(path, "surplus", f"{length.surplus} bytes behind its sound are of no known kind")
        missing = 0.0
        if length.missing and 0 < sound.frames < _ENDLESS:
            missing = length.missing * sound.frames / (length.claimed - length.missing) / rate
        if end is not None and sound.frames < _ENDLESS:
            expected = sound.frames - start
            if utterance.duration:
                expected = min(expected, round(utterance.duration * rate))
            missing = max(missing, (expected - end) / rate)
        if missing > _ROUNDED:
            self.note(path, "cut", f"is cut off: {missing:.4g} s of what its header says are missing")
        there = end if sound.frames >= _ENDLESS else sound.frames - start
        if utterance.duration and there is not None and utterance.duration > there / rate + _TOLERATED:
            if utterance.offset:
                raise _beyond(utterance, start + there, rate)
            name = utterance.where or path
            problem = f"the list says {utterance.duration:g} s, the recording lasts {there / rate:.4g} s"
            self.note(name, "shorter", problem)

    def note(self, where: str | os.PathLike[str], kind: str, problem: str) -> None:
        """Keep what is odd about a recording, of a kind in ``_REMEDIES``, for the end of the block."""
        self._notes.setdefault(kind, {}).setdefault(os.fspath(where), problem)


#: what to do about the kinds of what was noted
_REMEDIES = {
    "averaged": "choose one with --channel N (channel=N), or say average",
    "guessed": "record into a file, or repair the header",
    "surplus": "is the header damaged?",
    "cut": "get the whole file",
    "shorter": "correct the list",
    "pieces": "a larger quantize --max-seconds takes more at once",
}


def _averaged(channels: int) -> tuple[str, str]:
    return "averaged", f"its {channels} channels were averaged into one"


class _Sound(soundfile.SoundFile):
    """A sound file that is read from front to back, without asking where it stands.

    Where the number of frames is not in the header (FLAC from a pipe), libsndfile cannot tell.
    """

    def seekable(self) -> bool:
        """Tell soundfile not to seek by itself."""
        return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[soundfile.SoundFile, Length]]:
    """Open a sound file by its content: an open file has no name that libsndfile might have to encode."""
    with open_file(path, AudioError) as stream:
        try:
            length = examine(stream)
            sound = _Sound(stream if length.patch is None else Patched(stream, *length.patch))
        except (soundfile.SoundFileError, OSError, TypeError) as error:
            raise _unreadable(path, error) from None
        with sound:
            if not MIN_RATE <= sound.samplerate <= MAX_RATE:
                problem = f"says {sound.samplerate} samples a second, {MIN_RATE} to {MAX_RATE} are read"
                raise AudioError(path, problem, "is the header damaged?")
            yield sound, length


def _blocks(path: Path, sound: soundfile.SoundFile, count: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield [n, channels] of the next ``count`` frames, as far as there are any, bounded in memory."""
    size = max(1, _BLOCK // sound.channels)
    while count > 0:
        try:
            block = sound.read(min(size, count), dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise _unreadable(path, error) from None
        if not len(block):
            return
        count -= len(block)
        yield block


def _skip(path: Path, sound: soundfile.SoundFile, start: int) -> None:
    """Go to frame ``start``: by seeking, where the format can."""
    if start and sound.frames < _ENDLESS:
        # a frame of an MP3 may need bits of those before it
        early = start if sound.format != "MP3" else max(0, start - _PREROLL)
        try:
            sound.seek(early)
        except soundfile.SoundFileError as error:
            raise _unreadable(path, error) from None
        start -= early
    for _ in _blocks(path, sound, start):
        pass


def _pick(path: Path, channel: Channel, channels: int) -> int | None:
    """Return the channel to take, or None for the mean of several."""
    if channel is None or channel == "average":
        return 0 if channels == 1 else None
    if isinstance(channel, bool) or not isinstance(channel, int) or channel < 0:
        raise AudioError(path, f"a channel is a number from 0, or average, not {shown(channel)}")
    if channel >= channels:
        has = "one channel, 0" if channels == 1 else f"{channels} channels, 0 to {channels - 1}"
        raise AudioError(path, f"has {has}: there is no channel {channel}", "choose another --channel")
    return channel


def _segment(utterance: Utterance, rate: int, total: int) -> tuple[int, int | None]:
    """Return the first frame that is meant, and how many; None: all to the end."""
    offset, duration = utterance.offset or 0.0, utterance.duration or 0.0
    for name, value in (("offset", offset), ("duration", duration)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _FAR:
            raise _segment_error(utterance, f"{name} must be a number of seconds, got {shown(value)}")
    start = round(offset * rate)
    if start and start >= total:
        problem = f"offset {offset:.7g} s is behind the end of {utterance.audio_path} ({total / rate:.4f} s)"
        raise _segment_error(utterance, problem)
    if not duration:
        return start, None
    end = max(start + 1, round((offset + duration) * rate))
    if offset and end > total + _TOLERATED * rate:
        raise _beyond(utterance, total, rate)
    return start, None if end > total - _ROUNDED * rate else end - start


def _beyond(utterance: Utterance, total: int, rate: int) -> ZeroqError:
    end = (utterance.offset or 0.0) + (utterance.duration or 0.0)
    there = f"{utterance.audio_path} ({total / rate:.4f} s)"
    return _segment_error(utterance, f"the segment ends at {end:.4f} s, behind the end of {there}")


def _segment_error(utterance: Utterance, problem: str) -> ZeroqError:
    """Return the error of a segment: of the list's line, where it comes from a list."""
    remedy = "offset and duration are seconds within the recording"
    if utterance.where:
        return ManifestError(utterance.where, problem, remedy)
    return AudioError(utterance.audio_path, problem, remedy)


def _unreadable(path: str | os.PathLike[str], error: Exception) -> AudioError:
    # libsndfile repeats the path in front of its reason; ours already names it
    reason = getattr(error, "error_string", None) or str(error)
    return AudioError(path, f"not a readable sound file ({reason})", "WAV, FLAC, OGG and MP3 are read")
