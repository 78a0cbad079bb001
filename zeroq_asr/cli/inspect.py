"""``zeroq-asr inspect``: what is inside a file, and what quantizing each layer of a checkpoint costs."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import zeroq_asr as zq
from zeroq_asr.cli.float_parts import show_islands
from zeroq_asr.cli.options import (
    All,
    AllowFloat,
    AsJson,
    Calibration,
    Config,
    Developer,
    Head,
    KeepFloat,
    Language,
    Loader,
    Quiet,
    refuse_typed,
    require_source,
)
from zeroq_asr.cli.runs_on import runs_on
from zeroq_asr.cli.terminal import Terminal, session
from zeroq_asr.config import LAYER_BITS
from zeroq_asr.config.calibration import AUTO
from zeroq_asr.config.choices import AUTO as ANY
from zeroq_asr.config.choices import CTC
from zeroq_asr.lines import size

#: of the table of layers or values, without --all
_ROWS = 12


def inspect(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint or an ONNX file.")],
    config: Config = None,
    loader: Loader = None,
    language: Language = None,
    head: Head = ANY,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Rank a checkpoint's layers by what quantizing each alone costs at the logits.",
        ),
    ] = False,
    bits: Annotated[
        list[str] | None,
        typer.Option(metavar="BITS", help="With --sensitivity: as of quantize; LAYER=16 repeatable."),
    ] = None,
    keep_float: KeepFloat = None,
    allow_float: AllowFloat = False,
    calibration: Calibration = AUTO,
    top: Annotated[int, typer.Option(min=1, help="With --sensitivity: rows shown.")] = 20,
    everything: All = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Say what is inside a checkpoint, a quantized file or any other ONNX file.

    Example: zeroq-asr inspect quartznet.int8.onnx
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        if sensitivity:
            kept = {"keep_float": tuple(keep_float or ()), "allow_float": allow_float}
            spec = zq.QuantSpec.parse_bits(*(bits or ()), **kept)
            most = sys.maxsize if everything else top
            ranges = zq.CalibrationSpec(calibration)
            require_source(ranges)
            _sensitivity(terminal, file, config, loader, language, head, bits or (), spec, ranges, most)
            return
        ranked = ("bits", "keep_float", "allow_float", "calibration", "top", "head")
        refuse_typed(ctx, ranked, "is of --sensitivity", "add it, or leave this out")
        with terminal.progress() as progress:
            progress("read", 0, 1)
            found = zq.inspect_file(file, config=config, loader=loader, language=language)
            progress("read", 1, 1)
        terminal.result(found if everything else _without_names(found), found["kind"])
        if not terminal.talks:
            return
        show = {"checkpoint": _checkpoint, "quantized": _quantized, "bundle": _bundle, "onnx": _onnx}
        rows = show[found["kind"]](terminal, found, None if everything else _ROWS)
        if rows > _ROWS and not everything:
            options = [] if loader is None else ["--loader", loader]
            options += [] if config is None else ["--config", str(config)]
            options += [] if language is None else ["--language", language]
            command = shlex.join(["inspect", str(file), *options, "--all"])
            terminal.text(f"  … and {rows - _ROWS} more: zeroq-asr {command}", "dim")


def _without_names(found: dict[str, Any]) -> dict[str, Any]:
    """The account without its lists of one entry for every layer, value or token."""
    short = {key: value for key, value in found.items() if key not in ("layers", "values")}
    if "parts" in found:
        short["parts"] = {name: _without_names(part) for name, part in found["parts"].items()}
    if "tokenizer" in found:
        short["tokenizer"] = {key: value for key, value in found["tokenizer"].items() if key != "tokens"}
    return short


def _sensitivity(
    terminal: Terminal,
    file: Path,
    config: Path | None,
    loader: str | None,
    language: str | None,
    head: str,
    bits: Sequence[str],
    spec: zq.QuantSpec,
    calibration: zq.CalibrationSpec,
    top: int,
) -> None:
    with terminal.progress() as progress:
        progress("load", 0, 1)
        model = zq.load_model(file, config=config, loader=loader, language=language, head=head)
        progress("load", 1, 1)
        found = zq.sensitivity(model, spec, calibration=calibration, progress=progress)
    first = found.layers[0]
    terminal.result({"file": str(file), **found.to_dict()}, first.name)
    if not terminal.talks:
        return
    shown = found.layers[:top]
    noun = "frames" if found.head == CTC else "steps"
    terminal.title(str(file), f"each layer alone, on {found.frames} {noun} of {found.source}")
    terminal.text(f"The {len(shown)} of {len(found.layers)} that cost most at the logits:")
    terminal.table(
        ["layer", "what", "bits", "KL nats", "SQNR dB"],
        [
            [
                layer.name,
                "weights" if layer.kind == "weights" else layer.op,
                str(layer.bits),
                f"{layer.divergence:.3g}",
                f"{layer.sqnr:.1f}" if math.isfinite(layer.sqnr) else "no noise",
            ]
            for layer in shown
        ],
        left=(0, 1),
    )
    terminal.text()
    if found.head != CTC:
        told = "steps: of the float network's own path, each a frame behind what it has said by then."
        terminal.text(told, "dim")
    terminal.text(
        "Synthetic features are not speech, and errors of layers mix: these figures only rank.", "dim"
    )
    finer = next(
        (layer.name for layer in found.layers if layer.can_have_16_bits and layer.bits < LAYER_BITS), None
    )
    if finer is not None:
        options = " ".join(f"--bits {shlex.quote(text)}" for text in (*bits, f"{finer}={LAYER_BITS}"))
        options += "".join(f" --keep-float {shlex.quote(name)}" for name in spec.keep_float)
        options += " --allow-float" if spec.allow_float else ""
        terminal.next(f"quantize {shlex.quote(str(file))} {options}")


def _checkpoint(terminal: Terminal, found: dict[str, Any], most: int | None) -> int:
    terminal.title(found["file"], "a float checkpoint")
    norms = f"{found['batch_norms']} with {found['batch_norm_channels']} channels"
    if found["batch_norms"] and found["zero_variance_channels"]:
        norms += f", {found['zero_variance_channels']} of them without variance"
    if not found["batch_norms"]:
        norms = "none: features cannot be synthesized, calibrate from audio or noise"
    terminal.facts(
        [
            ("architecture", found["architecture"]),
            ("parameters", f"{found['parameters']:,}"),
            ("float size", size(found["float_bytes"])),
            ("int8 size", f"about {size(found['estimated_int8_bytes'])}"),
            ("batch norms", norms),
            *_surroundings(found),
        ]
    )
    terminal.text()
    terminal.table(
        ["layer", "type", "shape", "stride", "groups"],
        [
            [
                layer["path"],
                layer["type"],
                "×".join(str(n) for n in layer["shape"]),
                str(layer.get("stride", "")),
                str(layer.get("groups", "")),
            ]
            for layer in found["layers"][:most]
        ],
        left=(0, 1),
    )
    return len(found["layers"])


def _quantized(terminal: Terminal, found: dict[str, Any], most: int | None) -> int:
    terminal.title(found["file"], "a quantized file, as it says itself: not verified")
    terminal.facts(
        [
            ("name", str(found["name"])),
            ("size", f"{size(found['bytes'])}, constants {size(found['stored_bytes'])}"),
            ("dialect", f"{found['dialect']}, for {found['target']}"),
            ("runs on", runs_on(found)),
            ("program", str(found["program_sha256"])),
            (
                "bits",
                f"weights {found['weight_bits']}, activations {found['activation_bits']}, "
                f"logits {found['logit_bits']}",
            ),
            ("max seconds", f"{found['max_seconds']:g} ({found['max_frames']} frames)"),
            *_surroundings(found),
            ("instructions", _counts(found["instructions"])),
            ("operators", _counts(found["operators"])),
            ("written by", f"zeroq-asr {found['version']}, {_opsets(found)}"),
            *((name, _pairs(part)) for name, part in found["recipe"].items() if isinstance(part, dict)),
        ]
    )
    show_islands(terminal, found["islands"])
    terminal.text()
    terminal.table(
        ["value", "type", "scale", "zero", "smallest", "largest"],
        [
            [
                value["name"],
                value["type"],
                f"{value['scale']:.4g}",
                str(value["zero_point"]),
                f"{value['range'][0]:.4g}",
                f"{value['range'][1]:.4g}",
            ]
            for value in found["values"][:most]
        ],
        left=(0, 1),
    )
    return len(found["values"])


def _bundle(terminal: Terminal, found: dict[str, Any], most: int | None) -> int:
    terminal.title(found["file"], "a bundle of quantized files, as it says itself: not verified")
    terminal.facts(
        [
            ("name", str(found["name"])),
            ("size", size(found["bytes"])),
            ("dialect", f"{found['dialect']}, for {found['target']}"),
            ("runs on", runs_on(found)),
            ("max seconds", f"{found['max_seconds']:g}"),
            *_surroundings(found),
            *((("decoding", _pairs(found["decoding"])),) if found["decoding"] else ()),
            *((name, _pairs(part)) for name, part in found["recipe"].items() if isinstance(part, dict)),
        ]
    )
    show_islands(terminal, found["islands"])
    for name, part in found["parts"].items():
        terminal.text()
        terminal.text(f"{name}: {size(part['bytes'])}, program {part['program_sha256']}", "bold")
        terminal.facts(
            [
                *(
                    (kind.removesuffix("s"), _tensor(port))
                    for kind in ("inputs", "outputs", "states")
                    for port in part["ports"][kind]
                ),
                ("instructions", _counts(part["instructions"])),
            ]
        )
    return 0


def _onnx(terminal: Terminal, found: dict[str, Any], most: int | None) -> int:
    terminal.title(found["file"], "an ONNX file of another tool")
    terminal.facts(
        [
            ("size", f"{size(found['bytes'])}, parameters {size(found['parameter_bytes'])}"),
            *(("input", _tensor(value)) for value in found["inputs"]),
            *(("output", _tensor(value)) for value in found["outputs"]),
            ("operators", _counts(found["operators"])),
            ("written by", f"{found['producer'] or 'an unnamed tool'}, {_opsets(found)}"),
            *((key, value) for key, value in found["metadata"].items()),
        ]
    )
    return 0


def _surroundings(found: dict[str, Any]) -> list[tuple[str, str]]:
    frontend, tokenizer = found["frontend"], found["tokenizer"]
    normalize = frontend["normalize"]
    waveform = frontend.get("kind") == "waveform"
    features = "the waveform" if waveform else f"{frontend['features']} mels"
    function = frontend.get("function")
    by = "" if function is None else f" by the Python function {function}"
    every = "" if waveform else f" every {1000 * frontend['window_stride']:g} ms"
    return [
        (
            "frontend",
            f"{features} at {frontend['sample_rate']} Hz, window "
            f"{1000 * frontend['window_size']:g} ms{every}{by}, "
            f"normalization {normalize if isinstance(normalize, str) else 'fixed' if normalize else 'none'}",
        ),
        ("tokenizer", f"{tokenizer['kind']}, {tokenizer['size']} tokens"),
        ("subsampling", f"{found['subsampling_factor']} frames make one output"),
    ]


def _tensor(value: dict[str, Any]) -> str:
    return f"{value['name']} {value['type']} [{', '.join(str(n) for n in value['shape'])}]"


def _opsets(found: dict[str, Any]) -> str:
    return "opset " + ", ".join(
        str(version) if domain == "ai.onnx" else f"{domain} {version}"
        for domain, version in found["opset"].items()
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _pairs(part: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in part.items() if value is not None)
