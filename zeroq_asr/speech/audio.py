"""Sound files to mono waveforms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from zeroq_asr.errors import AudioError


def load_audio(path: str | os.PathLike[str], sample_rate: int) -> npt.NDArray[np.float32]:
    """Return the samples [N] of a sound file, its channels averaged, at ``sample_rate``.

    Raises AudioError, naming the file, when it is missing, unreadable, empty or not finite.
    """
    _require_file(path)
    try:
        # an open file has no name that libsndfile might have to encode
        with open(path, "rb") as stream:
            samples, rate = soundfile.read(stream, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise _unreadable(path, error) from None
    if not len(samples):
        raise AudioError(path, "the recording is empty")
    if not np.isfinite(samples).all():
        raise AudioError(path, "the recording contains NaN or infinite samples")
    mono = samples.mean(axis=1)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
        if not len(mono):
            raise AudioError(path, f"nothing is left of the recording at {sample_rate} Hz")
    return np.ascontiguousarray(mono, dtype=np.float32)


def audio_duration(path: str | os.PathLike[str]) -> float:
    """Return the length of a sound file in seconds, from its header, or raise AudioError."""
    _require_file(path)
    try:
        with open(path, "rb") as stream:
            return float(soundfile.info(stream).duration)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise _unreadable(path, error) from None


def _require_file(path: str | os.PathLike[str]) -> None:
    if not Path(path).exists():
        raise AudioError(path, "there is no such file")
    if not Path(path).is_file():
        raise AudioError(path, "is no regular file", "name a recording")


def _unreadable(path: str | os.PathLike[str], error: Exception) -> AudioError:
    # libsndfile repeats the path in front of its reason; ours already names it
    reason = getattr(error, "error_string", None) or str(error)
    return AudioError(path, f"not a readable sound file ({reason})", "WAV, FLAC, OGG and MP3 are read")
