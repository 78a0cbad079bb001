"""``zeroq-asr report``: how good a quantized file is, told by synthesized features alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli import outputs
from zeroq_asr.cli.options import (
    AsJson,
    Channel,
    Config,
    Developer,
    Head,
    Language,
    Loader,
    Quiet,
    channel_of,
)
from zeroq_asr.cli.outputs import Force, check_output
from zeroq_asr.cli.plan_row import Plot, show_row
from zeroq_asr.cli.synthesize import Batch, Frames, Iterations, Preset, Seed, chosen, show_statistics
from zeroq_asr.cli.terminal import Terminal, session
from zeroq_asr.config.choices import AUTO, CTC, TRANSDUCER
from zeroq_asr.errors import ConfigError
from zeroq_asr.progress import Progress

if TYPE_CHECKING:
    from zeroq_asr.measure.page_words import Heard


def report(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The checkpoint that FILE was made of.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `quantize` wrote: a file, or a bundle.")],
    config: Config = None,
    loader: Loader = None,
    language: Language = None,
    head: Head = AUTO,
    preset: Preset = "default",
    seed: Seed = None,
    iterations: Iterations = None,
    batch: Batch = None,
    frames: Frames = None,
    top: Annotated[int, typer.Option(min=1, help="Values and layers shown, the worst first.")] = 10,
    plot: Plot = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Also write one page with all of it, in pictures: whole in itself, without scripts.",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            "-m",
            metavar="PATH",
            help="For the page: recordings with text, which MODEL and FILE both recognize.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many of --manifest.")] = None,
    channel: Channel = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Report how near FILE is to MODEL, on features that are made for it: no recording is needed.

    Example: zeroq-asr report quartznet.nemo quartznet.int8.onnx --html report.html
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        from zeroq_asr.deployment.recognizer import is_bundle, is_onnx
        from zeroq_asr.measure import page, pictures
        from zeroq_asr.measure.plan_picture import draw_row

        quantized = [is_bundle(path) or is_onnx(path) for path in (model, file)]
        if quantized == [True, False]:
            raise ConfigError(
                "report", "MODEL and FILE are swapped", "name the checkpoint first, then the file"
            )
        if plot is not None:
            pictures.check(plot)
            check_output(terminal, plot, outputs.plots, model, file, config, force=force)
            if "search" not in zq.inspect_file(file).get("recipe", {}):
                problem = f"{file} was not made by a search for a plan, so there are none to draw"
                raise ConfigError("--plot", problem, "make it with quantize --max-size or --max-loss")
        if html is None:
            _of_page(manifest=manifest, limit=limit, channel=channel)
        elif manifest is None:
            _of_manifest(limit=limit, channel=channel)
        utterances = [] if manifest is None else _with_text(manifest, channel, limit)
        if html is not None:
            page.check(html)
            recordings = (Path(one.audio_path) for one in utterances)
            sources = (model, file, config, manifest, *recordings)
            check_output(terminal, html, outputs.pages, *sources, force=force)
        synthesis = chosen(preset, seed=seed, iterations=iterations, batch=batch, frames=frames)
        with terminal.progress() as progress:
            progress("load", 0, 1)
            # what was made of a hybrid's head is compared with that head
            wanted = TRANSDUCER if head == AUTO and is_bundle(file) else head
            loaded = zq.load_model(model, config=config, loader=loader, language=language, head=wanted)
            progress("load", 1, 1)
            found = zq.report(loaded, file, synthesis, progress)
            if html is not None:
                heard = _heard(loaded, file, utterances, progress) if utterances else None
                account = page.account_of(file, model, loaded.float_bytes)
                page.write_page(html, found, account, heard, [_command(ctx)])
        if plot is not None and found.search is not None:
            draw_row(found.search, plot, file.name)
        terminal.result(found.to_dict(), f"{found.divergence:.6g}")
        if terminal.talks:
            _show(terminal, found, top)


def _of_page(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"--{name}", "is for the page of a report", "say --html FILE too, or evaluate")


def _of_manifest(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"--{name}", "is of recordings, and there are none", "say --manifest too")


def _with_text(manifest: Path, channel: str | None, limit: int | None) -> list[zq.Utterance]:
    from zeroq_asr.measure.evaluate import references_of

    utterances = zq.read_manifest(manifest, channel_of(channel))[:limit]
    references_of(utterances)  # a line without text shows before the model is read
    return [*utterances]


def _heard(
    model: zq.AsrModel | zq.TransducerModel, file: Path, utterances: list[zq.Utterance], progress: Progress
) -> Heard:
    from zeroq_asr.measure.page_words import Heard

    real, integer = (
        zq.evaluate(zq.open_recognizer(source), utterances, progress=progress) for source in (model, file)
    )
    return Heard(real, integer)


def _command(ctx: typer.Context) -> str:
    """Return the command line that is running, its options spelled out and its files without folders."""
    from zeroq_asr.measure.page import named

    options, files = [], []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        source = ctx.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = ctx.params[name]
        told = value.name if isinstance(value, Path) else str(value)
        if name == "model":
            told = named(value)
        if parameter.param_type_name == "argument":
            files.append(told)
        else:
            option = max(parameter.opts, key=len)
            options += [option] if value is True else [option, told]
    return shlex.join(["zeroq-asr", "report", *files, *options])


#: what the held-out features are, in words
_SOURCES = {
    "synthetic": "features that match what the network stores",
    "speech": "made speech",
    "given": "features",
}


def _confidence(found: zq.QualityReport) -> str:
    if not found.blind:
        return "high: ranges and held-out features reach as far as other made speech does"
    missing = [("its ranges", found.ranges_miss), ("the held-out features", found.features_miss)]
    what, share = max(missing, key=lambda one: one[1])
    return f"low: half of the values of {what} miss {100 * share:.0f} % or more of what made speech reaches"


def _show(terminal: Terminal, found: zq.QualityReport, worst: int) -> None:
    terminal.title(found.file, f"on held-out {_SOURCES[found.source]}")
    logits, noun = found.values[-1], "frames" if found.head == CTC else "steps"
    terminal.facts(
        [
            (noun, f"{100 * found.frames:.2f} % have another best token than the float network's"),
            ("KL", f"{found.divergence:.3g} nats a {noun[:-1]}"),
            ("logits", f"{logits.sqnr:.1f} dB over their quantization noise"),
            ("confidence", _confidence(found)),
        ]
    )
    terminal.text()
    values = sorted(found.values, key=lambda value: value.sqnr)[:worst]
    terminal.text(f"The {len(values)} values with the most noise, that of all before them included:")
    terminal.table(
        ["value", "SQNR dB", "from", "to", "reached", "clipped %"],
        [
            [
                value.name,
                f"{value.sqnr:.1f}",
                f"{value.low:.3g}",
                f"{value.high:.3g}",
                f"{100 * value.reach:.0f} %",
                f"{100 * value.clipped:.2g}",
            ]
            for value in values
        ],
    )
    terminal.text()
    if found.statistics:
        show_statistics(terminal, found.statistics, worst=worst)
        terminal.text()
    if found.search is not None:
        show_row(terminal, found.search)
    if found.head != CTC:
        terminal.text(
            "steps: of the float network's own path, each a frame behind what it has said by then.", "dim"
        )
    terminal.text("Made features are not speech: these figures rank files, they are no error rates.", "dim")
