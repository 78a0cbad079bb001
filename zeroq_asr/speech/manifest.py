"""Lists of recordings: NeMo's JSON lines, a LibriSpeech tree, or a folder of audio."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zeroq_asr.errors import ManifestError
from zeroq_asr.speech.tokenizer import is_unicode

#: file name endings taken for recordings in a folder
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3", ".aiff", ".aif")


#: what a folder's manifest is called
MANIFESTS = ("manifest.jsonl", "manifest.json")


@dataclass(frozen=True)
class Utterance:
    """One recording and what is known of it."""

    audio_path: Path
    #: seconds, where the list says so
    duration: float | None = None
    #: what is said, where the list says so; may be empty for silence
    text: str | None = None
    #: "file:line" of the list, for messages
    where: str = field(default="", compare=False)


def read_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """Return the recordings that ``path`` lists, in a stable order.

    - A file: NeMo's JSON lines, an object a line with ``audio_filepath`` (absolute, or relative
      to the manifest's folder), optionally ``duration`` (seconds) and ``text``.  Blank lines and
      other keys are ignored.
    - A folder with a ``manifest.jsonl`` or ``manifest.json``: that manifest.
    - A folder with LibriSpeech's ``*.trans.txt`` below it: their utterances
      (``speaker-chapter-number WORDS``, recording ``speaker-chapter-number.flac`` beside it).
    - Any other folder: every recording below it, without text.

    Raises ManifestError, naming the file, the line and what is wrong with it, when the list is
    missing, malformed, empty, or names a recording that does not exist.
    """
    source = Path(path)
    if source.is_dir():
        utterances = _read_folder(source)
    elif source.is_file():
        utterances = _read_json_lines(source)
    else:
        raise ManifestError(source, "no such file or folder")
    if not utterances:
        remedy = (
            f"known endings: {', '.join(AUDIO_SUFFIXES)}" if source.is_dir() else "add a JSON object a line"
        )
        raise ManifestError(source, "lists no recordings", remedy)
    return utterances


def _read_folder(folder: Path) -> list[Utterance]:
    for name in MANIFESTS:
        if (folder / name).is_file():
            return _read_json_lines(folder / name)
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if transcripts:
        return [utterance for transcript in transcripts for utterance in _read_transcript(transcript)]
    recordings = (p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    return [Utterance(recording) for recording in sorted(recordings)]


def _lines(path: Path) -> list[tuple[str, str]]:
    """Return ("file:line", text) of the lines that are not blank."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(path, f"cannot be read ({error.strerror or error})") from None
    lines = []
    # Only line feeds end a line: str.splitlines would also split at U+2028 inside a text.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ManifestError(
                where, f"is not UTF-8 (byte {error.start + 1} of the line)", "save it as UTF-8"
            ) from None
        if text:
            lines.append((where, text))
    return lines


def _read_json_lines(manifest: Path) -> list[Utterance]:
    return [_parse(where, line, manifest.parent) for where, line in _lines(manifest)]


def _parse(where: str, line: str, folder: Path) -> Utterance:
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ManifestError(where, f"is not JSON ({reason})", "write one JSON object a line") from None
    if not isinstance(entry, dict):
        raise ManifestError(where, f"is not a JSON object but a {type(entry).__name__}")
    if "audio_filepath" not in entry:
        raise ManifestError(where, "has no audio_filepath")
    name = entry["audio_filepath"]
    if not isinstance(name, str) or not name:
        raise ManifestError(where, f"audio_filepath must be a non-empty string, got {name!r}")
    duration, text = entry.get("duration"), entry.get("text")
    if duration is not None and not _is_duration(duration):
        raise ManifestError(where, f"duration must be a positive number of seconds, got {duration!r}")
    if text is not None and not isinstance(text, str):
        raise ManifestError(where, f"text must be a string, got {text!r}")
    audio = folder / name  # an absolute name replaces the folder
    if not _is_file(audio):
        raise ManifestError(where, f"the recording {audio} does not exist")
    if text is not None and not is_unicode(text):
        raise ManifestError(where, "text holds a lone surrogate, which is no Unicode")
    return Utterance(audio, None if duration is None else float(duration), text, where)


def _is_duration(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        seconds = float(value)
    except OverflowError:  # JSON's whole numbers have no limit
        return False
    return math.isfinite(seconds) and seconds > 0


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _read_transcript(transcript: Path) -> list[Utterance]:
    utterances = []
    for where, line in _lines(transcript):
        identifier, _, text = line.partition(" ")
        audio = transcript.parent / f"{identifier}.flac"
        if not _is_file(audio):
            raise ManifestError(where, f"the recording {audio} does not exist")
        utterances.append(Utterance(audio, None, text.strip(), where))
    return utterances
