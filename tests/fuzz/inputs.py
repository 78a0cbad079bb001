"""Cases: what is changed, which command reads it, and what the command may say.  A function a kind of input.

``KINDS`` has all of them with their shares; ``make`` gives the case of a seed, the same every time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.oracle import Explain
from fuzz.seeds import Seeds

#: the change means nothing; the command must not accept it; must not without a warning; may do either
NEUTRAL, MUST_REFUSE, MUST_TELL, MAY = "neutral", "must_refuse", "must_tell", "may"


@dataclass
class Case:
    """A command line and what it reads, in the folder that it is run in."""

    #: what was changed, for a reader
    what: str
    label: str
    argv: tuple[str, ...]
    #: contents by path; a function makes what is no plain file
    files: dict[str, Any] = field(default_factory=dict)
    #: files that the command may write
    outputs: tuple[str, ...] = ()
    #: what must hold of what is accepted
    explain: Explain | None = None
    #: runs in a child before the command and writes more input, through the package itself; when it raises,
    #: there is no such input
    prepare: Callable[[Path], None] | None = None

    def write(self, folder: Path) -> None:
        """Write the input into ``folder``."""
        for name, content in self.files.items():
            path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content)


Maker = Callable[[random.Random, Seeds], Case]
#: kind → its maker and its share
KINDS: dict[str, tuple[Maker, float]] = {}


def kind(name: str, share: float = 1.0) -> Callable[[Maker], Maker]:
    """Register the maker of a kind of input."""

    def register(maker: Maker) -> Maker:
        KINDS[name] = maker, share
        return maker

    return register


def make(seed: int, seeds: Seeds, only: str = "") -> tuple[str, Case]:
    """Return the kind and the case of a seed."""
    rng = random.Random(seed)
    names = [name for name in KINDS if only in name]
    name = rng.choices(names, [KINDS[n][1] for n in names])[0]
    return name, KINDS[name][0](rng, seeds)


def fifo(path: Path) -> None:
    """Make a pipe that nobody writes into."""
    os.mkfifo(path)


def link(target: str) -> Callable[[Path], None]:
    """Make a symbolic link."""
    return lambda path: path.symlink_to(target)


def folder(path: Path) -> None:
    """Make an empty folder."""
    path.mkdir()


#: what is no file that could be read
NO_FILES: tuple[tuple[str, bytes | Callable[[Path], None]], ...] = (
    ("a pipe", fifo),
    ("/dev/zero", link("/dev/zero")),
    ("a link to itself", link("loop")),
    ("a broken link", link("nothing")),
    ("an empty folder", folder),
    ("/dev/tty", link("/dev/tty")),
    ("/proc/self/mem", link("/proc/self/mem")),
    ("empty", b""),
)

#: names that terminals, markup and file systems may stumble over; no slash in them
ODD_NAMES = (
    "a b",
    "x" * 240,
    os.fsdecode(b"\xff\xfe"),
    os.fsdecode("ü".encode("latin-1")),
    "\x1b[31mred",
    "line\nerror: no",
    "cr\rx",
    "[bold]x[/bold]",
    "[/red]",
    "-",
    "-x",
    "--json",
    "\u202eabc",
    "a'b\"c$(touch ran)`touch ran`",
    "ünï",
    "%s",
    ".hidden",
    "\x7f\x9b",
)


def odd_name(rng: random.Random, plain: str, share: float = 0.12) -> str:
    """Return ``plain``, or now and then an odd name with the same ending."""
    if rng.random() >= share:
        return plain
    _, dot, suffix = plain.partition(".")
    name = rng.choice(ODD_NAMES) + dot + suffix
    return f"./{name}" if name.startswith("-") else name


#: a command line that reads a checkpoint, and what it writes; from cheap to dear
def reading(
    rng: random.Random, model: str, *options: str, dear: float = 0.02
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return a command that reads a checkpoint, and the other fields of its case."""
    options = tuple(options)
    chance = rng.random()
    if chance < dear:
        small = ("--calibration", "noise", "--batch", "1", "--frames", "32", "-q")
        argv = ("quantize", model, "-o", "out.onnx", "--max-seconds", "2", *small, *options)
        return argv, {"outputs": ("work/out.onnx",)}
    if chance < 2 * dear:
        small = ("--iterations", "1", "--batch", "1", "--frames", "16")
        return ("synthesize", model, "-o", "out.npz", *small, *options), {"outputs": ("work/out.npz",)}
    if chance < 0.35:
        return ("transcribe", model, "a.wav", *rng.choice(((), ("--json",), ("-q",))), *options), {}
    if chance < 0.4:
        return ("evaluate", model, "-m", "list.jsonl", "--json", *options), {}
    return ("inspect", model, *rng.choice(((), ("--json",), ("-q",))), *options), {}


def recordings(seeds: Seeds) -> dict[str, bytes]:
    """Return the files that ``reading`` names beside the model."""
    line = b'{"audio_filepath": "a.wav", "text": "a b"}\n'
    return {"a.wav": seeds["a.wav"], "list.jsonl": line}
