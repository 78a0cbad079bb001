"""Options of training weights, which commands share."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Annotated, Any

import typer

import zeroq_asr as zq
from zeroq_asr.cli.options import alternatives, refuse_typed
from zeroq_asr.config.checks import real
from zeroq_asr.config.training import TRAINING_DEVICES, WIDTHS
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

Train = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Train weights of 5 bits or fewer together, for so long: 90s, 30m, 2h. The integer program "
        "learns to say what its float network says.",
    ),
]
Reconstruct = Annotated[
    bool | None,
    typer.Option(
        "--reconstruct/--no-reconstruct",
        help="Train such weights section by section. By default where weights have one bit.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a training that was stopped, by FILE.training.")
]
Progressive = Annotated[
    bool,
    typer.Option(
        "--progressive",
        help="Begin --train with weights of 8 bits and step down by 4 and 2 to those of the plan.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar=alternatives(TRAINING_DEVICES),
        help="Where weights are trained; auto: on a GPU where there is one. By default on the CPU.",
        show_default=False,
    ),
]
#: widths of weights that are trained, and of values whose ends are learned (``TrainingSpec.clipping_steps``)
_TRAINED_BITS, _LEARNED_ENDS = 5, 4
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: as file sizes are shown: of thousands
_SIZES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
MaxSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Choose 8, 4 or 2 bits for every layer's weights so that the file is no larger: 8MB, 500kB.",
    ),
]
MaxLoss = Annotated[
    float | None,
    typer.Option(
        metavar="NATS",
        help="Choose them, none narrower than --bits w4a8 has, so that the divergence from the float network "
        "exceeds that of 8 bits by no more, in nats a frame of made features: 0.03.",
    ),
]
MaxTime = Annotated[
    float | None,
    typer.Option(
        metavar="FACTOR",
        help="Beside one of them, also give values 16 bits, where that gains most, for so many times the "
        "products of the network's layers at most: 1.5. A prediction of the time by counting, at least 1; "
        "zeroq-asr bench measures it.",
    ),
]


def training_of(
    preset: str,
    reconstruct: bool | None,
    train: str | None,
    device: str | None = None,
    *,
    progressive: bool = False,
) -> zq.TrainingSpec:
    """Return how weights are trained; ConfigError for a time or a device that cannot be read."""
    fields: dict[str, Any] = {}
    if reconstruct is not None:
        fields["reconstruction"] = "on" if reconstruct else "off"
    if train is not None:
        fields["distillation"] = duration(train)
    if progressive:
        if train is None:
            raise ConfigError("--progressive", "is how --train begins", "say --train TIME, too")
        fields["progressive"] = WIDTHS
    if device is not None:
        fields["device"] = device
    if preset == "fast":
        fields |= {"section_steps": 40, "training_speakers": 16, "held_out": 4}
    return zq.TrainingSpec(**fields)


def require_narrow(
    ctx: typer.Context, specs: Iterable[zq.QuantSpec], training: zq.TrainingSpec, preset: str
) -> None:
    """Raise ConfigError where weights are to be trained and no format has any of 5 bits or fewer."""
    specs = [*specs]
    if any(spec.weight_bits <= _TRAINED_BITS or spec.layer_grids for spec in specs):
        return
    problem = f"is of weights of {_TRAINED_BITS} bits or fewer, and there are none"
    remedy = "say --bits w4a8, or leave it out"
    off = training.reconstruction == "off"
    refuse_typed(ctx, ("train", "progressive", "resume", *([] if off else ["reconstruct"])), problem, remedy)
    # what says that nothing is trained, or is asked for elsewhere
    others = {"device"} | ({"reconstruction"} if off else set())
    if any(spec.activation_bits <= _LEARNED_ENDS for spec in specs):
        others |= {"clipping_steps", "clipping_rate"}
    usual = training_of(preset, None, None)
    for name in (field.name for field in dataclasses.fields(usual)):
        if name not in others and getattr(training, name) != getattr(usual, name):
            raise ConfigError("--set", f"{name} {problem}", remedy)


def budget(text: str) -> int:
    """Return the bytes that ``8MB``, ``500kB`` or ``2000000`` says; ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmg]?)b?", text.strip().lower(), re.ASCII)
    size = 0 if match is None else int(float(match[1]) * _SIZES[match[2]])
    if size < 1:
        raise ConfigError(
            "--max-size", f"cannot read the size {shown(text)}", "write 8MB, 500kB and the like"
        )
    return size


def time_factor(given: float | None, *, searches: bool) -> float:
    """Return what ``--max-time`` says, 1 where nothing; ConfigError without a search, and below 1."""
    if given is None:
        return 1.0
    real("--max-time", "the factor", given, at_least=1.0)
    if not searches:
        problem = "is of a search for a plan, and there is none"
        raise ConfigError("--max-time", problem, "say --max-size or --max-loss, too, or leave it out")
    return given


def duration(text: str) -> float:
    """Return the seconds that ``90s``, ``30m`` or ``1.5h`` says; ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh])", text.strip().lower(), re.ASCII)
    seconds = 0.0 if match is None else float(match[1]) * _UNITS[match[2]]
    if not seconds > 0:
        raise ConfigError("--train", f"cannot read the time {shown(text)}", "write 90s, 30m, 2h and the like")
    return seconds
