"""Files that commands write: what may be replaced, and the checks of it before any work."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from zeroq_asr.cli.terminal import Terminal
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import open_file, written_at

Force = Annotated[
    bool, typer.Option("--force", help="Replace output files that are there, whoever made them.")
]
#: tells of an open file's path and first bytes whether a command has written it
Ours = Callable[[Path, bytes], bool]

#: bytes that are looked at to tell who wrote a file
_HEAD = 1 << 20
#: fields of a transcript
_ALWAYS = frozenset({"audio_filepath", "text", "pred_text"})
_SOMETIMES = frozenset({"offset", "duration", "channel_selector"})
#: what our plots and ONNX files name as the program that wrote them
_WRITER = b"zeroq-asr"


#: what is wrong with a file that is there and not ours, and what to do
_OTHERS = "is there already, and not a file that this command writes", "choose another, or --force"


def check_output(
    terminal: Terminal,
    path: Path,
    ours: Ours,
    *sources: Path | None,
    force: bool = False,
    otherwise: tuple[str, str] = _OTHERS,
    tells: bool = True,
) -> None:
    """Raise ConfigError, before any work, if ``path`` cannot be written or must not be replaced.

    It must not be one of ``sources``, of which a folder stands for the manifest in it, nor, without
    ``force``, a file that is not ``ours``: ``otherwise`` says what is wrong with it, and what to do.  Tell on
    stderr of a file that will be replaced, unless it may still be refused (``tells``).
    """
    if str(path) == "-":
        raise ConfigError("-", "is not a file name: results are written to files", "or say ./-")
    target = written_at(path)
    if not target.exists():
        return
    for source in sources:
        from zeroq_asr.speech.manifest import MANIFESTS

        files = [] if source is None else [source, *(source / name for name in MANIFESTS)]
        if any(_is(file, target) for file in files):
            raise ConfigError(path, "is the input itself", "choose another output path")
    if not os.access(target, os.W_OK):
        raise ConfigError(path, "is write-protected", "choose another output path")
    if not force and not _ours(target, ours):
        raise ConfigError(path, *otherwise)
    if tells:
        terminal.note(f"replaces {path}")


def check_run(terminal: Terminal, path: Path, *sources: Path | None, force: bool = False) -> None:
    """Raise ConfigError, as ``check_output``, where a training that begins would replace another's file.

    Whatever is there is a training that was stopped, or nothing of ours: neither is replaced unasked.
    """
    stopped = (
        "is there already, maybe of a training that was stopped",
        "say --resume, or --force to begin anew",
    )
    check_output(terminal, path, lambda *_: False, *sources, force=force, otherwise=stopped)


def check_folder(terminal: Terminal, path: Path, ending: str = ".onnx") -> None:
    """Raise ConfigError, before any work, if a bundle's folder cannot be written at ``path``.

    What is there already must be such a folder, its parts of the same ``ending``.  Tell on stderr that it is
    replaced.
    """
    if not os.path.lexists(path):
        written_at(path)
        return
    if not os.path.isdir(path):
        raise ConfigError(path, "is a file, a folder was to be written", "choose another output path")
    if not is_replaceable(path, ending):
        raise ConfigError(
            path, "is there already, and no bundle of this command", "choose another output path"
        )
    terminal.note(f"replaces {path}")


def is_replaceable(path: Path, ending: str = ".onnx") -> bool:
    """Tell whether a folder holds a list of parts, and beside it alone files of their ``ending``."""
    # here, since it takes a second that --help need not take
    from zeroq_asr.deployment.metadata import BUNDLE_FILE

    there = [*path.iterdir()] if os.path.isdir(path) else [path]
    listed = any(one.name == BUNDLE_FILE for one in there)
    return listed and all(one.suffix in (ending, ".json") for one in there)


def _is(file: Path, target: Path) -> bool:
    try:
        return file.samefile(target)
    except (OSError, ValueError):
        return False  # there is none: whoever reads it next says so


def _ours(path: Path, ours: Ours) -> bool:
    try:
        with open_file(path, ConfigError) as stream:
            head = stream.read(_HEAD)
        return not head or ours(path, head)  # an empty file holds nothing to be lost
    except (ConfigError, OSError):
        return False


# -- who wrote a file ------------------------------------------------------------------------------


def onnx(path: Path, head: bytes) -> bool:
    """Tell whether a file is ONNX of ours, quantized or float: it begins with the name of its writer."""
    return head[:1] == b"\x08" and _WRITER in head[:64]


def ort(path: Path, head: bytes) -> bool:
    """Tell whether a file is what ``export --optimized`` writes, which says so near its end."""
    from zeroq_asr.deployment.optimized import OPTIMIZED_KEY, is_optimized

    return is_optimized(head) and OPTIMIZED_KEY.encode() in path.read_bytes()


def features(path: Path, head: bytes) -> bool:
    """Tell whether a file holds the arrays that ``synthesize`` saves."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {*archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return {"features.npy", "lengths.npy", "note.npy"} <= names


def tokens(path: Path, head: bytes) -> bool:
    """Tell whether a file is a list of tokens, each with its number behind it."""
    lines = head.split(b"\n")[:-1]
    return bool(lines) and all(line.rpartition(b" ")[2] == b"%d" % n for n, line in enumerate(lines))


def transcripts(path: Path, head: bytes) -> bool:
    """Tell whether a file's first line is one that ``evaluate`` writes."""
    try:
        line = json.loads(head.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(line, dict) and _ALWAYS <= set(line) <= _ALWAYS | _SOMETIMES


def recognized(path: Path, head: bytes) -> bool:
    """Tell whether a file is one that ``transcribe`` writes; plain text could be anybody's."""
    from zeroq_asr.speech.subtitles import VTT_HEADER

    return (
        head.startswith((VTT_HEADER.encode(), b'{\n  "schema": '))
        or re.match(rb"1\n\d\d:\d\d:\d\d,\d{3} --> ", head) is not None
    )


def tables(path: Path, head: bytes) -> bool:
    """Tell whether a file begins as the tables of ``compare`` do."""
    return head.startswith(b"**") and b"\n| | size | WER % | " in head


def sweeps(path: Path, head: bytes) -> bool:
    """Tell whether a file begins as the table of ``sweep`` does."""
    return head.startswith(b"| model | bits | calibration | seed | recordings | WER % | ")


def plots(path: Path, head: bytes) -> bool:
    """Tell whether a file is a plot that names us as its creator."""
    return head.startswith((b"\x89PNG", b"<?xml", b"%PDF")) and _WRITER in head


def pages(path: Path, head: bytes) -> bool:
    """Tell whether a file is a page of ``report``: it names us as its generator."""
    return head.startswith(b"<!doctype html>") and b'<meta name="generator" content="zeroq-asr ' in head[:400]
