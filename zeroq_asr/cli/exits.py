"""Exit codes: the one place where errors become numbers.

The codes tell a script *whose* turn it is: the command line's author (2), the owner of the files
(3), of the network (4), nobody's, for the file must not be used (5), the machine's (6),
or that of whoever reads a sweep's table (7).
"""

from __future__ import annotations

import errno

from zeroq_asr.cli.signals import SIGNALLED, Stopped
from zeroq_asr.errors import (
    AudioError,
    CalibrationError,
    CaptureError,
    CheckpointError,
    ConfigError,
    ExportError,
    ManifestError,
    ProofError,
    SynthesisError,
    UnsupportedModelError,
    UnsupportedOperatorError,
    VerificationError,
    ZeroqError,
)
from zeroq_asr.lines import printable, said

OK, INTERNAL, USAGE, INPUT, UNSUPPORTED, UNPROVEN, MACHINE, CELLS = 0, 1, 2, 3, 4, 5, 6, 7
#: as shells say it: 128 and the number of the signal
INTERRUPTED, READER_LEFT = 130, 141

#: what each code means, for --help
MEANINGS = {
    OK: "fine",
    INTERNAL: "a defect of zeroq-asr: please report it with --traceback",
    USAGE: "the command line makes no sense, or names an output that cannot be written",
    INPUT: "a checkpoint, configuration, recording or manifest is missing or damaged",
    UNSUPPORTED: "the network cannot be quantized, or not as asked",
    UNPROVEN: "a proof or a verification failed: do not use the file",
    MACHINE: "the machine failed: disk full, out of memory",
    CELLS: "cells of a sweep failed: its table says why, and the others are there",
    INTERRUPTED: "interrupted, and 129 and 143: told to end; nothing half-written is left",
    READER_LEFT: "nobody reads the output any more",
}


class StartError(Exception):
    """The libraries beneath cannot be loaded."""


#: error class → code; a subclass has its parent's unless it is listed itself
CODES: dict[type[BaseException], int] = {
    ConfigError: USAGE,
    CheckpointError: INPUT,
    CalibrationError: INPUT,
    AudioError: INPUT,
    ManifestError: INPUT,
    UnsupportedModelError: UNSUPPORTED,
    UnsupportedOperatorError: UNSUPPORTED,
    CaptureError: UNSUPPORTED,
    SynthesisError: UNSUPPORTED,
    ExportError: UNSUPPORTED,
    ProofError: UNPROVEN,
    VerificationError: UNPROVEN,
    MemoryError: MACHINE,
    StartError: MACHINE,
    OSError: MACHINE,
    BrokenPipeError: READER_LEFT,
    KeyboardInterrupt: INTERRUPTED,
}

#: how the libraries beneath say, by errors of any class, that memory or another thread is not to be had
_SCARCE = (
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "can't start new thread",
    "failed to map segment",
)
#: what is wrong with the name of a file, and not with the machine
_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)


def code_of(error: BaseException) -> int:
    """Return the exit code of an error: that of its nearest class in ``CODES``."""
    if is_out_of_memory(error):
        return MACHINE
    if isinstance(error, Stopped):
        return SIGNALLED + error.number
    if isinstance(error, OSError) and error.errno in _NAMES:
        return INPUT
    return next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), INTERNAL)


def line_of(error: BaseException) -> str:
    """Return the one line that says what went wrong, printable on any terminal."""
    code = code_of(error)
    if isinstance(error, KeyboardInterrupt):
        text = str(error) or "interrupted"
    elif is_out_of_memory(error):
        text = "out of memory; use a smaller --batch or --frames, or a larger machine"
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror or said(error)}"
    elif isinstance(error, StartError):
        text = f"the libraries that this command needs cannot be loaded ({said(error)})"
    elif code == INTERNAL:
        text = f"internal: {type(error).__name__}: {said(error)}; please report it with --traceback"
    else:
        text = str(error)
    # names come from files: a control character in one must not reach the terminal
    return f"error: {printable(' '.join(text.split()))}"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, here or in what the error was made of.

    PyTorch says so by a RuntimeError, others by what they like; our own errors may hold a stranger's words.
    """
    seen: BaseException | None = error
    while seen is not None:
        ours = isinstance(seen, ZeroqError) or not isinstance(seen, Exception)
        text = "" if ours else said(seen).lower()
        if isinstance(seen, MemoryError) or any(words in text for words in _SCARCE):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
