"""``zeroq-asr evaluate``: the error rates and the speed of a recogniser."""

from __future__ import annotations

import json
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
    language_model_of,
)
from zeroq_asr.cli.options import (
    AsJson,
    BatchSize,
    Channel,
    Checkpoint,
    Config,
    Developer,
    Head,
    Language,
    Loader,
    Quiet,
    Threads,
    channel_of,
)
from zeroq_asr.cli.outputs import Force, check_output
from zeroq_asr.cli.recognizers import Model, open_recognizers
from zeroq_asr.cli.terminal import Terminal, session
from zeroq_asr.config.choices import AUTO
from zeroq_asr.files import atomic_write_bytes

if TYPE_CHECKING:
    from zeroq_asr.measure.evaluate import ErrorCounts, Transcript


def evaluate(
    ctx: typer.Context,
    model: Model,
    manifest: Annotated[
        Path,
        typer.Option(
            "--manifest",
            "-m",
            metavar="PATH",
            help="JSON lines with audio_filepath and text, a folder with them, or a LibriSpeech tree.",
        ),
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
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
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write references and transcripts, JSON lines."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Measure the error rates and the speed of MODEL on recordings with known text.

    Example: zeroq-asr evaluate quartznet.int8.onnx --manifest test-other
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        decoding = beam_of(ctx)
        utterances = zq.read_manifest(manifest, channel_of(channel))[:limit]
        if output is not None:
            heard = (Path(utterance.audio_path) for utterance in utterances)
            sources = (model, manifest, config, checkpoint, lm, source_lm, hotwords, *heard)
            check_output(terminal, output, outputs.transcripts, *sources, force=force)
        from zeroq_asr.measure.evaluate import references_of

        references_of(utterances)  # a line without text shows before the model is read
        with terminal.progress() as progress:
            (recognizer,) = open_recognizers(
                model,
                1,
                config=config,
                loader=loader,
                language=language,
                head=head,
                beam=decoding,
                checkpoint=checkpoint,
                threads=threads,
                progress=progress,
            )
            result = zq.evaluate(
                recognizer, utterances, batch_size=batch_size, by_duration=batch_size > 1, progress=progress
            )
        if output is not None:
            atomic_write_bytes(output, _json_lines(result))
        rate = result.words.rate
        found = {**result.to_dict(), "beam": beam_fields(decoding, recognizer)}
        terminal.result(found, "" if rate is None else f"{100 * rate:.2f}")
        if terminal.talks:
            _report(terminal, result, language_model_of(decoding, recognizer), output)


def _report(
    terminal: Terminal, result: zq.Evaluation, language_model: str | None, output: Path | None
) -> None:
    terminal.title(
        result.name, f"{len(result.transcripts)} utterances, {result.audio_seconds:.1f} s of audio"
    )
    terminal.table(
        ["", "error rate", "errors", "of", "substituted", "deleted", "inserted"],
        [_row("words", result.words), _row("characters", result.characters)],
    )
    terminal.text()
    speed = f"{result.real_time_factor:.3g} ({1 / result.real_time_factor:.0f} times faster than speech)"
    rows = [
        ("real-time factor", speed),
        ("time", f"{result.seconds:.2f} s, the network {result.network_seconds:.2f} s"),
    ]
    if language_model is not None:
        rows.append(("language model", language_model))
    if output is not None:
        rows.append(("transcripts", str(output)))
    terminal.facts(rows)


def _row(name: str, counts: ErrorCounts) -> list[str]:
    rate = "–" if counts.rate is None else f"{100 * counts.rate:.2f} %"
    numbers = (counts.errors, counts.length, counts.substitutions, counts.deletions, counts.insertions)
    return [name, rate, *(str(number) for number in numbers)]


def _json_lines(result: zq.Evaluation) -> bytes:
    """Return NeMo's manifest lines with ``pred_text``."""
    return b"".join(_json(_row_of(t)) + b"\n" for t in result.transcripts)


def _row_of(t: Transcript) -> dict[str, Any]:
    heard = {"offset": t.offset, "duration": t.duration, "channel_selector": t.channel}
    segment = {key: value for key, value in heard.items() if value is not None}
    return {"audio_filepath": t.audio_path, **segment, "text": t.reference, "pred_text": t.hypothesis}


def _json(line: dict[str, Any]) -> bytes:
    try:
        return json.dumps(line, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # the bytes of a name that is no UTF-8 stay escaped, and can be read again
        return json.dumps(line).encode()
