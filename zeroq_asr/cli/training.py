"""Options of training weights, which commands share."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

import zeroq_asr as zq
from zeroq_asr.cli.options import alternatives
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


def budget(text: str) -> int:
    """Return the bytes that ``8MB``, ``500kB`` or ``2000000`` says; ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmg]?)b?", text.strip().lower(), re.ASCII)
    size = 0 if match is None else int(float(match[1]) * _SIZES[match[2]])
    if size < 1:
        raise ConfigError(
            "--max-size", f"cannot read the size {shown(text)}", "write 8MB, 500kB and the like"
        )
    return size


def duration(text: str) -> float:
    """Return the seconds that ``90s``, ``30m`` or ``1.5h`` says; ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh])", text.strip().lower(), re.ASCII)
    seconds = 0.0 if match is None else float(match[1]) * _UNITS[match[2]]
    if not seconds > 0:
        raise ConfigError("--train", f"cannot read the time {shown(text)}", "write 90s, 30m, 2h and the like")
    return seconds
