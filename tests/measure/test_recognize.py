"""Recordings to words: times, pieces of long recordings, and work side by side."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from zeroq_asr.decoding.hypothesis import Hypothesis
from zeroq_asr.errors import AudioError, ConfigError, ZeroqWarning
from zeroq_asr.measure.recognize import recognize, transcribe
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.manifest import Utterance
from zeroq_asr.speech.tokenizer import Tokenizer
from zeroq_asr.speech.words import Transcription, Word

FRONTEND = FrontendConfig(features=8, normalize=None)
TOKENIZER = Tokenizer((" ", "a", "b"))


class Loud:
    """Says "a" for loud frames and a space between: what it hears is where the sound is."""

    frontend, tokenizer, name = FRONTEND, TOKENIZER, "loud"

    def __init__(self, max_seconds: float | None = None, factor: int | None = 2) -> None:
        self.max_seconds = max_seconds
        self.subsampling_factor = factor
        self.shapes: list[tuple[int, ...]] = []
        self.threads: set[int] = set()

    def log_probs(self, features, lengths):
        self.threads.add(threading.get_ident())
        self.shapes.append(features.shape)
        loud = features[:, :, ::2].mean(axis=1) > -8
        scores = np.zeros((*loud.shape, 4), np.float32)
        scores[..., 0], scores[..., 1] = ~loud, loud
        return scores, (lengths + 1) // 2


class Transducer:
    """Says "a b", of which it finds the tokens at three frames."""

    frontend, tokenizer, name, max_seconds, subsampling_factor = FRONTEND, TOKENIZER, "transducer", None, 4

    def hypotheses(self, features, lengths):
        return [Hypothesis([1, 0, 2], [2, 3, 5]) for _ in lengths]


def bursts(*seconds: float, total: float) -> np.ndarray:
    """Noise of 0.3 s that begins at each of ``seconds``, in silence."""
    samples = np.zeros(round(16000 * total), np.float32)
    for number, start in enumerate(seconds):
        noise = np.random.default_rng(number).standard_normal(4800)
        samples[round(16000 * start) : round(16000 * start) + 4800] = noise
    return samples


def heard(found: Transcription) -> list[float]:
    return [word.start for word in found.words]


def test_words_have_the_times_of_the_sound() -> None:
    (found,) = recognize(Loud(), [bursts(0.5, 1.7, total=2.5)])
    assert found.text == "a a"
    # a frame of 20 ms sees what lies within its window of 20 ms
    np.testing.assert_allclose(heard(found), [0.5, 1.7], atol=0.04)
    (shapes,) = recognize(Loud(factor=None), [bursts(0.5, 1.7, total=2.5)])
    assert shapes == found


def test_a_segment_has_the_times_of_its_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", bursts(0.5, 1.7, total=2.5), 16000, subtype="FLOAT")
    (found,) = recognize(Loud(), [Utterance(tmp_path / "x.wav", offset=1.25)])
    np.testing.assert_allclose(heard(found), [1.7], atol=0.04)


def test_a_transducer_says_its_frames_itself() -> None:
    (found,) = recognize(Transducer(), [np.zeros(16000, np.float32)])
    assert found == Transcription("a b", (Word("a", 0.08, 0.12), Word("b", 0.2, 0.24)))


@pytest.mark.parametrize("batch", [1, 3])
def test_long_recordings_are_cut_at_pauses(batch: int) -> None:
    starts = [0.3, 1.1, 2.2, 2.9, 4.0, 5.2, 6.1]
    long, short = bursts(*starts, total=7.0), bursts(0.2, total=1.0)
    (whole,) = recognize(Loud(), [long])
    recognizer = Loud(max_seconds=2.0)
    with pytest.warns(ZeroqWarning, match=r"waveform: lasts 7 s, loud is proven for at most 2 s: it was cut"):
        found = [*recognize(recognizer, [short, long, short], batch_size=batch)]
    assert [one.text for one in found] == ["a", whole.text, "a"]
    np.testing.assert_allclose(heard(found[1]), starts, atol=0.04)
    assert max(shape[2] for shape in recognizer.shapes) <= FRONTEND.frames(32000) + FRONTEND.pad_to
    assert max(shape[0] for shape in recognizer.shapes) == batch
    with pytest.warns(ZeroqWarning):
        assert transcribe(Loud(max_seconds=2.0), [short, long], batch) == ["a", whole.text]


def test_what_fits_is_not_cut() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert transcribe(Loud(max_seconds=1.0), [bursts(0.2, total=1.0)]) == ["a"]


@pytest.mark.parametrize("batch", [1, 2])
def test_several_recognisers_say_what_one_says(batch: int) -> None:
    recordings = [bursts(*np.arange(0.1, 0.6 * (n % 4) + 0.2, 0.6), total=3.0) for n in range(12)]
    expected = [*recognize(Loud(), recordings, batch_size=batch)]
    several = [Loud() for _ in range(3)]
    told: list[tuple[int, int]] = []
    found = [
        *recognize(
            several,
            recordings,
            batch_size=batch,
            progress=lambda stage, done, total, note="": told.append((done, total)),
        )
    ]
    assert found == expected
    assert told == sorted(told)
    assert told[0] == (0, 12)
    assert told[-1] == (12, 12)
    assert threading.get_ident() not in set().union(*(one.threads for one in several))


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_comes_before_an_error_is_told(tmp_path: Path, jobs: int) -> None:
    sound = bursts(0.2, total=1.0)
    several = [Loud() for _ in range(jobs)]
    results = recognize(several, [sound, sound, tmp_path / "absent.wav", sound])
    assert [next(results).text for _ in range(2)] == ["a", "a"]
    with pytest.raises(AudioError, match="absent"):
        next(results)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="batch_size must be 1 or more"):
        recognize(Loud(), [], batch_size=0)
    with pytest.raises(ConfigError, match="no recogniser was given"):
        recognize([], [])
