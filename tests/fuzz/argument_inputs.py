"""Command lines: hostile values, options that do not go together, and odd names of files."""

from __future__ import annotations

import functools
import os
import random
from typing import Any

import click
import typer

from fuzz import mutations as m
from fuzz.inputs import MAY, MUST_REFUSE, ODD_NAMES, Case, fifo, folder, kind, link
from fuzz.seeds import Seeds

#: values that no option expects; arguments of a process hold no NUL
TEXTS = (
    *(text for text in m.ODD_TEXTS if "\x00" not in text and "\ud800" not in text),
    *ODD_NAMES,
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "-0",
    "0",
    "1e-5",
    "9" * 400,
    "0x10",
    "1_000",
    "٣",
    "true",
    "null",
    "[]",
    "a=b=c",
    "=",
    "seed=",
    "init=[1]",
    "frames=1e3",
    "layer_bits=5",
    "*=16",
    "[=16",
    "w0a0",
    "w99a99",
    "w4a8,",
    ",",
    "8,8",
    "nothing:here",
    ":",
    "a:b:c",
    "zeroq_asr:nothing",
    "nothing.at.all:x",
    "..:x",
    "deadbeef",
    "DEADBEEF" * 9,
)
#: numbers that ask for honest work without end
_COSTLY = {"iterations", "batch", "frames", "rounds", "seeds", "seconds", "max_seconds", "limit"}
#: what makes a run of these certain to end soon
_DEAR = {
    "compare": "--preset=nothing",
    "bench": "--device=nothing",
    "demo": "--nothing",
    "synthesize": "--iterations=0",
}


@functools.cache
def _commands() -> dict[str, click.Command]:
    from zeroq_asr.cli import app

    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def _value(rng: random.Random, option: click.Parameter) -> str:
    kind_ = option.type
    if getattr(kind_, "name", "") in ("integer", "integer range", "float", "float range"):
        if option.name in _COSTLY:
            return rng.choice(("-1", "0", "x", "nan", "1e400", str(2**63), "9" * 400, "", "1", "inf"))
        return rng.choice(
            ("-1", "0", "1", "x", "nan", "inf", str(2**31), str(2**63), "9" * 5000, "", "1e-300")
        )
    return rng.choice(TEXTS)


@kind("arguments", 1.4)
def arguments(rng: random.Random, seeds: Seeds) -> Case:
    """Options of every command."""
    commands = _commands()
    name = rng.choice([c for c in commands if c not in ("doctor", "demo")] * 4 + ["doctor", "demo"])
    command = commands[name]
    files: dict[str, Any] = {k: seeds[k] for k in ("conv.nemo", "conv.fused.onnx", "a.wav", "features.npz")}
    files["list.jsonl"] = b'{"audio_filepath": "a.wav", "text": "a"}\n'
    positional = {
        "model": ["conv.nemo"],
        "file": ["conv.fused.onnx"],
        "audio": ["a.wav"],
        "models": ["conv.fused.onnx"],
        "folder": ["out"],
    }
    argv: list[str] = []
    options = [
        p for p in command.params if isinstance(p, click.Option) and p.name not in ("help", "developer")
    ]
    for option in rng.sample(options, min(len(options), rng.choice((0, 1, 1, 2, 3)))):
        flag = rng.choice(option.opts)
        if option.is_flag:
            argv.append(flag)
        elif rng.random() < 0.9:
            argv += [flag, _value(rng, option)]
        else:
            argv.append(f"{flag}={_value(rng, option)}")
    for argument in command.params:
        if isinstance(argument, click.Argument):
            plain = positional.get(argument.name or "", ["conv.nemo"])
            value = rng.choice(TEXTS) if rng.random() < 0.25 else plain[0]
            argv += [value] * rng.choice((1, 1, 1, 1, 0, 2))
    if name == "evaluate" and rng.random() < 0.9:
        argv += ["-m", "list.jsonl"]
    if name == "quantize":
        argv += ["--calibration", "noise", "--batch", "1", "--frames", "32", "-o", "out.onnx"]
    if name in _DEAR:
        argv.append(_DEAR[name])
    if rng.random() < 0.1:
        argv.insert(
            0, rng.choice(("--nothing", "-z", "--\x1b[31m", os.fsdecode(b"--\xff"), "--json=5", "--no-json"))
        )
    before = rng.choice((((),) * 8) + (("--quiet",), ("--json",), ("--nothing",), ("--version",), ("-h",)))
    if rng.random() < 0.04:
        name = rng.choice(("nothing", "\x1b[31m", "Quantize", "", "x" * 3000, "[bold]", "../x"))
    # a command that ends well may write what it was asked to, under whatever name
    written = tuple(f"work/{value}" for value in argv if 0 < len(value) < 255 and "/" not in value)
    written += tuple(f"work/{value[2:]}" for value in argv if value.startswith("./"))
    return Case("arguments", MAY, (*before, name, *argv), files, outputs=(*written, "work/out.onnx"))


@kind("output names", 0.6)
def outputs(rng: random.Random, seeds: Seeds) -> Case:
    """Where the commands write."""
    files: dict[str, Any] = {"conv.nemo": seeds["conv.nemo"], "a.wav": seeds["a.wav"]}
    files["list.jsonl"] = b'{"audio_filepath": "a.wav", "text": "a"}\n'
    targets: list[tuple[str, str, Any]] = [
        ("the input", "conv.nemo", None),
        ("a folder", "there", folder),
        ("a pipe", "there", fifo),
        ("/dev/full", "/dev/full", None),
        ("a link to a device", "there", link("/dev/full")),
        ("a link to itself", "loop", link("loop")),
        ("no folder", "nothing/out", None),
        ("a file as a folder", "a.wav/out", None),
        ("a long name", "x" * 300, None),
        ("a long path", "/".join(["x" * 100] * 60), None),
        ("the list", "list.jsonl", None),
        ("a recording", "a.wav", None),
        ("/proc", "/proc/out", None),
        ("nowhere", "", None),
        ("the folder itself", ".", None),
        ("a link to the input", "there", link("conv.nemo")),
    ]
    what, name, content = rng.choice(targets)
    if content is not None:
        files[name] = content
    small = ("--calibration", "noise", "--batch", "1", "--frames", "32")
    commands: list[tuple[str, ...]] = [
        ("evaluate", "conv.nemo", "-m", "list.jsonl", "-o", name),
        ("quantize", "conv.nemo", "-o", name, *small),
        ("quantize", "conv.nemo", "-o", "out.onnx", "--tokens", name, *small),
        (
            "synthesize",
            "conv.nemo",
            "-o",
            f"{name}.npz" if "/" not in name and content is None else name,
            "--iterations",
            "0",
        ),
        ("compare", "conv.nemo", "-m", "list.jsonl", "--markdown", name, "--preset", "nothing"),
    ]
    argv = rng.choice(commands)
    made = ("work/out.onnx", f"work/{name}.npz")
    sure = argv[0] in ("evaluate", "quantize") and what in (
        "the input",
        "a folder",
        "a pipe",
        "no folder",
        "a long name",
    )
    # evaluate may be asked to replace a recording: it has read it
    return Case(f"{what} for {argv[0]}", MUST_REFUSE if sure else MAY, argv, files, outputs=made)
