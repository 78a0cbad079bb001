"""``zeroq-asr synthesize``: features made from normalization statistics, and how well they match."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import zeroq_asr as zq
from zeroq_asr.cli import outputs
from zeroq_asr.cli.options import (
    AsJson,
    Config,
    Developer,
    Language,
    Loader,
    Quiet,
    Set,
    refuse_typed,
    with_settings,
)
from zeroq_asr.cli.outputs import Force, check_output
from zeroq_asr.cli.terminal import Terminal, session
from zeroq_asr.synthesis.objectives import OBJECTIVES

Preset = Annotated[
    str,
    typer.Option(metavar="NAME", help="Of the feature synthesis: default, fast, paper (arXiv 2103.16827)."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the feature synthesis.")]
Iterations = Annotated[int | None, typer.Option(help="Steps of the feature synthesis.")]
Batch = Annotated[int | None, typer.Option(help="Utterances synthesized.")]
Frames = Annotated[int | None, typer.Option(help="Feature frames of each, 8 or more.")]
Objective = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"How statistics are compared: {', '.join(OBJECTIVES)}."),
]
Patience = Annotated[int | None, typer.Option(help="Stop after so many steps without improvement; 0: never.")]


def synthesize(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint: .nemo, .pt, .ckpt or .pt2.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Save the features (.npz) for --calibration."),
    ] = None,
    config: Config = None,
    loader: Loader = None,
    language: Language = None,
    preset: Preset = "default",
    seed: Seed = None,
    iterations: Iterations = None,
    batch: Batch = None,
    frames: Frames = None,
    objective: Objective = None,
    patience: Patience = None,
    fields: Set = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Make features that MODEL takes for speech, and say how well its statistics are met.

    Example: zeroq-asr synthesize quartznet.nemo -o features.npz
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        spec = chosen(
            preset,
            seed=seed,
            iterations=iterations,
            batch=batch,
            frames=frames,
            objective=objective,
            patience=patience,
        )
        (spec,) = with_settings(ctx, fields, spec)
        if output is not None:
            if output.suffix.lower() != ".npz":
                raise zq.ConfigError(output, "features are saved as .npz", f"say -o {output.name}.npz")
            check_output(terminal, output, outputs.features, model, config, force=force)
        with terminal.progress() as progress:
            progress("load", 0, 1)
            loaded = zq.load_checkpoint(model, config=config, loader=loader, language=language)
            progress("load", 1, 1)
            made = zq.synthesize(loaded, spec, progress)
        if output is not None:
            made.save(output)
        where = None if output is None else str(output)
        terminal.result({"file": where, "name": loaded.name, **(account(made) or {})}, where or _loss(made))
        if terminal.talks:
            _report(terminal, model, made, output, config, loader, language)


def chosen(preset: str, **changes: int | str | None) -> zq.SynthesisSpec:
    """Return the preset with the changes that were asked for."""
    return zq.SynthesisSpec.preset(
        preset, **{name: value for name, value in changes.items() if value is not None}
    )


#: options that only what is optimised has, and those that made noise has, too
_OPTIMISED = ("iterations", "objective", "patience")
_SHAPED = (*_OPTIMISED, "batch", "frames")


def refuse_unused(ctx: typer.Context, source: str, kind: str) -> None:
    """Raise ConfigError for an option of features that are optimised, where ranges come from others."""
    unused = {"noise": _OPTIMISED, "speech": _SHAPED, "features": _SHAPED, "audio": _SHAPED}.get(kind, ())
    problem = f"is of features that are optimised, and ranges come from {source}"
    refuse_typed(ctx, unused, problem, "leave it out, or say --calibration synthetic")


def account(features: zq.SyntheticFeatures | None) -> dict[str, Any] | None:
    """Return how the features were made and how well they match, as JSON values."""
    if features is None:
        return None
    return {
        "spec": features.spec.to_dict(),
        "losses": [*features.losses],
        "layers": [dataclasses.asdict(layer) for layer in features.account],
    }


def show_statistics(terminal: Terminal, account: Sequence[zq.LayerAccount], *, worst: int) -> None:
    """Print the layers whose statistics are met worst."""
    layers = sorted(account, key=lambda layer: -layer.kl_after)
    shown = layers[:worst]
    terminal.text(
        f"Statistics are matched at {len(layers)} batch normalizations; "
        + ("all of them:" if len(shown) == len(layers) else f"the worst {len(shown)}:")
    )
    terminal.table(
        ["layer", "channels", "KL before", "after", "mean off", "σ ratio"],
        [
            [
                layer.name,
                str(layer.channels)
                if layer.channels == layer.total_channels
                else f"{layer.channels}/{layer.total_channels}",
                f"{layer.kl_before:.3g}",
                f"{layer.kl_after:.3g}",
                f"{layer.mean_mismatch:.2f} σ",
                f"{layer.std_ratio:.2f}",
            ]
            for layer in shown
        ],
    )


def _report(
    terminal: Terminal,
    model: Path,
    made: zq.SyntheticFeatures,
    output: Path | None,
    config: Path | None,
    loader: str | None,
    language: str | None,
) -> None:
    count, mels, frames = made.features.shape
    terminal.title(str(output or model))
    rows = [("features", f"{count} utterances of {frames} frames, {mels} mels")]
    if made.losses:
        rows.append(
            ("loss", f"{made.losses[0]:.4g} → {min(made.losses):.4g} in {len(made.losses) - 1} steps")
        )
    terminal.facts(rows)
    if made.account:
        terminal.text()
        show_statistics(terminal, made.account, worst=10)
    if output is not None:
        words = ["quantize", str(model), "--calibration", str(output)]
        words += [] if config is None else ["--config", str(config)]
        words += [] if loader is None else ["--loader", loader]
        words += [] if language is None else ["--language", language]
        terminal.next(shlex.join(words))


def _loss(made: zq.SyntheticFeatures) -> str:
    return f"{min(made.losses):.6g}" if made.losses else ""
