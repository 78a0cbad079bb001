"""Lists of recordings: NeMo's JSON lines, a LibriSpeech tree, or a folder of audio."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zeroq_asr.errors import ManifestError, warn
from zeroq_asr.files import read_file
from zeroq_asr.lines import shown
from zeroq_asr.speech.tokenizer import is_unicode

#: file name endings taken for recordings in a folder
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3", ".aiff", ".aif")


#: what a folder's manifest is called
MANIFESTS = ("manifest.jsonl", "manifest.json")


#: a channel's number from 0, "average", or None: the average, too, but a ZeroqWarning says so
Channel = int | str | None
#: more than any sound file has
MOST_CHANNELS = 1024


@dataclass(frozen=True)
class Utterance:
    """One recording, or a segment of one, and what is known of it."""

    audio_path: Path
    #: seconds, where the list says so: so much is heard, from the offset on.  None: to the end
    duration: float | None = None
    #: what is said, where the list says so; may be empty for silence
    text: str | None = None
    #: "file:line" of the list, for messages
    where: str = field(default="", compare=False)
    #: seconds into the recording where it begins, where the list says so
    offset: float | None = None
    #: which of several channels is heard
    channel: Channel = None

    @property
    def name(self) -> str:
        """What errors and reports call it: the recording, and the segment where there are offsets."""
        if self.offset is None:
            return os.fspath(self.audio_path)
        end = "" if self.duration is None else f" to {self.offset + self.duration:.10g} s"
        return f"{os.fspath(self.audio_path)} from {self.offset:.10g} s{end}"


#: keys of NeMo's rows that are read
_AUDIO, _TEXT = ("audio_filepath", "audio_filename"), ("text", "text_filepath", "normalized_text")
_READ = {*_AUDIO, *_TEXT, "offset", "duration", "channel_selector"}
#: keys that say nothing of what is heard and said
_HARMLESS = """
    accent age answer book chapter client_id confidence context corpus cer ctm_filepath dataset dialect
    domain down_votes emotion gender id idx is_filler itn itn_text label lang language locale num_channels
    num_samples num_speakers orig_sample_rate orig_sr pnc pred_text punct_text question raw_text rttm_file
    rttm_filepath sample_rate sampling_rate score segment_id sex snr source source_lang speaker speaker_id
    spk split target_lang task taskname timestamp timestamps token_labels topic translation uniq_id up_votes
    user_id utt_id utterance_id uttid wav_id wer words
"""
#: keys by which other tools cut, choose or change sound, and what to say instead: to pass over them is to
#: hear something else
_HEARD = {
    "begin begin_time end end_time start start_time stop segment segments supervisions": "offset, duration",
    "channel channels channel_id audio_channel": "channel_selector, from 0, or --channel",
    "feature_file recording shard_id tar_filepath video_filename video_filepath": "audio_filepath",
    "augmentations effects gain noise_filepath rir_filepath speed speed_factor tempo trim volume": "",
}
_KNOWN = _READ | {*_HARMLESS.split()}
_CHANGES = {key: instead for keys, instead in _HEARD.items() for key in keys.split()}
#: bytes of a list, and of a text beside one
_MOST_BYTES, _MOST_TEXT = 2**30, 2**20
#: seconds, far beyond any recording
_FAR = 1e9


def read_manifest(path: str | os.PathLike[str], channel: Channel = None) -> list[Utterance]:
    """Return the recordings that ``path`` lists, in a stable order.

    - A file: NeMo's JSON lines, an object a line with ``audio_filepath`` (absolute, or relative to the
      manifest's folder), optionally ``offset`` and ``duration`` (seconds: the segment that is heard; a
      duration of null or 0 reaches to the end), ``text`` (or ``text_filepath``, or ``normalized_text``) and
      ``channel_selector`` (a number from 0, or "average").  Blank lines are ignored, and other keys: with a
      ZeroqWarning, unless they are known to say nothing of sound and text.  Keys by which other tools cut or
      change the sound are refused.
    - A folder with a ``manifest.jsonl`` or ``manifest.json``: that manifest.
    - A folder with LibriSpeech's ``*.trans.txt`` below it: their utterances
      (``speaker-chapter-number WORDS``, recording ``speaker-chapter-number.flac`` beside it).
    - Any other folder: every recording below it, without text.

    ``channel`` is heard of every recording of which the list does not say which.

    Raises ManifestError, naming the file, the line and what is wrong with it, when the list is
    missing, malformed, empty, or names a recording that does not exist.
    """
    source = Path(path)
    utterances = _read_folder(source) if _is(Path.is_dir, source) else _read_json_lines(source)
    if not utterances:
        remedy = (
            f"known endings: {', '.join(AUDIO_SUFFIXES)}" if source.is_dir() else "add a JSON object a line"
        )
        raise ManifestError(source, "lists no recordings", remedy)
    if channel is None:
        return utterances
    return [u if u.channel is not None else dataclasses.replace(u, channel=channel) for u in utterances]


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
    data = read_file(path, ManifestError, _MOST_BYTES)
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
    strange: dict[str, None] = {}
    utterances = [_parse(where, line, manifest.parent, strange) for where, line in _lines(manifest)]
    if strange:
        few = ", ".join(shown(key) for key in [*strange][:8])
        more = f" and {len(strange) - 8} more" if len(strange) > 8 else ""
        warn(
            manifest,
            f"its rows have keys that are not read: {few}{more}",
            "see zq.read_manifest for those that are",
        )
    return utterances


def _row(where: str, line: str) -> dict[str, Any]:
    """Return the JSON object of a line, whose keys stand there once."""
    twice: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(found)
        if len(row) < len(found):
            names = [name for name, _ in found]
            twice.append(next(name for name in names if names.count(name) > 1))
        return row

    try:
        entry: Any = json.loads(line, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ManifestError(where, f"is not JSON ({reason})", "write one JSON object a line") from None
    if not isinstance(entry, dict):
        raise ManifestError(where, f"is not a JSON object but a {type(entry).__name__}")
    if twice:
        raise ManifestError(where, f"has the key {shown(twice[0])} twice", "keep one")
    return entry


def _parse(where: str, line: str, folder: Path, strange: dict[str, None]) -> Utterance:
    entry = _row(where, line)
    for key, value in entry.items():
        if key in _CHANGES and value is not None:
            instead = f"say it by {_CHANGES[key]}, or " if _CHANGES[key] else ""
            problem = f"the key {key} changes what is heard, and is not supported"
            raise ManifestError(where, problem, f"{instead}take it out")
        if key not in _KNOWN and key not in _CHANGES:
            strange[key] = None
    named = [key for key in _AUDIO if key in entry]
    if not named:
        raise ManifestError(where, "has no audio_filepath", "NeMo's rows have it")
    if len(named) == 2:
        raise ManifestError(where, "has both audio_filepath and audio_filename", "keep one")
    audio = folder / _file_name(where, named[0], entry[named[0]])  # an absolute name replaces the folder
    problem = _no_file(audio)
    if problem:
        raise ManifestError(where, f"the recording {audio} {problem}")
    duration = _seconds(where, "duration", entry.get("duration"))
    return Utterance(
        audio,
        duration or None,
        _text(where, entry, folder),
        where,
        _seconds(where, "offset", entry.get("offset")),
        _channel(where, entry.get("channel_selector")),
    )


def _file_name(where: str, key: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ManifestError(where, f"{key} must be a non-empty string, got {shown(name)}")
    return name


def _text(where: str, entry: dict[str, Any], folder: Path) -> str | None:
    """Return what is said: NeMo takes the first of these keys that is there."""
    key = next(
        (key for key in ("text", "text_filepath", "normalized_text") if entry.get(key) is not None), ""
    )
    text = entry.get(key)
    if key == "text_filepath":
        name = folder / _file_name(where, key, text)
        try:
            text = read_file(name, ManifestError, _MOST_TEXT).decode("utf-8-sig")
        except ManifestError as error:
            raise ManifestError(where, f"its text_filepath {name} {error.problem}", error.remedy) from None
        except UnicodeDecodeError:
            raise ManifestError(where, f"its text_filepath {name} is not UTF-8", "save it as UTF-8") from None
    if text is not None and not isinstance(text, str):
        raise ManifestError(where, f"{key} must be a string, got {shown(text)}", "write it as a JSON string")
    if text is not None and not is_unicode(text):
        raise ManifestError(where, f"{key} holds a lone surrogate, which is no Unicode")
    return text


def _seconds(where: str, key: str, value: object) -> float | None:
    """Return a number of seconds, zero or more, or None where there is none."""
    if value is None:
        return None
    # bool is an int to Python; JSON's whole numbers have no limit, and Python's JSON has NaN
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _FAR:
        raise ManifestError(
            where,
            f"{key} must be a number of seconds, zero or more, got {shown(value)}",
            "write it as a number",
        )
    return float(value)


def _channel(where: str, value: object) -> Channel:
    if value is None or value == "average":
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST_CHANNELS:
        problem = f"channel_selector must be a number from 0, or average, got {shown(value)}"
        raise ManifestError(where, problem, "one channel is heard at a time")
    return value


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _no_file(path: Path) -> str:
    """Return what is wrong with the path of a recording, or nothing."""
    if _is(Path.is_file, path):
        return ""
    return "is no regular file" if _is(Path.exists, path) else "does not exist"


def _read_transcript(transcript: Path) -> list[Utterance]:
    utterances = []
    for where, line in _lines(transcript):
        identifier, _, text = line.partition(" ")
        audio = transcript.parent / f"{identifier}.flac"
        problem = _no_file(audio)
        if problem:
            raise ManifestError(where, f"the recording {audio} {problem}")
        utterances.append(Utterance(audio, None, text.strip(), where))
    return utterances
