"""``zeroq-asr report``: how good a quantized file is, told by synthesized features alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli import outputs
from zeroq_asr.cli.options import AsJson, Config, Developer, Language, Loader, Quiet
from zeroq_asr.cli.outputs import Force, check_output
from zeroq_asr.cli.plan_row import Plot, show_row
from zeroq_asr.cli.synthesize import Batch, Frames, Iterations, Preset, Seed, chosen, show_statistics
from zeroq_asr.cli.terminal import Terminal, session
from zeroq_asr.errors import ConfigError


def report(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The checkpoint that FILE was made of.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file that `quantize` wrote.")],
    config: Config = None,
    loader: Loader = None,
    language: Language = None,
    preset: Preset = "default",
    seed: Seed = None,
    iterations: Iterations = None,
    batch: Batch = None,
    frames: Frames = None,
    top: Annotated[int, typer.Option(min=1, help="Values and layers shown, the worst first.")] = 10,
    plot: Plot = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Report how near FILE is to MODEL, on features that are made for it: no recording is needed.

    Example: zeroq-asr report quartznet.nemo quartznet.int8.onnx
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        from zeroq_asr.deployment.recognizer import is_onnx
        from zeroq_asr.measure import pictures
        from zeroq_asr.measure.plan_picture import draw_row

        if is_onnx(model) and not is_onnx(file):
            raise ConfigError(
                "report", "MODEL and FILE are swapped", "name the checkpoint first, then the ONNX file"
            )
        if plot is not None:
            pictures.check(plot)
            check_output(terminal, plot, outputs.plots, model, file, config, force=force)
            if "search" not in zq.inspect_file(file).get("recipe", {}):
                problem = f"{file} was not made by a search for a plan, so there are none to draw"
                raise ConfigError("--plot", problem, "make it with quantize --max-size or --max-loss")
        synthesis = chosen(preset, seed=seed, iterations=iterations, batch=batch, frames=frames)
        with terminal.progress() as progress:
            progress("load", 0, 1)
            loaded = zq.load_checkpoint(model, config=config, loader=loader, language=language)
            progress("load", 1, 1)
            found = zq.report(loaded, file, synthesis, progress)
        if plot is not None and found.search is not None:
            draw_row(found.search, plot, file.name)
        terminal.result(found.to_dict(), f"{found.divergence:.6g}")
        if terminal.talks:
            _show(terminal, found, top)


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
    logits = found.values[-1]
    terminal.facts(
        [
            ("frames", f"{100 * found.frames:.2f} % have another best token than the float network's"),
            ("KL", f"{found.divergence:.3g} nats a frame"),
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
    terminal.text("Made features are not speech: these figures rank files, they are no error rates.", "dim")
