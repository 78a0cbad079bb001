"""Error rates and speed of a recogniser on recordings with known text.

Words and characters are counted by jiwer (``process_words``, ``process_characters``) over all
utterances together: errors over the length of the references, as is usual for corpora, not a
mean of rates.  Text is lower-cased and runs of white space become one space; nothing else is
normalised, so punctuation or numerals in a reference count as errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jiwer

from zeroq_asr.deployment.recognizer import Recognizer
from zeroq_asr.deployment.transducer import TokenRecognizer
from zeroq_asr.errors import ConfigError, ManifestError
from zeroq_asr.lines import summary
from zeroq_asr.measure.recognize import Listening
from zeroq_asr.progress import Progress, silent
from zeroq_asr.speech.audio import audio_duration, check_segments
from zeroq_asr.speech.manifest import Channel, Utterance


@dataclass(frozen=True)
class ErrorCounts:
    """An alignment of hypotheses with references, counted in words or in characters."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def length(self) -> int:
        """Words or characters of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors over length, 0.1 for 10 %; None where every reference is empty."""
        return self.errors / self.length if self.length else None

    def to_dict(self) -> dict[str, Any]:
        """Return counts and rate as JSON values."""
        return {"rate": self.rate, "errors": self.errors, "length": self.length, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Transcript:
    """One utterance: what was said, and what was recognised; both normalised."""

    audio_path: str
    reference: str
    hypothesis: str
    #: seconds, and the channel, where the list says them: the segment that was heard
    offset: float | None = None
    duration: float | None = None
    channel: Channel = None

    def to_dict(self) -> dict[str, Any]:
        """Return the texts, and what was heard, as JSON values."""
        return {
            "audio": self.audio_path,
            "offset_seconds": self.offset,
            "duration_seconds": self.duration,
            "channel": self.channel,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
        }


@dataclass(frozen=True)
class Evaluation:
    """How well and how fast a recogniser did."""

    name: str
    words: ErrorCounts
    characters: ErrorCounts
    transcripts: tuple[Transcript, ...]
    #: seconds of sound
    audio_seconds: float
    #: wall time of features, network and decoding, in seconds; reading files is not counted
    seconds: float
    #: of these, the network's; of a transducer with decoding, which runs parts of it
    network_seconds: float

    def __repr__(self) -> str:
        """Show the error rates and on how much they were measured, on one line."""
        rates = {"words": self.words.rate, "characters": self.characters.rate}
        told = [f"{100 * rate:.2f} % of {what} wrong" for what, rate in rates.items() if rate is not None]
        heard = f"{len(self.transcripts)} utterances of {self.audio_seconds:.1f} s"
        return summary(self, self.name, heard, *told)

    @property
    def real_time_factor(self) -> float:
        """Processing time over the duration of the sound: below 1 is faster than real time."""
        return self.seconds / self.audio_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "name": self.name,
            "words": self.words.to_dict(),
            "characters": self.characters.to_dict(),
            "audio_seconds": self.audio_seconds,
            "seconds": self.seconds,
            "network_seconds": self.network_seconds,
            "real_time_factor": self.real_time_factor,
            "transcripts": [transcript.to_dict() for transcript in self.transcripts],
        }


def normalize_text(text: str) -> str:
    """Return ``text`` in lower case with single spaces."""
    return " ".join(text.lower().split())


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[ErrorCounts, ErrorCounts]:
    """Return word and character errors of ``hypotheses`` against ``references``, both normalised first.

    An empty reference is legal: all that is recognised there is inserted.  For the agreement of
    two recognisers give the transcripts of one as references.
    """
    if len(references) != len(hypotheses):
        raise ConfigError(
            "count_errors", f"{len(references)} references but {len(hypotheses)} hypotheses were given"
        )
    if not references:
        return ErrorCounts(0, 0, 0, 0), ErrorCounts(0, 0, 0, 0)
    truth = [normalize_text(text) for text in references]
    guess = [normalize_text(text) for text in hypotheses]
    words = jiwer.process_words(truth, guess)
    characters = jiwer.process_characters(truth, guess)
    return _counts(words), _counts(characters)


def references_of(utterances: Sequence[Utterance]) -> list[str]:
    """Return what is said in each; ManifestError, naming the line, for one without text."""
    for utterance in utterances:
        if utterance.text is None:
            where = utterance.where or utterance.audio_path
            raise ManifestError(where, "has no text to compare with", "add text to the manifest")
    return [utterance.text or "" for utterance in utterances]


def evaluate(
    recognizer: Recognizer | TokenRecognizer,
    utterances: Sequence[Utterance],
    *,
    batch_size: int = 1,
    by_duration: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Transcribe ``utterances`` and count errors against their text.

    ``by_duration`` batches utterances of like length together, longest first, which wastes less
    padding; the order of the transcripts stays the given one.

    Raises ManifestError when an utterance has no text, AudioError when a recording cannot be
    read or is longer than the recogniser takes.
    """
    if not utterances:
        raise ManifestError("evaluate", "there are no utterances")
    references = references_of(utterances)
    check_segments(utterances)
    order = list(range(len(utterances)))
    if by_duration:
        known = [u.duration or audio_duration(u) for u in utterances]
        order.sort(key=lambda index: -known[index])
    run = Listening([recognizer], batch_size, cuts=False)
    found = run.hear([utterances[index] for index in order], "evaluate", progress)
    hypotheses = [""] * len(utterances)
    for index, one in zip(order, found, strict=True):
        hypotheses[index] = one.text
    words, characters = count_errors(references, hypotheses)
    transcripts = tuple(
        Transcript(
            str(utterance.audio_path),
            normalize_text(reference),
            normalize_text(hypothesis),
            utterance.offset,
            utterance.duration,
            utterance.channel,
        )
        for utterance, reference, hypothesis in zip(utterances, references, hypotheses, strict=True)
    )
    return Evaluation(
        recognizer.name, words, characters, transcripts, run.audio_seconds, run.seconds, run.network_seconds
    )


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorCounts:
    return ErrorCounts(output.hits, output.substitutions, output.deletions, output.insertions)
