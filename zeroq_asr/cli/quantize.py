"""``zeroq-asr quantize``: a checkpoint in, a proven integer-only ONNX file out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli import outputs
from zeroq_asr.cli.options import (
    AllowFloat,
    AsJson,
    Calibration,
    CalibrationLimit,
    Channel,
    Config,
    Developer,
    Head,
    KeepFloat,
    Language,
    Loader,
    Quiet,
    Set,
    alternatives,
    channel_of,
    one_of,
    refuse_typed,
    require_source,
    with_settings,
)
from zeroq_asr.cli.outputs import Force, check_folder, check_output, check_run, is_replaceable
from zeroq_asr.cli.plan_row import Plot, show_row
from zeroq_asr.cli.quantize_report import report
from zeroq_asr.cli.quantize_transducer import refuse, refuse_labels, show_bundle
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
    refuse_unused,
)
from zeroq_asr.cli.terminal import session
from zeroq_asr.cli.training import (
    Device,
    MaxLoss,
    MaxSize,
    MaxTime,
    Progressive,
    Reconstruct,
    Resume,
    Train,
    budget,
    require_narrow,
    time_factor,
    training_of,
)
from zeroq_asr.config import DIALECTS, LAYER_BITS, MADE_MARGIN, METHODS, NONLINEARITIES, TARGETS
from zeroq_asr.config.choices import AUTO
from zeroq_asr.errors import ConfigError, warn
from zeroq_asr.lines import size
from zeroq_asr.progress import Progress


def quantize(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint: .nemo, .pt, .ckpt or .pt2.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="By default MODEL's name with .int8.onnx, here; of a transducer a folder, with .int8.",
        ),
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
    with_frontend: Annotated[
        bool,
        typer.Option(
            "--with-frontend",
            help="The file takes audio: its frontend, in float, stands in it in front of the integers.",
        ),
    ] = False,
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
    head: Head = AUTO,
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
    max_time: MaxTime = None,
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
        spec, synthesis, ranges, training, labels = with_settings(
            ctx, fields, spec, synthesis, ranges, training, zq.LabelSpec()
        )
        require_source(ranges)
        refuse_unused(ctx, ranges.source, ranges.kind)
        if ranges.method != "percentile":
            problem = f"is of --method percentile, and the method is {ranges.method}"
            refuse_typed(ctx, ["percentile"], problem, "say --method percentile")
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
        factor = time_factor(max_time, searches=searches)
        if not searches:
            require_narrow(ctx, [spec], training, preset)
        if device is not None and not may_train(spec, training):
            raise ConfigError(
                "--device", "is where weights are trained, and none are", "say --train TIME too"
            )
        device_of(training.device)
        if plot is not None and not searches:
            raise ConfigError(
                "--plot", "draws a search for a plan, and there is none", "say --max-size, or leave it out"
            )
        path = output or Path(default_name(model, spec, dialect, planned=searches, audio=with_frontend))
        sources = (
            model,
            config,
            Path(calibration) if ranges.kind in ("features", "audio") else None,
            *(Path(one) for one in bits or ()),
        )
        if tokens is not None and os.path.realpath(tokens) == os.path.realpath(path):
            raise ConfigError("--tokens", f"{tokens} is the output itself", "choose another name")
        # what a transducer is written to is a folder, which shows when it is read
        if not (os.path.isdir(path) and is_replaceable(path)):
            check_output(terminal, path, outputs.onnx, *sources, force=force, tells=False)
        run = Path(f"{path}.training")
        if not resume and may_train(spec, training):
            check_run(terminal, run, *sources, force=force)
        if tokens is not None:
            check_output(terminal, tokens, outputs.tokens, *sources, force=force)
        if plot is not None:
            pictures.check(plot)
            check_output(terminal, plot, outputs.plots, *sources, force=force)
        with terminal.progress() as progress:
            source, loading = _loaded(model, config, loader, language, head, progress)
            if tokens is not None:  # what cannot be a line shows before the long work begins
                source.tokenizer.token_lines()
            bundle = None
            if isinstance(source, zq.TransducerModel):
                refuse(
                    model,
                    {
                        "--max-size": max_size,
                        "--max-loss": max_loss,
                        "--max-time": max_time,
                        "--train": train,
                        "--reconstruct": reconstruct,
                        "--resume": resume,
                        "--progressive": progressive,
                        "--device": device,
                        "--set": training != training_of(preset, reconstruct, train, device),
                    },
                )
                path = output or Path(default_name(model, spec, dialect, audio=with_frontend)).with_suffix("")
                check_folder(terminal, path)
                bundle = zq.quantize_transducer(
                    source,
                    path,
                    spec=spec,
                    synthesis=synthesis,
                    calibration=ranges,
                    labels=labels,
                    dialect=dialect,
                    with_frontend=with_frontend,
                    progress=progress,
                )
                bundle.seconds["load"] = loading
        if bundle is not None:
            show_bundle(terminal, bundle, path, tokens, chosen_target=spec.target == "auto")
            return
        assert isinstance(source, zq.AsrModel)
        refuse_labels(model, labels)
        with terminal.progress() as progress:
            check_output(terminal, path, outputs.onnx, *sources, force=force)
            prepared = zq.prepare(
                source,
                spec=spec,
                # plans are of weights that are rounded by feedback
                also=[dataclasses.replace(spec, weight_bits=4)] if searches else (),
                synthesis=synthesis,
                calibration=ranges,
                progress=progress,
            )
            prepared.seconds["load"] = loading
            found = None
            if searches:
                found = zq.find_plan(
                    prepared,
                    max_size=most,
                    max_loss=max_loss,
                    max_time=factor,
                    dialect=dialect,
                    progress=progress,
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
                with_frontend=with_frontend,
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
            report(terminal, result, path, tokens, chosen_target=spec.target == "auto")


def default_name(
    model: Path, spec: zq.QuantSpec, dialect: str, *, planned: bool = False, audio: bool = False
) -> str:
    """Return the output's name: quartznet.int8.onnx, quartznet.w4a8.strict.onnx, quartznet.int8-16.onnx.

    Of a file that takes audio: quartznet.int8.audio.onnx.
    """
    both = (spec.weight_bits, spec.activation_bits)
    bits = "int8" if both == (8, 8) else "w{}a{}".format(*both)
    bits += f"-{LAYER_BITS}" if any(width == LAYER_BITS for _, width in spec.layer_bits) else ""
    bits += "-mixed" if spec.layer_grids or any(width != LAYER_BITS for _, width in spec.layer_bits) else ""
    bits = "mixed" if planned else bits
    bits += "-float" if spec.keep_float else ""
    more = [*([] if dialect == "fused" else [dialect]), *(["audio"] if audio else [])]
    return ".".join([model.stem, bits, *more, "onnx"])


def _loaded(
    model: Path,
    config: Path | None,
    loader: str | None,
    language: str | None,
    head: str,
    progress: Progress,
) -> tuple[zq.AsrModel | zq.TransducerModel, float]:
    """The model of a checkpoint, and how many seconds it took to read."""
    begun = time.perf_counter()
    progress("load", 0, 1)
    found = zq.load_model(model, config=config, loader=loader, language=language, head=head)
    progress("load", 1, 1)
    return found, round(time.perf_counter() - begun, 3)
