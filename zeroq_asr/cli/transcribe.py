"""``zeroq-asr transcribe``: what is said in recordings, as text, JSON or subtitles."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import zeroq_asr as zq
from zeroq_asr.cli import outputs
from zeroq_asr.cli.beams import (
    Beam,
    BeamSearch,
    Hotword,
    Hotwords,
    HotwordWeight,
    IlmWeight,
    LengthBonus,
    Lm,
    LmUnit,
    LmWeight,
    SourceLm,
    SourceLmWeight,
    UnkScoreOffset,
    WordBonus,
    beam_fields,
    beam_of,
)
from zeroq_asr.cli.options import (
    AsJson,
    BatchSize,
    Channel,
    Checkpoint,
    Config,
    Developer,
    Head,
    Jobs,
    Language,
    Loader,
    Quiet,
    Threads,
    alternatives,
    channel_of,
    one_of,
    typed,
)
from zeroq_asr.cli.outputs import Force, check_output
from zeroq_asr.cli.recognizers import Model, open_recognizers
from zeroq_asr.cli.terminal import json_text, session
from zeroq_asr.config.choices import AUTO
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import atomic_write_bytes, written_at
from zeroq_asr.lines import printable
from zeroq_asr.progress import silent

if TYPE_CHECKING:
    #: an utterance, and what is said in it
    Heard = tuple[zq.Utterance, zq.Transcription]

FORMATS = ("txt", "json", "srt", "vtt")


def transcribe(
    ctx: typer.Context,
    model: Model,
    audio: Annotated[
        list[Path],
        typer.Argument(
            metavar="AUDIO",
            help="Recordings (WAV, FLAC, OGG, MP3), folders of them, or manifests (.jsonl, .json).",
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar=alternatives(FORMATS),
            callback=one_of(FORMATS),
            help="txt: lines; json: with the time of each word; srt, vtt: subtitles. By default what "
            "--output ends in.",
        ),
    ] = "txt",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "--out",
            "-o",
            metavar="PATH",
            help="Write a file; or, into a folder, that is there or ends in /, a file for each recording.",
        ),
    ] = None,
    jobs: Jobs = 1,
    channel: Channel = None,
    batch_size: BatchSize = 1,
    threads: Threads = None,
    checkpoint: Checkpoint = None,
    config: Config = None,
    loader: Loader = None,
    language: Language = None,
    head: Head = AUTO,
    beam: Beam = None,
    beam_search: BeamSearch = None,
    lm: Lm = None,
    lm_weight: LmWeight = None,
    lm_unit: LmUnit = None,
    unk_score_offset: UnkScoreOffset = None,
    source_lm: SourceLm = None,
    source_lm_weight: SourceLmWeight = None,
    ilm_weight: IlmWeight = None,
    length_bonus: LengthBonus = None,
    word_bonus: WordBonus = None,
    hotword: Hotword = None,
    hotwords: Hotwords = None,
    hotword_weight: HotwordWeight = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Print what is said in recordings: a line each, with its path and a tab before it for several.

    A recording that is longer than MODEL is proven for is cut at its pauses, with a warning.

    Example: zeroq-asr transcribe quartznet.int8.onnx speech.wav
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        heard = channel_of(channel)
        if terminal.as_json and output is None and format_ in ("srt", "vtt"):
            problem = f"--json prints JSON, which leaves no place for {format_}"
            raise ConfigError("--format", problem, "name a file: --output, or leave --json out")
        format_ = _format(ctx, format_, output)
        decoding = beam_of(ctx)
        from zeroq_asr.speech.audio import check_segments

        with terminal.progress() as progress:
            recordings = [one for path in audio for one in _recordings(path)]
            files = _files(recordings, output, format_)
            for file in files if output is not None else ():
                if str(output).endswith(os.sep) and not file.path.parent.exists():
                    break  # the folder is made when there is something to put into it
                sources = (
                    model,
                    checkpoint,
                    config,
                    lm,
                    source_lm,
                    hotwords,
                    *audio,
                    *(one.audio_path for one in recordings),
                )
                check_output(terminal, file.path, outputs.recognized, *sources, force=force)
            check_segments(recordings)
            recognizers = open_recognizers(
                model,
                jobs,
                config=config,
                loader=loader,
                language=language,
                head=head,
                beam=decoding,
                checkpoint=checkpoint,
                threads=threads,
                progress=progress,
            )
        decoded = beam_fields(decoding, recognizers[0])
        found: list[Heard] = []
        alone = len(recordings) == 1 and recordings[0].audio_path == audio[0]
        prints = output is None and not terminal.as_json
        lines = prints and format_ == "txt"
        # lines on a terminal are progress enough, and a bar would be in their way
        bars = contextlib.nullcontext(silent) if lines and terminal.out.is_terminal else terminal.progress()
        with bars as progress:
            for one in zq.recognize(
                recognizers, recordings, batch_size=batch_size, progress=progress, channel=heard
            ):
                recording = recordings[len(found)]
                found.append((recording, one))
                if lines:
                    terminal.line(*([one.text] if alone else [recording.name, one.text]))
                for file in files if output is not None else ():
                    if file.last == len(found) - 1:
                        text = _text(format_, model, decoded, [found[i] for i in file.indexes])
                        file.path.parent.mkdir(exist_ok=True)
                        atomic_write_bytes(file.path, text.encode("utf-8", "backslashreplace"))
        terminal.result(_document(model, decoded, found), "")
        if prints and not lines:
            terminal.document(_text(format_, model, decoded, found))
        elif output is not None and not terminal.as_json:
            for file in files:
                terminal.line(str(file.path))


def _format(ctx: typer.Context, format_: str, output: str | None) -> str:
    """Return the format of what is written: where --format is not said, that which --output ends in."""
    ending = "" if output is None or output.endswith(os.sep) else Path(output).suffix.lower()[1:]
    if not ending or ending == format_ or Path(str(output)).is_dir():
        return format_
    said = typed(ctx, "format_")
    if ending not in FORMATS:
        if said:
            return format_
        problem = f"{output} ends in none of {', '.join(f'.{one}' for one in FORMATS)}"
        raise ConfigError("--output", problem, "say --format, or give it another ending")
    if said:
        problem = f"says {format_}, and --output {output} names a file of {ending}"
        raise ConfigError("--format", problem, "leave it out, or give the file another ending")
    return ending


def _recordings(path: Path) -> list[zq.Utterance]:
    """What an argument names: a recording, or those that a folder or a manifest lists."""
    if path.is_dir() or path.suffix.lower() in (".jsonl", ".json"):
        return zq.read_manifest(path)
    return [zq.Utterance(path)]


@dataclass(frozen=True)
class _File:
    """A file to write, and the numbers of the utterances that it tells of."""

    path: Path
    indexes: list[int]

    @property
    def last(self) -> int:
        return self.indexes[-1]


def _files(recordings: list[zq.Utterance], output: str | None, format_: str) -> list[_File]:
    """Return what is to be written; ConfigError where a recording would be lost, or a folder cannot be."""
    parts: dict[Path, list[int]] = {}
    for index, one in enumerate(recordings):
        parts.setdefault(one.audio_path, []).append(index)
    if output is None or not (output.endswith(os.sep) or Path(output).is_dir()):
        if format_ in ("srt", "vtt") and len(parts) > 1:
            problem = f"subtitles are of one recording, {len(parts)} were given"
            raise ConfigError("--format", problem, "name a folder: --output subtitles/")
        return [_File(Path(output or ""), [*range(len(recordings))])] if recordings else []
    folder = Path(output)
    if not folder.exists():
        written_at(folder)
    names: dict[str, Path] = {}
    for path in parts:
        other = names.setdefault(path.stem, path)
        if other != path:
            problem = f"{other} and {path} would both be {path.stem}.{format_}"
            raise ConfigError("--output", problem, "transcribe them one by one")
    return [_File(folder / f"{path.stem}.{format_}", indexes) for path, indexes in parts.items()]


def _text(format_: str, model: Path, beam: dict[str, Any] | None, found: list[Heard]) -> str:
    """Return what is said in a format, as a file holds it."""
    from zeroq_asr.speech import subtitles

    words = [word for _, one in found for word in one.words]
    match format_:
        case "json":
            return json_text(_document(model, beam, found)) + "\n"
        case "srt":
            return subtitles.srt(words)
        case "vtt":
            return subtitles.vtt(words)
        case _:
            return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: list[Heard]) -> Iterator[str]:
    several = len({one.audio_path for one, _ in found}) > 1
    for one, said in found:
        yield "\t".join(printable(field) for field in ([one.name] if several else []) + [said.text])


def _document(model: Path, beam: dict[str, Any] | None, found: list[Heard]) -> dict[str, Any]:
    """Return what --json prints."""
    rows = [
        {
            "audio": str(one.audio_path),
            "offset_seconds": one.offset,
            "duration_seconds": one.duration,
            "channel": one.channel,
            "text": said.text,
            "words": [word.to_dict() for word in said.words],
        }
        for one, said in found
    ]
    return {"model": str(model), "beam": beam, "transcripts": rows}
