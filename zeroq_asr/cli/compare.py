"""``zeroq-asr compare``: data-free calibration against real data, noise and ONNX Runtime's quantizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    beam_of,
    decoded_by,
)
from zeroq_asr.cli.options import (
    AllowFloat,
    AsJson,
    Channel,
    Config,
    Developer,
    Head,
    KeepFloat,
    Language,
    Loader,
    Quiet,
    Set,
    channel_of,
    refuse_typed,
    with_settings,
)
from zeroq_asr.cli.outputs import Force, check_output
from zeroq_asr.cli.quantize_transducer import refuse, refuse_labels
from zeroq_asr.cli.synthesize import Batch, Frames, Iterations, Objective, Patience, Preset, Seed, chosen
from zeroq_asr.cli.tables import markdown_table
from zeroq_asr.cli.terminal import Terminal, session
from zeroq_asr.cli.training import Reconstruct, Train, require_narrow, training_of
from zeroq_asr.config.choices import AUTO, CTC, TRANSDUCER
from zeroq_asr.files import atomic_write_bytes
from zeroq_asr.lines import size

if TYPE_CHECKING:
    from zeroq_asr.measure.comparison import Gap, Row
    from zeroq_asr.measure.evaluate import ErrorCounts

COLUMNS: tuple[str, ...] = ("", "size", "WER %", "S/D/I", "agreement %", "frames %", "KL")
#: of rows that were timed, behind those
TIMES: tuple[str, ...] = ("ms", "speed-up")


def compare(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint: .nemo, .pt, .ckpt or .pt2.")],
    manifest: Annotated[
        list[Path] | None,
        typer.Option(
            "--manifest",
            "-m",
            metavar="PATH",
            help="Recordings to judge by, best with text: JSON lines, a folder, or a LibriSpeech tree. "
            "May be repeated.",
        ),
    ] = None,
    calibration_manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Other recordings, to calibrate on for the rows that need real data."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many of --manifest.")] = None,
    calibration_limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many of --calibration-manifest.")
    ] = None,
    channel: Channel = None,
    bits: Annotated[
        str,
        typer.Option(
            metavar="BITS",
            help="Of weights and activations: 8, w7a8, …; after a comma, others to compare without data.",
        ),
    ] = "8",
    keep_float: KeepFloat = None,
    allow_float: AllowFloat = False,
    max_seconds: Annotated[float, typer.Option(help="Longest recording.")] = 60.0,
    time: Annotated[
        bool,
        typer.Option("--time/--no-time", help="Also time each file on 10 s of features, on one thread."),
    ] = True,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Syntheses, each with a row of its own.")] = 1,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Also rows without data from another source of ranges: synthetic, speech or both. "
            "May be repeated.",
        ),
    ] = None,
    reconstruct: Reconstruct = None,
    train: Train = None,
    preset: Preset = "default",
    seed: Seed = None,
    iterations: Iterations = None,
    batch: Batch = None,
    frames: Frames = None,
    objective: Objective = None,
    patience: Patience = None,
    fields: Set = None,
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
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the tables, as Markdown.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Compare MODEL quantized without data, with real data, from noise, and by ONNX Runtime itself.

    Example: zeroq-asr compare quartznet.nemo --manifest test-other --calibration-manifest train
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        decoding = beam_of(ctx)
        kept = {"keep_float": tuple(keep_float or ()), "allow_float": allow_float}
        specs = [zq.QuantSpec.parse_bits(part, max_seconds=max_seconds, **kept) for part in bits.split(",")]
        synthesis = chosen(
            preset,
            seed=seed,
            iterations=iterations,
            batch=batch,
            frames=frames,
            objective=objective,
            patience=patience,
        )
        # the calibration differs from row to row
        untrained = training = training_of(preset, reconstruct, train)
        labels = zq.LabelSpec()
        specs = [with_settings(ctx, fields, spec, synthesis, training, labels)[0] for spec in specs]
        _, synthesis, training, labels = with_settings(ctx, fields, specs[0], synthesis, training, labels)
        require_narrow(ctx, specs, training, preset)
        if calibration_manifest is None:
            problem = "is of --calibration-manifest, and there is none"
            refuse_typed(ctx, ["calibration_limit"], problem, "add it, or leave this out")
        if markdown is not None:
            sources = (model, *(manifest or ()), calibration_manifest, config, lm, source_lm, hotwords)
            check_output(terminal, markdown, outputs.tables, *sources, force=force)
        heard = channel_of(channel)
        utterances = None
        if manifest:
            utterances = [u for path in manifest for u in zq.read_manifest(path, heard)][:limit]
        if calibration_manifest is not None:
            zq.read_manifest(calibration_manifest, heard)  # a mistake there shows before the long work begins
        with terminal.progress() as progress:
            progress("load", 0, 1)
            loaded = zq.load_model(model, config=config, loader=loader, language=language, head=head)
            progress("load", 1, 1)
            if isinstance(loaded, zq.TransducerModel):
                given = {"--train": train, "--reconstruct": reconstruct, "--set": training != untrained}
                refuse(model, given)
            else:
                refuse_labels(model, labels)
            result = zq.compare(
                loaded,
                utterances,
                None if calibration_manifest is None else str(calibration_manifest),
                spec=specs[0],
                also=specs[1:],
                synthesis=synthesis,
                labels=None if labels == zq.LabelSpec() else labels,
                training=training,
                calibration_limit=calibration_limit,
                calibration_channel=heard,
                seeds=seeds,
                sources=calibration or (),
                beam=decoding,
                timed=time,
                progress=progress,
            )
        if markdown is not None:
            atomic_write_bytes(markdown, _markdown(result).encode())
        terminal.result(result.to_dict(), [_cells(row, result) for row in result.rows])
        if terminal.talks:
            show(terminal, result)
            if markdown is not None:
                terminal.facts([("tables", str(markdown))])


def show(terminal: Terminal, result: zq.Comparison) -> None:
    """Print a comparison's tables."""
    terminal.title(f"{result.name} {result.bits}", _heard(result))
    terminal.table(_columns(result), [_cells(row, result) for row in result.rows])
    if result.gaps:
        terminal.text()
        terminal.table(GAP_COLUMNS, [_gap(gap) for gap in result.gaps])
    terminal.text()
    for line in _legend(result):
        terminal.text(line, "dim")


GAP_COLUMNS: tuple[str, ...] = ("difference of WER, points", "", "95 % interval")


#: what is timed, by the head, with how it is decoded in place of {}
_TIMED = {
    CTC: "features on one thread, all files interleaved",
    TRANSDUCER: "speech decoded {} on one thread, all interleaved",
}


def _heard(result: zq.Comparison) -> str:
    count = f"{result.utterances} utterances"
    heard = f"{count} of held-out synthetic features"
    if result.heard != "synthetic features":
        heard = f"{count}, {result.audio_seconds:.0f} s of {result.heard}"
    return heard if result.beam is None else f"{heard}, decoded {decoded_by(result.beam)}"


def _legend(result: zq.Comparison) -> list[str]:
    if result.head == TRANSDUCER:
        lines = [
            "frames: steps of the float network's own greedy path, each a frame behind what it has said by "
            "then, whose best token is another; KL: of all that they choose among, in nats.",
        ]
    else:
        lines = ["frames: whose best token is not the float network's; KL: of their distributions, in nats."]
    if result.heard == "synthetic features":
        lines.insert(0, "No recordings were given: what synthetic features can tell is not an error rate.")
    else:
        lines.insert(0, "agreement: word error rate against the transcript of the float network.")
    if result.heard == "recordings":
        lines.insert(1, "Not every recording has text, so there is no word error rate.")
    if result.gaps:
        lines.append("intervals: paired bootstrap over utterances; seeds are averaged.")
    if result.timed_seconds is not None:
        timed = _TIMED[result.head].format(decoded_by(result.beam))
        lines.append(
            f"ms: {result.timed_seconds:g} s of {timed}, float as ONNX, too; "
            "speed-up: its time over this one's."
        )
        lines.append(
            "Times are medians of few rounds and noisy on a busy machine; zeroq-asr bench takes more."
        )
    lines += [f"{row.label}: {row.note}." for row in result.rows if row.note]
    return lines + [f"{label} is not there: {reason}." for label, reason in result.absent.items()]


def _columns(result: zq.Comparison) -> tuple[str, ...]:
    return COLUMNS if result.timed_seconds is None else COLUMNS + TIMES


def _cells(row: Row, result: zq.Comparison) -> list[str]:
    cells = [
        row.label,
        size(row.size),
        _rate(row.words),
        "–"
        if row.words is None
        else f"{row.words.substitutions}/{row.words.deletions}/{row.words.insertions}",
        _rate(row.agreement),
        f"{100 * row.frames:.2f}",
        f"{row.divergence:.3g}",
    ]
    if result.timed_seconds is not None:
        cells.append("–" if row.median is None else f"{1e3 * row.median:.1f}")
        cells.append("–" if row.speedup is None else f"{row.speedup:.2f}")
    return cells


def _gap(gap: Gap) -> list[str]:
    d = gap.difference
    return [
        f"{gap.label} − {gap.other}",
        f"{100 * d.value:+.2f}",
        f"{100 * d.low:+.2f} … {100 * d.high:+.2f}",
    ]


def _rate(counts: ErrorCounts | None) -> str:
    return "–" if counts is None or counts.rate is None else f"{100 * counts.rate:.2f}"


def _markdown(result: zq.Comparison) -> str:
    lines = [f"**{result.name} {result.bits}**, {_heard(result)}", ""]
    tables = [(_columns(result), [_cells(row, result) for row in result.rows])]
    if result.gaps:
        tables.append((GAP_COLUMNS, [_gap(gap) for gap in result.gaps]))
    for columns, rows in tables:
        lines += [*markdown_table(columns, rows), ""]
    return "\n".join([*lines, *_legend(result), ""])
