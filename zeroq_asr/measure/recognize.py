"""Recordings to text: what a recogniser hears, with the time of each word.

A recording that is longer than the recogniser is proven for is cut at its pauses
(``zeroq_asr.speech.pauses``), and each piece is heard by itself: features are normalized over the piece.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zeroq_asr.decoding.greedy import greedy_ctc_hypothesis
from zeroq_asr.decoding.hypothesis import Hypothesis
from zeroq_asr.deployment.recognizer import BeamRecognizer, Recognizer, frames_per_step
from zeroq_asr.deployment.transducer import TokenRecognizer
from zeroq_asr.errors import AudioError, ConfigError
from zeroq_asr.progress import Progress, silent
from zeroq_asr.speech.audio import AudioReader
from zeroq_asr.speech.frontend import Frontend
from zeroq_asr.speech.manifest import Channel, Utterance
from zeroq_asr.speech.pauses import cut_at_pauses
from zeroq_asr.speech.words import Transcription, timed_words
from zeroq_asr.threads import in_order

Recording = str | os.PathLike[str] | npt.NDArray[np.float32] | Utterance
_Heard = npt.NDArray[np.float32] | Utterance


def transcribe(
    recognizer: Recognizer | TokenRecognizer,
    recordings: Sequence[Recording],
    batch_size: int = 1,
    progress: Progress = silent,
    channel: Channel = None,
) -> list[str]:
    """Return the text of each recording: a path, an Utterance, or samples float32 [N] at the frontend's rate.

    ``channel`` is what is heard of files with several: a number from 0, "average", or None, which averages,
    too, and says so by a ZeroqWarning.  A recording that is longer than the recogniser takes is cut at its
    pauses, with a ZeroqWarning.

    Raises AudioError when a recording cannot be read.
    """
    found = recognize(recognizer, recordings, batch_size=batch_size, progress=progress, channel=channel)
    return [one.text for one in found]


def recognize(
    recognizer: Recognizer | TokenRecognizer | Sequence[Recognizer | TokenRecognizer],
    recordings: Sequence[Recording],
    *,
    batch_size: int = 1,
    progress: Progress = silent,
    channel: Channel = None,
) -> Iterator[Transcription]:
    """Yield text and word times of each recording, in their order and as they are found.

    Recordings, ``channel`` and errors are as in `transcribe`.  Several recognisers, opened of the same file,
    work side by side, a batch each, and give what one gives.
    """
    heard = [
        recording if isinstance(recording, np.ndarray | Utterance) else Utterance(Path(recording))
        for recording in recordings
    ]
    for i, each in enumerate(heard):
        if isinstance(each, Utterance) and each.channel is None:
            heard[i] = dataclasses.replace(each, channel=channel)
    recognizers = [*recognizer] if isinstance(recognizer, Sequence) else [recognizer]
    return Listening(recognizers, batch_size).hear(heard, "transcribe", progress)


@dataclass(frozen=True)
class _Piece:
    """What is heard at once: a recording, or what lies between two pauses of it."""

    name: str
    samples: npt.NDArray[np.float32]
    #: seconds into the sound file
    offset: float
    #: number from 0, and how many the recording has
    number: int
    count: int


class Listening:
    """Batches through frontend, network and decoder, with a clock."""

    def __init__(
        self,
        recognizers: Sequence[Recognizer | TokenRecognizer],
        batch_size: int = 1,
        *,
        cuts: bool = True,
    ) -> None:
        """``cuts``: whether recordings that are too long are cut, or refused by an AudioError."""
        if not recognizers:
            raise ConfigError("recognize", "no recogniser was given")
        self._first = recognizers[0]
        self._jobs = len(recognizers)
        self._idle: queue.SimpleQueue[Recognizer | TokenRecognizer] = queue.SimpleQueue()
        for one in recognizers:
            self._idle.put(one)
        self._batch_size = batch_size
        self._cuts = cuts
        self._frontend = Frontend(self._first.frontend)
        self._rate = self._first.frontend.sample_rate
        #: seconds of sound; of features, network and decoding; of the network
        self.audio_seconds = self.seconds = self.network_seconds = 0.0

    def hear(self, recordings: Sequence[_Heard], stage: str, progress: Progress) -> Iterator[Transcription]:
        """Yield what is recognised in each recording."""
        if self._batch_size < 1:
            raise ConfigError(stage, f"batch_size must be 1 or more, got {self._batch_size}")
        return self._hear(recordings, stage, progress)

    def _hear(self, recordings: Sequence[_Heard], stage: str, progress: Progress) -> Iterator[Transcription]:
        progress(stage, 0, len(recordings))
        done, parts = 0, []
        most = None if self._cuts else self._first.max_seconds
        with AudioReader(self._rate, most) as reader:
            batches = _batched(self._pieces(recordings, reader), self._batch_size)
            for batch, found, seconds, network in in_order(self._recognize, batches, self._jobs):
                self.seconds += seconds
                self.network_seconds += network
                for piece, one in zip(batch, found, strict=True):
                    self.audio_seconds += len(piece.samples) / self._rate
                    parts.append(one)
                    note = f"piece {piece.number + 1} of {piece.count}" if piece.count > 1 else ""
                    if piece.number + 1 == piece.count:
                        yield _joined(parts)
                        done, parts, note = done + 1, [], ""
                progress(stage, done, len(recordings), note)

    def _pieces(self, recordings: Iterable[_Heard], reader: AudioReader) -> Iterator[_Piece]:
        limit = self._first.max_seconds
        for recording in recordings:
            if isinstance(recording, np.ndarray):
                name, samples, offset = "waveform", recording, 0.0
                seconds = len(recording) / self._rate
            else:
                name, offset = recording.name, recording.offset or 0.0
                samples, seconds = reader.hear(recording)
            if limit is None or seconds <= limit:
                yield _Piece(name, samples, offset, 0, 1)
                continue
            if not self._cuts:
                raise AudioError(
                    name,
                    f"lasts {seconds:.7g} s, {self._first.name} is proven for at most {limit:g} s",
                    "quantize with a larger --max-seconds, or cut the recording",
                )
            spans = cut_at_pauses(samples, self._rate, limit)
            reader.note(
                name,
                "pieces",
                f"lasts {seconds:.7g} s, {self._first.name} is proven for at most {limit:g} s: it was cut at "
                f"pauses into {len(spans)} pieces",
            )
            for number, (first, end) in enumerate(spans):
                at = offset + first / self._rate
                yield _Piece(name, samples[first:end], at, number, len(spans))

    def _recognize(self, batch: list[_Piece]) -> tuple[list[_Piece], list[Transcription], float, float]:
        """Return the batch, what is said in it, and the seconds of all work and of the network's."""
        recognizer = self._idle.get()
        try:
            start = time.perf_counter()
            features, lengths = self._frontend.batch([p.samples for p in batch], [p.name for p in batch])
            before = time.perf_counter()
            factor = recognizer.subsampling_factor
            if isinstance(recognizer, TokenRecognizer):
                found: Sequence[Hypothesis] = recognizer.hypotheses(features, lengths)
                after = time.perf_counter()
            else:
                scores, encoded = recognizer.log_probs(features, lengths)
                after = time.perf_counter()
                factor = factor or frames_per_step(features.shape[2], scores.shape[1])
                found = decoded(recognizer, scores, encoded)
            seconds = (factor or 1) / self._first.frontend.frames_per_second
            heard = [self._told(piece, one, seconds) for piece, one in zip(batch, found, strict=True)]
            return batch, heard, time.perf_counter() - start, after - before
        finally:
            self._idle.put(recognizer)

    def _told(self, piece: _Piece, found: Hypothesis, seconds: float) -> Transcription:
        tokenizer = self._first.tokenizer
        end = piece.offset + len(piece.samples) / self._rate
        words = timed_words(tokenizer, found.tokens, found.frames, seconds, piece.offset, end)
        return Transcription(tokenizer.decode(found.tokens), words)


def decoded(
    recognizer: Recognizer, scores: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
) -> Sequence[Hypothesis]:
    """Return what a CTC network's scores say, by its beam or greedily."""
    if isinstance(recognizer, BeamRecognizer):
        return recognizer.beam(scores, lengths)
    blank = recognizer.tokenizer.blank_id
    return [greedy_ctc_hypothesis(one, int(end), blank) for one, end in zip(scores, lengths, strict=True)]


def _batched(pieces: Iterator[_Piece], size: int) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    for piece in pieces:
        batch.append(piece)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _joined(parts: list[Transcription]) -> Transcription:
    text = " ".join(part.text for part in parts if part.text)
    return Transcription(text, tuple(word for part in parts for word in part.words))
