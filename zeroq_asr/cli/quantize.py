"""``zeroq-asr quantize``: a checkpoint in, a proven integer-only ONNX file out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

import zeroq_asr as zq
from zeroq_asr.cli import outputs
from zeroq_asr.cli.float_parts import show_islands
from zeroq_asr.cli.options import (
    AllowFloat,
    AsJson,
    Calibration,
    CalibrationLimit,
    Channel,
    Config,
    Developer,
    KeepFloat,
    Language,
    Loader,
    Quiet,
    Set,
    alternatives,
    channel_of,
    one_of,
    require_source,
    with_settings,
)
from zeroq_asr.cli.outputs import Force, check_output, check_run
from zeroq_asr.cli.plan_row import Plot, show_row
from zeroq_asr.cli.synthesize import (
    Batch,
    Frames,
    Iterations,
    Objective,
    Patience,
    Preset,
    Seed,
    account,
    chosen,
    show_statistics,
)
from zeroq_asr.cli.terminal import Terminal, session
from zeroq_asr.cli.training import (
    Device,
    MaxLoss,
    MaxSize,
    Progressive,
    Reconstruct,
    Resume,
    Train,
    budget,
    training_of,
)
from zeroq_asr.config import DIALECTS, LAYER_BITS, MADE_MARGIN, METHODS, NONLINEARITIES, TARGETS
from zeroq_asr.config.choices import AUTO
from zeroq_asr.deployment.machine import best_target, this_machine
from zeroq_asr.errors import ConfigError, warn
from zeroq_asr.lines import size


def quantize(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint: .nemo, .pt, .ckpt or .pt2.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="By default MODEL's name with .int8.onnx, here."),
    ] = None,
    bits: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BITS",
            help="Of weights and activations: 8 (the default), w7a8, w4a8 and the like, or the YAML file of "
            "a plan. And, repeatable, LAYER=16 (or 2 to 8) for the result of a layer: a path, a value's name "
            "or a glob, e.g. 'encoder.layers.*.conv.depthwise_conv=16'.",
        ),
    ] = None,
    dialect: Annotated[
        str,
        typer.Option(
            metavar=alternatives(DIALECTS),
            callback=one_of(DIALECTS),
            help="fused: exact and fast on ONNX Runtime; strict: no float type; qdq: not exact, for others.",
        ),
    ] = "fused",
    target: Annotated[
        str,
        typer.Option(
            metavar=alternatives(TARGETS),
            callback=one_of(TARGETS),
            help="The processors on which the fused kernels are exact; auto: the fastest for this one.",
        ),
    ] = "x86-any",
    nonlinearity: Annotated[
        str,
        typer.Option(
            metavar=alternatives(NONLINEARITIES),
            callback=one_of(NONLINEARITIES),
            help="How sigmoid, Swish, GELU and the like are computed; polynomial: where gathers are slow.",
        ),
    ] = "table",
    keep_float: KeepFloat = None,
    allow_float: AllowFloat = False,
    max_seconds: Annotated[float, typer.Option(help="Longest recording that the proof covers.")] = 60.0,
    config: Config = None,
    loader: Loader = None,
    language: Language = None,
    calibration: Calibration = AUTO,
    channel: Channel = None,
    method: Annotated[
        str,
        typer.Option(
            metavar=alternatives(METHODS),
            callback=one_of(METHODS),
            help="How ranges are chosen from them; auto: by the bits of the activations.",
        ),
    ] = "auto",
    percentile: Annotated[
        float, typer.Option(help="For --method percentile: percent of the values kept.")
    ] = 99.99,
    margin: Annotated[
        float | None,
        typer.Option(
            help=f"Widen ranges by this factor; by default {MADE_MARGIN}, of audio 1.",
            show_default=False,
        ),
    ] = None,
    bias_correction: Annotated[
        bool,
        typer.Option(
            "--bias-correction/--no-bias-correction",
            help="Give back through the biases what rounding the weights takes from the means.",
        ),
    ] = True,
    calibration_limit: CalibrationLimit = None,
    reconstruct: Reconstruct = None,
    train: Train = None,
    progressive: Progressive = False,
    device: Device = None,
    resume: Resume = False,
    max_size: MaxSize = None,
    max_loss: MaxLoss = None,
    preset: Preset = "default",
    seed: Seed = None,
    iterations: Iterations = None,
    batch: Batch = None,
    frames: Frames = None,
    objective: Objective = None,
    patience: Patience = None,
    fields: Set = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the token list, a token a line.")
    ] = None,
    plot: Plot = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Quantize MODEL to an integer-only ONNX file, proven and without any data.

    Example: zeroq-asr quantize stt_en_quartznet15x5.nemo --bits 8
    """
    with (
        session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal,
        contextlib.ExitStack() as stack,
    ):
        from zeroq_asr.measure import pictures
        from zeroq_asr.measure.plan_picture import draw_row
        from zeroq_asr.training.device import device_of
        from zeroq_asr.training.processes import joined
        from zeroq_asr.training.train import may_train

        spec = zq.QuantSpec.parse_bits(
            *(bits or ()),
            keep_float=tuple(keep_float or ()),
            allow_float=allow_float,
            target=target,
            nonlinearity=nonlinearity,
            max_seconds=max_seconds,
            bias_correction=bias_correction,
        )
        synthesis = chosen(
            preset,
            seed=seed,
            iterations=iterations,
            batch=batch,
            frames=frames,
            objective=objective,
            patience=patience,
        )
        ranges = zq.CalibrationSpec(
            calibration,
            method,
            percentile=percentile,
            limit=calibration_limit,
            margin=margin,
            channel=channel_of(channel),
        )
        together = stack.enter_context(joined())
        if not together.leads:
            terminal.silence()
        training = training_of(preset, reconstruct, train, device, progressive=progressive)
        spec, synthesis, ranges, training = with_settings(fields, spec, synthesis, ranges, training)
        require_source(ranges)
        if together.count > 1 and not training.distills:
            problem = f"started {together.count} processes, which only train together"
            raise ConfigError("torchrun", problem, "say --train TIME, or start one")
        searches = max_size is not None or max_loss is not None
        if searches and (spec.weight_bits != 8 or spec.layer_grids):
            option = "--max-size" if max_size is not None else "--max-loss"
            raise ConfigError(
                option, "chooses the bits of weights, and so does --bits", "write --bits 8, or leave it out"
            )
        most = None if max_size is None else budget(max_size)
        if (train or reconstruct) and not searches and spec.weight_bits > 5 and not spec.layer_grids:
            option = "--train" if train else "--reconstruct"
            problem = f"weights of {spec.weight_bits} bits are not trained, those of 5 or fewer are"
            raise ConfigError(option, problem, "say --bits w4a8, or leave it out")
        if device is not None and not may_train(spec, training):
            raise ConfigError(
                "--device", "is where weights are trained, and none are", "say --train TIME too"
            )
        device_of(training.device)
        if plot is not None and not searches:
            raise ConfigError(
                "--plot", "draws a search for a plan, and there is none", "say --max-size, or leave it out"
            )
        path = output or Path(default_name(model, spec, dialect, planned=searches))
        sources = (
            model,
            config,
            Path(calibration) if ranges.kind in ("features", "audio") else None,
            *(Path(one) for one in bits or ()),
        )
        if tokens is not None and os.path.realpath(tokens) == os.path.realpath(path):
            raise ConfigError("--tokens", f"{tokens} is the output itself", "choose another name")
        check_output(terminal, path, outputs.onnx, *sources, force=force)
        run = Path(f"{path}.training")
        if not resume and may_train(spec, training):
            check_run(terminal, run, *sources, force=force)
        if tokens is not None:
            check_output(terminal, tokens, outputs.tokens, *sources, force=force)
        if plot is not None:
            pictures.check(plot)
            check_output(terminal, plot, outputs.plots, *sources, force=force)
        with terminal.progress() as progress:
            source: Path | zq.AsrModel = model
            if tokens is not None:  # what cannot be a line shows before the long work begins
                source = zq.load_checkpoint(model, config=config, loader=loader, language=language)
                source.tokenizer.token_lines()
            prepared = zq.prepare(
                source,
                spec=spec,
                # plans are of weights that are rounded by feedback
                also=[dataclasses.replace(spec, weight_bits=4)] if searches else (),
                synthesis=synthesis,
                calibration=ranges,
                config=config,
                loader=loader,
                language=language,
                progress=progress,
            )
            found = None
            if searches:
                found = zq.find_plan(
                    prepared, max_size=most, max_loss=max_loss, dialect=dialect, progress=progress
                )
            result = zq.quantize(
                prepared,
                path if together.leads else None,
                spec=None if found is None else found.plan,
                search=None if found is None else found.row,
                training=training,
                run=run,
                resume=resume,
                dialect=dialect,
                progress=progress,
            )
        if not together.leads:
            return
        if most is not None and result.size > most:
            warn(
                path,
                f"has {size(result.size)}, more than --max-size {max_size}: training widened its biases",
                "ask for a little less",
            )
        if tokens is not None:
            result.deployment.tokenizer.write_tokens(tokens)
        if plot is not None and found is not None:
            draw_row(found.row, plot, path.name)
        made = {"tokens": None if tokens is None else str(tokens), "synthesis": account(result.features)}
        made["search"] = None if found is None else found.to_dict()
        terminal.result({**result.to_dict(), **made}, str(path))
        if terminal.talks:
            if found is not None:
                show_row(terminal, found.row)
            _report(terminal, result, path, tokens, chosen_target=spec.target == "auto")


def default_name(model: Path, spec: zq.QuantSpec, dialect: str, *, planned: bool = False) -> str:
    """Return the output's name: quartznet.int8.onnx, quartznet.w4a8.strict.onnx, quartznet.int8-16.onnx."""
    both = (spec.weight_bits, spec.activation_bits)
    bits = "int8" if both == (8, 8) else "w{}a{}".format(*both)
    bits += f"-{LAYER_BITS}" if any(width == LAYER_BITS for _, width in spec.layer_bits) else ""
    bits += "-mixed" if spec.layer_grids or any(width != LAYER_BITS for _, width in spec.layer_bits) else ""
    bits = "mixed" if planned else bits
    bits += "-float" if spec.keep_float else ""
    return ".".join([model.stem, bits, *([] if dialect == "fused" else [dialect]), "onnx"])


#: where ranges come from, in words
_SOURCES = {
    "synthetic": "of features that were made to match what the network stores",
    "speech": "of made speech, through the network's own frontend",
    "both": "of matched features and of made speech",
    "noise": "of noise",
}
#: keys of the ends of a value's range, its own and on made speech
_ENDS = (("low", "high"), ("speech_low", "speech_high"))


def _report(
    terminal: Terminal, result: zq.Quantized, path: Path, tokens: Path | None, *, chosen_target: bool
) -> None:
    proof, backend = result.proof, result.exported.backend
    times = f", {result.float_bytes / result.size:.1f} times smaller than float" if result.float_bytes else ""
    rows = [
        ("size", f"{size(result.size)}{times} ({size(result.float_bytes)})"),
        ("dialect", _dialect(backend.dialect, result.deployment.recipe, chosen_target)),
        ("program", result.program.digest()),
        (
            "proof",
            f"of recordings up to {result.deployment.max_seconds:g} s; "
            f"int32 has {proof.headroom_bits:.1f} bits of headroom",
        ),
        ("ranges", _ranges(result)),
        *_trained(result.training),
        ("time", seconds(result.seconds)),
    ]
    if tokens is not None:
        rows.insert(0, ("tokens", str(tokens)))
    terminal.title(str(path), "" if not result.islands else "not integer-only")
    terminal.facts(rows)
    show_islands(terminal, result.to_dict()["islands"])
    if result.features is not None and result.features.account:
        terminal.text()
        show_statistics(terminal, result.features.account, worst=3)
    short = result.to_dict()["shortfall"]
    if short is not None and short["blind"]:
        terminal.text()
        terminal.text("Where the ranges fall shortest of what made speech reaches:")
        terminal.table(
            ["value", "reaches", "speech reaches", "missed"], [_missed(one) for one in short["worst"]]
        )
    after = "inspect" if backend.dialect == "qdq" else "verify"
    terminal.next(f"{after} {shlex.quote(str(path))}")


def _ranges(result: zq.Quantized) -> str:
    """Where ranges come from, and why from two sources if nobody asked for both."""
    source = result.deployment.recipe["calibration"]["source"]
    told = _SOURCES.get(source, "of recordings or saved features")
    if result.joined_for is None:
        return told
    missed = f"{100 * result.joined_for:.0f} %"
    return f"{told}: the first alone miss {missed} or more of what speech reaches at half of the values"


def _trained(account: zq.TrainingAccount | None) -> list[tuple[str, str]]:
    """What training did, a row for sections and one for the whole."""
    if account is None:
        return []
    rows = []
    if account.sections:
        fell = [100 * (1 - one.after / one.before) for one in account.sections if one.before > 0]
        better = sum(one.after < one.before for one in account.sections)
        rows.append(
            (
                "weights",
                f"reconstructed in {better} of {len(account.sections)} sections; "
                f"squared error on held-out features fell by {sum(fell) / max(1, len(fell)):.0f} %",
            )
        )
    if (ends := account.clipping) is not None:
        told = f"divergence {ends.before:.3g} → {ends.after:.3g} nats a frame"
        rows.append(("clipping", f"of {ends.values} values, {ends.steps} steps; {told}"))
    for one in account.wider:
        at, steps, after = one.distillation.before, one.distillation.steps, one.distillation.after
        rows.append((f"at {one.bits} bits", f"{steps} steps; divergence {at:.3g} → {after:.3g} nats a frame"))
    if (done := account.distillation) is not None:
        rows.append(
            (
                "training",
                f"{done.steps} steps in {done.seconds:.0f} s; divergence on held-out features "
                f"{done.before:.3g} → {done.after:.3g} nats a frame",
            )
        )
    return rows


def _missed(one: dict[str, Any]) -> list[str]:
    own, speech = (f"{one[low]:.3g} to {one[high]:.3g}" for low, high in _ENDS)
    return [one["name"], own, speech, f"{100 * one['share']:.0f} %"]


def _dialect(dialect: str, recipe: dict[str, Any], chosen_target: bool) -> str:
    if dialect == "fused":
        spec = recipe["quantization"]
        reason = best_target(this_machine(), spec["weight_bits"])[1] if chosen_target else ""
        return f"fused, for {spec['target']}" + (f": {reason}" if reason else "")
    return "qdq: float between integers, not exact" if dialect == "qdq" else dialect


def seconds(stages: dict[str, float]) -> str:
    """Return the time of the stages, those below a tenth of a second left out."""
    parts = [f"{name} {value:.1f}" for name, value in stages.items() if value >= 0.05]
    total = f"{sum(stages.values()):.1f} s"
    return f"{total} ({', '.join(parts)})" if parts else total
